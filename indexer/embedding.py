"""Decode and embed: files in, complete pieces for the ledger out.

Three parties work side by side: processes decode (`indexer.decode_pool`), threads run the tower, and
the main thread decides. Whoever is slowest sets the pace; the others wait, with little in hand, so memory
does not depend on the number of images.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from indexer.decode_pool import Decoded, DecodePool
from indexer.tower import Tower

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from indexer.decode import DecodeLimits
    from indexer.ledger import Ledger
    from indexer.stopwatch import Stopwatch
    from indexer.tasks import Task
    from indexer.tower import ImageEncoder

_PARTIAL_BATCH_SECONDS = 2.0
_WAKE_SECONDS = 0.02  # how long single answers, progress and Ctrl-C may wait


class Embedding:
    """Works off files.

    Args:
        encoder: Makes the vectors.
        ledger: Gets what is complete.
        stopwatch: Told where the time goes.
        limits: What one file may cost.
        workers: Decoding processes, at most.
        report: Called a few times a second.
        should_stop: Asked a few times a second.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        ledger: Ledger,
        stopwatch: Stopwatch,
        *,
        limits: DecodeLimits,
        workers: int,
        report: Callable[[], None],
        should_stop: Callable[[], bool],
    ) -> None:
        self.encoder = encoder
        self.ledger = ledger
        self.stopwatch = stopwatch
        self.limits = limits
        self.workers = workers
        self._report = report
        self._should_stop = should_stop

    def run(self, tasks: list[Task]) -> None:
        """Reads files until all are dealt with or the run is to stop."""
        wake = threading.Event()
        with ExitStack() as stack:
            pool = stack.enter_context(
                DecodePool(
                    self.encoder.preprocessor,
                    self.limits,
                    min(self.workers, len(tasks)),
                    on_answer=wake.set,
                )
            )
            tower = stack.enter_context(Tower(self.encoder, wake, self.stopwatch))
            self._loop(tasks, pool, tower, wake)

    def _loop(self, tasks: list[Task], pool: DecodePool, tower: Tower, wake: threading.Event) -> None:
        batch_size = self.encoder.batch_size
        following = 0
        again: deque[int] = deque()  # hashed and found to be new: to be decoded after all
        heavy: deque[int] = deque()  # so large that they are decoded one at a time
        heavy_now: int | None = None
        ready: list[Task] = []
        ready_since = 0.0
        # Contents on their way through the tower: a copy that turns up meanwhile waits for the same vector.
        in_flight: dict[tuple[bytes, int], list[Task]] = {}
        while True:
            is_stopping = self._should_stop()
            if not is_stopping and len(ready) < 2 * batch_size:
                if heavy and heavy_now is None:
                    heavy_now = heavy.popleft()
                    pool.submit(heavy_now, tasks[heavy_now].absolute, may_be_heavy=True)
                for _ in range(pool.room(len(tasks) - following)):
                    if again:
                        number = again.popleft()
                        pool.submit(number, tasks[number].absolute)
                    elif following < len(tasks):
                        task = tasks[following]
                        pool.submit(following, task.absolute, hash_only=task.hash_only)
                        following += 1
                    else:
                        break
            for answer in pool.collect(0):
                task = tasks[answer.task]
                if answer.task == heavy_now:
                    heavy_now = None
                if answer.status == "heavy":
                    heavy.append(answer.task)
                    continue
                if self._take(task, answer, in_flight):
                    ready_since = ready_since if ready else time.monotonic()
                    ready.append(task)
                elif answer.status == "hash" and task.answer is None:
                    task.hash_only = False
                    again.append(answer.task)
            # What is in work has to be waited for when a run is stopped, so it is kept.
            for batch, vectors in tower.finish() if is_stopping else tower.collect():
                self._take_vectors(batch, vectors, in_flight)
            if is_stopping:
                return
            now = time.monotonic()
            is_drained = following == len(tasks) and not again and not heavy and pool.open_tasks == 0
            while ready and tower.has_room:
                is_due = len(ready) >= batch_size or is_drained or now - ready_since > _PARTIAL_BATCH_SECONDS
                if not is_due:
                    break
                tower.submit(ready[:batch_size])
                del ready[:batch_size]
                ready_since = now
            with self.stopwatch.time("catalog"):
                self.ledger.commit_if_due()
            self._report()
            if is_drained and not ready and tower.is_idle:
                return
            wake.wait(_WAKE_SECONDS)
            wake.clear()

    def _take(self, task: Task, answer: Decoded, in_flight: dict[tuple[bytes, int], list[Task]]) -> bool:
        """Decides what an answer means; returns whether the task's pixels go to the tower."""
        task.read_ns = time.time_ns()
        self.stopwatch.add(answer.fields.pop("seconds", {}))
        if answer.status not in {"image", "hash"}:
            task.answer = answer
            self.ledger.add_unusable(task, answer)
            return False
        fields = answer.fields
        content = (bytes.fromhex(fields["hash"]), int(fields["size_bytes"]))
        known = self.ledger.find(content)
        if (known is not None and known.has_vector) or content in in_flight:
            task.answer = replace(answer, pixels=None)
            task.stat = (fields["size_bytes"], fields["modified_ns"], fields["inode"])
            if content in in_flight:
                in_flight[content].append(task)
            else:
                self.ledger.add(task, None)
            return False
        if answer.status == "hash":
            return False
        task.answer = answer
        task.stat = (fields["size_bytes"], fields["modified_ns"], fields["inode"])
        in_flight[content] = []
        return True

    def _take_vectors(
        self,
        batch: list[Task],
        vectors: NDArray[np.float32],
        in_flight: dict[tuple[bytes, int], list[Task]],
    ) -> None:
        valid = np.isfinite(vectors).all(axis=-1).reshape(-1)
        for task, vector, is_valid in zip(batch, vectors, valid, strict=True):
            copies = in_flight.pop(task.content)
            assert task.answer is not None  # noqa: S101
            if is_valid:
                self.ledger.add(task, vector)
                for copy in copies:
                    self.ledger.add(copy, None)
                continue
            for broken in (task, *copies):
                broken.answer = Decoded(
                    task.answer.task, "failed", "the model makes no valid vector of the image", {}, None
                )
                self.ledger.add_unusable(broken, broken.answer)
