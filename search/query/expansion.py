"""Saved queries put in the place of their names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NoReturn

from search.errors import QueryError
from search.query.contradictions import contradiction
from search.query.parser import MAXIMUM_TERMS, parse
from search.query.terms import Query, Saved, Term

if TYPE_CHECKING:
    from collections.abc import Callable

    from indexer.filters import Filter

MAXIMUM_DEPTH: Final = 8
"""Of saved queries within saved queries."""


def expand(query: Query, lookup: Callable[[str], str | None], *, allow_urls: bool = False) -> Query:
    """Put saved queries in the place of their names, all the way down.

    Args:
        query: What was parsed.
        lookup: From the name of a saved query to its text, None where there is none.
        allow_urls: As for `parse`.

    Returns:
        A query without `Saved` terms. Weights and signs multiply; filters of saved queries join the others.

    Raises:
        QueryError: An unknown name, a circle of names, a saved query that no longer parses, or one with
            filters that is subtracted; each at the column of the name in `query`.
    """
    terms, filters = _expanded(query, lookup, (), allow_urls)
    unique: list[Filter] = []
    for made in filters:
        problem = None if made in unique else contradiction(made, unique)
        if problem:
            raise QueryError(f"The saved queries contradict one another. {problem}", query=query.source)
        if made not in unique:
            unique.append(made)
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
    return Query(tuple(terms), tuple(unique), query.source)


def _expanded(
    query: Query, lookup: Callable[[str], str | None], above: tuple[str, ...], allow_urls: bool
) -> tuple[list[Term], list[Filter]]:
    terms: list[Term] = []
    filters = list(query.filters)
    for term in query.terms:
        if not isinstance(term.target, Saved):
            terms.append(term)
            continue
        name = term.target.name

        def fail(reason: str, term: Term = term, cause: Exception | None = None) -> NoReturn:
            raise QueryError(reason, query=query.source, column=term.column, length=term.length) from cause

        if len(above) >= MAXIMUM_DEPTH:
            fail(f"Saved queries call one another more than {MAXIMUM_DEPTH} deep.")
        if name in above:
            fail(f"The saved query @{name} leads back to itself: " + " -> ".join([*above, name]) + ".")
        text = lookup(name)
        if text is None:
            fail(f'There is no saved query @{name}; write "@{name}" in quotes to look for these characters.')
        try:
            inner = parse(text, allow_urls=allow_urls)
            inner_terms, inner_filters = _expanded(inner, lookup, (*above, name), allow_urls)
        except QueryError as error:
            fail(f"The saved query @{name} ({text}) does not work: {error}", cause=error)
        if inner_filters and term.weight < 0:
            fail(f"@{name} holds filters, which cannot be subtracted; only its terms could.")
        if len(terms) + len(inner_terms) > MAXIMUM_TERMS:
            fail(f"With @{name} put in, the query has more than {MAXIMUM_TERMS} terms.")
        terms.extend(
            replace(each, weight=each.weight * term.weight, column=term.column, length=term.length)
            for each in inner_terms
        )
        filters.extend(inner_filters)
    return terms, filters
