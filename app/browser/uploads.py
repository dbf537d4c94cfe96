"""Pictures to search by that were chosen, pasted or dropped: kept in memory, named by their content.

A name stands in the query text (`upload:3f2a...`), so going back, reloading and adding words work with a picture
as they do with words, until the server ends or many others have come since.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from app.thumbnails import THUMBNAIL_PIXELS, WEBP_QUALITY, Fit
from app.upload_decoder import UPLOAD_LIMITS, UploadDecoder
from indexer.formats import HEADER_BYTES, sniff
from search import QueryImageError

if TYPE_CHECKING:
    from PIL import Image

    from indexer.decode import Preprocessor

MAXIMUM_UPLOAD_BYTES = UPLOAD_LIMITS.max_bytes

MAXIMUM_KEPT_BYTES = 256 << 20
"""All uploads together; the longest unused go first."""

_NAME_LETTERS = 16


@dataclass
class _Upload:
    data: bytes
    thumbnail: bytes
    picture: Image.Image | None = None
    preprocessor: Preprocessor | None = None
    """That of the model which `picture` was decoded for."""

    @property
    def size_bytes(self) -> int:
        pixels = 0 if self.picture is None else self.picture.width * self.picture.height
        return len(self.data) + len(self.thumbnail) + 3 * pixels


class Uploads:
    """The uploads of one server; safe to use from several threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, _Upload] = OrderedDict()
        self._lock = threading.Lock()
        # Two, because each has its processes make one kind of picture, and a process that changes over starts anew.
        self._thumbnails = UploadDecoder(UPLOAD_LIMITS)
        self._pictures = UploadDecoder(UPLOAD_LIMITS)

    def add(self, data: bytes) -> str:
        """Keep a picture and return its name.

        Raises:
            QueryImageError: It is empty, too large, or no image that can be decoded.
            DecodersBusyError: Too many others are being decoded.
        """
        if not data:
            raise QueryImageError("The picture is empty: choose another file.")
        if len(data) > MAXIMUM_UPLOAD_BYTES:
            limit = MAXIMUM_UPLOAD_BYTES >> 20
            raise QueryImageError(
                f"The picture is larger than the limit of {limit} MiB: make it smaller first."
            )
        image_format = sniff(data[:HEADER_BYTES])
        if image_format is None:
            raise QueryImageError(
                "This file is no picture that can be read: choose a JPEG, PNG, WebP or HEIC."
            )
        thumbnail = BytesIO()
        small = self._thumbnails.decode(BytesIO(data), Fit(THUMBNAIL_PIXELS))
        small.save(thumbnail, "WEBP", quality=WEBP_QUALITY)
        name = hashlib.sha256(data).hexdigest()[:_NAME_LETTERS]
        with self._lock:
            self._kept[name] = _Upload(data, thumbnail.getvalue())
            self._kept.move_to_end(name)
            while sum(kept.size_bytes for kept in self._kept.values()) > MAXIMUM_KEPT_BYTES:
                self._kept.popitem(last=False)
        return name

    def picture(self, name: str, preprocessor: Preprocessor) -> Image.Image | None:
        """Return an uploaded picture at the size that a model takes, None if there is none of that name (any more).

        It is decoded at the first call, and kept.

        Args:
            name: What `add` gave.
            preprocessor: The model's.

        Raises:
            QueryImageError: It cannot be decoded for this model.
            DecodersBusyError: Too many others are being decoded.
        """
        with self._lock:
            upload = self._kept.get(name)
            if upload is None:
                return None
            self._kept.move_to_end(name)
            if upload.picture is not None and upload.preprocessor == preprocessor:
                return upload.picture
        picture = self._pictures.decode(BytesIO(upload.data), preprocessor)
        with self._lock:
            upload.picture, upload.preprocessor = picture, preprocessor
        return picture

    def thumbnail(self, name: str) -> bytes | None:
        """Return an uploaded picture's thumbnail as WebP, None if there is none of that name (any more)."""
        with self._lock:
            return self._kept[name].thumbnail if name in self._kept else None

    def close(self) -> None:
        """End the processes; nothing may be being decoded."""
        self._thumbnails.close()
        self._pictures.close()


uploads = Uploads()
"""Those of this process."""
