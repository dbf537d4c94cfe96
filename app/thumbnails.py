"""Small pictures for grids and large ones for looking at, made from the files of a library.

Thumbnails are made on first sight and kept in the library's `thumbnails/` folder, until `indexer.upkeep` deletes those
of images that left the library for good. Both kinds are decoded by the indexer's own decoder, with its limits: a
picture that was indexed may have been replaced by a hostile one since.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from indexer.decode import DecodeLimits, HeavyError, RefusedError, SkipError, decode, read_file
from indexer.paths import thumbnail_path
from indexer.reading import state_folder
from model.whole_file import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from indexer.decode import ReadFile

THUMBNAIL_PIXELS = 384
"""Longest side. Sharp in a grid of five columns on a wide screen, also at twice the density."""

VIEW_PIXELS = 2048
"""Longest side of the picture that fills a window; more than most windows have."""

WEBP_QUALITY = 75
JPEG_QUALITY = 88

_WEBP_START = b"RIFF"

_one_heavy_picture = threading.Lock()
"""A grid asks for many at once, and each of these takes hundreds of megabytes while it is decoded."""


def thumbnail(path: Path, content_hash: str, library_path: Path | str) -> bytes | None:
    """Return a picture's thumbnail as WebP, or None if its file is gone, changed or damaged.

    Thumbnails are named by content, so a moved file keeps its own and a changed one gets another. A library
    that cannot be written works all the same, only slower.

    Args:
        path: The file.
        content_hash: Hex SHA-256 that the file's bytes must have.
        library_path: The library's folder or address.
    """
    kept = thumbnail_path(state_folder(library_path), content_hash)
    with contextlib.suppress(OSError):
        data = kept.read_bytes()
        if data.startswith(_WEBP_START):  # what former versions kept may be empty since the power failed
            return data
    file = read_unchanged(path, content_hash)
    made = None if file is None else render(file, THUMBNAIL_PIXELS, "WEBP")
    if made is not None:
        with contextlib.suppress(OSError):
            write_whole(kept, made)
    return made


def view(path: Path, content_hash: str) -> bytes | None:
    """Return a picture as a JPEG that any browser shows, at most `VIEW_PIXELS` long; None as for `thumbnail`."""
    file = read_unchanged(path, content_hash)
    return None if file is None else render(file, VIEW_PIXELS, "JPEG")


def render(file: ReadFile, longest_side_pixels: int, image_format: str) -> bytes | None:
    """Return a picture upright, at most so large, as `WEBP` or `JPEG`; None if it cannot be decoded."""
    from PIL import Image

    try:
        pixels = _decoded(file, Fit(longest_side_pixels))
    except (RefusedError, MemoryError):
        return None
    buffer = BytesIO()
    quality = WEBP_QUALITY if image_format == "WEBP" else JPEG_QUALITY
    Image.fromarray(pixels).save(buffer, image_format, quality=quality)
    return buffer.getvalue()


def _decoded(file: ReadFile, fit: Fit) -> NDArray[np.uint8]:
    try:
        return decode(file, fit, DecodeLimits(), may_be_heavy=False)[0]
    except HeavyError:
        with _one_heavy_picture:
            return decode(file, fit, DecodeLimits())[0]


def read_unchanged(path: Path, content_hash: str) -> ReadFile | None:
    """Return a file's bytes if they have this hash; None if it is gone, changed, or too large.

    Args:
        path: The file.
        content_hash: Hex SHA-256.
    """
    try:
        file = read_file(str(path), DecodeLimits())
    except (SkipError, RefusedError, OSError, MemoryError):
        return None
    return file if file.content_hash.hex() == content_hash else None


@dataclass(frozen=True)
class Fit:
    """Makes a picture upright, RGB, and at most so long; takes the place of a model's preprocessor."""

    longest_side_pixels: int

    @property
    def minimum_side_pixels(self) -> int:
        """Smallest shortest edge that an image may be decoded at."""
        return self.longest_side_pixels

    def __call__(self, image: Image.Image, full_size: tuple[int, int] | None = None) -> NDArray[np.uint8]:  # noqa: ARG002  (the shape follows)
        """Return an image's pixels, uint8 (height, width, 3)."""
        import numpy as np
        from PIL import Image

        from model.preprocess import to_rgb

        upright = to_rgb(image)
        size = (self.longest_side_pixels, self.longest_side_pixels)
        upright.thumbnail(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
        return np.asarray(upright, dtype=np.uint8)
