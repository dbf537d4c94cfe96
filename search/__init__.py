"""Which images answer this query? Query language, filters, ranking, cut-off, grouping, evaluation.

Reads libraries through `indexer.LibraryReader` and never writes them. Importing this package is cheap: public
names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.errors import (
        EvaluationError as EvaluationError,
    )
    from search.errors import (
        QueryError as QueryError,
    )
    from search.errors import (
        QueryImageError as QueryImageError,
    )
    from search.errors import (
        SavedQueryError as SavedQueryError,
    )
    from search.errors import (
        SearchError as SearchError,
    )
    from search.grouping import DuplicateGroup as DuplicateGroup
    from search.library import Answer as Answer
    from search.library import Hit as Hit
    from search.library import Library as Library
    from search.query import format_query as format_query
    from search.query import parse as parse
    from search.ranking import Contribution as Contribution
    from search.saved import SavedQueries as SavedQueries

# Where each public name lives.
_HOMES = {
    "search.errors": (
        "EvaluationError",
        "QueryError",
        "QueryImageError",
        "SavedQueryError",
        "SearchError",
    ),
    "search.grouping": ("DuplicateGroup",),
    "search.library": ("Answer", "Hit", "Library"),
    "search.query": ("format_query", "parse"),
    "search.ranking": ("Contribution",),
    "search.saved": ("SavedQueries",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605  (a list, made from the table above)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
