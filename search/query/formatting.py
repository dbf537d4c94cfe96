"""From a `Query` back to text."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

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
from search.query.dates import DATE_SHAPES, end_of, format_date
from search.query.terms import ImageId, ImagePath, ImageUpload, ImageUrl, Query, Saved, Target, Text
from search.query.words import PATH_START, QUOTES

if TYPE_CHECKING:
    from collections.abc import Sequence


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
            return _format_value(path if PATH_START.match(path) else f"./{path}")
        case ImageId(number):
            return f"id:{number}"
        case ImageUpload(name):
            return f"upload:{name}"
        case ImageUrl(url):
            return "".join(f"\\{c}" if c in QUOTES or c == "\\" or c.isspace() else c for c in url)
        case Saved(name):
            return f"@{name}"


def _format_text(text: str) -> str:
    words = text.split()
    if text == " ".join(words) and all(map(_is_plain, words)):
        return text
    escaped = _quoted_inside(text)
    if start := PATH_START.match(text):
        # Escaping the first character, or a drive's colon, is what tells these words from a path.
        drive = start.group()[0].isalpha()
        escaped = escaped.replace(":", "\\:", 1) if drive else f"\\{escaped}"
    return f'"{escaped}"'


def _is_plain(word: str) -> bool:
    """Whether a word means itself without quotes."""
    return not (
        word[0] in "+-@"
        or any(character in QUOTES or character == "\\" for character in word)
        or PATH_START.match(word)
        or re.match(r"[A-Za-z0-9.+-]+:", word)
    )


def _format_values(values: Sequence[str]) -> str:
    return ",".join(map(_format_value, values))


def _format_value(value: str) -> str:
    if any(c.isspace() or c in QUOTES or c in "\\," for c in value):
        return f'"{_quoted_inside(value)}"'
    return value


def _quoted_inside(text: str) -> str:
    return "".join(f"\\{c}" if c in QUOTES or c == "\\" else c for c in text)


def _format_number(number: float) -> str:
    return repr(float(number)).removesuffix(".0")


def _format_span(since: datetime | None, until: datetime | None) -> str:
    if since is None or until is None:
        moment = since or until
        if moment is None:
            raise ValueError("a span of time that is open on both sides is no filter")
        return ("before:" if since is None else "after:") + format_date(moment)
    for _, shape in DATE_SHAPES:
        text = since.isoformat()[: {"%Y": 4, "%Y-%m": 7, "%Y-%m-%d": 10, "%Y-%m-%dT%H:%M": 16}.get(shape, 19)]
        start = datetime.strptime(text, shape)
        if start == since and end_of(start, shape) == until:
            return f"date:{text}"
    return f"after:{format_date(since)} before:{format_date(until)}"


def _format_range(low: int | None, high: int | None) -> str:
    if low is None and high is None:
        raise ValueError("a side without bounds is no filter")
    if low is None:
        return f"<={high}"
    if high is None:
        return f">={low}"
    return str(low) if low == high else f"{low}..{high}"
