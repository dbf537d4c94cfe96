"""Near copies among the pictures that are shown: told apart from pictures that are merely alike.

`Library.answer(fold=True)` looks through all hits of a query; here only those that are shown are looked through,
and only pairs whose vectors are closer than nearly all others.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from search.grouping import fold_near_duplicates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search import Hit, Library

FOLDED_AT_MOST = 1000
"""Pairs grow quadratically, and nobody looks for copies so far down."""


def folded(library: Library, hits: Sequence[Hit]) -> tuple[Hit, ...]:
    """Return hits with near copies folded into the first of each."""
    looked_at = hits[:FOLDED_AT_MOST]
    if len(looked_at) < 2:
        return tuple(hits)
    ids = [hit.id for hit in looked_at]
    records = library.reader.images(ids)
    groups = fold_near_duplicates(
        records, library.reader.vectors(ids), library.comparison(records).of_close_pairs()
    )
    first = [replace(looked_at[group[0]], folded=tuple(ids[at] for at in group[1:])) for group in groups]
    return (*first, *hits[FOLDED_AT_MOST:])
