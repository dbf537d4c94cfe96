"""Pictures that come with a request: decoded in a process of its own, because decoders crash and hang on hostile files.

It is the indexer's own decoder with tighter limits. The pixels come back at the size that the tower takes; as a
picture of that size they pass through preprocessing unchanged, so the vector is that of the indexed twin.
"""

from __future__ import annotations

import itertools
import os
import queue
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from PIL import Image

from app.api.problems import ApiError
from indexer.decode import DecodeLimits
from indexer.decode_pool import DecodePool
from model.machine import available_cores
from search import QueryImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.api.settings import ApiSettings
    from indexer.decode import Preprocessor

from http import HTTPStatus

_BLOCK_BYTES = 1 << 20


class UploadDecoder:
    """Decodes uploads, as many at a time as there are cores; the processes start with the first upload."""

    def __init__(self, settings: ApiSettings) -> None:
        self._limits = DecodeLimits(
            max_pixels=settings.maximum_upload_pixels,
            max_bytes=settings.maximum_upload_bytes,
            time_limit_seconds=settings.decode_seconds,
        )
        self._slots: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
        for _ in range(available_cores()):
            self._slots.put(_Slot(self._limits))
        self._wait_seconds = 2 * settings.decode_seconds

    def decode(self, upload: IO[bytes], preprocessor: Preprocessor) -> Image.Image:
        """Decode an upload for a model.

        Args:
            upload: Its bytes, from where it stands.
            preprocessor: The model's.

        Returns:
            The picture at the size that the model takes.

        Raises:
            QueryImageError: It is no image, damaged, too large, or takes too long.
            ApiError: Too many others are being decoded.
        """
        try:
            slot = self._slots.get(timeout=self._wait_seconds)
        except queue.Empty:
            raise ApiError(
                HTTPStatus.SERVICE_UNAVAILABLE, "busy", "Too many pictures are being read; try again soon."
            ) from None
        try:
            with _file_of(upload) as path:
                return slot.decode(path, preprocessor)
        finally:
            self._slots.put(slot)

    def close(self) -> None:
        """End the processes; no decoding may be under way."""
        while not self._slots.empty():
            self._slots.get_nowait().close()


class _Slot:
    """One decoding process, for the model that it was last used with."""

    def __init__(self, limits: DecodeLimits) -> None:
        self._limits = limits
        self._pool: DecodePool | None = None
        self._preprocessor: Preprocessor | None = None
        self._tasks = itertools.count()

    def decode(self, path: Path, preprocessor: Preprocessor) -> Image.Image:
        if self._pool is None or self._preprocessor != preprocessor:
            self.close()
            self._pool = DecodePool(preprocessor, self._limits, workers=1)
            self._preprocessor = preprocessor
        task = next(self._tasks)
        self._pool.submit(task, str(path), may_be_heavy=True)  # within limits of its own
        while True:
            for answer in self._pool.collect(timeout_seconds=1.0):
                if answer.task != task:
                    continue
                if answer.pixels is None:
                    raise QueryImageError(f"The uploaded picture cannot be searched with: {answer.reason}.")
                return Image.fromarray(answer.pixels)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None


@contextmanager
def _file_of(upload: IO[bytes]) -> Iterator[Path]:
    """A private file with the upload's bytes, gone afterwards."""
    handle, name = tempfile.mkstemp(prefix="imago-upload-")
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            while block := upload.read(_BLOCK_BYTES):
                file.write(block)
        yield path
    finally:
        path.unlink(missing_ok=True)
