"""Names of pages that hold while a library changes: after which hit a page begins, not at which number."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from search.errors import QueryError

if TYPE_CHECKING:
    from search.ordering import Order

_NO_PAGE: Final = "This is not the name of a page of this answer: start at the first page."


@dataclass(frozen=True)
class Key:
    """Where a hit stands in the order of an answer."""

    value: Any
    id: int
    descending: bool = False

    def __lt__(self, other: Key) -> bool:
        if self.value != other.value:
            return bool(self.value > other.value if self.descending else self.value < other.value)
        return self.id < other.id


@dataclass(frozen=True)
class Place:
    """Where a page ended.

    Attributes:
        key: Of its last hit.
        hits_before: Hits up to and with that one when the page was made; a hint where to look.
    """

    key: Key
    hits_before: int


def page_after(order: Order, key: Key, hits_before: int) -> str:
    """What names the place after a hit: its order, value and id, opaque to callers."""
    value = key.value if isinstance(key.value, float) else [_plain(part) for part in key.value]
    text = json.dumps([order, value, key.id, key.descending, hits_before])
    return base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode().rstrip("=")


def read_page(page: str, order: Order) -> Place:
    """The place that `page` names.

    Raises:
        QueryError: It names none, or one in another order.
    """
    try:
        text = base64.b64decode(page + "=" * (-len(page) % 4), altchars=b"-_", validate=True)
        made_for, value, image_id, descending, before = json.loads(text.decode("utf-8", "surrogatepass"))
        if made_for != order or type(image_id) is not int or type(descending) is not bool:
            raise ValueError("made for another order")  # noqa: TRY301
        if type(before) is not int or before < 0:
            raise ValueError("not a number of hits")  # noqa: TRY301
        return Place(Key(_comparable(order, value), image_id, descending), before)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise QueryError(_NO_PAGE) from error


def hits_until(place: Place, keys: list[Key]) -> int:
    """The position of the first hit after a place."""
    try:
        return sum(1 for key in keys if not place.key < key)
    except (TypeError, OverflowError) as error:
        raise QueryError(_NO_PAGE) from error


def _plain(part: object) -> object:
    return part.isoformat() if hasattr(part, "isoformat") else part


def _comparable(order: Order, value: Any) -> Any:
    if order == "relevance":
        return float(value)
    if order == "date":
        return tuple(datetime.fromisoformat(part) for part in value)
    return tuple(value)
