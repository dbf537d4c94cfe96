"""A query cut into words, each of whose characters knows how it was written: bare, quoted or escaped."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from search.errors import QueryError

BARE: Final = 0
QUOTED: Final = 1
ESCAPED: Final = 2
QUOTES: Final = '"\u201c\u201d\u201e'
"""Straight and curly: phones turn one into the other while people type."""

PATH_START = re.compile(r"\.{0,2}/|\.{1,2}\\|~[/\\]|[A-Za-z]:[/\\]")
"""What tells the path of an image from words."""


@dataclass(frozen=True)
class Word:
    """A run of characters without white space (quoted white space aside), each with how it was written.

    Attributes:
        characters: Without quotes and escaping backslashes.
        states: One of BARE, QUOTED, ESCAPED for each character.
        columns: Where each character stands in the query, and at the end the column after the word.
        has_quotes: Whether anything in it was quoted, be it an empty string.
    """

    characters: str
    states: bytes
    columns: tuple[int, ...]
    has_quotes: bool

    @property
    def column(self) -> int:
        """Where it starts in the query."""
        return self.columns[0]

    @property
    def end(self) -> int:
        """The column after it."""
        return self.columns[-1]

    def bare(self, start: int, stop: int) -> bool:
        """Whether no character of the slice was quoted or escaped."""
        return not any(self.states[start:stop])

    def after(self, count: int) -> Word:
        """The word without its first `count` characters."""
        return replace(
            self,
            characters=self.characters[count:],
            states=self.states[count:],
            columns=self.columns[count:],
        )

    def split_commas(self) -> list[Word]:
        """The parts between bare commas; at least one, some perhaps empty."""
        cuts = [
            i for i, character in enumerate(self.characters) if character == "," and self.states[i] == BARE
        ]
        parts = []
        start = 0
        for stop in [*cuts, len(self.characters)]:
            parts.append(
                replace(
                    self,
                    characters=self.characters[start:stop],
                    states=self.states[start:stop],
                    columns=self.columns[start : stop + 1],
                )
            )
            start = stop + 1
        return parts


def cut_words(text: str) -> list[Word]:
    """Cut a query at its bare white space, taking quotes and escapes away.

    A backslash makes the next character plain, unless that is a letter, a digit or nothing: then it is
    itself, so that most Windows paths need no doubling.
    """
    words: list[Word] = []
    characters: list[str] = []
    states = bytearray()
    columns: list[int] = []
    start: int | None = None  # of the word being read
    quote: int | None = None  # where the open quotation began
    has_quotes = False

    def finish(end: int) -> None:
        nonlocal start, has_quotes
        if start is not None:
            where = (*columns, end) if columns else (start,)
            words.append(Word("".join(characters), bytes(states), where, has_quotes))
        characters.clear()
        states.clear()
        columns.clear()
        start, has_quotes = None, False

    i = 0
    while i < len(text):
        character = text[i]
        if quote is None and character.isspace():
            finish(i)
            i += 1
            continue
        if start is None:
            start = i
        if character in QUOTES:
            quote = i if quote is None else None
            has_quotes = True
            i += 1
            continue
        state = BARE if quote is None else QUOTED
        if character == "\\" and i + 1 < len(text) and not text[i + 1].isalnum():
            state = ESCAPED
            columns.append(i)
            i += 1
        else:
            columns.append(i)
        characters.append(text[i])
        states.append(state)
        i += 1
    if quote is not None:
        raise QueryError(
            'This quotation has no end: add a ", or write \\" for the mark itself.',
            query=text,
            column=quote,
            length=len(text) - quote,
        )
    finish(len(text))
    return words
