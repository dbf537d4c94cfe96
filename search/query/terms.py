"""What a query is made of. Pure data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from indexer.filters import Filter


@dataclass(frozen=True)
class Text:
    """Words, to be embedded by the text tower."""

    text: str


@dataclass(frozen=True)
class ImagePath:
    """An image file, by a path as it was typed: relative to where the program runs, or with a leading `~`."""

    path: str


@dataclass(frozen=True)
class ImageId:
    """An image of the library."""

    id: int


@dataclass(frozen=True)
class ImageUpload:
    """A picture that came along with the query, by the name it came under."""

    name: str


@dataclass(frozen=True)
class ImageUrl:
    """A picture to be fetched from an address."""

    url: str


@dataclass(frozen=True)
class Saved:
    """Another query, saved under a name; `expand` puts it in."""

    name: str


Target = Text | ImagePath | ImageId | ImageUpload | ImageUrl | Saved


@dataclass(frozen=True)
class Term:
    """One summand of a query.

    Attributes:
        target: What to look for, or what to look away from.
        weight: Not zero; negative for what was subtracted.
        column: Where it starts in the query's text, from 0.
        length: How many characters it takes there.
    """

    target: Target
    weight: float = 1.0
    column: int = field(default=0, compare=False)
    length: int = field(default=1, compare=False)


@dataclass(frozen=True)
class Query:
    """What a person asked for.

    Attributes:
        terms: What to rank by; empty when only filters were given.
        filters: What an image must fit, all of them.
        source: The text it was parsed from, for messages.
    """

    terms: tuple[Term, ...]
    filters: tuple[Filter, ...] = ()
    source: str = field(default="", compare=False)


def texts_of(query: Query) -> list[str]:
    """The words that a query's terms are made of, without those of saved queries."""
    return [term.target.text for term in query.terms if isinstance(term.target, Text)]
