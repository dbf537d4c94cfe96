"""From the terms of a query to one direction to look in, and what each term adds to each hit.

Terms of different kinds score on different scales: in a CLIP space two pictures have a cosine of 0.7 where a
picture and its perfect caption have 0.3, so a plain sum of `./street.jpg + night` would hardly hear the word. Each
term therefore counts in units of how much its scores vary over the library: equal weights mean equal say.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from search.errors import QueryError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MORE_LIKE_WEIGHT: Final = 0.75
LESS_LIKE_WEIGHT: Final = 0.25
"""Of pictures marked as right and as wrong, beside 1 for the query: the proportions that Rocchio's method of
relevance feedback is usually run with, where what is wrong is more varied, and so says less, than what is right."""
_FEWEST_IMAGES: Final = 8
"""In a library smaller than this nothing can be said about how scores vary."""
_SMALLEST_SPREAD: Final = 1e-4
_SMALLEST_NORM: Final = 1e-3
"""Of a sum of terms, against the sum of their lengths: below, they cancel one another out."""


@dataclass(frozen=True)
class Contribution:
    """What one term adds to one hit.

    Attributes:
        term: The term as one would type it.
        weight: Its weight, negative where it was subtracted.
        score: Cosine between the term alone and the image.
        share: `weight` times by how many standard deviations `score` lies above the library's mean for this term.
            The shares of a hit add up to what it is ranked by, up to a constant of the query.
    """

    term: str
    weight: float
    score: float
    share: float


@dataclass(frozen=True)
class Mixture:
    """The terms of a query, ready to rank by.

    Attributes:
        vectors: One of unit norm for each term, float32 (terms, dimension).
        weights: float64 (terms,).
        sample: Vectors of images of the library, float32 (m, dimension).
    """

    vectors: NDArray[np.float32]
    weights: NDArray[np.float64]
    sample: NDArray[np.float32]

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean score of each term over the library, float64 (terms,)."""
        return self._statistics[0]

    @property
    def spreads(self) -> NDArray[np.float64]:
        """Standard deviation of each term's score, 1 where nothing can be said about it, float64 (terms,)."""
        return self._statistics[1]

    @cached_property
    def _statistics(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        # Only where asked for: most queries are one text, which is ranked by as it is.
        if len(self.sample) < _FEWEST_IMAGES:
            return np.zeros(len(self.vectors)), np.ones(len(self.vectors))
        scores = (self.sample @ self.vectors.T).astype(np.float64)
        return scores.mean(0), np.maximum(scores.std(0), _SMALLEST_SPREAD)

    @cached_property
    def direction(self) -> NDArray[np.float32]:
        """What to rank by, unit norm, float32 (dimension,).

        Raises:
            QueryError: The terms cancel one another out.
        """
        if self.is_single:
            return np.asarray(self.vectors[0])
        factors = self.weights / self.spreads
        total = factors @ self.vectors.astype(np.float64)
        norm = float(np.linalg.norm(total))
        if norm <= _SMALLEST_NORM * float(np.abs(factors).sum()):
            raise QueryError("The terms of this query cancel one another out: change one of them.")
        return (total / norm).astype(np.float32)

    @property
    def is_single(self) -> bool:
        """Whether there is one term, looked for and not away from, whose weight therefore changes nothing."""
        return len(self.vectors) == 1 and bool(self.weights[0] > 0)

    def contributions(
        self, labels: Sequence[str], images: NDArray[np.float32]
    ) -> list[tuple[Contribution, ...]]:
        """What each term adds to each image.

        Args:
            labels: One for each term.
            images: Their vectors, float32 (n, dimension).
        """
        scores = (images @ self.vectors.T).astype(np.float64)
        shares = self.weights * (scores - self.means) / self.spreads
        return [
            tuple(
                Contribution(label, float(weight), float(score), float(share))
                for label, weight, score, share in zip(
                    labels, self.weights, score_row, share_row, strict=True
                )
            )
            for score_row, share_row in zip(scores, shares, strict=True)
        ]


def mix(vectors: NDArray[np.float32], weights: Sequence[float], sample: NDArray[np.float32]) -> Mixture:
    """Put terms together.

    Args:
        vectors: One of unit norm for each term, float32 (terms, dimension), at least one.
        weights: One for each, not zero.
        sample: Vectors of images of the library, float32 (m, dimension); m may be 0.

    Raises:
        QueryError: The terms cancel one another out.
    """
    mixture = Mixture(vectors, np.asarray(weights, np.float64), sample)
    _ = mixture.direction  # so that terms that cancel out are refused here
    return mixture


def mix_alike(model: Mixture, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Directions made by the arithmetic of `model` from other parts.

    Args:
        model: Whose weights and spreads to use.
        vectors: float32 (q, terms, dimension).

    Returns:
        float32 (q, dimension), unit norm.
    """
    if model.is_single:
        return vectors[:, 0]
    factors = model.weights / model.spreads
    totals = np.einsum("t,qtd->qd", factors, vectors.astype(np.float64))
    norms = np.linalg.norm(totals, axis=1, keepdims=True)
    directions: NDArray[np.float32] = (totals / np.maximum(norms, 1e-12)).astype(np.float32)
    return directions
