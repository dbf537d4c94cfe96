"""The far end of a job: an actor on one machine that reads, decodes and embeds what it is told the paths of.

Bytes never travel through the driver. Each actor has one tower, loaded once, and decoding processes of its own
(`indexer.decode_pool`), so a file that crashes or hangs a decoder costs that file and not the actor. Two calls may be
under way at once: while the tower works on one, the files of the other are decoded.
"""

from __future__ import annotations

import os
import platform
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from indexer.decode_pool import DecodePool
from model.machine import available_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from indexer.decode import DecodeLimits
    from indexer.decode_pool import Decoded
    from indexer.tower import ImageEncoder

CALLS_AT_ONCE: Final = 2

Job = tuple[int, str, bool]
"""A number of the driver's, the path of a file or the address of an object, whether to hash it only."""


class Worker:
    """One actor. Plain Python, so that tests can call it without Ray.

    Args:
        load: Loads the encoder; called here, once.
        limits: What one file may cost.
        cores: Cores that it may use; 0 leaves them to the system, as beside an accelerator.
    """

    def __init__(self, load: Callable[[], ImageEncoder], limits: DecodeLimits, cores: int) -> None:
        self._load = load
        self._limits = limits
        self._cores = cores
        self._encoder: ImageEncoder | None = None
        self._tower = threading.Lock()
        self._own = threading.local()

    def where(self) -> tuple[str, str]:
        """The node and the machine that it runs on."""
        node = ""
        with suppress(ImportError):
            import ray

            if ray.is_initialized():
                node = str(ray.get_runtime_context().get_node_id())
        return node, platform.node()

    def start(self, slot: int) -> dict[str, Any]:
        """Loads the tower.

        Args:
            slot: How many actors this machine has already: each takes cores of its own, because towers that
                share them wait for one another.

        Returns:
            The identity of the model that was found here.
        """
        if self._cores and hasattr(os, "sched_setaffinity"):
            there = sorted(os.sched_getaffinity(0))
            mine = {there[(slot * self._cores + i) % len(there)] for i in range(self._cores)}
            # All threads of the process, those that Ray has started too.
            for thread in Path("/proc/self/task").iterdir():
                with suppress(OSError):
                    os.sched_setaffinity(int(thread.name), mine)
        self._encoder = self._load()
        return self._encoder.identity.to_dict()

    def embed(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """Reads, decodes and embeds files.

        Returns:
            One answer for each, in any order: `task`, `status` and `reason` as `indexer.decode_pool.Decoded` has
            them, `fields`, and the `vector` of an image as the bytes of float32 (dimension,). A vector that is
            none is a failure.
        """
        encoder = self._encoder
        assert encoder is not None  # noqa: S101
        decoded: list[Decoded] = []
        answers: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory(prefix="imago-") as scratch:
            pool = self._pool(encoder)
            paths: dict[int, str] = {}
            for task, path, hash_only in jobs:
                local = path
                if "://" in path:
                    fetched, refusal = _fetched(path, Path(scratch) / str(len(paths)), self._limits)
                    if fetched is None:
                        answers.append({"task": task, "fields": {}, "vector": None, **refusal})
                        continue
                    local = fetched
                paths[task] = local
                pool.submit(task, local, hash_only=hash_only)
            heavy: list[int] = []
            while pool.open_tasks or heavy:
                if heavy and not pool.open_tasks:
                    number = heavy.pop()
                    pool.submit(number, paths[number], may_be_heavy=True)
                for answer in pool.collect(1.0):
                    if answer.status == "heavy":
                        heavy.append(answer.task)
                    elif answer.status == "image":
                        decoded.append(answer)
                    else:
                        answers.append(_told(answer, None))
        size = encoder.batch_size
        for start in range(0, len(decoded), size):
            part = decoded[start : start + size]
            pixels = np.stack([answer.pixels for answer in part if answer.pixels is not None])
            with self._tower:
                vectors = encoder.encode_pixels(pixels)
            for answer, vector in zip(part, vectors, strict=True):
                if np.isfinite(vector).all():
                    answers.append(_told(answer, vector.astype(np.float32).tobytes()))
                else:
                    told = _told(answer, None)
                    answers.append(
                        {**told, "status": "failed", "reason": "the model makes no valid vector of the image"}
                    )
        return answers

    def _pool(self, encoder: ImageEncoder) -> DecodePool:
        """The decoding processes of the calling thread, which stay for its next call."""
        pool: DecodePool | None = getattr(self._own, "pool", None)
        if pool is None:
            pool = DecodePool(encoder.preprocessor, self._limits, self._cores or available_cores())
            self._own.pool = pool
        return pool


def _told(answer: Decoded, vector: bytes | None) -> dict[str, Any]:
    return {
        "task": answer.task,
        "status": answer.status,
        "reason": answer.reason,
        "fields": answer.fields,
        "vector": vector,
    }


def _fetched(address: str, target: Path, limits: DecodeLimits) -> tuple[str | None, dict[str, Any]]:
    """Brings an object's bytes to this machine, for the decoding processes; None and why if that fails."""
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(address)
        size = int(filesystem.size(path) or 0)
        if size > limits.max_bytes:
            reason = f"the file has {size >> 20} MiB, more than the limit of {limits.max_bytes >> 20} MiB"
            return None, {"status": "failed", "reason": reason}
        suffix = Path(path).suffix
        local = target.with_name(target.name + (suffix if suffix.isprintable() else ""))
        filesystem.get_file(path, str(local))
    except FileNotFoundError:
        return None, {"status": "vanished", "reason": "the file went away while it was to be read"}
    except PermissionError:
        return None, {"status": "failed", "reason": "no permission to read the file"}
    except Exception as error:  # noqa: BLE001  (every store has errors of its own; none may end the job)
        return None, {
            "status": "failed",
            "reason": f"the file cannot be read: {' '.join(str(error).split())[:200]}",
        }
    return str(local), {}
