r"""The query language: from the text that a person types to a `Query`, and back. Pure, no I/O.

`docs/query-language.md` tells it to people; every example there is a test. The grammar, where `item`s are
separated by white space:

    query    = { item }
    item     = operator | [sign] filter | [sign] [weight ":"] ( word | image | saved )
    operator = "+" | "-"                          alone between white space: starts a new term
    sign     = "+" | "-"                          glued to what follows: the same, or turns a filter round
    weight   = decimal number                     at the start of a term
    word     = characters, quoted parts, escapes  words that follow one another are one text
    image    = path | "id:" number | "upload:" name | URL
    path     = a word that starts with ./ ../ / ~/ or a drive letter, with / or \
    saved    = "@" name
    filter   = key ":" value                      may stand anywhere; does not end the text around it

Written by hand rather than with a parser generator: what a character means depends on whether it was bare,
quoted or escaped and on where its word begins, every error owes its reader a column and a way out, and no one
needs another dependency for these few rules.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal, NoReturn

from indexer.filters import (
    CameraContains,
    Filter,
    HasFormat,
    HasShape,
    InFolder,
    IsScreenshot,
    NameMatches,
    NearPlace,
    Not,
    SideBetween,
    TakenBetween,
)
from search.errors import QueryError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAXIMUM_CHARACTERS: Final = 10_000
"""Longer queries are refused: a text tower reads some sixty words, and a pasted book is a mistake."""
MAXIMUM_TERMS: Final = 64
"""More terms than a person writes; each costs a tower call and a pass over the sample of the library."""
MAXIMUM_FILTERS: Final = 64
MAXIMUM_DEPTH: Final = 8
"""Of saved queries within saved queries."""
MINIMUM_WEIGHT: Final = 0.001
MAXIMUM_WEIGHT: Final = 1000.0
DEFAULT_RADIUS_KM: Final = 10.0
LONGEST_RADIUS_KM: Final = 20_100.0
"""A little more than half the way round the Earth: farther than any place is from any other."""
_KM_PER_MILE: Final = 1.609344
_LARGEST_ID: Final = 2**63 - 1


# -- What a query is made of --------------------------------------------------------------------------------


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


# -- Text to query ------------------------------------------------------------------------------------------


def parse(text: str, *, allow_urls: bool = False) -> Query:
    """Read a query.

    Args:
        text: What was typed.
        allow_urls: Whether `http://` and `https://` addresses may stand for the pictures they lead to.

    Raises:
        QueryError: The text is empty, breaks the grammar, or contradicts itself; with the column.
    """
    if not text.strip():
        raise QueryError("The query is empty: say what to look for, for example: dog on a beach.", query=text)
    if len(text) > MAXIMUM_CHARACTERS:
        raise QueryError(
            f"The query has {len(text):,} characters; the limit is {MAXIMUM_CHARACTERS:,}.",
            query=text,
            column=MAXIMUM_CHARACTERS,
        )
    return _Parser(text, allow_urls=allow_urls).parse()


_BARE: Final = 0
_QUOTED: Final = 1
_ESCAPED: Final = 2
_QUOTES: Final = '"\u201c\u201d\u201e'
"""Straight and curly: phones turn one into the other while people type."""

_WEIGHT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?|inf|infinity|nan", re.IGNORECASE | re.ASCII)
_PATH_START = re.compile(r"\.{0,2}/|\.{1,2}\\|~[/\\]|[A-Za-z]:[/\\]")
_URL_START = re.compile(r"https?://", re.IGNORECASE)
_KEY = re.compile(r"[A-Za-z]+")
_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class _Word:
    """A run of characters without white space (quoted white space aside), each with how it was written.

    Attributes:
        characters: Without quotes and escaping backslashes.
        states: One of _BARE, _QUOTED, _ESCAPED for each character.
        columns: Where each character stands in the query, and at the end the column after the word.
        has_quotes: Whether anything in it was quoted, be it an empty string.
    """

    characters: str
    states: bytes
    columns: tuple[int, ...]
    has_quotes: bool

    @property
    def column(self) -> int:
        return self.columns[0]

    @property
    def end(self) -> int:
        return self.columns[-1]

    def bare(self, start: int, stop: int) -> bool:
        """Whether no character of the slice was quoted or escaped."""
        return not any(self.states[start:stop])

    def after(self, count: int) -> _Word:
        """The word without its first `count` characters."""
        return replace(
            self,
            characters=self.characters[count:],
            states=self.states[count:],
            columns=self.columns[count:],
        )

    def split_commas(self) -> list[_Word]:
        """The parts between bare commas; at least one, some perhaps empty."""
        cuts = [
            i for i, character in enumerate(self.characters) if character == "," and self.states[i] == _BARE
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


def _words(text: str) -> list[_Word]:
    """Cut a query at its bare white space, taking quotes and escapes away.

    A backslash makes the next character plain, unless that is a letter, a digit or nothing: then it is
    itself, so that most Windows paths need no doubling.
    """
    words: list[_Word] = []
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
            words.append(_Word("".join(characters), bytes(states), where, has_quotes))
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
        if character in _QUOTES:
            quote = i if quote is None else None
            has_quotes = True
            i += 1
            continue
        state = _BARE if quote is None else _QUOTED
        if character == "\\" and i + 1 < len(text) and not text[i + 1].isalnum():
            state = _ESCAPED
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


class _Parser:
    """Reads one query; see the module for the grammar."""

    def __init__(self, text: str, *, allow_urls: bool):
        self._text = text
        self._allow_urls = allow_urls
        self._terms: list[Term] = []
        self._filters: list[tuple[Filter, int, int]] = []
        # The text that is being collected: its words, sign and weight, and where it began and ended.
        self._run: list[str] = []
        self._run_weight = 1.0
        self._run_column = 0
        self._run_end = 0
        # An operator that waits for its term: its sign and column.
        self._operator: tuple[float, int] | None = None

    def parse(self) -> Query:
        for word in _words(self._text):
            self._item(word)
        self._finish_run()
        if self._operator is not None:
            sign, column = self._operator
            name = "+" if sign > 0 else "-"
            self._fail(
                f'Nothing follows this {name}: add a term, or write "{name}" for the sign itself.', column
            )
        filters = self._checked_filters()
        terms = self._checked_terms()
        return Query(terms=terms, filters=filters, source=self._text)

    # Items

    def _item(self, word: _Word) -> None:
        if word.characters in {"+", "-"} and word.bare(0, 1) and not word.has_quotes:
            self._finish_run()
            self._set_operator(word.characters, word.column)
            return
        sign: float | None = None
        sign_column = word.column
        if word.characters[:1] in {"+", "-"} and word.bare(0, 1):
            sign = 1.0 if word.characters[0] == "+" else -1.0
            word = word.after(1)
            if word.characters[:1] in {"+", "-"} and word.bare(0, 1):
                self._fail("Two signs in a row: keep one.", sign_column, 2)
        if self._filter(word, sign, sign_column):
            return
        if sign is not None:
            self._finish_run()
            self._set_operator("+" if sign > 0 else "-", sign_column)
        weight, word = self._weight(word)
        if weight is not None and self._filter_key(word) is not None:
            self._fail("A filter has no weight: an image fits it or does not.", word.column)
        target = self._image(word)
        if target is not None:
            self._finish_run()
            self._add_term(target, weight or 1.0, word.column, word.end)
        else:
            self._text_word(word, weight)

    def _set_operator(self, name: str, column: int) -> None:
        if self._operator is not None:
            self._fail("Two signs in a row: keep one.", column)
        self._operator = (1.0 if name == "+" else -1.0, column)

    def _weight(self, word: _Word) -> tuple[float | None, _Word]:
        match = _WEIGHT.match(word.characters)
        if match is None or word.characters[match.end() : match.end() + 1] != ":":
            return None, word
        if not word.bare(0, match.end() + 1):
            return None, word
        typed = match.group()
        if self._run and self._operator is None:
            self._fail(
                f'A weight stands at the start of a term: write "+ {typed}:..." for a new term, '
                f'or put quotes around "{typed}:..." to look for these characters.',
                word.column,
                match.end() + 1,
            )
        weight = float(typed)
        if not math.isfinite(weight) or not MINIMUM_WEIGHT <= weight <= MAXIMUM_WEIGHT:
            self._fail(
                f"A weight lies between {MINIMUM_WEIGHT:g} and {MAXIMUM_WEIGHT:g}, not {typed}; "
                "to look away from something, subtract it with -.",
                word.column,
                match.end(),
            )
        rest = word.after(match.end() + 1)
        if not rest.characters:
            self._fail(
                f"Nothing follows this weight: write it right before its term, like {typed}:dog.",
                word.column,
                match.end() + 1,
            )
        return weight, rest

    def _text_word(self, word: _Word, weight: float | None) -> None:
        if not word.characters:
            self._fail("Nothing stands between these quotation marks.", word.column, 2)
        for i, character in enumerate(word.characters):
            if "\ud800" <= character <= "\udfff" or character == "\0":
                self._fail("This is not a character of a text; retype the word.", word.columns[i])
        self._refuse_unknown_key(word)
        if not self._run:
            sign, column = self._operator or (1.0, word.column)
            self._operator = None
            self._run_weight = sign * (weight or 1.0)
            self._run_column = column
        self._run.append(word.characters)
        self._run_end = word.end

    def _finish_run(self) -> None:
        if not self._run:
            return
        text = " ".join(self._run)
        self._run = []
        if not text.strip():
            self._fail("There is only white space here: say what to look for.", self._run_column)
        column, length = self._run_column, self._run_end - self._run_column
        self._terms.append(Term(Text(text), self._run_weight, column, max(1, length)))
        self._run_weight = 1.0

    def _add_term(self, target: Target, weight: float, column: int, end: int) -> None:
        sign, start = self._operator or (1.0, column)
        self._operator = None
        self._terms.append(Term(target, sign * weight, start, max(1, end - start)))

    def _image(self, word: _Word) -> Target | None:
        """The image or saved query that a word names, if it does."""
        text = word.characters
        if not text or word.states[0] == _ESCAPED:
            return None
        if text[0] == "@" and word.states[0] == _BARE:
            if not _NAME.fullmatch(text[1:]):
                self._fail(
                    "A saved query is called by @ and its name, of letters, digits, _ . and -; "
                    'write "@" in quotes for the sign itself.',
                    word.column,
                    len(text),
                )
            return Saved(text[1:])
        if _URL_START.match(text) and word.bare(0, 5):
            if not self._allow_urls:
                self._fail(
                    "Addresses of pictures are switched off, because they make this machine fetch from "
                    "strangers. Save the picture and give its path, or start with --allow-urls.",
                    word.column,
                    len(text),
                )
            return ImageUrl(text)
        if match := _PATH_START.match(text):
            drive = match.group()[0].isalpha()
            return None if drive and word.states[1] == _ESCAPED else ImagePath(text)
        key = self._key(word)
        if key == "id":
            value = text[3:]
            if not (value.isascii() and value.isdigit()) or int(value) > _LARGEST_ID:
                self._fail("An id is a whole number, like id:42.", word.columns[3], len(value))
            return ImageId(int(value))
        if key == "upload":
            if not _NAME.fullmatch(text[7:]):
                self._fail(
                    "An uploaded picture is called by its name, like upload:1.", word.column, len(text)
                )
            return ImageUpload(text[7:])
        return None

    # Filters

    def _key(self, word: _Word) -> str | None:
        """What stands before a bare colon, in lower case, if that is shaped like the name of a filter."""
        match = _KEY.match(word.characters)
        if match is None or word.characters[match.end() : match.end() + 1] != ":":
            return None
        return match.group().lower() if word.bare(0, match.end() + 1) else None

    def _filter_key(self, word: _Word) -> str | None:
        key = self._key(word)
        return key if key in _FILTERS else None

    def _filter(self, word: _Word, sign: float | None, sign_column: int) -> bool:
        key = self._filter_key(word)
        if key is None:
            return False
        if self._operator is not None:
            name = "+" if self._operator[0] > 0 else "-"
            self._fail(
                f"{name} joins terms, and this is a filter: "
                + (
                    f"write -{key}: without a space to turn it round." if name == "-" else "leave the + away."
                ),
                self._operator[1],
            )
        value = word.after(len(key) + 1)
        if not value.characters:
            self._fail(
                f"Nothing follows {key}: - write it like {_FILTERS[key].example}.", word.column, len(key) + 1
            )
        made = _FILTERS[key].read(self, value)
        if sign is not None and sign < 0:
            made = Not(made)
        self._filters.append((made, sign_column, word.end - sign_column))
        return True

    def _refuse_unknown_key(self, word: _Word) -> None:
        key = self._key(word)
        if key is None:
            return
        known = [*_FILTERS, "id", "upload"]
        close = difflib.get_close_matches(key, known, n=1)
        advice = (
            f"Did you mean {close[0]}:?" if close else "There are " + ", ".join(f"{k}:" for k in known) + "."
        )
        self._fail(
            f'There is no filter {key}:. {advice} To look for these characters, put them in "quotes".',
            word.column,
            len(key) + 1,
        )

    def read_folders(self, value: _Word) -> Filter:
        return InFolder(tuple(part.characters for part in self._parts(value)))

    def read_after(self, value: _Word) -> Filter:
        return TakenBetween(self._date(value)[0], None)

    def read_before(self, value: _Word) -> Filter:
        return TakenBetween(None, self._date(value)[0])

    def read_date(self, value: _Word) -> Filter:
        since, until = self._date(value)
        return TakenBetween(since, until)

    def read_camera(self, value: _Word) -> Filter:
        return CameraContains(tuple(part.characters for part in self._parts(value)))

    def read_name(self, value: _Word) -> Filter:
        return NameMatches(tuple(part.characters for part in self._parts(value)))

    def read_width(self, value: _Word) -> Filter:
        return self._side("width", value)

    def read_height(self, value: _Word) -> Filter:
        return self._side("height", value)

    def read_near(self, value: _Word) -> Filter:
        parts = self._parts(value)
        if len(parts) not in {2, 3}:
            self._fail(
                "A place is latitude,longitude,radius, like near:48.85,2.35,10km.",
                value.column,
                len(value.characters),
            )
        latitude = self._degrees(parts[0], 90, "latitude")
        longitude = self._degrees(parts[1], 180, "longitude")
        radius = self._radius_km(parts[2]) if len(parts) == 3 else DEFAULT_RADIUS_KM
        return NearPlace(latitude, longitude, radius)

    def read_is(self, value: _Word) -> Filter:
        kind = value.characters.lower()
        if kind == "screenshot":
            return IsScreenshot()
        shapes: dict[str, Literal["portrait", "landscape", "square"]] = {
            "portrait": "portrait",
            "landscape": "landscape",
            "square": "square",
        }
        if kind not in shapes:
            self._fail(
                "There are is:portrait, is:landscape, is:square and is:screenshot.",
                value.column,
                len(value.characters),
            )
        return HasShape(shapes[kind])

    def read_type(self, value: _Word) -> Filter:
        formats = []
        for part in self._parts(value):
            name = _FORMAT_NAMES.get(part.characters.lower().removeprefix("."))
            if name is None:
                known = ", ".join(sorted(set(_FORMAT_NAMES.values())))
                self._fail(f"The types are {known}.", part.column, len(part.characters))
            formats.append(name)
        return HasFormat(tuple(formats))

    def _parts(self, value: _Word) -> list[_Word]:
        parts = value.split_commas()
        for part in parts:
            if not part.characters:
                self._fail("Something is missing beside this comma.", part.column)
        return parts

    def _date(self, value: _Word) -> tuple[datetime, datetime]:
        """The start of the year, month, day or minute that is named, and its end."""
        typed = value.characters
        shape = next((shape for pattern, shape in _DATE_SHAPES if pattern.fullmatch(typed)), "")
        try:
            start = datetime.strptime(typed.upper(), shape)  # local: cameras write no zone
            return start, _end_of(start, shape)
        except (ValueError, OverflowError):  # no shape, a 31st of June, or the year after 9999
            pass
        return self._fail(
            "A date is a year, a month, a day or a time, like 2023, 2023-05, 2023-05-17 or 2023-05-17T18:30.",
            value.column,
            len(typed),
        )

    def _side(self, side: Literal["width", "height"], value: _Word) -> Filter:
        match = _SIDE.fullmatch(value.characters)
        if match is None or (match[1] and match[3]):
            self._fail(
                f"A {side} is a number of pixels, like {side}:>2000, {side}:1920 or {side}:800..2000.",
                value.column,
                len(value.characters),
            )
        operator, first, second = match.groups()
        pixels = int(first)
        if second is not None:
            if int(second) < pixels:
                self._fail("The smaller number comes first.", value.column, len(value.characters))
            return SideBetween(side, pixels, int(second))
        if operator == "<" and pixels == 0:
            self._fail(f"No image has a {side} below 0.", value.column, len(value.characters))
        bounds = {
            ">": (pixels + 1, None),
            ">=": (pixels, None),
            "<": (None, pixels - 1),
            "<=": (None, pixels),
        }.get(operator or "", (pixels, pixels))
        return SideBetween(side, *bounds)

    def _degrees(self, part: _Word, limit: int, name: str) -> float:
        if not _DEGREES.fullmatch(part.characters) or abs(float(part.characters)) > limit:
            self._fail(
                f"A {name} lies between -{limit} and {limit} degrees, like 48.85.",
                part.column,
                len(part.characters),
            )
        return float(part.characters) + 0.0  # -0.0 becomes 0.0

    def _radius_km(self, part: _Word) -> float:
        match = _RADIUS.fullmatch(part.characters)
        if match is not None:
            unit = (match.group(2) or "km").lower()
            radius = float(match.group(1)) * {"m": 0.001, "km": 1.0, "mi": _KM_PER_MILE}[unit]
            if 0 < radius <= LONGEST_RADIUS_KM:
                return radius
        return self._fail(
            f"A radius is a distance above 0 and below {LONGEST_RADIUS_KM:,.0f} km, like 10km, 500m or 3mi.",
            part.column,
            len(part.characters),
        )

    # The whole

    def _checked_terms(self) -> tuple[Term, ...]:
        if len(self._terms) > MAXIMUM_TERMS:
            extra = self._terms[MAXIMUM_TERMS]
            self._fail(f"There are more than {MAXIMUM_TERMS} terms.", extra.column, extra.length)
        sums: dict[Target, float] = {}
        for term in self._terms:
            sums[term.target] = sums.get(term.target, 0.0) + term.weight
            if sums[term.target] == 0.0:
                self._fail(
                    "This is added and subtracted alike, so nothing of it is left: remove one of the two.",
                    term.column,
                    term.length,
                )
        if self._terms and all(term.weight < 0 for term in self._terms):
            self._fail(
                "Everything is subtracted: say as well what to look for, like: photo - people.",
                self._terms[0].column,
                self._terms[0].length,
            )
        return tuple(self._terms)

    def _checked_filters(self) -> tuple[Filter, ...]:
        """The filters without repetition, after refusing those that no image can fit together."""
        if len(self._filters) > MAXIMUM_FILTERS:
            _, column, length = self._filters[MAXIMUM_FILTERS]
            self._fail(f"There are more than {MAXIMUM_FILTERS} filters.", column, length)
        seen: list[Filter] = []
        for made, column, length in self._filters:
            if made in seen:
                continue
            problem = _contradiction(made, seen)
            if problem:
                self._fail(problem, column, length)
            seen.append(made)
        return tuple(seen)

    def _fail(self, reason: str, column: int, length: int = 1) -> NoReturn:
        raise QueryError(reason, query=self._text, column=column, length=length)


@dataclass(frozen=True)
class _FilterKind:
    read: Callable[[_Parser, _Word], Filter]
    example: str


_FILTERS: Final = {
    "in": _FilterKind(_Parser.read_folders, "in:holiday"),
    "after": _FilterKind(_Parser.read_after, "after:2023-05"),
    "before": _FilterKind(_Parser.read_before, "before:2023-05"),
    "date": _FilterKind(_Parser.read_date, "date:2023-05"),
    "camera": _FilterKind(_Parser.read_camera, 'camera:"Pixel 8"'),
    "near": _FilterKind(_Parser.read_near, "near:48.85,2.35,10km"),
    "is": _FilterKind(_Parser.read_is, "is:portrait"),
    "type": _FilterKind(_Parser.read_type, "type:heic"),
    "width": _FilterKind(_Parser.read_width, "width:>2000"),
    "height": _FilterKind(_Parser.read_height, "height:>2000"),
    "name": _FilterKind(_Parser.read_name, "name:IMG_*"),
}

FILTER_KEYS: Final = tuple(_FILTERS)
"""The names of all filters, for suggestions while somebody types."""
FILTER_EXAMPLES: Final = tuple(kind.example for kind in _FILTERS.values())

_FORMAT_NAMES: Final = {
    "jpeg": "jpeg",
    "jpg": "jpeg",
    "jpe": "jpeg",
    "png": "png",
    "webp": "webp",
    "gif": "gif",
    "tiff": "tiff",
    "tif": "tiff",
    "bmp": "bmp",
    "heic": "heic",
    "heif": "heic",
    "avif": "avif",
}

_DATE_SHAPES: Final = tuple(
    (re.compile(pattern, re.ASCII | re.IGNORECASE), shape)
    for pattern, shape in (
        (r"\d{4}", "%Y"),
        (r"\d{4}-\d{1,2}", "%Y-%m"),
        (r"\d{4}-\d{1,2}-\d{1,2}", "%Y-%m-%d"),
        (r"\d{4}-\d{1,2}-\d{1,2}T\d{1,2}:\d{2}", "%Y-%m-%dT%H:%M"),
        (r"\d{4}-\d{1,2}-\d{1,2}T\d{1,2}:\d{2}:\d{2}", "%Y-%m-%dT%H:%M:%S"),
    )
)
_SIDE: Final = re.compile(r"(>=|<=|>|<|=)?(\d{1,9})(?:\.\.(\d{1,9}))?", re.ASCII)
_DEGREES: Final = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,3})?", re.ASCII)
_RADIUS: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,3})?(km|m|mi)?", re.ASCII | re.IGNORECASE)


def _end_of(start: datetime, shape: str) -> datetime:
    """The end of the span that a date of this shape names."""
    if shape == "%Y":
        return start.replace(year=start.year + 1)
    if shape == "%Y-%m":
        return start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    if shape == "%Y-%m-%d":
        return start + timedelta(days=1)
    return start + (timedelta(minutes=1) if shape.endswith("%M") else timedelta(seconds=1))


def _contradiction(new: Filter, others: Sequence[Filter]) -> str | None:
    """Why no image can fit `new` and the others at once; None when nothing speaks against it."""
    sides = [new, *others]
    if Not(new) in others or (isinstance(new, Not) and new.filter in others):
        return "This asks for a thing and its opposite: remove one of the two."
    if isinstance(new, TakenBetween):
        spans = [made for made in sides if isinstance(made, TakenBetween)]
        since = max((made.since for made in spans if made.since is not None), default=None)
        until = min((made.until for made in spans if made.until is not None), default=None)
        if since is not None and until is not None and since >= until:
            return f"No date is both after {_format_date(since)} and before {_format_date(until)}."
    if isinstance(new, HasShape) and any(isinstance(made, HasShape) for made in others):
        return "An image has one shape only: portrait, landscape or square."
    if isinstance(new, HasFormat):
        left = set(new.formats)
        for made in others:
            left &= set(made.formats) if isinstance(made, HasFormat) else left
        if not left:
            return "A file has one type only; for either of two write them with a comma: type:jpeg,png."
    if isinstance(new, SideBetween):
        same = [made for made in sides if isinstance(made, SideBetween) and made.side == new.side]
        low = max((made.minimum_pixels for made in same if made.minimum_pixels is not None), default=0)
        high = min((made.maximum_pixels for made in same if made.maximum_pixels is not None), default=None)
        if high is not None and low > high:
            return f"No {new.side} is at least {low} and at most {high} pixels."
    return None


# -- Saved queries put in -----------------------------------------------------------------------------------


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
        problem = None if made in unique else _contradiction(made, unique)
        if problem:
            raise QueryError(f"The saved queries contradict one another. {problem}", query=query.source)
        if made not in unique:
            unique.append(made)
    if len(terms) > MAXIMUM_TERMS:
        raise QueryError(
            f"With its saved queries put in, the query has more than {MAXIMUM_TERMS} terms.",
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


# -- Query to text ------------------------------------------------------------------------------------------


def texts_of(query: Query) -> list[str]:
    """The words that a query's terms are made of, without those of saved queries."""
    return [term.target.text for term in query.terms if isinstance(term.target, Text)]


def format_query(query: Query) -> str:
    """The text of a query in its plainest form; parsing it gives the query back."""
    parts: list[str] = []
    for term in query.terms:
        if term.weight < 0:
            parts.append("-")
        elif parts:
            parts.append("+")
        weight = abs(term.weight)
        parts.append(("" if weight == 1.0 else f"{_format_number(weight)}:") + _format_target(term.target))
    parts.extend(format_filter(made) for made in query.filters)
    return " ".join(parts)


def format_filter(made: Filter) -> str:
    """The text of one filter, as `parse` reads it."""
    match made:
        case Not(inner):
            return "-" + format_filter(inner)
        case InFolder(folders):
            return "in:" + _format_values(folders)
        case TakenBetween(since, until):
            return _format_span(since, until)
        case CameraContains(texts):
            return "camera:" + _format_values(texts)
        case NearPlace(latitude, longitude, radius):
            numbers = ",".join(map(_format_number, (latitude, longitude, radius)))
            return f"near:{numbers}km"
        case HasShape(shape):
            return f"is:{shape}"
        case IsScreenshot():
            return "is:screenshot"
        case HasFormat(formats):
            return "type:" + ",".join(formats)
        case SideBetween(side, low, high):
            return f"{side}:{_format_range(low, high)}"
        case NameMatches(patterns):
            return "name:" + _format_values(patterns)


def _format_target(target: Target) -> str:
    match target:
        case Text(text):
            return _format_text(text)
        case ImagePath(path):
            return _format_value(path if _PATH_START.match(path) else f"./{path}")
        case ImageId(number):
            return f"id:{number}"
        case ImageUpload(name):
            return f"upload:{name}"
        case ImageUrl(url):
            return "".join(f"\\{c}" if c in _QUOTES or c == "\\" or c.isspace() else c for c in url)
        case Saved(name):
            return f"@{name}"


def _format_text(text: str) -> str:
    words = text.split()
    if text == " ".join(words) and all(map(_is_plain, words)):
        return text
    escaped = _quoted_inside(text)
    if start := _PATH_START.match(text):
        # Escaping the first character, or a drive's colon, is what tells these words from a path.
        drive = start.group()[0].isalpha()
        escaped = escaped.replace(":", "\\:", 1) if drive else f"\\{escaped}"
    return f'"{escaped}"'


def _is_plain(word: str) -> bool:
    """Whether a word means itself without quotes."""
    return not (
        word[0] in "+-@"
        or any(character in _QUOTES or character == "\\" for character in word)
        or _PATH_START.match(word)
        or re.match(r"[A-Za-z0-9.+-]+:", word)
    )


def _format_values(values: Sequence[str]) -> str:
    return ",".join(map(_format_value, values))


def _format_value(value: str) -> str:
    if any(c.isspace() or c in _QUOTES or c in "\\," for c in value):
        return f'"{_quoted_inside(value)}"'
    return value


def _quoted_inside(text: str) -> str:
    return "".join(f"\\{c}" if c in _QUOTES or c == "\\" else c for c in text)


def _format_number(number: float) -> str:
    return repr(float(number)).removesuffix(".0")


def _format_date(moment: datetime) -> str:
    if moment.time() == datetime.min.time():
        return moment.isoformat()[:10]  # strftime does not pad years before 1000 on every system
    return moment.isoformat()


def _format_span(since: datetime | None, until: datetime | None) -> str:
    if since is None or until is None:
        moment = since or until
        if moment is None:
            raise ValueError("a span of time that is open on both sides is no filter")
        return ("before:" if since is None else "after:") + _format_date(moment)
    for _, shape in _DATE_SHAPES:
        text = since.isoformat()[: {"%Y": 4, "%Y-%m": 7, "%Y-%m-%d": 10, "%Y-%m-%dT%H:%M": 16}.get(shape, 19)]
        start = datetime.strptime(text, shape)
        if start == since and _end_of(start, shape) == until:
            return f"date:{text}"
    return f"after:{_format_date(since)} before:{_format_date(until)}"


def _format_range(low: int | None, high: int | None) -> str:
    if low is None and high is None:
        raise ValueError("a side without bounds is no filter")
    if low is None:
        return f"<={high}"
    if high is None:
        return f">={low}"
    return str(low) if low == high else f"{low}..{high}"
