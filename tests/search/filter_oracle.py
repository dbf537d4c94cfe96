"""The meaning of the filters in plain Python, judged from an image's record: what the SQL must agree with."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from search.ordering import moment_of

if TYPE_CHECKING:
    from indexer import ImageRecord


def fits(record: ImageRecord, wanted: Filter) -> bool:
    """Whether an image fits a filter; see `indexer.filters` for what each demands."""
    match wanted:
        case Not(inner):
            return not fits(record, inner)
        case InFolder(folders):
            return any(selection._folder_test(folder)(str(record.path)) for folder in folders)
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
            return _looks_like_screenshot(record)
        case HasFormat(formats):
            return record.format in formats
        case SideBetween(side, low, high):
            length = record.width_pixels if side == "width" else record.height_pixels
            return (low is None or length >= low) and (high is None or length <= high)
        case NameMatches(patterns):
            return any(selection.name_fits(record.path.name, pattern) for pattern in patterns)


def _looks_like_screenshot(record: ImageRecord) -> bool:
    """Whether an image looks like a screenshot; see `indexer.selection`."""
    return selection.looks_like_screenshot(
        record.path.name,
        record.format,
        record.width_pixels,
        record.height_pixels,
        has_camera=bool(record.camera_make or record.camera_model),
    )
