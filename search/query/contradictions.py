"""Filters that no image can fit together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from indexer.filters import Filter, HasFormat, HasShape, Not, SideBetween, TakenBetween
from search.query.dates import format_date

if TYPE_CHECKING:
    from collections.abc import Sequence


def contradiction(new: Filter, others: Sequence[Filter]) -> str | None:
    """Why no image can fit `new` and the others at once; None when nothing speaks against it."""
    sides = [new, *others]
    if Not(new) in others or (isinstance(new, Not) and new.filter in others):
        return "This asks for a thing and its opposite: remove one of the two."
    if isinstance(new, TakenBetween):
        spans = [made for made in sides if isinstance(made, TakenBetween)]
        since = max((made.since for made in spans if made.since is not None), default=None)
        until = min((made.until for made in spans if made.until is not None), default=None)
        if since is not None and until is not None and since >= until:
            return f"No date is both after {format_date(since)} and before {format_date(until)}."
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
