"""Which example stands at which place of a run, as a pure function of the settings.

That is why a run can go on from any step exactly as if it had never stopped: there is nothing to remember but the
step's number. Two questions are answered here. How many examples of each source does step k take? And which example is
the n-th that a source gives?
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from model.errors import ConfigurationError
from model.training.sources import read_images

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from model.training.sources import Entry, ImageContent, Source

# Steps of the golden ratio spread over [0, 1) more evenly than any random numbers.
_GOLDEN = 0.6180339887498949


def shares(
    weights: Sequence[float], batch_size: int, steps: int, groups: Sequence[int | None] | None = None
) -> npt.NDArray[np.int64]:
    """How many examples each source gives to each step.

    Systematic sampling: each row sums to the batch size, and the running sums stay near their ideals. A source without
    a group differs from its ideal share of what the groups leave by less than one example in each row.

    Args:
        weights: of the sources, in any unit.
        batch_size: examples in a step.
        steps: rows to make.
        groups: per source, how many of its examples come together: it then gives whole groups to some steps and
            nothing to the others. At least one source has none.

    Returns:
        int64 (steps, sources).

    Raises:
        ConfigurationError: groups that may meet in one step do not fit into a batch.
    """
    groups = groups or [None] * len(weights)
    ideal = batch_size * np.asarray(weights, np.float64) / np.sum(weights)
    largest = sum(
        group * math.ceil(share / group) for share, group in zip(ideal, groups, strict=True) if group
    )
    if largest > batch_size:
        raise ConfigurationError(
            f"data.together: {largest} examples may come together in one batch, which has {batch_size}: lower it, "
            "or raise schedule.batch_size"
        )
    taken = np.zeros((steps, len(weights)), np.int64)
    for source, group in enumerate(groups):
        if group:
            # Sources begin at different times, so that their groups seldom meet.
            begun = np.arange(steps + 1) * ideal[source] / group + (source * _GOLDEN) % 1.0
            taken[:, source] = group * np.diff(np.floor(begun).astype(np.int64))
    single = [source for source, group in enumerate(groups) if not group]
    left = batch_size - taken.sum(axis=1, keepdims=True)
    ends = left * (np.cumsum(ideal[single]) / np.sum(ideal[single]))
    ends[:, -1:] = left
    offsets = (np.arange(steps, dtype=np.float64)[:, None] * _GOLDEN) % 1.0
    taken[:, single] = np.diff(np.floor(ends + offsets).astype(np.int64), axis=1, prepend=0)
    return taken


@dataclass(frozen=True)
class _Window:
    """A stretch of an epoch whose examples are shuffled with each other."""

    start: int
    blocks: tuple[int, ...]


class ShuffledSource:
    """A source's examples without end, each once an epoch, every epoch in an order of its own.

    The order is made in two levels, so that sources that do not fit into memory can be read nearly in sequence: blocks
    are shuffled, neighbours among them form windows, and within a window every example may come at any place. A
    source that fits into one window is shuffled as a whole.
    """

    def __init__(
        self, source: Source, seed: tuple[int, ...], *, window_examples: int, window_bytes: int
    ) -> None:
        """Prepare to draw; nothing is read yet.

        Args:
            source: not empty.
            seed: of the order.
            window_examples: a window takes blocks until it has this many examples,
            window_bytes: or until its images take this much memory.
        """
        self.source = source
        self._seed = seed
        self._window_examples = window_examples
        self._window_bytes = window_bytes
        self._epoch = -1
        self._windows: list[_Window] = []
        self._starts: list[int] = []
        self._window: tuple[int, int] = (-1, -1)
        self._order: list[tuple[int, int]] = []
        self._open: dict[int, list[ImageContent]] = {}

    def take(self, start: int, count: int) -> list[tuple[Entry, ImageContent]]:
        """The examples number `start` to `start + count`, counted from the run's beginning."""
        return [self._at(number) for number in range(start, start + count)]

    def _at(self, number: int) -> tuple[Entry, ImageContent]:
        epoch, place = divmod(number, len(self.source.entries))
        self._enter_epoch(epoch)
        index = bisect_right(self._starts, place) - 1
        self._enter_window(index)
        block, row = self._order[place - self._starts[index]]
        return self.source.entries[self.source.blocks[block][0] + row], self._open[block][row]

    def _enter_epoch(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        self._epoch = epoch
        self._windows, self._starts = [], []
        blocks: list[int] = []
        start = examples = size_bytes = 0
        for block in self._random(epoch).permutation(len(self.source.blocks)):
            first, end = self.source.blocks[block]
            blocks.append(int(block))
            examples += end - first
            size_bytes += self.source.block_bytes[block]
            if examples >= self._window_examples or size_bytes >= self._window_bytes:
                self._windows.append(_Window(start, tuple(blocks)))
                start, examples, size_bytes, blocks = start + examples, 0, 0, []
        if blocks:
            self._windows.append(_Window(start, tuple(blocks)))
        self._starts = [window.start for window in self._windows]

    def _enter_window(self, index: int) -> None:
        if self._window == (self._epoch, index):
            return
        self._window = (self._epoch, index)
        blocks = self._windows[index].blocks
        # Blocks of the window before are let go first: two windows never lie in memory together.
        self._open = {block: images for block, images in self._open.items() if block in blocks}
        places: list[tuple[int, int]] = []
        for block in blocks:
            first, end = self.source.blocks[block]
            if block not in self._open:
                self._open[block] = read_images(self.source.entries[first:end])
            places += [(block, row) for row in range(end - first)]
        order = self._random(self._epoch, index + 1).permutation(len(places))
        self._order = [places[place] for place in order]

    def _random(self, *numbers: int) -> np.random.Generator:
        return np.random.default_rng((*self._seed, *numbers))
