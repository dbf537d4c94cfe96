"""Saved queries put in the place of their names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NoReturn

from search.errors import QueryError
from search.query.contradictions import contradiction
from search.query.parser import MAXIMUM_FILTERS, MAXIMUM_TERMS, parse
from search.query.terms import Query, Saved, Term

if TYPE_CHECKING:
    from collections.abc import Callable

    from indexer.filters import Filter

MAXIMUM_DEPTH: Final = 8
"""Of saved queries within saved queries."""
MAXIMUM_CALLED: Final = 64
"""Different saved queries in one query; each is parsed."""


def expand(query: Query, lookup: Callable[[str], str | None], *, allow_urls: bool = False) -> Query:
    """Put saved queries in the place of their names, all the way down.

    Args:
        query: What was parsed.
        lookup: From the name of a saved query to its text, None where there is none.
        allow_urls: As for `parse`.

    Returns:
        A query without `Saved` terms. Weights and signs multiply; filters of saved queries join the others.

    Raises:
        QueryError: An unknown name, a circle of names, too many of them, a saved query that no longer parses, or
            one with filters that is subtracted; each at the column of the name in `query`.
    """
    expansion = _Expander(lookup, allow_urls).expand(query)
    terms = expansion.terms
    for at, made in enumerate(expansion.filters):
        problem = contradiction(made, expansion.filters[:at])
        if problem:
            raise QueryError(f"The saved queries contradict one another. {problem}", query=query.source)
    if len(terms) > MAXIMUM_TERMS:
        raise QueryError(
            f"With its saved queries put in, the query has more than {MAXIMUM_TERMS} terms.",
            query=query.source,
        )
    if terms and all(term.weight < 0 for term in terms):
        raise QueryError(
            "With its saved queries put in, the query only subtracts: say as well what to look for.",
            query=query.source,
        )
    return Query(terms, expansion.filters, query.source)


@dataclass(frozen=True)
class _Expansion:
    """What a query holds without saved queries.

    Attributes:
        terms: All of them.
        filters: All of them, each once.
        depth: Of the saved queries that were put in, 0 where there were none.
    """

    terms: tuple[Term, ...]
    filters: tuple[Filter, ...]
    depth: int


class _Expander:
    """Expands each saved query once, however often it is called: ten that call one another could else be billions."""

    def __init__(self, lookup: Callable[[str], str | None], allow_urls: bool):
        self._lookup = lookup
        self._allow_urls = allow_urls
        self._known: dict[str, _Expansion] = {}

    def expand(self, query: Query, above: tuple[str, ...] = ()) -> _Expansion:
        """Put saved queries in; `above` are the names that led to this query."""
        terms: list[Term] = []
        filters = dict.fromkeys(query.filters)
        depth = 0
        for term in query.terms:
            if not isinstance(term.target, Saved):
                terms.append(term)
                continue
            name = term.target.name

            def fail(reason: str, term: Term = term, cause: Exception | None = None) -> NoReturn:
                raise QueryError(
                    reason, query=query.source, column=term.column, length=term.length
                ) from cause

            if len(above) >= MAXIMUM_DEPTH:
                fail(f"Saved queries call one another more than {MAXIMUM_DEPTH} deep.")
            if name in above:
                fail(f"The saved query @{name} leads back to itself: " + " -> ".join([*above, name]) + ".")
            inner = self._known.get(name)
            if inner is None:
                if len(self._known) + len(above) >= MAXIMUM_CALLED:
                    fail(f"The query calls more than {MAXIMUM_CALLED} different saved queries.")
                text = self._lookup(name)
                if text is None:
                    fail(
                        f'There is no saved query @{name}; write "@{name}" in quotes to look for these characters.'
                    )
                try:
                    inner = self.expand(parse(text, allow_urls=self._allow_urls), (*above, name))
                except QueryError as error:
                    fail(f"The saved query @{name} ({text}) does not work: {error}", cause=error)
                self._known[name] = inner
            depth = max(depth, 1 + inner.depth)
            if len(above) + depth > MAXIMUM_DEPTH:
                fail(f"Saved queries call one another more than {MAXIMUM_DEPTH} deep.")
            if inner.filters and term.weight < 0:
                fail(f"@{name} holds filters, which cannot be subtracted; only its terms could.")
            if len(terms) + len(inner.terms) > MAXIMUM_TERMS:
                fail(f"With @{name} put in, the query has more than {MAXIMUM_TERMS} terms.")
            terms.extend(
                replace(each, weight=each.weight * term.weight, column=term.column, length=term.length)
                for each in inner.terms
            )
            filters.update(dict.fromkeys(inner.filters))
            if len(filters) > MAXIMUM_FILTERS:
                fail(f"With @{name} put in, the query has more than {MAXIMUM_FILTERS} filters.")
        return _Expansion(tuple(terms), tuple(filters), depth)
