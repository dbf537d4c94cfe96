"""`indexer.embedding` with other hands: the files of a run are read and embedded on Ray's machines.

The driver stays the one writer of the library, through the same ledger and the same transactions. So a killed driver
goes on like any killed run: what was committed is not looked at again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.cluster.crew import Crew
from indexer.decode_pool import Decoded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from indexer.cluster.worker import Job
    from indexer.decode import DecodeLimits
    from indexer.ledger import Ledger
    from indexer.stopwatch import Stopwatch
    from indexer.tasks import Task
    from indexer.tower import ImageEncoder


class RayEmbedding:
    """Works off files on other machines; takes the place of `indexer.embedding.Embedding`.

    Args:
        address: See `Crew`.
        load: Loads the encoder where it runs; picklable.
        cores: Cores for each actor.
        batch_files: Files in one call.
    """

    def __init__(
        self, address: str, load: Callable[[], ImageEncoder], *, cores: int = 2, batch_files: int = 0
    ) -> None:
        self._address = address
        self._load = load
        self._cores = cores
        self._batch_files = batch_files
        self.deaths = 0
        """Workers that died in the last run; what they had in hand was done again."""

    def run(
        self,
        tasks: list[Task],
        encoder: ImageEncoder,
        ledger: Ledger,
        stopwatch: Stopwatch,
        *,
        limits: DecodeLimits,
        report: Callable[[], None],
        should_stop: Callable[[], bool],
    ) -> None:
        """Reads files until all are dealt with or the run is to stop.

        Raises:
            JobError: There is no cluster, or it cannot work.
        """
        on_the_way: set[tuple[bytes, int]] = set()

        def jobs() -> Iterator[Job]:
            for number, task in enumerate(tasks):
                yield number, task.absolute, task.hash_only

        def take(answer: dict[str, Any]) -> Job | None:
            task = tasks[answer["task"]]
            if task.answer is not None:
                return None  # a second answer about the same file
            task.read_ns = time.time_ns()
            stopwatch.add(answer["fields"].pop("seconds", {}))
            decoded = Decoded(answer["task"], answer["status"], answer["reason"], answer["fields"], None)
            if decoded.status not in {"image", "hash"}:
                task.answer = decoded
                ledger.add_unusable(task, decoded)
                return None
            fields = decoded.fields
            content = (bytes.fromhex(fields["hash"]), int(fields["size_bytes"]))
            known = ledger.find(content)
            has_vector = (known is not None and known.has_vector) or content in on_the_way
            if decoded.status == "hash" and not has_vector:
                return answer["task"], task.absolute, False
            task.answer = decoded
            task.stat = (fields["size_bytes"], fields["modified_ns"], fields["inode"])
            on_the_way.add(content)
            ledger.add(task, None if has_vector else np.frombuffer(answer["vector"], np.float32))
            return None

        def report_and_commit() -> None:
            with stopwatch.time("catalog"):
                ledger.commit_if_due()
            report()

        crew = Crew(
            self._address,
            self._load,
            encoder.identity,
            limits,
            batch_files=self._batch_files or batch_files_of(encoder),
            cores=self._cores,
        )
        try:
            with crew:
                crew.work(jobs(), take, report=report_and_commit, should_stop=should_stop)
        finally:
            self.deaths = crew.deaths


def batch_files_of(encoder: ImageEncoder) -> int:
    """Files in one call: a few batches of the tower, so that what a call costs besides does not matter."""
    return max(16, min(256, 4 * encoder.batch_size))
