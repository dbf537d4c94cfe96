"""The dates of the query language: from a year to a second."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

DATE_SHAPES: Final = tuple(
    (re.compile(pattern, re.ASCII | re.IGNORECASE), shape)
    for pattern, shape in (
        (r"\d{4}", "%Y"),
        (r"\d{4}-\d{1,2}", "%Y-%m"),
        (r"\d{4}-\d{1,2}-\d{1,2}", "%Y-%m-%d"),
        (r"\d{4}-\d{1,2}-\d{1,2}T\d{1,2}:\d{2}", "%Y-%m-%dT%H:%M"),
        (r"\d{4}-\d{1,2}-\d{1,2}T\d{1,2}:\d{2}:\d{2}", "%Y-%m-%dT%H:%M:%S"),
    )
)


def end_of(start: datetime, shape: str) -> datetime:
    """The end of the span that a date of this shape names."""
    if shape == "%Y":
        return start.replace(year=start.year + 1)
    if shape == "%Y-%m":
        return start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    if shape == "%Y-%m-%d":
        return start + timedelta(days=1)
    return start + (timedelta(minutes=1) if shape.endswith("%M") else timedelta(seconds=1))


def format_date(moment: datetime) -> str:
    """The text of a moment, a day alone at midnight."""
    if moment.time() == datetime.min.time():
        return moment.isoformat()[:10]  # strftime does not pad years before 1000 on every system
    return moment.isoformat()
