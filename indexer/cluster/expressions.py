"""The filters of the query language as expressions of Milvus, meaning exactly the same.

Nothing that people typed gets into an expression: texts arrive as codes of letters and digits
(`indexer.cluster.encoding`), all else as numbers that were computed here. So there is nothing to escape.

Two kinds of filters say more than an expression can: a distance on the globe, and a name pattern with `?`, or with
`*` where an image has several files. For these the expression chooses more than fits, never less, and every image
that comes back is looked at again (`Condition.fits`).
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from indexer.cluster.encoding import SEPARATOR, decode_all, encode
from indexer.cluster.rows import moment_number
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
from indexer.selection import EARTH_RADIUS_KM, distance_km, name_fits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

EVERYTHING: Final = "id >= 0"
NOTHING: Final = "id < 0"
_LARGEST: Final = 2**62
_DEGREES_MARGIN: Final = 1e-6  # a tenth of a metre, far more than rounding can cost


@dataclass(frozen=True)
class Condition:
    """Which rows fit.

    Attributes:
        expression: Milvus's language; chooses all rows that fit, and with `checks` perhaps others.
        checks: What a row must pass besides, given `columns`; empty where the expression says all.
        columns: What the checks look at.
    """

    expression: str
    checks: tuple[Callable[[Mapping[str, Any]], bool], ...] = field(default=(), compare=False)
    columns: tuple[str, ...] = ()

    @property
    def is_exact(self) -> bool:
        """Whether the expression alone says which rows fit."""
        return not self.checks

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Whether a row that the expression chose fits indeed."""
        return all(check(row) for check in self.checks)


def condition_of(filters: Sequence[Filter]) -> Condition:
    """The rows that fit all filters."""
    parts = [_translated(wanted) for wanted in filters]
    expressions = [part.expression for part in parts if part.expression != EVERYTHING]
    return Condition(
        " and ".join(f"({expression})" for expression in expressions) or EVERYTHING,
        tuple(check for part in parts for check in part.checks),
        tuple(dict.fromkeys(column for part in parts for column in part.columns)),
    )


def _translated(wanted: Filter) -> Condition:
    is_turned = False
    while isinstance(wanted, Not):
        wanted, is_turned = wanted.filter, not is_turned
    match wanted:
        case NearPlace():
            return _near(wanted, is_turned=is_turned)
        case NameMatches(patterns):
            return _named(patterns, is_turned=is_turned)
    expression = _exact(wanted)
    return Condition(f"not ({expression})" if is_turned else expression)


def _exact(wanted: Filter) -> str:
    match wanted:
        case InFolder(folders):
            return _any(_in_folder(folder) for folder in folders)
        case TakenBetween(since, until):
            parts = []
            if since is not None:
                parts.append(f"moment >= {_number_of(since)}")
            if until is not None:
                parts.append(f"moment < {_number_of(until)}")
            return " and ".join(parts) or EVERYTHING
        case CameraContains(texts):
            found = _any(f'camera like "%{encode(text.casefold())}%"' for text in texts)
            return f'camera != "" and ({found})'
        case HasShape(shape):
            sign = {"portrait": -1, "landscape": 1, "square": 0}[shape]
            return f"shape == {sign}"
        case IsScreenshot():
            return "screenshot == true"
        case HasFormat(formats):
            # The catalog knows formats by short names only; no other can be one of them.
            names = [name for name in formats if name.isascii() and name.isalnum()]
            listed = ", ".join('"' + name + '"' for name in names)
            return f"format in [{listed}]" if names else NOTHING
        case SideBetween(side, low, high):
            column = {"width": "width", "height": "height"}[side]
            most = _LARGEST if high is None else _clipped(high)
            return f"{column} >= {_clipped(low or 0)} and {column} <= {most}"
        case _:
            raise TypeError(f"no expression for the filter {wanted!r}")


def _any(expressions: Any) -> str:
    return " or ".join(f"({expression})" for expression in expressions) or NOTHING


def _in_folder(folder: str) -> str:
    """See `indexer.selection`, which means the same."""
    if os.path.isabs(folder):  # noqa: PTH117  (the text of a path, any bytes in it)
        start = os.path.normcase(os.path.normpath(folder)).rstrip(os.sep) + os.sep
        return f'paths like "%{SEPARATOR}{encode(start)}%"'
    names = [name for name in re.split(r"[/\\]" if os.sep == "\\" else "/", folder) if name not in {"", "."}]
    if not names:
        return NOTHING
    within = f"/{'/'.join(names)}/".casefold()
    found = f'folders like "%{encode(within)}%"'
    if "://" in folder:  # a place in a store, with the two slashes that objects are listed with
        start = folder.rstrip("/") + "/"
        found += f' or paths like "%{SEPARATOR}{encode(start)}%"'
    return found


def _named(patterns: Sequence[str], *, is_turned: bool) -> Condition:
    contained = [pattern.casefold() for pattern in patterns if not _is_glob(pattern)]
    globs = [pattern.casefold() for pattern in patterns if _is_glob(pattern)]
    found = [f'names like "%{encode(pattern)}%"' for pattern in contained]
    for pattern in globs:
        code = "%".join(encode(part) for part in re.split(r"[*?]+", pattern))
        found.append(f'names like "%{SEPARATOR}{code}{SEPARATOR}%"')
    expression = _any(found)
    if not globs:
        return Condition(f"not ({expression})" if is_turned else expression)

    def check(row: Mapping[str, Any]) -> bool:
        names = decode_all(row["names"])
        return any(name_fits(name, pattern) for name in names for pattern in patterns) is not is_turned

    if is_turned and any("?" in pattern for pattern in globs):
        expression = EVERYTHING
    elif is_turned:
        # Over the names of several files a `%` reaches too far: such images are looked at again.
        expression = f"not ({expression}) or copies > 1"
    return Condition(expression, (check,), ("names",))


def _is_glob(pattern: str) -> bool:
    return "*" in pattern or "?" in pattern


def _near(wanted: NearPlace, *, is_turned: bool) -> Condition:
    latitude, longitude, radius = wanted.latitude_degrees, wanted.longitude_degrees, wanted.radius_km
    if not all(math.isfinite(value) for value in (latitude, longitude, radius)) or radius < 0:
        return Condition(EVERYTHING if is_turned else NOTHING)

    def check(row: Mapping[str, Any]) -> bool:
        is_near = bool(row["has_place"]) and (
            distance_km(latitude, longitude, float(row["latitude"]), float(row["longitude"])) <= radius
        )
        return is_near is not is_turned

    columns = ("has_place", "latitude", "longitude")
    if is_turned:
        return Condition(EVERYTHING, (check,), columns)
    angle = radius / EARTH_RADIUS_KM
    height = math.degrees(angle) + _DEGREES_MARGIN
    parts = [
        "has_place == true",
        f"latitude >= {latitude - height:.9f} and latitude <= {latitude + height:.9f}",
    ]
    # The widest place of a circle on the globe, which is not at its centre; none where it holds a pole.
    across = math.cos(math.radians(latitude))
    if angle < math.pi / 2 and math.sin(angle) < across:
        width = math.degrees(math.asin(math.sin(angle) / across)) + _DEGREES_MARGIN
        west, east = longitude - width, longitude + width
        ranges = [(west, east), (west + 360, east + 360), (west - 360, east - 360)]
        parts.append(
            "("
            + " or ".join(
                f"(longitude >= {low:.9f} and longitude <= {high:.9f})"
                for low, high in ranges
                if high >= -180 and low <= 180
            )
            + ")"
        )
    return Condition(" and ".join(parts), (check,), columns)


def _number_of(moment: datetime) -> int:
    return moment_number(moment.isoformat()[:19])


def _clipped(number: int) -> int:
    return max(-_LARGEST, min(_LARGEST, number))
