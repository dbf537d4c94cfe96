"""Stand-ins for the model, importable by decoding processes and by child processes of the tests.

The encoder is exact and cheap: a vector is a fixed linear map of the pixels, so the vector of a picture can be
computed again at any time and compared.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from indexer.decode_pool import Decoded
from indexer.decode_worker import handle
from model.identity import ModelIdentity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from indexer.decode import DecodeLimits, Preprocessor

SIDE_PIXELS = 8
DIMENSION = 16


@dataclass(frozen=True)
class SmallPreprocessor:
    """Shrinks to 8 x 8."""

    minimum_side_pixels: int = SIDE_PIXELS

    def __call__(self, image: Image.Image, full_size: tuple[int, int] | None = None) -> np.ndarray:
        return np.asarray(image.convert("RGB").resize((SIDE_PIXELS, SIDE_PIXELS)))


@dataclass(frozen=True)
class HostilePreprocessor(SmallPreprocessor):
    """Acts like a decoder with a hole in it: what it does depends on the width of the picture."""

    crash_width_pixels: int = 13
    hang_width_pixels: int = 17

    def __call__(self, image: Image.Image, full_size: tuple[int, int] | None = None) -> np.ndarray:
        if image.width == self.crash_width_pixels:
            os.kill(os.getpid(), signal.SIGSEGV)
        if image.width == self.hang_width_pixels:
            time.sleep(3600)
        return super().__call__(image)


def identity(name: str = "fake", weights: str = "a1", dimension: int = DIMENSION) -> ModelIdentity:
    return ModelIdentity(name, None, weights * 32, "b2" * 32, dimension)


@dataclass
class FakeEncoder:
    """The interface of `model.Encoder` that indexing uses."""

    identity: ModelIdentity = field(default_factory=identity)
    preprocessor: Preprocessor = field(default_factory=SmallPreprocessor)
    batch_size: int = 4
    seconds_per_batch: float = 0.0
    batches: list[int] = field(default_factory=list)

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        assert pixels.dtype == np.uint8
        assert pixels.shape[1:] == (SIDE_PIXELS, SIDE_PIXELS, 3)
        self.batches.append(len(pixels))
        time.sleep(self.seconds_per_batch)
        seed = int(self.identity.weights_fingerprint[:2], 16)
        matrix = np.random.default_rng(seed).standard_normal(
            (SIDE_PIXELS * SIDE_PIXELS * 3, self.identity.dimension)
        )
        vectors = (pixels.reshape(len(pixels), -1).astype(np.float64) - 128) @ matrix
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def draw(path: Path, seed: int, size: tuple[int, int] = (32, 24), **options: object) -> Path:
    """Writes a picture of coloured patches; the same seed gives the same picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    patches = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(patches).resize(size, Image.Resampling.NEAREST).save(path, **options)
    return path


def in_chunks(
    ids: np.ndarray, codes: np.ndarray, rows: int = 65_536
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cuts arrays into what `write_vector_file` takes."""
    for start in range(0, len(ids), rows):
        yield ids[start : start + rows], codes[start : start + rows]


def index_in_child(arguments: list[str]) -> None:
    """`library folder seconds_per_batch`: what the killed child processes run; prints a line per commit."""
    from indexer import index_folders

    library, folder, seconds = arguments
    print(f"started {threading.get_ident()}", flush=True)
    encoder = FakeEncoder(seconds_per_batch=float(seconds))
    summary = index_folders(library, [folder], encoder, workers=1)
    print(f"indexed {summary.indexed} unchanged {summary.unchanged}", flush=True)


class InlinePool:
    """`DecodePool` without processes: the same answers, by the same code, where starting processes costs too much."""

    def __init__(
        self, preprocessor: Preprocessor, limits: DecodeLimits, workers: int, on_answer: object = None
    ) -> None:
        self._preprocessor = preprocessor
        self._limits = limits
        self._answers: list[Decoded] = []

    def __enter__(self) -> InlinePool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def open_tasks(self) -> int:
        return len(self._answers)

    def room(self, files_left: int) -> int:
        return 4 - len(self._answers)

    def submit(self, task: int, path: str, *, hash_only: bool = False, may_be_heavy: bool = False) -> None:
        answer, pixels = handle(
            path, self._preprocessor, self._limits, hash_only=hash_only, may_be_heavy=may_be_heavy
        )
        self._answers.append(Decoded(task, answer.pop("status"), answer.pop("reason", None), answer, pixels))

    def collect(self, timeout_seconds: float) -> list[Decoded]:
        answers, self._answers = self._answers, []
        return answers


def serve_runs() -> None:
    """Runs the indexer in forks of this process, one for each line of standard input, and kills some of them.

    A line is a JSON list: library, folder, seed of the weights, and after how many events to die (0: not at all).
    Events are SQL statements, syncs of files and replacements of files: whatever leaves a trace on the disk. A
    process that was made for this may fork safely, and a fork costs milliseconds where a start costs a second.
    """
    import faiss
    import filelock
    import sqlite_utils

    import indexer.catalog
    import indexer.embedding
    import indexer.ledger
    import indexer.pipeline
    import indexer.reader

    assert all((faiss, filelock, sqlite_utils, indexer.reader))  # imported before the forks, not in each
    indexer.embedding.DecodePool = InlinePool
    indexer.ledger._COMMIT_SECONDS = 0.0
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            library, folder, weights, events = json.loads(line)
            _die_after(events)
            encoder = FakeEncoder(identity=identity(weights=weights), batch_size=2)
            summary = indexer.pipeline.index_folders(library, [folder], encoder, change_model=True)
            assert events or not summary.interrupted
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _die_after(events: int) -> None:
    left = [events]

    def event(*_: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    fsync, replace = os.fsync, os.replace

    def fsync_event(number: int) -> None:
        event()
        fsync(number)

    def replace_event(*arguments: object) -> None:
        event()
        replace(*arguments)
        event()

    os.fsync, os.replace = fsync_event, replace_event
    connect = sqlite3.connect

    def connect_traced(*arguments: object, **options: object) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(event)
        return connection

    sqlite3.connect = connect_traced
