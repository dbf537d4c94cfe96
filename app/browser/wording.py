"""How values are told to people: sizes, dates, places, names that are no text."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from indexer.facets import camera_name

if TYPE_CHECKING:
    from pathlib import Path

    from indexer.records import ImageRecord

_NEAR_KM = 5


def shown(value: Path | str) -> str:
    """Return a path or name as text that any browser can show: bytes that are no UTF-8 become question marks."""
    return str(value).encode("utf-8", "replace").decode("utf-8")


def bytes_told(count: int) -> str:
    """Return a size as people read it, `3.4 MB`."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def seconds_told(seconds: float) -> str:
    """Return a duration as people read it, `3 min 20 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def moment_told(moment: str | float | None) -> str | None:
    """Return a moment, ISO 8601 or seconds since 1970, as people read it; None for what cannot be read."""
    if moment is None:
        return None
    try:
        at = (
            datetime.fromisoformat(moment)
            if isinstance(moment, str)
            else datetime.fromtimestamp(moment).astimezone()
        )
    except (ValueError, OverflowError, OSError):
        return None
    return f"{at.day} {at:%B} {at.year:04}, {at:%H:%M}"


def facts_of(record: ImageRecord) -> list[dict[str, str]]:
    """Return what is known of an image as labels and values, some with the query that finds others like it."""
    facts: list[dict[str, str]] = []

    def add(label: str, value: str | None, query: str | None = None) -> None:
        if value:
            facts.append({"label": label, "value": shown(value)} | ({"query": query} if query else {}))

    megapixels = record.width_pixels * record.height_pixels / 1e6
    add("Size", f"{record.width_pixels:,} x {record.height_pixels:,} pixels ({megapixels:.1f} megapixels)")
    add("File", f"{record.format.upper()}, {bytes_told(record.size_bytes)}")
    taken = moment_told(record.taken_at)
    if taken and record.taken_at:
        add("Taken", taken, f"date:{record.taken_at[:10]}")
    else:
        add("Changed", moment_told(record.modified_seconds))
    camera = camera_name(record.camera_make, record.camera_model)
    add("Camera", camera, f'camera:"{_inside_quotes(shown(camera))}"' if camera else None)
    if record.latitude is not None and record.longitude is not None:
        place = f"{record.latitude:.5f},{record.longitude:.5f}"
        add("Place", place.replace(",", ", "), f"near:{place},{_NEAR_KM}km")
    if record.copies > 1:
        add("Copies", f"{record.copies} files with this very content")
    if record.is_offline:
        add("Disk", "not there now; the picture is remembered")
    return facts


def _inside_quotes(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
