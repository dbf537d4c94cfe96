"""The parts of the page that plain Streamlit cannot do well, made with its own component interface.

Each is one JavaScript and one style file beside this module. Their elements are built from data with
`textContent` and attributes alone: names and EXIF texts from files are never parsed as HTML.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

if TYPE_CHECKING:
    from collections.abc import Callable

_FOLDER = Path(__file__).parent


@cache
def _component(name: str) -> Callable[..., Any]:
    script = _read("common.js") + _read(f"{name}.js")
    return st.components.v2.component(
        f"imago_{name}", html=f'<div class="{name}"></div>', css=_read(f"{name}.css"), js=script
    )


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def search_bar(data: dict[str, Any], *, key: str, on_search: Callable[[], None]) -> Any:
    """Show the search field.

    Args:
        data: `query`, `placeholder`, `problem` (None, or `text`, `query`, `column`, `length`), `uploads` (`name`
            and `thumbnail` of each picture in the query), `saved`, `filters`, `values` (what to suggest: `text`, the
            `key` that it is found by, `hint`), `maximum_upload_bytes`, `base` (what addresses begin with).
        key: Under which the state holds `search`: a dictionary with the new `query`.
        on_search: Called before the next run of the page.
    """
    return _component("search_bar")(data=data, key=key, on_search_change=on_search)


def results(
    data: dict[str, Any], *, key: str, on_more: Callable[[], None], on_act: Callable[[], None]
) -> Any:
    """Show hits as a grid, and each one large.

    Args:
        data: Columns with an entry a hit: `ids`, `hashes`, `names`, `folder` (index into `folders`), `aspects`,
            `shares` (0 to 1 or None), `tips`, `folded`; and `folders`, `token` (another one scrolls to the top),
            `has_more`, `label`, `base`.
        key: Under which the state holds `more` (how many hits are shown) and `act` (`kind`, and `id` or `query`).
        on_more: Called when the end of the grid comes near.
        on_act: Called when an action was chosen for a picture.
    """
    return _component("results")(data=data, key=key, on_more_change=on_more, on_act_change=on_act)


def dates(data: dict[str, Any], *, key: str, on_range: Callable[[], None]) -> Any:
    """Show when pictures were taken, and let a stretch of time be chosen.

    Args:
        data: `months` (all from the first to the last, as `2023-05`) and `counts`; `first` and `last`: positions
            of what is chosen now.
        key: Under which the state holds `range`: `first` and `last` month, both None for all.
        on_range: Called when another stretch was chosen.
    """
    return _component("dates")(data=data, key=key, on_range_change=on_range)


def explore_map(data: dict[str, Any], *, key: str, on_open: Callable[[], None]) -> Any:
    """Show the map of the library.

    Args:
        data: `name` of the map, `points` (address of what `maps.points_of` gives), `count`, `extent`, `groups`
            (`name`, `words`, `count`, `x`, `y`, `cover`, `address`), `chosen` (a part of it or None), `base`.
        key: Under which the state holds `open`: a dictionary with `within` (a part of the map) or `id` (a picture).
        on_open: Called when one of them was chosen.
    """
    return _component("explore_map")(data=data, key=key, on_open_change=on_open)
