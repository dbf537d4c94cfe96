"""From a file to the pixels that a tower takes, with everything about the file that the catalog keeps.

This runs in processes of its own (`indexer.decode_worker`), because decoders crash and hang on hostile
files. It imports Pillow and NumPy only. A file is read once: hash, metadata and pixels come from the same
bytes, so a file that changes meanwhile can never give one image's vector another image's hash.

Limits, and why they are what they are:

- pixels: 150 million that would really be decoded. Pillow keeps four bytes for each, so this is 600 MB, and a
  second copy while colours are converted still fits beside a tower on a small machine. A JPEG is decoded at a
  fraction of its size where the tower needs no more, so the 200-megapixel JPEG of a phone passes and a bomb
  does not.
- bytes: 512 MiB, the size of an uncompressed 16-bit scan just below the limit of pixels.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import warnings
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from indexer.fingerprint import difference_hash
from indexer.formats import (
    HEADER_BYTES,
    PILLOW_FORMATS,
    is_named_like_image,
    is_named_like_raw,
    sniff,
)
from indexer.paths import catalog_time
from indexer.stopwatch import Stopwatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Exif, Image

MEGAPIXEL = 1_000_000
# Above this, images are decoded one at a time: 160 MB of pixels, and about as much again while they are converted.
HEAVY_PIXELS = 40 * MEGAPIXEL
_MAX_JPEG_SHRINK = 8  # the coarsest scale that libjpeg offers
_TAG_ORIENTATION, _TAG_MAKE, _TAG_MODEL, _TAG_DATE = 0x0112, 0x010F, 0x0110, 0x0132
_TAG_EXIF_FOLDER, _TAG_GPS_FOLDER = 0x8769, 0x8825
_TAG_DATE_ORIGINAL, _TAG_OFFSET_ORIGINAL, _TAG_OFFSET = 0x9003, 0x9011, 0x9010
_EXIF_DATE = re.compile(r"(\d{4})[:/-](\d\d)[:/-](\d\d)[ T](\d\d):(\d\d)(?::(\d\d))?")
_EXIF_OFFSET = re.compile(r"[+-]\d\d:\d\d")


class Preprocessor(Protocol):
    """What decoding needs of a model: `model.preprocess.ImagePreprocessor` is one."""

    @property
    def minimum_side_pixels(self) -> int:
        """Smallest shortest edge that an image may be decoded at."""

    def __call__(self, image: Image, full_size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Turns an image into uint8 (height, width, 3).

        Args:
            image: Perhaps decoded at a fraction of its size.
            full_size: Upright width and height that it has at full size, if so.
        """


@dataclass(frozen=True)
class DecodeLimits:
    """What one file may cost.

    Attributes:
        max_pixels: Pixels that would have to be decoded; larger images are refused before they are.
        max_bytes: Size of the file.
        time_limit_seconds: Reading and decoding together; the process is killed then.
    """

    max_pixels: int = 150 * MEGAPIXEL
    max_bytes: int = 512 << 20
    time_limit_seconds: float = 60.0


class SkipError(Exception):
    """The file is no image and does not claim to be one."""


class RefusedError(Exception):
    """The file should be an image and cannot be used; the text says why."""


class HeavyError(Exception):
    """The image takes so much memory that it should be decoded while no other such image is."""


class ChangedWhileReadError(RefusedError):
    """The file was written while it was read."""


@dataclass
class ReadFile:
    """A file's bytes with what identifies them.

    Attributes:
        data: All bytes of the file; empty for a file that is no image.
        content_hash: SHA-256 of `data` (32 bytes). SHA-256 because processors of the last years have
            instructions for it (1.7 GB/s on one core where BLAKE2b reaches 0.9), and because `sha256sum`
            gives the same.
        format: What `indexer.formats.sniff` says.
        size_bytes: Size of `data`.
        modified_ns: Time of the file's last change, as of the reading.
        inode: Number of the file on its disk.
    """

    data: bytes
    content_hash: bytes
    format: str
    size_bytes: int
    modified_ns: int
    inode: int


@dataclass
class Metadata:
    """What an image says of itself; see `indexer.records.ImageRecord` for the fields."""

    width_pixels: int
    height_pixels: int
    taken_at: str | None = None
    camera_make: str | None = None
    camera_model: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    difference_hash: int | None = None
    """Of the pixels; see `indexer.fingerprint`."""


def read_file(path: str, limits: DecodeLimits) -> ReadFile:
    """Reads a file once and whole, if it begins like an image.

    Raises:
        SkipError: It is no image and is not named like one.
        RefusedError: It is named like an image and is none, is too large, or changed while it was read.
        OSError: It cannot be read.
    """
    with open(path, "rb", buffering=0, opener=open_at_once) as file:
        before = os.fstat(file.fileno())
        if not stat.S_ISREG(before.st_mode):
            raise SkipError("not a regular file")
        header = file.read(HEADER_BYTES)
        image_format = sniff(header)
        if image_format == "tiff" and is_named_like_raw(path):
            raise SkipError("camera raw files are not read")
        if image_format is None:
            if not is_named_like_image(path):
                raise SkipError("not an image")
            if not header:
                raise RefusedError("the file is empty")
            raise RefusedError("the file holds no image, although its name says so")
        if before.st_size > limits.max_bytes:
            raise RefusedError(
                f"the file has {before.st_size >> 20} MiB, more than the limit of"
                f" {limits.max_bytes >> 20} MiB"
            )
        # Once more from the start: a header that is joined to the rest would copy all of it.
        file.seek(0)
        data = file.read(before.st_size)
        while len(data) < before.st_size and (part := file.read(before.st_size - len(data))):
            data += part
        grew = bool(file.read(1))
        after = os.fstat(file.fileno())
    has_changed = grew or len(data) < before.st_size or not data.startswith(header)
    if has_changed or (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ChangedWhileReadError("the file changed while it was read; the next run tries again")
    return ReadFile(
        data=data,
        content_hash=hashlib.sha256(data).digest(),
        format=image_format,
        size_bytes=len(data),
        modified_ns=catalog_time(after.st_mtime_ns),
        inode=after.st_ino,
    )


def open_at_once(path: str, flags: int) -> int:
    """An opener that does not wait for the other end of a pipe, as something that was a file a moment ago may be.

    Reading regular files is the same either way.
    """
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def decode(
    file: ReadFile,
    preprocessor: Preprocessor,
    limits: DecodeLimits,
    *,
    may_be_heavy: bool = True,
    stopwatch: Stopwatch | None = None,
) -> tuple[NDArray[np.uint8], Metadata]:
    """Decodes an image just large enough for the model.

    Args:
        file: The file's bytes.
        preprocessor: Makes the pixels.
        limits: What the image may cost.
        may_be_heavy: Whether an image above `HEAVY_PIXELS` may be decoded now.
        stopwatch: Told how long decoding and preprocessing took.

    Returns:
        Pixels as the preprocessor makes them, uint8 (height, width, 3), and what the image says of itself.

    Raises:
        RefusedError: The image is too large, or its bytes are no image of its format.
        HeavyError: The image is heavy, and now is not the time.
    """
    stopwatch = stopwatch or Stopwatch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow warns of (odd tags, size) is judged here or harmless
        try:
            with stopwatch.time("decode"):
                image = open_image(file.data, file.format)
                metadata = read_metadata(image)
                full_size = image.size
                shrink_while_decoding(image, preprocessor.minimum_side_pixels)
                is_shrunk = image.size != full_size
                _check_pixels(image, limits, may_be_heavy=may_be_heavy)
                image.load()
            with stopwatch.time("preprocess"):
                with suppress(Exception):  # pixels of a rare kind; the picture is found all the same
                    metadata.difference_hash = difference_hash(image)
                upright_size = (metadata.width_pixels, metadata.height_pixels) if is_shrunk else None
                return preprocessor(image, upright_size), metadata
        except (RefusedError, HeavyError, MemoryError):
            raise
        except Exception as error:
            raise RefusedError(_explain(error, file.format)) from error


def open_image(data: bytes, image_format: str) -> Image:
    """Opens an image with the one decoder that its first bytes ask for; no pixel is decoded yet.

    Args:
        data: The file's bytes.
        image_format: What `indexer.formats.sniff` says of them.
    """
    from PIL import Image

    if image_format == "heic":
        _register_heif()
    Image.MAX_IMAGE_PIXELS = None  # our own limit counts what will really be decoded
    # The first alone: Pillow itself makes an MPO of a JPEG that is one, and knows no other way to open it.
    image = Image.open(io.BytesIO(data), formats=PILLOW_FORMATS[image_format][:1])
    if image_format == "jpeg":
        # All at once: in Pillow's pieces of 64 KiB every byte is copied twice, and the decoder stops at each end.
        image.decodermaxblock = len(data)
    return image


def shrink_while_decoding(image: Image, minimum_side_pixels: int) -> None:
    """Lets a JPEG be decoded at the smallest scale whose shortest edge is still `minimum_side_pixels`."""
    if image.format in PILLOW_FORMATS["jpeg"]:
        image.draft(image.mode, (minimum_side_pixels, minimum_side_pixels))


def read_metadata(image: Image) -> Metadata:
    """Reads size and EXIF of an image that is not decoded yet; what is damaged or absurd counts as absent."""
    metadata = Metadata(*image.size)
    with suppress(Exception):
        exif = image.getexif()
        if not exif:
            return metadata
        if exif.get(_TAG_ORIENTATION) in {5, 6, 7, 8}:
            metadata.width_pixels, metadata.height_pixels = image.size[1], image.size[0]
        metadata.camera_make = _text(exif.get(_TAG_MAKE))
        metadata.camera_model = _text(exif.get(_TAG_MODEL))
        with suppress(Exception):
            metadata.taken_at = _taken_at(exif)
        with suppress(Exception):
            metadata.latitude, metadata.longitude = _position(exif)
    return metadata


def _check_pixels(image: Image, limits: DecodeLimits, *, may_be_heavy: bool) -> None:
    """Refuses an image by its header, or puts it off.

    `image.size` is what will be decoded, after `shrink_while_decoding`. A progressive JPEG is the
    exception: its coefficients are kept for the whole picture whatever the scale, so it counts in full.
    """
    width, height = image.size
    scale = 1
    tile = getattr(image, "tile", None)
    if image.info.get("progressive") and tile and getattr(image, "decoderconfig", None):
        scale = max(1, min(_MAX_JPEG_SHRINK, int(image.decoderconfig[0])))  # type: ignore[attr-defined]
    pixels = width * height * scale * scale
    if pixels > limits.max_pixels:
        raise RefusedError(
            f"the image has {width * scale} x {height * scale} pixels, {pixels / MEGAPIXEL:.0f}"
            f" megapixels, more than"
            f" the limit of {limits.max_pixels / MEGAPIXEL:g}"
        )
    if pixels > HEAVY_PIXELS and not may_be_heavy:
        raise HeavyError


def _register_heif() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    pillow_heif.options.DECODE_THREADS = 1  # as many processes as cores decode already


def _explain(error: Exception, image_format: str) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return f"the file begins like {image_format.upper()}, but is damaged"
    text = str(error) or type(error).__name__
    if "truncated" in text.lower():
        return f"the {image_format.upper()} file is truncated"
    return f"the {image_format.upper()} file cannot be decoded: {text}"


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if not isinstance(value, str):
        return None
    text: str = " ".join(value.replace("\0", " ").split())[:200]
    return text.encode(errors="replace").decode() or None


def _taken_at(exif: Exif) -> str | None:
    details = exif.get_ifd(_TAG_EXIF_FOLDER)
    for value, offset in (
        (details.get(_TAG_DATE_ORIGINAL), details.get(_TAG_OFFSET_ORIGINAL)),
        (exif.get(_TAG_DATE), details.get(_TAG_OFFSET)),
    ):
        match = _EXIF_DATE.match(_text(value) or "")
        if match is None:
            continue
        year, month, day, hour, minute, second = (int(part or 0) for part in match.groups())
        try:
            moment = datetime(year, month, day, hour, minute, second)
        except ValueError:
            continue  # a month 0: the camera's clock was never set
        zone = _EXIF_OFFSET.fullmatch(_text(offset) or "")
        return moment.isoformat() + (zone.group() if zone else "")
    return None


def _position(exif: Exif) -> tuple[float | None, float | None]:
    place = exif.get_ifd(_TAG_GPS_FOLDER)
    if not place or 2 not in place or 4 not in place:
        return None, None
    latitude = _degrees(place[2], _text(place.get(1)) == "S")
    longitude = _degrees(place[4], _text(place.get(3)) == "W")
    # 0, 0 is what cameras write that have not found a satellite yet.
    if not (abs(latitude) <= 90 and abs(longitude) <= 180) or latitude == longitude == 0:
        return None, None
    return latitude, longitude


def _degrees(parts: Any, is_negative: bool) -> float:
    degrees, minutes, seconds = (float(part) for part in parts)
    value = degrees + minutes / 60 + seconds / 3600
    return -value if is_negative else value
