"""A small number that tells whether two files show the same picture, computed while a picture is decoded."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

_TAG_ORIENTATION = 0x0112
_SIDE_PIXELS = 72  # what 9 columns and 8 rows both divide, so that the last step averages whole pixels


def difference_hash(image: Image) -> int:
    """64 bits, each saying whether a pixel of the 9x8 grey picture is brighter than its left neighbour.

    After D. Hoyt's dHash; insensitive to encoding, size and brightness. Orientation is applied.

    Args:
        image: Decoded, at any size from about 72 pixels.

    Raises:
        OSError, ValueError: Its pixels cannot be converted.
    """
    import numpy as np
    from PIL import Image, ImageOps

    plain = image if image.mode in {"L", "RGB"} else image.convert("L")
    small = plain.resize((_SIDE_PIXELS, _SIDE_PIXELS), Image.Resampling.BOX)  # before copying anything large
    with suppress(Exception):  # orientation that cannot be read is none
        orientation = image.getexif().get(_TAG_ORIENTATION)
        if orientation:
            small.getexif()[_TAG_ORIENTATION] = orientation
            small = ImageOps.exif_transpose(small)
    pixels = np.asarray(small.convert("L").resize((9, 8), Image.Resampling.BOX))
    return int.from_bytes(np.packbits(pixels[:, 1:] > pixels[:, :-1]).tobytes())


def to_signed(number: int) -> int:
    """An unsigned number of 64 bits as SQLite holds it."""
    return number - (1 << 64) if number >= 1 << 63 else number


def to_unsigned(number: int) -> int:
    """The reverse of `to_signed`."""
    return number % (1 << 64)
