"""Where a run's time goes."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Stopwatch:
    """Adds up seconds by stage.

    Each stage is timed by one thread at a time, so nothing needs a lock. Stages run side by side: their seconds add up
    to more than the run's.

    Attributes:
        seconds: Stage to seconds, in the order in which the stages were first met.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Adds the time that a block takes, however it ends."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.add({stage: time.perf_counter() - begin})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Adds what another one measured."""
        for stage, more in seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + more
