"""Whether an image fits a filter, judged from its catalog entry, and in which order images without a score come.

This is the meaning of the filters in plain Python.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

from indexer import selection
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


def fits(record: ImageRecord, wanted: Filter) -> bool:
    """Whether an image fits a filter; see `indexer.filters` for what each demands."""
    match wanted:
        case Not(inner):
            return not fits(record, inner)
        case InFolder(folders):
            return any(selection.lies_in(str(record.path), folder) for folder in folders)
        case TakenBetween(since, until):
            moment = moment_of(record)
            return (since is None or moment >= since) and (until is None or moment < until)
        case CameraContains(texts):
            camera = f"{record.camera_make or ''} {record.camera_model or ''}".strip().casefold()
            return bool(camera) and any(text.casefold() in camera for text in texts)
        case NearPlace(latitude, longitude, radius):
            if record.latitude is None or record.longitude is None:
                return False
            return selection.distance_km(latitude, longitude, record.latitude, record.longitude) <= radius
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
            return any(selection.name_fits(record.path.name, pattern) for pattern in patterns)


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
    """Whether an image looks like a screenshot; see `indexer.selection`."""
    return selection.looks_like_screenshot(
        record.path.name,
        record.format,
        record.width_pixels,
        record.height_pixels,
        has_camera=bool(record.camera_make or record.camera_model),
    )


SORT_KEYS: Final[dict[Order, Callable[[ImageRecord], tuple[object, ...]]]] = {
    "date": lambda record: (moment_of(record),),
    "name": lambda record: (record.path.name.casefold(), str(record.path)),
    "size": lambda record: (record.size_bytes,),
}
"""What each order compares; ids break ties."""
