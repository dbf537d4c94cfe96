"""What people see of long work on stderr: a bar on a terminal, a line now and then elsewhere; and Ctrl-C."""

from __future__ import annotations

import logging
import signal
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

SECONDS_BETWEEN_LINES = 10.0
"""How often work whose stderr is no terminal says where it stands."""


@dataclass(frozen=True)
class Moment:
    """Where work stands.

    Attributes:
        description: What is being done.
        done: How much of it.
        total: Of how much; None while nobody knows.
        rate: Its speed, for people.
        seconds_left: Until the end; None while nobody knows.
    """

    description: str
    done: int
    total: int | None = None
    rate: str = ""
    seconds_left: float | None = None


def tell_of_waiting() -> None:
    """Let the model say what its first use waits for, on a terminal: towers are compiled, which takes seconds."""
    if sys.stderr.isatty():
        log = logging.getLogger("model")
        log.setLevel(logging.INFO)
        log.addHandler(_OnStderr())


class _OnStderr(logging.Handler):
    """Writes to what stderr is at the time, which a bar that is shown has put itself before."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record), err=True)


@contextmanager
def stop_on_signal(promise: str) -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a wish to stop, said with `promise`; a second one interrupts."""
    is_stopping = False

    def request_stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_stopping
        if is_stopping:
            raise KeyboardInterrupt
        is_stopping = True
        click.echo(f"\n{promise}; once more stops at once.", err=True)

    previous = {number: signal.signal(number, request_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: is_stopping
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def display() -> Iterator[Callable[[Moment], None]]:
    """Yield a function that shows where work stands; cheap to call often."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, rate="", left="")

        def show(moment: Moment) -> None:
            bar.update(
                task,
                description=moment.description,
                completed=moment.done,
                total=moment.total,
                rate=moment.rate,
                left=_time_left(moment),
            )

        yield show


def _lines() -> Callable[[Moment], None]:
    last = time.monotonic()

    def show(moment: Moment) -> None:
        nonlocal last
        if time.monotonic() - last < SECONDS_BETWEEN_LINES:
            return
        last = time.monotonic()
        parts = [moment.description]
        if moment.total is not None:
            parts += [f"{moment.done:,} of {moment.total:,}", moment.rate, _time_left(moment)]
        click.echo(", ".join(part for part in parts if part), err=True)

    return show


def _time_left(moment: Moment) -> str:
    return "" if moment.seconds_left is None else f"{time_text(moment.seconds_left)} left"


def time_text(seconds: float) -> str:
    """Return a duration as minutes and seconds, or hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
