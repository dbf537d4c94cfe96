"""Figures of quality, as pure functions on matrices small enough to check by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


def accuracy(scores: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Share of rows whose highest score is in the column of their label; the first of equals counts as highest.

    A score that is no number is never right.

    Args:
        scores: float32 (images, classes).
        labels: int64 (images,).
    """
    own = scores[np.arange(len(scores)), labels]
    return float(np.mean((np.argmax(scores, axis=1) == labels) & np.isfinite(own)))


def ranks(scores: npt.NDArray[np.float32], wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """At which place, from 1, each query's wanted item comes. Of items with equal scores it comes last.

    It comes last as well where its score is no number.

    Args:
        scores: float32 (queries, items).
        wanted: int64 (queries,).

    Returns:
        int64 (queries,).
    """
    own = scores[np.arange(len(scores)), wanted]
    places: npt.NDArray[np.int64] = np.sum(~(scores < own[:, None]), axis=1).astype(np.int64)
    return places


def recall(places: npt.NDArray[np.int64], k: int) -> float:
    """Share of queries whose item comes within the first k; `places` as `ranks` gives them."""
    return float(np.mean(places <= k))
