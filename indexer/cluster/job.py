"""A job without a library: files and objects in, rows out, into Parquet or straight into a collection.

A job asks its sink what it has, embeds the rest, and hands rows over as they come. Rows are written whole and a
second row about the same file takes the place of the first, so at least once is good enough: whatever dies, the same
command again ends in the same rows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from indexer.cluster.crew import Crew
from indexer.cluster.embedding import batch_files_of
from indexer.cluster.sources import list_sources
from indexer.records import FileFailure, IndexProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

    from indexer.cluster.sources import Source
    from indexer.cluster.worker import Job
    from indexer.decode import DecodeLimits
    from indexer.tower import ImageEncoder

FLUSH_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class EmbeddedFile:
    """What became of one file.

    Attributes:
        source: The file.
        status: `indexed`, or `skipped`, `failed`, `changed`, `unreadable`, `vanished`, `died`, `hung`.
        reason: Why not, if not.
        content_hash: Hex SHA-256 of its bytes, "" if it could not be read.
        format: As `indexer.formats.sniff` says.
        metadata: Fields of `indexer.decode.Metadata`; empty without an image.
        vector: float32 (dimension,) of unit norm; None without an image.
    """

    source: Source
    status: str
    reason: str | None = None
    content_hash: str = ""
    format: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    vector: NDArray[np.float32] | None = None


class Sink(Protocol):
    """Where rows go; a context manager that holds the right to write there."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    @property
    def place(self) -> str:
        """For people."""

    def has(self, source: Source) -> bool:
        """Whether there is a row about a file, as it is now, that is no failure."""

    def add(self, file: EmbeddedFile) -> None:
        """Takes a row; it may wait for others."""

    def flush(self) -> None:
        """Writes all that waits."""

    def finish(self) -> None:
        """Says that everything is there."""


@dataclass(frozen=True, slots=True)
class JobSummary:
    """How a job went.

    Attributes:
        place: Where the rows went.
        embedded: Files that have a row with a vector by this job.
        unchanged: Files whose row was there.
        skipped: Files that hold no image.
        failed: Files that could not be embedded.
        worker_deaths: Workers that died meanwhile; what they had in hand was done again.
        notices: Sentences that people should read.
        interrupted: True if it was stopped; the same job goes on from there.
        seconds: Duration.
    """

    place: str
    embedded: int
    unchanged: int
    skipped: int
    failed: list[FileFailure]
    worker_deaths: int
    notices: list[str]
    interrupted: bool
    seconds: float


def run_job(
    places: Sequence[str],
    sink: Sink,
    address: str,
    *,
    load: Callable[[], ImageEncoder],
    encoder: ImageEncoder,
    limits: DecodeLimits,
    cores: int = 2,
    progress: Callable[[IndexProgress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> JobSummary:
    """Embeds what lies in folders and stores.

    Args:
        places: Folders that all machines see under the same path, and addresses that fsspec understands.
        sink: Where the rows go.
        address: Of the Ray cluster; see `Crew`.
        load: Loads the encoder where it runs; picklable.
        encoder: The same encoder here, for its identity.
        limits: What one file may cost.
        cores: Cores for each worker where there is no accelerator.
        progress: Called a few times a second.
        should_stop: Asked a few times a second.

    Raises:
        NothingToIndexError: There is nothing in any of the places.
        JobError: There is no cluster, or it cannot work.
        LibraryError: The sink belongs to another model, or cannot be written.
    """
    started = time.monotonic()
    sources, notices = list_sources(places)
    should_stop = should_stop or (lambda: False)
    failed: list[FileFailure] = []
    counts = {"indexed": 0, "skipped": 0, "answered": 0}
    is_interrupted = False
    crew = Crew(address, load, encoder.identity, limits, batch_files=batch_files_of(encoder), cores=cores)
    with sink:
        to_do = [source for source in sources if not sink.has(source)]
        unchanged = len(sources) - len(to_do)
        answered: set[int] = set()
        flushed_at = time.monotonic()

        def jobs() -> Iterator[Job]:
            for number, source in enumerate(to_do):
                yield number, source.path, False

        def take(answer: dict[str, Any]) -> None:
            if answer["task"] in answered:
                return
            answered.add(answer["task"])
            counts["answered"] += 1
            file = _file_of(to_do[answer["task"]], answer)
            if file.status in counts:
                counts[file.status] += 1
            else:
                failed.append(FileFailure(Path(file.source.path), file.reason or "unknown"))
            sink.add(file)

        def report() -> None:
            nonlocal flushed_at
            if time.monotonic() - flushed_at > FLUSH_SECONDS:
                sink.flush()
                flushed_at = time.monotonic()
            if progress is not None:
                progress(_progress(counts, len(failed), unchanged, len(to_do), time.monotonic() - started))

        try:
            if to_do:
                with crew:
                    crew.work(jobs(), take, report=report, should_stop=should_stop)
        except KeyboardInterrupt:
            is_interrupted = True
        finally:
            sink.flush()  # whatever went wrong, what is done is kept
        is_interrupted = is_interrupted or should_stop()
        if not is_interrupted:
            sink.finish()
    return JobSummary(
        place=sink.place,
        embedded=counts["indexed"],
        unchanged=unchanged,
        skipped=counts["skipped"],
        failed=failed,
        worker_deaths=crew.deaths,
        notices=notices,
        interrupted=is_interrupted,
        seconds=time.monotonic() - started,
    )


def _file_of(source: Source, answer: dict[str, Any]) -> EmbeddedFile:
    fields = answer["fields"]
    if answer["status"] != "image":
        return EmbeddedFile(
            source, answer["status"], answer["reason"], fields.get("hash", ""), fields.get("format", "")
        )
    return EmbeddedFile(
        source,
        "indexed",
        None,
        fields["hash"],
        fields["format"],
        fields["metadata"],
        np.frombuffer(answer["vector"], np.float32),
    )


def _progress(
    counts: dict[str, int], failed: int, unchanged: int, total: int, seconds: float
) -> IndexProgress:
    done = counts["answered"]
    speed = done / seconds if seconds > 0 else 0.0
    return IndexProgress(
        phase="indexing",
        done=done,
        total=total,
        scanned=total + unchanged,
        indexed=counts["indexed"],
        unchanged=unchanged,
        failed=failed,
        skipped=counts["skipped"],
        images_per_second=speed,
        seconds_left=(total - done) / speed if speed else None,
    )
