"""`imago index`: choosing the model, the progress bar, Ctrl-C, and the run itself."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn

from indexer import LibraryReader, index_folders
from indexer.errors import LibraryNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import FrameType

    from indexer import IndexProgress, IndexSummary

SECONDS_BETWEEN_LINES = 10.0
"""How often a run whose stderr is no terminal says where it stands."""


def run_index(
    library_path: Path, folders: Sequence[Path], *, model: str | None, retry_failed: bool
) -> tuple[IndexSummary, str]:
    """Bring the library up to date with the folders; show progress on stderr.

    Returns how the run went, and the name of the model.

    The first Ctrl-C (or SIGTERM) ends the run after the batch in hand with everything saved; the second ends
    it at once.
    """
    from indexer.pipeline import check_folders
    from model import Encoder

    # Before the model is chosen: nobody wants to fetch one for a folder that is misspelt.
    check_folders(library_path, [os.path.realpath(folder) for folder in folders])
    encoder = Encoder.load(model or _library_model(library_path) or _default_model())
    with _stop_on_signal() as should_stop, _progress_display() as show:
        summary = index_folders(
            library_path,
            folders,
            encoder,
            retry_failed=retry_failed,
            progress=show,
            should_stop=should_stop,
        )
    return summary, encoder.identity.name


def _library_model(library_path: Path) -> str | None:
    try:
        with LibraryReader.open(library_path) as reader:
            return reader.model.name if reader.model is not None else None
    except LibraryNotFoundError:
        return None


def _default_model() -> str:
    from model.registry import resolve_default

    return resolve_default(notify=lambda line: click.echo(line, err=True))


@contextmanager
def _stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a wish to stop; a second one interrupts."""
    is_stopping = False

    def request_stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_stopping
        if is_stopping:
            raise KeyboardInterrupt
        is_stopping = True
        click.echo("\nStopping after the pictures in hand; once more stops at once.", err=True)

    previous = {number: signal.signal(number, request_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: is_stopping
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _progress_display() -> Iterator[Callable[[IndexProgress], None]]:
    """Yield a function that shows progress: a bar on a terminal, a line now and then elsewhere."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Scanning", total=None, rate="", left="")
        yield lambda progress: _update(bar, task, progress)


def _update(bar: Progress, task: TaskID, progress: IndexProgress) -> None:
    bar.update(
        task,
        description=_describe(progress),
        completed=progress.done,
        total=None if progress.phase == "scanning" else progress.total,
        rate=f"{progress.images_per_second:,.1f} images/s" if progress.images_per_second else "",
        left=_time_left(progress.seconds_left),
    )


def _describe(progress: IndexProgress) -> str:
    if progress.phase == "scanning":
        return f"Scanning, {progress.scanned:,} files"
    failed = f" ({progress.failed:,} failed)" if progress.failed else ""
    return f"{progress.phase.capitalize()}{failed}"


def _time_left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} left" if hours else f"{minutes}:{rest:02} left"


def _lines() -> Callable[[IndexProgress], None]:
    last = time.monotonic()

    def show(progress: IndexProgress) -> None:
        nonlocal last
        if time.monotonic() - last < SECONDS_BETWEEN_LINES:
            return
        last = time.monotonic()
        if progress.phase == "scanning":
            click.echo(_describe(progress), err=True)
            return
        click.echo(
            f"{_describe(progress)}: {progress.done:,} of {progress.total:,}, "
            f"{progress.images_per_second:,.1f} images/s, {_time_left(progress.seconds_left)}",
            err=True,
        )

    return show
