"""Near copies among the pictures that are shown: told apart from pictures that are merely alike.

`Library.answer(fold=True)` looks through all hits of a query; here only those that are shown are looked through,
and only pairs whose vectors are closer than nearly all others, by fingerprints that indexing made.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from search.grouping import Comparison, Limits, fold_near_duplicates, limits_of, recall_fingerprints

if TYPE_CHECKING:
    from collections.abc import Sequence

    from indexer import ImageRecord
    from search import Hit, Library
    from search.grouping import Fingerprints

FOLDED_AT_MOST = 1000
"""Pairs grow quadratically, and nobody looks for copies so far down."""

SAMPLE = 2000
"""Pictures from which it is learnt how alike different ones are."""

_lock = threading.Lock()
_fingerprints: Fingerprints = {}
_learnt: tuple[object, Limits] | None = None


def comparison_of(library: Library, state: object, records: Sequence[ImageRecord]) -> Comparison:
    """Return what decides on pairs of these pictures of a library; `state` is another one when it has changed."""
    recall_fingerprints(library.reader, records, _fingerprints)
    return Comparison(_limits(library, state), _fingerprints)


def folded(library: Library, state: object, hits: Sequence[Hit]) -> tuple[Hit, ...]:
    """Return hits with near copies folded into the first of each."""
    looked_at = hits[:FOLDED_AT_MOST]
    if len(looked_at) < 2:
        return tuple(hits)
    ids = [hit.id for hit in looked_at]
    close = _limits(library, state).close
    records = library.reader.images(ids)
    recall_fingerprints(library.reader, records, _fingerprints)
    groups = fold_near_duplicates(
        records,
        library.reader.vectors(ids),
        Comparison(Limits(close, close), _fingerprints),
    )
    first = [replace(looked_at[group[0]], folded=tuple(ids[at] for at in group[1:])) for group in groups]
    return (*first, *hits[FOLDED_AT_MOST:])


def _limits(library: Library, state: object) -> Limits:
    global _learnt  # noqa: PLW0603 one library per process is open
    with _lock:
        if _learnt is None or _learnt[0] != state:
            ids = library.reader.ids()
            _learnt = (state, limits_of(library.reader.vectors(ids[:: max(1, len(ids) // SAMPLE)])))
        return _learnt[1]
