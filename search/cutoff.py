"""Which of the nearest images answer the query at all, and with what probability.

A nearest neighbour always exists, so a score alone never says that nothing fits. What says it is comparison: how
high do queries score on this very library that mean something else? The method is that of the local false
discovery rate (Efron, "Large-scale simultaneous hypothesis testing", 2004), with the null distribution measured
instead of assumed:

1. `NEUTRAL_TEXTS` are embedded once for each model, and scored against a sample of the library. Each gives a
   survival curve: the share of the library at or above a score. Scores count from the query's own lower quartile
   (`BASE`), because what words score in general says more about the words than about the pictures; a quartile and not
   the median, so that a thing that most of a library shows still stands out. The query's curve is compared, at every
   score, with the curve that a share of 1 - `LEVEL` of the neutral texts exceeds: not the highest, because some of the
   texts do name what is in the library.
2. Of the r best hits of a query, r minus what that curve promises anyway are there because of the query. The slope
   of this excess over r, made monotone (the Grenander estimator), is each hit's probability. A single hit far
   beyond what neutral texts reach gets a high one; a thousand hits like any other query's get none.
3. Hits below `CUT` are cut off. If none is left, nothing in the library looks like the query.

Queries that mix terms are compared with neutral queries of the same arithmetic, and pictures as queries with
pictures of the library as queries. `benchmarks/cutoff.py` measures how well all of this works.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

CUT: Final = 0.5
"""Hits below are more likely wrong than right."""
BASE: Final = 0.25
"""Quantile of a query's scores over the library that they are counted from."""
LEVEL: Final = 0.65
"""Quantile over neutral queries. Higher refuses more: of absent things, but of present ones as well."""
SAMPLE_IMAGES: Final = 4096
"""Enough for the upper thousandth of a curve; what lies beyond is extrapolated."""
_SINGLE_HITS: Final = 1024
_BLOCK_GROWTH: Final = 0.005
_SMALLEST_TAIL_SAMPLE: Final = 200
"""With fewer images there is no tail to fit."""
_TAIL_FLOOR: Final = 0.2
"""Without a tail to fit, a score that no neutral query reached counts as reached by a fifth of an image, so that
one lonely hit in a small library is believed with 0.8 and not with 1."""

# Half are things that almost any library might show, half are things that hardly one does. The first tell how
# ordinary words score, the second are absent almost everywhere, so that together few of them are true of a library.
_NEUTRAL: Final = (
    "a person|a crowd|a face|an animal|a pet|a bird|a fish|an insect|a flower|a tree|a forest|a mountain|a beach|"
    "the sea|a river|snow|the sky|a street|a city|a house|a room|furniture|a vehicle|a train|a boat|a road sign|"
    "food|fruit|a drink|clothes|shoes|a phone|a computer|a book|text|a painting|a drawing|a toy|a sport|a tool|"
    "a clock|a bottle|a bag|money|a machine|a bridge|a church|a statue|a fence|a field|a garden|fire|smoke|rain|"
    "the moon|an office|a shop|a stadium|a diagram|a pattern|something red|something blue|a close-up|"
    "an aerial view|"
    "an x-ray of a chest|a microscope slide|a medieval manuscript|a circuit board|a nuclear reactor|an octopus|"
    "a steam locomotive|a suit of armour|an igloo|an erupting volcano|a fossil|a jellyfish|a polar bear|"
    "a space station|an oil rig|a submarine|a coal mine|a printing press|a telescope|a sewing machine|"
    "a typewriter|a sundial|a windmill|a chess board|a harp|a pipe organ|a coral reef|a sea urchin|a scorpion|"
    "a hedgehog|a kangaroo|a peacock|a walrus|a camel|a lobster|a mosquito|a cactus|a pineapple|sushi|a beehive|"
    "a spider web|a crystal|a tornado|an aurora|a galaxy|a barcode|a crossword puzzle|a sheet of music|"
    "a postage stamp|a blueprint|a bar chart|a parking meter|a tank|a hot air balloon|a roller coaster|"
    "a totem pole|an Egyptian mummy|a samurai|a clown|an astronaut|a surgeon operating|a courtroom|"
    "a prison cell|a laboratory|a warehouse|a greenhouse|a chandelier|a vacuum cleaner"
)
NEUTRAL_TEXTS: Final = tuple(_NEUTRAL.split("|"))


@dataclass(frozen=True)
class Null:
    """How neutral queries score on a library.

    Attributes:
        grid: Scores above the query's base, ascending, float64 (g,).
        survival: Share of images at or above each, not increasing, float64 (g,).
        images: Number of images that were looked at.
    """

    grid: NDArray[np.float64]
    survival: NDArray[np.float64]
    images: int

    def expected_share(self, scores: NDArray[np.floating], base: float) -> NDArray[np.float64]:
        """The share of the library that a neutral query has at or above each score.

        Args:
            scores: Of the query in question, (n,).
            base: Where that query's scores are counted from; see `base_of`.
        """
        moved = np.asarray(scores, np.float64) - base
        share = np.interp(moved, self.grid, self.survival, left=1.0, right=0.0)
        if self.images < _SMALLEST_TAIL_SAMPLE:
            return np.maximum(share, _TAIL_FLOOR / max(1, self.images))
        # Beyond the last few images of the sample the curve goes on as an exponential through two of its points,
        # which falls more slowly than the scores of embeddings do and so errs on the side of doubt.
        near, far = 50 / self.images, 5 / self.images
        score_near, score_far = self._score_at(min(near, 0.1)), self._score_at(far)
        if score_far <= score_near:
            return np.maximum(share, _TAIL_FLOOR / self.images)
        rate = math.log(min(near, 0.1) / far) / (score_far - score_near)
        tail = far * np.exp(-rate * np.maximum(moved - score_far, 0.0))
        return np.where(moved > score_far, tail, np.maximum(share, far))

    def _score_at(self, share: float) -> float:
        """The lowest score at which no more than `share` of the images are left."""
        at = int(np.searchsorted(-self.survival, -share))
        return float(self.grid[min(at, len(self.grid) - 1)])


def measure_null(scores: NDArray[np.floating], level: float = LEVEL) -> Null:
    """Learn how neutral queries score.

    Args:
        scores: Of q neutral queries on m images, (q, m), q and m at least 1. NaN marks pairs to leave out, such as
            a picture with itself.
        level: The quantile over neutral queries that stands for all.
    """
    rows = np.sort(np.asarray(scores, np.float64), axis=1)  # NaN comes last
    known = np.count_nonzero(~np.isnan(rows), axis=1)
    # The quantile of each row, as NumPy interpolates it, taken from what is sorted already.
    places = BASE * (known - 1)
    below = np.floor(places).astype(np.int64)
    at = np.arange(len(rows))
    lower, upper = rows[at, below], rows[at, np.minimum(below + 1, known - 1)]
    rows -= (lower + (upper - lower) * (places - below))[:, None]
    lowest, highest = float(rows[:, 0].min()), float(rows[at, known - 1].max())
    grid = np.linspace(lowest, highest + 1e-6, 1024)
    curves = np.empty((len(rows), len(grid)))
    for curve, row, count in zip(curves, rows, known.tolist(), strict=True):
        curve[:] = (count - np.searchsorted(row[:count], grid)) / count
    return Null(grid, np.quantile(curves, level, axis=0), rows.shape[1])


def base_of(scores: NDArray[np.floating]) -> float:
    """Where the scores of a query are counted from, given its scores over (a sample of) the library."""
    return float(np.quantile(scores, BASE))


def hit_probabilities(
    scores: NDArray[np.floating], *, images: int, base: float, null: Null
) -> NDArray[np.float64]:
    """The probability of each of the best hits that it is there because of the query.

    Args:
        scores: Of the best hits, descending, (r,).
        images: Number of images they are the best of, at least r.
        base: Where the query's scores are counted from; see `base_of`.
        null: How neutral queries score on it.

    Returns:
        Probabilities, not increasing, (r,), 0 to 1.
    """
    if not len(scores):
        return np.zeros(0)
    by_chance = images * null.expected_share(scores, base)
    ends = _block_ends(len(scores))
    counts = np.diff(ends, prepend=0)
    excess = counts - np.diff(by_chance[ends - 1], prepend=0.0)
    slopes = _not_increasing(excess / counts, counts)
    return np.repeat(np.clip(slopes, 0.0, 1.0), counts)


def sigmoid_probabilities(
    scores: NDArray[np.floating], *, logit_scale: float, logit_bias: float
) -> NDArray[np.float64]:
    """What a model trained with a sigmoid loss (SigLIP) says itself of each pair of text and image."""
    logits = np.clip(logit_scale * np.asarray(scores, np.float64) + logit_bias, -60, 60)
    return 1.0 / (1.0 + np.exp(-logits))


def _block_ends(hits: int) -> NDArray[np.int64]:
    """Where blocks of hits end that are judged as one: single hits at first, then a half per cent of those before.

    The hundred-thousandth hit needs no probability of its own, and finding it would take the time of a search.
    """
    single = np.arange(1, min(hits, _SINGLE_HITS) + 1)
    if hits <= _SINGLE_HITS:
        return single
    steps = math.ceil(math.log(hits / _SINGLE_HITS) / math.log1p(_BLOCK_GROWTH))
    further = np.geomspace(_SINGLE_HITS, hits, steps + 1)[1:].round().astype(np.int64)
    return np.unique(np.concatenate([single, further]))


def _not_increasing(values: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The closest sequence (weighted least squares) that never rises, by pooling adjacent violators."""
    totals: list[float] = []
    weights: list[int] = []
    pooled: list[int] = []
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        total, weight, number = value * count, count, 1
        while totals and totals[-1] * weight < total * weights[-1]:  # the mean before is smaller
            total += totals.pop()
            weight += weights.pop()
            number += pooled.pop()
        totals.append(total)
        weights.append(weight)
        pooled.append(number)
    return np.repeat(np.divide(totals, weights), pooled)
