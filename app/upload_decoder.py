"""Uploaded pictures: decoded in a process of its own, because decoders crash and hang on hostile files.

It is the indexer's own decoder with tighter limits. The pixels come back at the size that the tower takes; as a
picture of that size they pass through preprocessing unchanged, so the vector is that of the indexed twin.

Light to import, because the API's settings take their defaults from here: NumPy comes with the first upload.
"""

from __future__ import annotations

import itertools
import os
import queue
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from indexer.decode import DecodeLimits
from model.machine import available_cores
from search.errors import QueryImageError, SearchError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

    from indexer.decode import Preprocessor
    from indexer.decode_pool import Decoded, DecodePool

UPLOAD_LIMITS = DecodeLimits(max_pixels=50_000_000, max_bytes=64 << 20, time_limit_seconds=20.0)
"""Larger than any phone's photograph, and small enough that uploads at the same time do not fill the memory: 50
megapixels take 200 MB for a moment."""

_BLOCK_BYTES = 1 << 20


class DecodersBusyError(SearchError):
    """So many uploads are being decoded that another one had to wait for too long."""


class UploadDecoder:
    """Decodes uploads, as many at a time as there are cores. Safe to use from several threads.

    The processes start when they are needed. They end when this one does, however it ends.
    """

    def __init__(self, limits: DecodeLimits) -> None:
        # The last one used is taken first: a person who uploads one picture after another needs one process.
        self._slots: queue.LifoQueue[_Slot] = queue.LifoQueue()
        for _ in range(available_cores()):
            self._slots.put(_Slot(limits))
        self._wait_seconds = 2 * limits.time_limit_seconds

    def decode(self, upload: IO[bytes], preprocessor: Preprocessor) -> Image.Image:
        """Decode an upload.

        Args:
            upload: Its bytes, from where it stands.
            preprocessor: Makes the picture of it: that of a model, or `app.thumbnails.Fit`.

        Returns:
            The picture at the size that the preprocessor gives it.

        Raises:
            QueryImageError: It is no image, damaged, too large, or takes too long.
            DecodersBusyError: Too many others are being decoded.
        """
        try:
            slot = self._slots.get(timeout=self._wait_seconds)
        except queue.Empty:
            raise DecodersBusyError("Too many pictures are being read; try again soon.") from None
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
        from PIL import Image

        try:
            answer = self._answer(path, preprocessor)
        except BaseException:
            self.close()  # a pool that could not replace its process answers nobody any more
            raise
        if answer.pixels is None:
            raise QueryImageError(f"The uploaded picture cannot be searched with: {answer.reason}.")
        return Image.fromarray(answer.pixels)

    def _answer(self, path: Path, preprocessor: Preprocessor) -> Decoded:
        from indexer.decode_pool import DecodePool

        if self._pool is None or self._preprocessor != preprocessor:
            self.close()
            self._pool = DecodePool(preprocessor, self._limits, workers=1)
            self._preprocessor = preprocessor
        task = next(self._tasks)
        self._pool.submit(task, str(path), may_be_heavy=True)  # within limits of its own
        while True:
            for answer in self._pool.collect(timeout_seconds=1.0):
                if answer.task == task:
                    return answer

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
