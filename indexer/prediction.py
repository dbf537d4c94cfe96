"""What a change of model will cost, told before it begins."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from indexer.catalog import IMAGES_WITHOUT_VECTOR, read_model
from indexer.catalog_file import connect_for_reading, translated
from indexer.decode import RefusedError, SkipError
from indexer.paths import from_catalog, join_root
from indexer.pipeline import read_pixels
from model.machine import available_cores

if TYPE_CHECKING:
    import sqlite3

    from numpy.typing import NDArray

    from indexer.tower import ImageEncoder
    from model.identity import ModelIdentity

_SAMPLE_IMAGES = 32
_ROW_BYTES = 64  # of an image's row in `vectors`, its two indexes included, beside the vector itself


@dataclass(frozen=True, slots=True)
class ChangePrediction:
    """What moving a library to another model will take.

    Attributes:
        from_model: The model that the library holds now.
        images: Images still to be embedded.
        seconds: About how long, measured on a sample of the library's own files; None if none of them is
        there.
        bytes_needed: What the disk must have free: the new vectors in the catalog and in vectors.faiss,
            while the old ones are still there.
    """

    from_model: ModelIdentity
    images: int
    seconds: float | None
    bytes_needed: int


def predict_model_change(library_path: Path | str, encoder: ImageEncoder) -> ChangePrediction | None:
    """Predicts a change of model; takes a few seconds, because it decodes and embeds a sample.

    Returns:
        The prediction, or None if the library already is the encoder's (or has no images yet).

    Raises:
        LibraryNotFoundError: There is no library.
    """
    library = Path(library_path).expanduser().absolute()
    connection, _ = connect_for_reading(library)
    with closing(connection), translated(library, system_errors=False):
        active, building = read_model(connection, "active"), read_model(connection, "building")
        if active is None or active.identity.is_same_model(encoder.identity):
            return None
        done_by = building.id if building and building.identity.is_same_model(encoder.identity) else -1
        (images,) = connection.execute(
            f"SELECT count(*) FROM {IMAGES_WITHOUT_VECTOR}",  # noqa: S608
            {"model_id": done_by},
        ).fetchone()
        paths = _sample(connection)
    dimension = encoder.identity.dimension
    seconds = _seconds_per_image(paths, encoder)
    return ChangePrediction(
        from_model=active.identity,
        images=images,
        seconds=None if seconds is None else seconds * images,
        bytes_needed=images * (2 * dimension * 2 + _ROW_BYTES),
    )


def _sample(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute(
        "SELECT roots.path, files.path FROM files JOIN roots ON roots.id = root_id"
        " WHERE status = 'indexed' ORDER BY random() LIMIT ?",
        (_SAMPLE_IMAGES,),
    )
    return [join_root(from_catalog(root), from_catalog(path)) for root, path in rows]


def _seconds_per_image(paths: list[str], encoder: ImageEncoder) -> float | None:
    """Decoding is spread over the cores and goes on beside the tower: the slower of the two sets the pace."""
    pixels: list[NDArray[np.uint8]] = []
    started = time.perf_counter()
    for path in paths:
        try:
            pixels.append(read_pixels(path, encoder.preprocessor))
        except (OSError, RefusedError, SkipError):
            continue
    if not pixels:
        return None
    decoding = (time.perf_counter() - started) / len(pixels) / available_cores()
    batch = np.stack((pixels * encoder.batch_size)[: encoder.batch_size])
    encoder.encode_pixels(batch)  # loads and compiles
    started = time.perf_counter()
    encoder.encode_pixels(batch)
    return max(decoding, (time.perf_counter() - started) / len(batch))
