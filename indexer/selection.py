"""Which images of a catalog fit filters: columns are asked in SQL, paths in Python.

Paths never become part of a pattern or a statement, so no name can be hostile: not one with `%`, quotes or line
breaks, nor one that is not Unicode.
"""

from __future__ import annotations

import fnmatch
import math
import os
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

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
from indexer.paths import from_catalog, join_root

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

EARTH_RADIUS_KM: Final = 6371.0088
_SCREENSHOT_NAME: Final = re.compile(
    r"screen[ _-]?(shot|cap)|bildschirmfoto|capture d.?[ée]cran|captura de (pantalla|ecr[ãa])|schermata|"
    r"schermafbeelding|スクリーンショット|屏幕截图|スクショ|снимок экрана",
    re.IGNORECASE,
)
# Width and height, upright, of screens that are common enough to tell a screenshot without a telling name.
_SCREENS: Final = frozenset(
    {
        (750, 1334), (828, 1792), (1080, 1920), (1080, 2160), (1080, 2220), (1080, 2280), (1080, 2340),
        (1080, 2400), (1125, 2436), (1170, 2532), (1179, 2556), (1206, 2622), (1242, 2208), (1242, 2688),
        (1284, 2778), (1290, 2796), (1320, 2868), (1440, 2560), (1440, 2960), (1440, 3040), (1440, 3120),
        (1536, 2048), (1620, 2160), (1640, 2360), (1668, 2224), (1668, 2388), (2048, 2732),
    }
)  # fmt: skip

# The local time at which an image was taken, or its oldest copy changed, as text that sorts like time.
MOMENT: Final = (
    "coalesce(substr(taken_at, 1, 19), (SELECT strftime('%Y-%m-%dT%H:%M:%S', min(modified_ns) / 1000000000,"
    " 'unixepoch', 'localtime') FROM files WHERE image_id = images.id), '')"
)
_CAMERA: Final = "trim(coalesce(camera_make, '') || ' ' || coalesce(camera_model, ''))"


def select(connection: sqlite3.Connection, filters: Sequence[Filter]) -> NDArray[np.int64]:
    """The ids of the images that are present and fit all filters, ascending, int64 (n,)."""
    _register(connection)
    conditions, values = ["gone_at IS NULL"], []
    on_paths: list[tuple[Filter, bool]] = []
    for wanted in filters:
        inner, is_turned = _unwrapped(wanted)
        if isinstance(inner, InFolder | NameMatches | IsScreenshot):
            on_paths.append((inner, is_turned))
        else:
            condition, parameters = _condition(inner)
            conditions.append(f"NOT ({condition})" if is_turned else f"({condition})")
            values.extend(parameters)
    statement = f"SELECT id FROM images WHERE {' AND '.join(conditions)} ORDER BY id"  # noqa: S608
    ids = np.fromiter((row[0] for row in connection.execute(statement, values)), np.int64)
    for inner, is_turned in on_paths:
        fitting = _fitting_by_path(connection, inner)
        ids = ids[np.isin(ids, fitting, assume_unique=True, invert=is_turned)]
    return ids


def name_fits(name: str, pattern: str) -> bool:
    """Whether a file name fits a pattern: `NameMatches`."""
    return _name_test(pattern)(name)


def looks_like_screenshot(
    name: str, image_format: str, width_pixels: int, height_pixels: int, *, has_camera: bool
) -> bool:
    """Whether no camera made an image and its name, or a format and size that screens have, says screenshot."""
    if has_camera:
        return False
    if _SCREENSHOT_NAME.search(name):
        return True
    sides = width_pixels, height_pixels
    return image_format in {"png", "webp"} and (sides in _SCREENS or sides[::-1] in _SCREENS)


def distance_km(latitude: float, longitude: float, other_latitude: float, other_longitude: float) -> float:
    """Length of the great circle between two places in degrees, by the haversine formula."""
    a, b = math.radians(latitude), math.radians(other_latitude)
    half_lat, half_lon = (b - a) / 2, math.radians(other_longitude - longitude) / 2
    h = math.sin(half_lat) ** 2 + math.cos(a) * math.cos(b) * math.sin(half_lon) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, h)))


def _unwrapped(wanted: Filter) -> tuple[Filter, bool]:
    is_turned = False
    while isinstance(wanted, Not):
        wanted, is_turned = wanted.filter, not is_turned
    return wanted, is_turned


def _condition(wanted: Filter) -> tuple[str, list[Any]]:
    """SQL over `images` that is true or false, never NULL, with its parameters."""
    match wanted:
        case TakenBetween(since, until):
            parts, values = ["1"], []
            if since is not None:
                parts.append(f"{MOMENT} >= ?")
                values.append(since.isoformat()[:19])
            if until is not None:
                parts.append(f"{MOMENT} < ?")
                values.append(until.isoformat()[:19])
            return " AND ".join(parts), values
        case CameraContains(texts):
            found = " OR ".join(f"instr(imago_fold({_CAMERA}), ?) > 0" for _ in texts)
            return f"{_CAMERA} != '' AND ({found})", [text.casefold() for text in texts]
        case NearPlace(latitude, longitude, radius):
            # A degree of latitude has 111.2 km everywhere: most images are ruled out without trigonometry.
            margin = radius / 111.0 + 1e-6
            condition = (
                "latitude IS NOT NULL AND longitude IS NOT NULL AND latitude BETWEEN ? AND ?"
                " AND imago_distance(?, ?, latitude, longitude) <= ?"
            )
            return condition, [latitude - margin, latitude + margin, latitude, longitude, radius]
        case HasShape(shape):
            sign = {"portrait": ">", "landscape": "<", "square": "="}[shape]
            return f"height_pixels {sign} width_pixels", []
        case HasFormat(formats):
            return f"format IN ({','.join('?' * len(formats))})", list(formats)
        case SideBetween(side, low, high):
            column = {"width": "width_pixels", "height": "height_pixels"}[side]
            return f"{column} >= ? AND {column} <= ?", [low or 0, 2**62 if high is None else high]
        case _:
            raise TypeError(f"no filter on the columns of an image: {wanted!r}")


def _fitting_by_path(connection: sqlite3.Connection, wanted: Filter) -> NDArray[np.int64]:
    """The ids of the images one of whose files fits, ascending."""
    found: set[int] = set()
    if isinstance(wanted, IsScreenshot):
        statement = (
            "SELECT image_id, files.path, images.format, width_pixels, height_pixels FROM files JOIN images"
            " ON images.id = image_id WHERE coalesce(camera_make, '') = '' AND coalesce(camera_model, '') = ''"
        )
        for image_id, path, image_format, width, height in connection.execute(statement):
            name = from_catalog(path).rpartition("/")[2]
            if looks_like_screenshot(name, image_format, width, height, has_camera=False):
                found.add(image_id)
    elif isinstance(wanted, NameMatches):
        tests = [_name_test(pattern) for pattern in wanted.patterns]
        for image_id, path in connection.execute(
            "SELECT image_id, path FROM files WHERE image_id IS NOT NULL"
        ):
            name = from_catalog(path).rpartition("/")[2]
            if any(test(name) for test in tests):
                found.add(image_id)
    elif isinstance(wanted, InFolder):
        tests = [_folder_test(folder) for folder in wanted.folders]
        statement = (
            "SELECT image_id, roots.path, files.path FROM files JOIN roots ON roots.id = root_id"
            " WHERE image_id IS NOT NULL"
        )
        for image_id, root, path in connection.execute(statement):
            whole = join_root(from_catalog(root), from_catalog(path))
            if any(test(whole) for test in tests):
                found.add(image_id)
    return np.fromiter(sorted(found), np.int64)


@lru_cache(maxsize=64)
def _folder_test(folder: str) -> Callable[[str], bool]:
    """Judges absolute paths of files."""
    if os.path.isabs(folder):  # noqa: PTH117  (the text of a path, any bytes in it)
        start = os.path.normcase(os.path.normpath(folder)).rstrip(os.sep) + os.sep
        return lambda path: os.path.normcase(path).startswith(start)
    names = [name for name in re.split(r"[/\\]" if os.sep == "\\" else "/", folder) if name not in {"", "."}]
    within = f"/{'/'.join(names)}/".casefold()
    if not names:
        return lambda _: False

    def test(path: str) -> bool:
        parent = path.rpartition(os.sep)[0].replace(os.sep, "/")
        return within in f"/{parent}/".casefold()

    return test


@lru_cache(maxsize=64)
def _name_test(pattern: str) -> Callable[[str], bool]:
    folded = pattern.casefold()
    if "*" not in folded and "?" not in folded:
        return lambda name: folded in name.casefold()
    # Brackets mean themselves: they are common in names of copies, "photo [1].jpg".
    matches = re.compile(fnmatch.translate(folded.replace("[", "[[]"))).match
    return lambda name: matches(name.casefold()) is not None


def _register(connection: sqlite3.Connection) -> None:
    connection.create_function("imago_fold", 1, str.casefold, deterministic=True)
    connection.create_function("imago_distance", 4, distance_km, deterministic=True)
