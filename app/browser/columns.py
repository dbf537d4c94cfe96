"""Pictures as the columns that the grid takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.browser.wording import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search import Library


def columns_of(
    library: Library,
    ids: Sequence[int],
    *,
    shares: Sequence[float | None],
    tips: Sequence[str],
    folded: Sequence[int],
) -> dict[str, Any]:
    """Return pictures as columns.

    Args:
        library: Where they are.
        ids: Which, in the order of the grid.
        shares: How full the bar below each is, 0 to 1; None for no bar.
        tips: What the bar means, in words.
        folded: How many more pictures each stands for.
    """
    folders: dict[str, int] = {}
    folder_of = []
    records = library.reader.images(ids)
    for record in records:
        parent = shown(record.path.parent)
        separator = "" if parent.endswith(("/", "\\")) else ("\\" if "\\" in parent else "/")
        folder_of.append(folders.setdefault(parent + separator, len(folders)))
    return {
        "ids": [record.id for record in records],
        "hashes": [record.content_hash for record in records],
        "names": [shown(record.path.name) for record in records],
        "folders": list(folders),
        "folder": folder_of,
        "aspects": [round(record.width_pixels / max(record.height_pixels, 1), 3) for record in records],
        "shares": [None if share is None else round(share, 3) for share in shares],
        "tips": list(tips),
        "folded": list(folded),
    }
