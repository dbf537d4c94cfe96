"""Whether an image fits a filter, judged from its catalog entry, and in which order images without a score come.

This is the meaning of the filters in plain Python.
"""

from __future__ import annotations

import fnmatch
import math
import re
from datetime import datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Final, Literal

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

if TYPE_CHECKING:
    from collections.abc import Callable

    from indexer import ImageRecord

Order = Literal["relevance", "date", "name", "size"]

_EARTH_RADIUS_KM: Final = 6371.0088
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


def fits(record: ImageRecord, wanted: Filter) -> bool:
    """Whether an image fits a filter; see `indexer.filters` for what each demands."""
    match wanted:
        case Not(inner):
            return not fits(record, inner)
        case InFolder(folders):
            return any(_lies_in(record.path, folder) for folder in folders)
        case TakenBetween(since, until):
            moment = moment_of(record)
            return (since is None or moment >= since) and (until is None or moment < until)
        case CameraContains(texts):
            camera = f"{record.camera_make or ''} {record.camera_model or ''}".strip().casefold()
            return bool(camera) and any(text.casefold() in camera for text in texts)
        case NearPlace(latitude, longitude, radius):
            if record.latitude is None or record.longitude is None:
                return False
            return distance_km(latitude, longitude, record.latitude, record.longitude) <= radius
        case HasShape(shape):
            width, height = record.width_pixels, record.height_pixels
            return {"portrait": height > width, "landscape": width > height, "square": width == height}[shape]
        case IsScreenshot():
            return looks_like_screenshot(record)
        case HasFormat(formats):
            return record.format in formats
        case SideBetween(side, low, high):
            length = record.width_pixels if side == "width" else record.height_pixels
            return (low is None or length >= low) and (high is None or length <= high)
        case NameMatches(patterns):
            return any(_name_fits(record.path.name, pattern) for pattern in patterns)


def moment_of(record: ImageRecord) -> datetime:
    """When an image was taken by the local clock; its file's last change where it does not say."""
    if record.taken_at is not None:
        try:
            return datetime.fromisoformat(record.taken_at).replace(tzinfo=None)
        except ValueError:
            pass
    try:
        return datetime.fromtimestamp(record.modified_seconds)
    except (ValueError, OSError, OverflowError):  # a clock that was far off
        return datetime.min


def looks_like_screenshot(record: ImageRecord) -> bool:
    """Whether no camera made an image and its name, or a format and size that screens have, says screenshot."""
    if record.camera_make or record.camera_model:
        return False
    if _SCREENSHOT_NAME.search(record.path.name):
        return True
    sides = record.width_pixels, record.height_pixels
    return record.format in {"png", "webp"} and (sides in _SCREENS or sides[::-1] in _SCREENS)


def distance_km(latitude: float, longitude: float, other_latitude: float, other_longitude: float) -> float:
    """Length of the great circle between two places, by the haversine formula."""
    a, b = math.radians(latitude), math.radians(other_latitude)
    half_lat, half_lon = (b - a) / 2, math.radians(other_longitude - longitude) / 2
    h = math.sin(half_lat) ** 2 + math.cos(a) * math.cos(b) * math.sin(half_lon) ** 2
    return 2 * _EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, h)))


SORT_KEYS: Final[dict[Order, Callable[[ImageRecord], tuple[object, ...]]]] = {
    "date": lambda record: (moment_of(record),),
    "name": lambda record: (record.path.name.casefold(), str(record.path)),
    "size": lambda record: (record.size_bytes,),
}
"""What each order compares; ids break ties."""


def _lies_in(path: PurePath, folder: str) -> bool:
    wanted = PurePath(folder)
    if wanted.is_absolute():
        return wanted in path.parents
    names = [part.casefold() for part in wanted.parts]
    parts = [part.casefold() for part in path.parent.parts]
    return any(parts[i : i + len(names)] == names for i in range(len(parts) - len(names) + 1))


def _name_fits(name: str, pattern: str) -> bool:
    name, pattern = name.casefold(), pattern.casefold()
    if "*" not in pattern and "?" not in pattern:
        return pattern in name
    # Brackets mean themselves: they are common in names of copies, "photo [1].jpg".
    return re.fullmatch(fnmatch.translate(pattern.replace("[", "[[]")), name) is not None
