"""Decodes files in processes that may die or hang without taking the run along.

Each worker has its own pipe and its own short queue of files, which it answers in order. So when a worker
dies, the file at the head of its queue is the one that killed it; that file alone fails, and the rest goes
to a new worker. A worker that is silent for longer than the time limit is killed, with the same effect.

`concurrent.futures` breaks the whole pool when one worker dies. Pools made with `multiprocessing` start
children that import the caller's main module again; see `indexer.decode_worker`.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from indexer.decode_worker import JSON_LENGTH, LENGTH
from indexer.errors import DecoderStartError

if sys.platform == "linux":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from indexer.decode import DecodeLimits, Preprocessor

# Enough that a worker has work while the parent commits (tens of milliseconds), little enough to hold in
# memory.
MAX_QUEUE = 16
# What Linux lets every user have. By itself a pipe holds 64 KiB, half a picture of 224 pixels.
_PIPE_BYTES = 1 << 20
# So many answers at least are worth waking whoever collects them.
_ANSWERS_AT_ONCE = 8
_START_LIMIT_SECONDS = 60.0
_GRACE_SECONDS = 2.0  # the worker's own timer should go first
_PAUSE_SECONDS = 1.0  # whoever does not collect for so long was stopped, or busy with something else
_BOOTSTRAP = (
    "import sys, pickle; sys.path[:] = pickle.loads(bytes.fromhex(sys.argv[1]));"
    "from indexer.decode_worker import main; main()"
)


@dataclass(frozen=True)
class Decoded:
    """The answer about one file.

    Attributes:
        task: What `submit` was given.
        status: `image` (decoded), `hash` (hashed only), `heavy` (put off), `skipped`, `failed`, `changed` or
            `unreadable` (now; later, who knows), `vanished`, or `died` and `hung` for a file that cost its worker.
        reason: Why, for all but `image`, `hash` and `heavy`.
        fields: `hash` (hex), `format`, `size_bytes`, `modified_ns`, `inode` as far as the file was read;
            `metadata` of an image, and `seconds` by stage that it took.
        pixels: uint8 (height, width, 3) of an image.
    """

    task: int
    status: str
    reason: str | None
    fields: dict[str, Any]
    pixels: NDArray[np.uint8] | None


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    tasks: deque[tuple[int, str, bool, bool]] = field(default_factory=deque)
    last_sign: float = field(default_factory=time.monotonic)
    is_ready: bool = False
    is_gone: bool = False


class DecodePool:
    """A fixed number of decoding processes. Not thread-safe: one thread submits and collects.

    Args:
        preprocessor: Picklable; imported in the workers, so it must not need JAX.
        limits: What one file may cost.
        workers: Number of processes.
        on_answer: Called from the pool's reading threads when `collect` has a handful of answers to return, or all
            that are to come, or a worker has ended. Other answers wait until somebody looks.
    """

    def __init__(
        self,
        preprocessor: Preprocessor,
        limits: DecodeLimits,
        workers: int,
        on_answer: Callable[[], None] | None = None,
    ) -> None:
        self._setup = pickle.dumps((preprocessor, limits))
        self._limits = limits
        self._on_answer = on_answer
        self._events: queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None, NDArray[np.uint8] | None]] = (
            queue.SimpleQueue()
        )
        self._failed_starts = 0
        self._next_look = time.monotonic()  # when `collect` is expected again, at the latest
        self._waiting: deque[tuple[int, str, bool, bool]] = deque()
        self._workers = [self._start() for _ in range(workers)]

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def open_tasks(self) -> int:
        """Files submitted and not yet collected."""
        return len(self._waiting) + sum(len(worker.tasks) for worker in self._workers)

    def room(self, files_left: int) -> int:
        """How many files to submit now, so that all workers are busy and, near the end, equally so."""
        share = max(2, min(MAX_QUEUE, files_left // (2 * len(self._workers))))
        return max(0, share * len(self._workers) - self.open_tasks)

    def submit(self, task: int, path: str, *, hash_only: bool = False, may_be_heavy: bool = False) -> None:
        """Queues a file; its answer comes out of `collect` with the same `task`.

        Args:
            task: Any number.
            path: Absolute path.
            hash_only: Whether to hash the file without decoding it.
            may_be_heavy: Whether to decode it even if that takes much memory; the answer is `heavy`
                otherwise.
        """
        self._waiting.append((task, path, hash_only, may_be_heavy))
        self._hand_out()

    def collect(self, timeout_seconds: float) -> list[Decoded]:
        """Waits for answers.

        Returns:
            All that are there; empty if nothing came in time.

        Raises:
            DecoderStartError: The workers do not come up.
        """
        answers: list[Decoded] = []
        self._take_events(answers, 0)  # before the clocks: what a worker said is a sign of life
        self._check_clocks(answers)
        timeout_seconds = 0 if answers else timeout_seconds
        self._next_look = time.monotonic() + timeout_seconds + _PAUSE_SECONDS
        self._take_events(answers, timeout_seconds)
        self._hand_out()
        return answers

    def close(self) -> None:
        """Ends all workers, busy or not."""
        for worker in self._workers:
            self._discard(worker)
        self._workers = []

    def _start(self) -> _Worker:
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",  # one process a core; threads of NumPy and codecs would fight over them
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        errors = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the worker)
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOTSTRAP, pickle.dumps(sys.path).hex()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            # Ctrl-C goes to the whole group of the terminal; workers shall end when the parent says so.
            start_new_session=True,
        )
        _widen(process.stdout)
        worker = _Worker(process, errors)
        threading.Thread(target=self._read, args=(worker,), daemon=True, name="decode-answers").start()
        with suppress(OSError):
            _write_frame(process, self._setup)
        return worker

    def _read(self, worker: _Worker) -> None:
        """Moves one worker's answers to the queue; the last one is None."""
        stream = worker.process.stdout
        assert stream is not None  # noqa: S101
        with suppress(OSError, ValueError):
            while len(head := stream.read(LENGTH.size)) == LENGTH.size:
                (length,) = LENGTH.unpack(head)
                frame = stream.read(length)
                if len(frame) < length:
                    break
                (text_length,) = JSON_LENGTH.unpack_from(frame)
                text_end = JSON_LENGTH.size + text_length
                answer: dict[str, Any] = json.loads(frame[JSON_LENGTH.size : text_end])
                pixels = None
                if shape := answer.pop("shape", None):
                    pixels = np.frombuffer(frame, np.uint8, offset=text_end).reshape(shape)
                self._events.put((worker, answer, pixels))
                few = min(_ANSWERS_AT_ONCE, self.open_tasks)
                if self._on_answer is not None and self._events.qsize() >= few:
                    self._on_answer()
        stream.close()
        self._events.put((worker, None, None))
        if self._on_answer is not None:
            self._on_answer()

    def _take_events(self, answers: list[Decoded], timeout_seconds: float) -> None:
        with suppress(queue.Empty):
            event = self._events.get(timeout=timeout_seconds)
            while True:
                self._handle(*event, answers)
                event = self._events.get_nowait()

    def _handle(
        self,
        worker: _Worker,
        answer: dict[str, Any] | None,
        pixels: NDArray[np.uint8] | None,
        answers: list[Decoded],
    ) -> None:
        if worker.is_gone:
            return  # an answer that crossed with the killing; its file was settled then
        worker.last_sign = time.monotonic()
        if answer is None:
            self._bury(worker, "died", answers)
        elif "ready" in answer:
            worker.is_ready = True
            self._failed_starts = 0
        else:
            task = worker.tasks.popleft()[0]
            answers.append(
                Decoded(
                    answer.pop("task", task), answer.pop("status"), answer.pop("reason", None), answer, pixels
                )
            )

    def _check_clocks(self, answers: list[Decoded]) -> None:
        now = time.monotonic()
        # In time that nobody looked, as after Ctrl-Z, workers could not be heard: it is not counted.
        pause = max(0.0, now - self._next_look)
        for worker in list(self._workers):
            worker.last_sign = min(now, worker.last_sign + pause)
            limit = (
                self._limits.time_limit_seconds + _GRACE_SECONDS if worker.is_ready else _START_LIMIT_SECONDS
            )
            if (worker.tasks or not worker.is_ready) and now - worker.last_sign > limit:
                self._bury(worker, "hung", answers)

    def _bury(self, worker: _Worker, how: str, answers: list[Decoded]) -> None:
        """Settles a worker's files and puts another in its place."""
        last_words = self._discard(worker)
        code = worker.process.returncode
        if worker.is_ready and worker.tasks:
            task = worker.tasks.popleft()[0]
            timed_out = how == "hung" or (hasattr(signal, "SIGALRM") and code == -signal.SIGALRM)
            reason = (
                f"decoding took longer than {self._limits.time_limit_seconds:g} s"
                if timed_out
                else "the decoder crashed on the file"
            )
            answers.append(Decoded(task, "hung" if timed_out else "died", reason, {}, None))
        elif not worker.is_ready:
            self._failed_starts += 1
            if self._failed_starts > len(self._workers) + 2:
                raise DecoderStartError(
                    "The processes that decode images do not start"
                    f" (exit code {code}): {last_words or 'no message'}"
                )
        self._waiting.extendleft(reversed(worker.tasks))
        worker.tasks.clear()
        self._workers[self._workers.index(worker)] = self._start()

    def _discard(self, worker: _Worker) -> str:
        """Ends a worker for good; returns the end of what it wrote to standard error."""
        if worker.is_gone:
            return ""
        worker.is_gone = True
        with suppress(OSError):
            worker.process.kill()
        with suppress(OSError):
            assert worker.process.stdin is not None  # noqa: S101
            worker.process.stdin.close()
        worker.process.wait()
        with worker.errors:
            worker.errors.seek(max(0, worker.errors.seek(0, os.SEEK_END) - 500))
            return worker.errors.read().decode(errors="replace").strip()

    def _hand_out(self) -> None:
        while self._waiting:
            worker = min(self._workers, key=lambda candidate: len(candidate.tasks))
            if len(worker.tasks) >= MAX_QUEUE:
                return
            if not worker.tasks:
                worker.last_sign = time.monotonic()
            request = self._waiting.popleft()
            worker.tasks.append(request)
            with suppress(OSError):  # a dead worker: its end is on its way through the queue
                _write_frame(worker.process, pickle.dumps(request))


def _widen(pipe: IO[bytes] | None) -> None:
    """Makes room for whole pictures, where the system lets us: a worker then goes on before we have read."""
    if sys.platform == "linux" and pipe is not None:
        with suppress(OSError):  # more than users may have
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _write_frame(process: subprocess.Popen[bytes], body: bytes) -> None:
    assert process.stdin is not None  # noqa: S101
    process.stdin.write(LENGTH.pack(len(body)) + body)
    process.stdin.flush()
