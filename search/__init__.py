"""Which images answer this query? Query language, filters, ranking, cut-off, grouping, evaluation.

Reads libraries through `indexer.LibraryReader` and never writes them. Importing this package is cheap: public
names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.errors import EvaluationError, QueryError, QueryImageError, SavedQueryError, SearchError
    from search.library import Hit, Library

__all__ = [
    "EvaluationError",
    "Hit",
    "Library",
    "QueryError",
    "QueryImageError",
    "SavedQueryError",
    "SearchError",
]

_HOMES = {
    "EvaluationError": "search.errors",
    "Hit": "search.library",
    "Library": "search.library",
    "QueryError": "search.errors",
    "QueryImageError": "search.errors",
    "SavedQueryError": "search.errors",
    "SearchError": "search.errors",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
