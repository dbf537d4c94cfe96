"""Pictures that come with a query: read and decoded exactly as pictures that are indexed.

The same bytes must give the same vector whether they were indexed or asked for, and a stranger's picture is as
hostile as an indexed one: so the indexer's own decoder, with its limits, does the work.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from indexer.decode import DecodeLimits, ReadFile, RefusedError, SkipError, decode, read_file
from indexer.formats import HEADER_BYTES, sniff
from indexer.paths import display_path
from search.errors import QueryImageError, QueryImageNotFoundError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from indexer.decode import Preprocessor

UPLOAD = "the uploaded picture"


def query_pixels(
    source: Path | bytes,
    preprocessor: Preprocessor,
    *,
    name: str | None = None,
    limits: DecodeLimits | None = None,
) -> NDArray[np.uint8]:
    """Decode a picture for the tower.

    Args:
        source: A file, or the bytes of an upload.
        preprocessor: The model's.
        name: What to call the picture in messages; its path or "the uploaded picture" when not given.
        limits: What it may cost at most; those of indexing when not given.

    Returns:
        Pixels as the preprocessor makes them, uint8 (height, width, 3).

    Raises:
        QueryImageNotFoundError: The file is not there.
        QueryImageError: It is no image that can be decoded, or is too large.
    """
    limits = limits or DecodeLimits()
    try:
        if isinstance(source, Path):
            label = name or display_path(source)
            _check_file(source, label)
            file = read_file(str(source), limits)
        else:
            label = name or UPLOAD
            file = _read_upload(source, limits)
        return decode(file, preprocessor, limits)[0]
    except (SkipError, RefusedError) as error:
        raise QueryImageError(f"{label} cannot be searched with: {error}.") from error
    except PermissionError as error:
        raise QueryImageError(f"{label} may not be read: check its permissions.") from error
    except OSError as error:
        raise QueryImageError(f"{label} cannot be read: {error.strerror or error}.") from error
    except MemoryError as error:
        raise QueryImageError(f"{label} needs more memory than there is: make it smaller first.") from error


def is_file(path: Path) -> bool:
    """Whether a file is there; False as well for what cannot be a file's name."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or a null character in it
        return False


def _check_file(path: Path, label: str) -> None:
    if is_file(path):
        return
    try:
        is_folder = path.is_dir()
    except (OSError, ValueError):
        is_folder = False
    if is_folder:
        raise QueryImageError(f"{label} is a folder; name an image file in it.")
    raise QueryImageNotFoundError(f"There is no image file {label}. Check the spelling.")


def _read_upload(data: bytes, limits: DecodeLimits) -> ReadFile:
    if not data:
        raise RefusedError("it is empty, no bytes arrived")
    if len(data) > limits.max_bytes:
        raise RefusedError(
            f"it has {len(data) >> 20} MiB, more than the limit of {limits.max_bytes >> 20} MiB"
        )
    image_format = sniff(data[:HEADER_BYTES])
    if image_format is None:
        raise RefusedError("its bytes are no image in a format that Imago reads")
    return ReadFile(
        data=data,
        content_hash=hashlib.sha256(data).digest(),
        format=image_format,
        size_bytes=len(data),
        modified_ns=0,
        inode=0,
    )
