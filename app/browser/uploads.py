"""Pictures to search by that were chosen, pasted or dropped: kept in memory, named by their content.

A name stands in the query text (`upload:3f2a...`), so going back, reloading and adding words work with a picture
as they do with words, until the server ends or many others have come since.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

from app.thumbnails import THUMBNAIL_PIXELS, render
from indexer.decode import ReadFile
from indexer.formats import HEADER_BYTES, sniff
from search import QueryImageError

MAXIMUM_UPLOAD_BYTES = 64 << 20
"""Larger than any phone's photograph, small enough that an upload cannot fill the memory."""

MAXIMUM_KEPT_BYTES = 256 << 20
"""All uploads together; the longest unused go first."""

_NAME_LETTERS = 16


class Uploads:
    """The uploads of one server; safe to use from several threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[bytes, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, data: bytes) -> str:
        """Keep a picture and return its name.

        Raises:
            QueryImageError: It is empty, too large, or no image that can be decoded.
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
        digest = hashlib.sha256(data)
        small = render(
            ReadFile(data, digest.digest(), image_format, len(data), modified_ns=0, inode=0),
            THUMBNAIL_PIXELS,
            "WEBP",
        )
        if small is None:
            raise QueryImageError(
                f"The {image_format.upper()} picture is damaged or too large: choose another."
            )
        name = digest.hexdigest()[:_NAME_LETTERS]
        with self._lock:
            self._kept[name] = (data, small)
            self._kept.move_to_end(name)
            while sum(len(kept[0]) for kept in self._kept.values()) > MAXIMUM_KEPT_BYTES:
                self._kept.popitem(last=False)
        return name

    def get(self, name: str) -> bytes | None:
        """Return an uploaded picture's bytes, None if there is none of that name (any more)."""
        with self._lock:
            if name not in self._kept:
                return None
            self._kept.move_to_end(name)
            return self._kept[name][0]

    def thumbnail(self, name: str) -> bytes | None:
        """Return an uploaded picture's thumbnail as WebP, None if there is none of that name (any more)."""
        with self._lock:
            return self._kept[name][1] if name in self._kept else None


uploads = Uploads()
"""Those of this process."""
