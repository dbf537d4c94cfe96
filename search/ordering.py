"""In which order images without a score come."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from indexer import ImageRecord

Order = Literal["relevance", "date", "name", "size"]


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


SORT_KEYS: Final[dict[Order, Callable[[ImageRecord], tuple[object, ...]]]] = {
    "date": lambda record: (moment_of(record),),
    "name": lambda record: (record.path.name.casefold(), str(record.path)),
    "size": lambda record: (record.size_bytes,),
}
"""What each order compares; ids break ties."""
