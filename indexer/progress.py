"""Tells whoever asked how far a run is, a few times a second."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from indexer.records import IndexProgress

if TYPE_CHECKING:
    from collections.abc import Callable

    from indexer.tasks import Counts

_PROGRESS_SECONDS = 0.1
_SPEED_WINDOW_SECONDS = 10.0


class ProgressReport:
    """Turns counts into progress.

    Args:
        counts: How far the run is.
        listener: Told; None if nobody asked.
    """

    def __init__(self, counts: Counts, listener: Callable[[IndexProgress], None] | None) -> None:
        self._counts = counts
        self._listener = listener
        self._last = 0.0
        self._phase = ""
        self._speed: deque[tuple[float, int]] = deque()

    def tell(
        self, phase: str, *, waiting: int = 0, step: tuple[int, int] | None = None, force: bool = False
    ) -> None:
        """Tells, unless it told of the same phase a moment ago.

        Args:
            phase: What the run does now.
            waiting: Files that are done but not counted yet.
            step: What is done, and of how much, in a phase that does not deal with files.
            force: Whether to tell however short ago the last time was.
        """
        if self._listener is None:
            return
        now = time.monotonic()
        if phase != self._phase:
            self._phase = phase
            self._speed.clear()
            force = True
        if not force and now - self._last < _PROGRESS_SECONDS:
            return
        self._last = now
        counts = self._counts
        done, total = step or (min(counts.done + waiting, counts.total), counts.total)
        self._speed.append((now, done))
        while len(self._speed) > 2 and now - self._speed[0][0] > _SPEED_WINDOW_SECONDS:
            self._speed.popleft()
        (then, done_then) = self._speed[0]
        speed = (done - done_then) / (now - then) if now > then else 0.0
        left = total - done
        self._listener(
            IndexProgress(
                phase=phase,
                done=done,
                total=total,
                scanned=counts.scanned,
                indexed=counts.indexed + counts.moved + counts.restored,
                unchanged=counts.unchanged,
                failed=len(counts.failed),
                skipped=counts.skipped,
                images_per_second=speed,
                seconds_left=left / speed if speed > 0 else (0.0 if left == 0 else None),
            )
        )
