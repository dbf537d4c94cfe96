"""The model's tower, fed from the main thread and run in threads of its own."""

from __future__ import annotations

import queue
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from indexer.decode_pool import Decoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from indexer.decode import Preprocessor
    from indexer.stopwatch import Stopwatch
    from indexer.tasks import Task
    from model.identity import ModelIdentity

# Two in work, so that no core waits for the slower half of a batch before it goes on with the next, and one waiting.
_THREADS = 2
_BATCHES_AHEAD = _THREADS + 1


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
        """Embeds uint8 (n, height, width, 3): float32 (n, dimension) of unit norm. Called by two threads at once."""


class Tower:
    """Runs the encoder in threads of its own.

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
        self._lock = threading.Lock()
        self._at_work = 0
        self._work_began = 0.0
        self._stop = False
        self._error: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._run, name="tower", daemon=True) for _ in range(_THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Tower:
        return self

    def __exit__(self, *_: object) -> None:
        self._join()

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
        """Batches that are done, with their vectors; raises what the encoder raised, once nothing else is in work."""
        done: list[tuple[list[Task], NDArray[np.float32]]] = []
        while True:
            try:
                batch, result = self._results.get_nowait()
            except queue.Empty:
                is_over = not any(thread.is_alive() for thread in self._threads)
                if self._error is not None and not done and is_over and self._results.empty():
                    raise self._error from None
                return done
            self._open -= 1
            if isinstance(result, BaseException):
                self._error = result
            else:
                done.append((batch, result))

    def finish(self) -> list[tuple[list[Task], NDArray[np.float32]]]:
        """Waits for the batches that are in work, takes no others, and returns what `collect` would."""
        self._join()
        return self.collect()

    def _join(self) -> None:
        self._end()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None and not self._stop:
            result: Any
            try:
                with self._timed():
                    result = self._encoder.encode_pixels(np.stack([_pixels(task) for task in batch]))
            except BaseException as error:  # noqa: BLE001  (raised again in the main thread)
                result = error
            for task in batch:
                _drop_pixels(task)
            if isinstance(result, BaseException):
                self._end()
            self._results.put((batch, result))
            self._wake.set()

    def _end(self) -> None:
        """Has each thread stop after what it is at."""
        self._stop = True
        for _ in range(_THREADS):
            self._batches.put(None)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Tells the stopwatch how long at least one of the threads was at work."""
        with self._lock:
            self._work_began = self._work_began if self._at_work else time.perf_counter()
            self._at_work += 1
        try:
            yield
        finally:
            with self._lock:
                self._at_work -= 1
                if not self._at_work:
                    self._stopwatch.add({"tower": time.perf_counter() - self._work_began})


def _pixels(task: Task) -> NDArray[np.uint8]:
    assert task.answer is not None  # noqa: S101
    assert task.answer.pixels is not None  # noqa: S101
    return task.answer.pixels


def _drop_pixels(task: Task) -> None:
    answer = task.answer
    assert answer is not None  # noqa: S101
    task.answer = Decoded(answer.task, answer.status, answer.reason, answer.fields, None)
