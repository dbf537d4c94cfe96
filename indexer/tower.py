"""The model's tower, fed from the main thread and run in a thread of its own."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from indexer.decode_pool import Decoded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from indexer.decode import Preprocessor
    from indexer.stopwatch import Stopwatch
    from indexer.tasks import Task
    from model.identity import ModelIdentity

_BATCHES_AHEAD = 2  # one in work, one waiting


class ImageEncoder(Protocol):
    """What indexing needs of a model; `model.Encoder` is one."""

    @property
    def identity(self) -> ModelIdentity:
        """Names the model."""

    @property
    def preprocessor(self) -> Preprocessor:
        """Makes the tower's pixels; picklable."""

    @property
    def batch_size(self) -> int:
        """Images that one call of the tower likes to take."""

    def encode_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeds uint8 (n, height, width, 3): float32 (n, dimension) of unit norm."""


class Tower:
    """Runs the encoder in a thread of its own, a batch at a time.

    Args:
        encoder: The model.
        wake: Set when a batch is done.
        stopwatch: Told how long the encoder worked.
    """

    def __init__(self, encoder: ImageEncoder, wake: threading.Event, stopwatch: Stopwatch) -> None:
        self._encoder = encoder
        self._wake = wake
        self._stopwatch = stopwatch
        self._batches: queue.SimpleQueue[list[Task] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[list[Task], Any]] = queue.SimpleQueue()
        self._open = 0
        self._stop = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="tower", daemon=True)
        self._thread.start()

    def __enter__(self) -> Tower:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._batches.put(None)
        self._thread.join()

    @property
    def has_room(self) -> bool:
        """Whether another batch may be submitted."""
        return self._open < _BATCHES_AHEAD and self._error is None

    @property
    def is_idle(self) -> bool:
        """Whether nothing is in work."""
        return self._open == 0 and self._error is None

    def submit(self, batch: list[Task]) -> None:
        """Takes a batch of decoded files."""
        self._open += 1
        self._batches.put(batch)

    def collect(self) -> list[tuple[list[Task], NDArray[np.float32]]]:
        """Batches that are done, with their vectors; raises what the encoder raised."""
        done: list[tuple[list[Task], NDArray[np.float32]]] = []
        while True:
            try:
                batch, result = self._results.get_nowait()
            except queue.Empty:
                if self._error is not None and not done:
                    raise self._error from None
                return done
            self._open -= 1
            if isinstance(result, BaseException):
                self._error = result
            else:
                done.append((batch, result))

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None and not self._stop:
            result: Any
            try:
                with self._stopwatch.time("tower"):
                    result = self._encoder.encode_pixels(np.stack([_pixels(task) for task in batch]))
            except BaseException as error:  # noqa: BLE001  (raised again in the main thread)
                result = error
            for task in batch:
                _drop_pixels(task)
            self._results.put((batch, result))
            self._wake.set()
            if isinstance(result, BaseException):
                return


def _pixels(task: Task) -> NDArray[np.uint8]:
    assert task.answer is not None  # noqa: S101
    assert task.answer.pixels is not None  # noqa: S101
    return task.answer.pixels


def _drop_pixels(task: Task) -> None:
    answer = task.answer
    assert answer is not None  # noqa: S101
    task.answer = Decoded(answer.task, answer.status, answer.reason, answer.fields, None)
