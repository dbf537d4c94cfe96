"""The file of an image, sent only while it is what was indexed.

A catalog row names a path, and since it was written the file may have been replaced: by another picture, by a link
to somebody's keys. So the bytes are hashed before the first of them is sent, from the handle that they are then sent
from; what does not have the content that the library knows is not served. No request ever names a path.
"""

from __future__ import annotations

import hashlib
import os
import stat
from http import HTTPStatus
from typing import IO, TYPE_CHECKING
from urllib.parse import quote

from starlette.background import BackgroundTask
from starlette.responses import StreamingResponse

from app.api.problems import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.responses import Response

    from indexer import ImageRecord

_BLOCK_BYTES = 1 << 18

MEDIA_TYPES = {
    "jpeg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "gif": "image/gif",
    "tiff": "image/tiff",
    "bmp": "image/bmp",
    "heic": "image/heic",
    "avif": "image/avif",
}


def original(record: ImageRecord) -> Response:
    """Return the image's file as a response.

    Raises:
        ApiError: The file is not there, cannot be read, or holds something else by now.
    """
    file = _open_unchanged(record)
    return StreamingResponse(
        _blocks(file, record.size_bytes),
        media_type=MEDIA_TYPES.get(record.format, "application/octet-stream"),
        headers={
            "Content-Length": str(record.size_bytes),
            "Content-Disposition": f"inline; filename*=UTF-8''{quote(os.fsencode(record.path.name))}",
            "ETag": entity_tag(record),
            "Cache-Control": "private, no-cache",
        },
        background=BackgroundTask(file.close),
    )


def entity_tag(record: ImageRecord) -> str:
    """The tag by which a client says that it has this content already."""
    return f'"{record.content_hash}"'


def is_in_place(record: ImageRecord) -> bool:
    """Whether a file of the right size lies where the image was indexed, told without reading it."""
    try:
        status = record.path.stat()
    except OSError:
        return False
    return _looks_unchanged(status, record)


def _open_unchanged(record: ImageRecord) -> IO[bytes]:
    # Not blocking, should the file have become a pipe that nobody writes.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(record.path, flags)
    except FileNotFoundError:
        raise _gone("The file is no longer where it was indexed") from None
    except OSError as error:
        raise _gone(f"The file cannot be read ({error.strerror or error})") from None
    try:
        status = os.fstat(descriptor)
        if _looks_unchanged(status, record) and _hash(descriptor) == record.content_hash:
            os.lseek(descriptor, 0, os.SEEK_SET)
            return os.fdopen(descriptor, "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    raise _gone("The file has changed since it was indexed")


def _looks_unchanged(status: os.stat_result, record: ImageRecord) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_size == record.size_bytes


def _hash(descriptor: int) -> str:
    digest = hashlib.sha256()
    while block := os.read(descriptor, _BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def _gone(reason: str) -> ApiError:
    return ApiError(
        HTTPStatus.GONE, "file_gone", f"{reason}; `imago index` on the server brings the library up to date."
    )


def _blocks(file: IO[bytes], size_bytes: int) -> Iterator[bytes]:
    left = size_bytes
    with file:
        while left > 0 and (block := file.read(min(left, _BLOCK_BYTES))):
            left -= len(block)
            yield block
