"""Changes that controls make to the text of a query. Pure; the text stays the only truth."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from search import QueryError
from search.query import Query, Term, Text, format_query, parse

if TYPE_CHECKING:
    from indexer.filters import Filter


def parsed(text: str) -> Query:
    """Return a query text as a query; an empty one for '' and for what cannot be understood."""
    try:
        return parse(text) if text.strip() else Query(())
    except QueryError:
        return Query(())


_Kind = TypeVar("_Kind", bound="Filter")


def filters_of(text: str, kind: type[_Kind]) -> list[_Kind]:
    """Return the query's filters of a kind; what it excludes is left alone."""
    return [made for made in parsed(text).filters if isinstance(made, kind)]


def with_filter(text: str, kind: type[Filter], new: Filter | None) -> str:
    """Return the text with `new` in the place of its filters of a kind, or without them where `new` is None."""
    query = parsed(text)
    filters = tuple(made for made in query.filters if not isinstance(made, kind))
    return format_query(replace(query, filters=filters if new is None else (*filters, new)))


def without_filters(text: str) -> str:
    """Return the terms alone."""
    return format_query(replace(parsed(text), filters=()))


def only_first_term(text: str) -> str:
    """Return the first wanted term and the filters: what is left when all refinements go."""
    query = parsed(text)
    wanted = [term for term in query.terms if term.weight > 0]
    return format_query(replace(query, terms=tuple(replace(term, weight=1.0) for term in wanted[:1])))


def only_last_word(text: str) -> str | None:
    """Return the last word of the first wanted term, None where that is no text of several words."""
    first = next((term.target for term in parsed(text).terms if term.weight > 0), None)
    words = first.text.split() if isinstance(first, Text) else []
    return format_query(Query((Term(Text(words[-1])),))) if len(words) > 1 else None


def with_term(text: str, term: Term) -> str:
    """Return the text with one more term, in the place of the one with the same target."""
    query = parsed(text)
    others = tuple(other for other in query.terms if other.target != term.target)
    return format_query(replace(query, terms=(*others, term)))
