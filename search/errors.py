"""What can go wrong between a query and its answer; `app/` turns each into a line for people."""

from __future__ import annotations


class SearchError(Exception):
    """Base of everything that `search/` raises on purpose."""


class QueryError(SearchError):
    """A query that cannot be understood or makes no sense.

    Attributes:
        reason: What is wrong and what to do, one sentence without the position.
        query: The query as it was typed, None where it was no text.
        column: Where in `query` the trouble starts, counted from 0; None where no one place is to blame.
        length: How many characters from there on are meant, at least 1.
    """

    def __init__(self, reason: str, *, query: str | None = None, column: int | None = None, length: int = 1):
        self.reason = reason
        self.query = query
        self.column = column
        self.length = max(1, length)
        super().__init__(reason if column is None else f"{reason} (column {column + 1})")

    def pointer(self) -> str:
        """Two lines for a terminal: the query, and marks under what is meant; '' without a column."""
        if self.query is None or self.column is None:
            return ""
        line = "".join(character if character.isprintable() else " " for character in self.query)
        return f"{line}\n{' ' * self.column}{'^' * self.length}"


class QueryImageError(SearchError):
    """A picture given as (part of) a query that is not there, is no image, or is too large to decode."""


class QueryImageNotFoundError(QueryImageError):
    """A picture given as (part of) a query that is not there."""


class SavedQueryError(SearchError):
    """Saved queries that cannot be read or written, or a name that cannot be used."""


class EvaluationError(SearchError):
    """Captions or classes that cannot be read, or that do not fit the folder of images."""
