"""Which image format a file holds, told from its first bytes.

Names lie: phones write JPEG as `.heic`, browsers save WebP as `.jpg`. So the content decides, and the name
only helps to tell a broken picture from a file that never was one.
"""

from __future__ import annotations

import os

HEADER_BYTES = 64  # enough for the brands of an ISO container
IMAGE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".gif",
        ".tif",
        ".tiff",
        ".bmp",
        ".dib",
        ".heic",
        ".heif",
        ".hif",
        ".avif",
    ]
)
# Camera raw files are TIFFs by their first bytes, but what Pillow finds in them is a thumbnail of a few
# pixels.
RAW_SUFFIXES = frozenset(
    [
        ".3fr",
        ".arw",
        ".cr2",
        ".cr3",
        ".dcr",
        ".dng",
        ".erf",
        ".iiq",
        ".kdc",
        ".mos",
        ".mrw",
        ".nef",
        ".nrw",
        ".orf",
        ".pef",
        ".raf",
        ".raw",
        ".rw2",
        ".sr2",
        ".srf",
        ".srw",
        ".x3f",
    ]
)
PILLOW_FORMATS = {
    "jpeg": ("JPEG", "MPO"),
    "png": ("PNG",),
    "webp": ("WEBP",),
    "gif": ("GIF",),
    "tiff": ("TIFF",),
    "bmp": ("BMP",),
    "heic": ("HEIF",),
    "avif": ("AVIF",),
}
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"}


def sniff(header: bytes) -> str | None:
    """The format of a file that begins with `header`: a key of `PILLOW_FORMATS`, None if it is no image.

    Args:
        header: The first `HEADER_BYTES` bytes of the file (fewer if it is shorter).
    """
    if header.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if header.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if header.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if header.startswith(b"RIFF") and header[8:12] == b"WEBP":
        return "webp"
    if header.startswith(_TIFF_MAGIC):
        return "tiff"
    # Two letters are weak evidence: the size of the second header must be one that exists.
    if header.startswith(b"BM") and int.from_bytes(header[14:18], "little") in _BMP_HEADER_SIZES:
        return "bmp"
    if header[4:8] == b"ftyp":
        end = min(int.from_bytes(header[:4], "big"), len(header))
        brands = {header[8:12], *(header[at : at + 4] for at in range(16, end - 3, 4))}
        if brands & _AVIF_BRANDS:
            return "avif"
        if header[8:12] in _HEIC_BRANDS:
            return "heic"
    return None


def is_named_like_image(path: str) -> bool:
    """Whether the file's name promises an image of a format that we read."""
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122


def is_named_like_raw(path: str) -> bool:
    """Whether the file's name promises a camera raw file."""
    return os.path.splitext(path)[1].lower() in RAW_SUFFIXES  # noqa: PTH122
