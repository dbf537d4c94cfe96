"""From text to `Query`; the package tells the grammar.

Written by hand rather than with a parser generator: what a character means depends on whether it was bare,
quoted or escaped and on where its word begins, every error owes its reader a column and a way out, and no one
needs another dependency for these few rules.
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from datetime import datetime
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
from search.query.contradictions import contradiction
from search.query.dates import DATE_SHAPES, end_of
from search.query.terms import ImageId, ImagePath, ImageUpload, ImageUrl, Query, Saved, Target, Term, Text
from search.query.words import BARE, ESCAPED, PATH_START, Word, cut_words

if TYPE_CHECKING:
    from collections.abc import Callable


MAXIMUM_CHARACTERS: Final = 10_000
"""Longer queries are refused: a text tower reads some sixty words, and a pasted book is a mistake."""
MAXIMUM_TERMS: Final = 64
"""More terms than a person writes; each costs a tower call and a pass over the sample of the library."""
MAXIMUM_FILTERS: Final = 64
MINIMUM_WEIGHT: Final = 0.001
MAXIMUM_WEIGHT: Final = 1000.0
DEFAULT_RADIUS_KM: Final = 10.0
LONGEST_RADIUS_KM: Final = 20_100.0
"""A little more than half the way round the Earth: farther than any place is from any other."""
_KM_PER_MILE: Final = 1.609344
_NO_CHARACTER: Final = "This is not a character of a text; retype the word."
LARGEST_ID: Final = 2**63 - 1

_WEIGHT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?|inf|infinity|nan", re.IGNORECASE | re.ASCII)
_URL_START = re.compile(r"https?://", re.IGNORECASE)
_KEY = re.compile(r"[A-Za-z]+")
_NAME = re.compile(r"[\w.-]+")

_SIDE: Final = re.compile(r"(>=|<=|>|<|=)?(\d{1,9})(?:\.\.(\d{1,9}))?", re.ASCII)
_DEGREES: Final = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,3})?", re.ASCII)
_RADIUS: Final = re.compile(
    r"((?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d{1,3})?)(km|m|mi)?", re.ASCII | re.IGNORECASE
)


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
        for word in cut_words(self._text):
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

    def _item(self, word: Word) -> None:
        if "\0" in word.characters:
            self._fail(_NO_CHARACTER, word.columns[word.characters.index("\0")])
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

    def _weight(self, word: Word) -> tuple[float | None, Word]:
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

    def _text_word(self, word: Word, weight: float | None) -> None:
        if not word.characters:
            self._fail("Nothing stands between these quotation marks.", word.column, 2)
        self._refuse_bytes(word)
        self._refuse_unknown_key(word)
        if not self._run:
            sign, column = self._operator or (1.0, word.column)
            self._operator = None
            self._run_weight = sign * (weight or 1.0)
            self._run_column = column
        self._run.append(word.characters)
        self._run_end = word.end

    def _refuse_bytes(self, word: Word) -> None:
        """Refuse bytes of a path that are no UTF-8 (PEP 383) where text is wanted."""
        for i, character in enumerate(word.characters):
            if "\ud800" <= character <= "\udfff":
                self._fail(_NO_CHARACTER, word.columns[i])

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

    def _image(self, word: Word) -> Target | None:
        """The image or saved query that a word names, if it does."""
        text = word.characters
        if not text or word.states[0] == ESCAPED:
            return None
        if text[0] == "@" and word.states[0] == BARE:
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
                    "strangers. Save the picture and give its path, or use `imago search --allow-urls`.",
                    word.column,
                    len(text),
                )
            return ImageUrl(text)
        if match := PATH_START.match(text):
            drive = match.group()[0].isalpha()
            return None if drive and word.states[1] == ESCAPED else ImagePath(text)
        key = self._key(word)
        if key == "id":
            value = text[3:]
            if not (value.isascii() and value.isdigit() and len(value) < 20) or int(value) > LARGEST_ID:
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

    def _key(self, word: Word) -> str | None:
        """What stands before a bare colon, in lower case, if that is shaped like the name of a filter."""
        match = _KEY.match(word.characters)
        if match is None or word.characters[match.end() : match.end() + 1] != ":":
            return None
        return match.group().lower() if word.bare(0, match.end() + 1) else None

    def _filter_key(self, word: Word) -> str | None:
        key = self._key(word)
        return key if key in _FILTERS else None

    def _filter(self, word: Word, sign: float | None, sign_column: int) -> bool:
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

    def _refuse_unknown_key(self, word: Word) -> None:
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

    def read_folders(self, value: Word) -> Filter:
        return InFolder(tuple(part.characters for part in self._parts(value)))

    def read_after(self, value: Word) -> Filter:
        return TakenBetween(self._date(value)[0], None)

    def read_before(self, value: Word) -> Filter:
        return TakenBetween(None, self._date(value)[0])

    def read_date(self, value: Word) -> Filter:
        since, until = self._date(value)
        return TakenBetween(since, until)

    def read_camera(self, value: Word) -> Filter:
        self._refuse_bytes(value)
        return CameraContains(tuple(part.characters for part in self._parts(value)))

    def read_name(self, value: Word) -> Filter:
        return NameMatches(tuple(part.characters for part in self._parts(value)))

    def read_width(self, value: Word) -> Filter:
        return self._side("width", value)

    def read_height(self, value: Word) -> Filter:
        return self._side("height", value)

    def read_near(self, value: Word) -> Filter:
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

    def read_is(self, value: Word) -> Filter:
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

    def read_type(self, value: Word) -> Filter:
        formats = []
        for part in self._parts(value):
            name = _FORMAT_NAMES.get(part.characters.lower().removeprefix("."))
            if name is None:
                known = ", ".join(sorted(set(_FORMAT_NAMES.values())))
                self._fail(f"The types are {known}.", part.column, len(part.characters))
            formats.append(name)
        return HasFormat(tuple(formats))

    def _parts(self, value: Word) -> list[Word]:
        parts = value.split_commas()
        for part in parts:
            if not part.characters:
                self._fail("Something is missing beside this comma.", part.column)
        return parts

    def _date(self, value: Word) -> tuple[datetime, datetime]:
        """The start of the year, month, day or minute that is named, and its end."""
        typed = value.characters
        shape = next((shape for pattern, shape in DATE_SHAPES if pattern.fullmatch(typed)), "")
        try:
            start = datetime.strptime(typed.upper(), shape)  # local: cameras write no zone
            return start, end_of(start, shape)
        except (ValueError, OverflowError):  # no shape, a 31st of June, or the year after 9999
            pass
        return self._fail(
            "A date is a year, a month, a day or a time, like 2023, 2023-05, 2023-05-17 or 2023-05-17T18:30.",
            value.column,
            len(typed),
        )

    def _side(self, side: Literal["width", "height"], value: Word) -> Filter:
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

    def _degrees(self, part: Word, limit: int, name: str) -> float:
        if not _DEGREES.fullmatch(part.characters) or abs(float(part.characters)) > limit:
            self._fail(
                f"A {name} lies between -{limit} and {limit} degrees, like 48.85.",
                part.column,
                len(part.characters),
            )
        return float(part.characters) + 0.0  # -0.0 becomes 0.0

    def _radius_km(self, part: Word) -> float:
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
            problem = contradiction(made, seen)
            if problem:
                self._fail(problem, column, length)
            seen.append(made)
        return tuple(seen)

    def _fail(self, reason: str, column: int, length: int = 1) -> NoReturn:
        raise QueryError(reason, query=self._text, column=column, length=length)


@dataclass(frozen=True)
class _FilterKind:
    read: Callable[[_Parser, Word], Filter]
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
