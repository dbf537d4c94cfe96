"""The explore page: a map of the library on which what looks alike lies together, and its groups by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app.browser import components
from app.browser.address import WITHIN, within
from app.browser.frame import complain, open_search, plain
from app.browser.maps import maps
from app.browser.shelf import current_library, library_path, library_state
from app.browser.start import show_start
from indexer.errors import LibraryNotFoundError
from model.registry import ALIASES
from search import QueryError
from search.layout import EXTENT, can_lay_out_well

if TYPE_CHECKING:
    from search import Library
    from search.layout import Layout

SECONDS_BETWEEN_LOOKS = 1.0
FEWEST = 3
"""Two pictures need no map."""


def show() -> None:
    """Draw the page."""
    chosen = st.session_state.pop("chosen_address", None)
    if chosen is not None:
        open_search(chosen)
    try:
        library = current_library()
        count = len(library.reader) if library.reader.model is not None else 0
    except LibraryNotFoundError:
        count = 0
    if not count:
        show_start(library_path())
        return
    st.title("Explore")
    if count < FEWEST:
        st.info("With a few more pictures there will be a map of them here.", icon=":material/map:")
        return
    layout, drawing = maps.of(library, library_state())
    if drawing is not None and drawing.error is not None:
        st.error(plain(drawing.error), icon=":material/error:")
    if drawing is not None and drawing.is_running:
        watch_drawing(is_first=layout is None)
    if layout is not None:
        show_map(library, layout)


@st.fragment(run_every=SECONDS_BETWEEN_LOOKS)
def watch_drawing(*, is_first: bool) -> None:
    """Show how far the map is that is being made, and the page anew when it is there."""
    _, drawing = maps.of(current_library(), library_state())
    if drawing is None or not drawing.is_running:
        st.rerun(scope="app")
    what = (
        "The map is being drawn, once" if is_first else "The library has changed: the map is being drawn anew"
    )
    st.progress(min(max(drawing.share, 0.0), 1.0), text=f"{what} ({drawing.step})")


def show_map(library: Library, layout: Layout) -> None:
    """Show the map, and its groups as links."""
    st.caption(
        f"{len(layout.ids):,} pictures: those that look alike lie together. Draw around some to search among them."
    )
    if layout.method == "pca" and not can_lay_out_well():
        st.caption(
            'Crowded? A better map comes with one more package: pip install "imago-search\\[explore\\]"'
        )
    alias = ALIASES.get(library.reader.model.name) if library.reader.model is not None else None
    if alias is not None and not alias.can_say_no:
        st.caption(
            "The small model that comes along gives groups their names by guesswork; larger ones know better."
        )
    state = library_state()
    components.explore_map(
        {
            "name": layout.name,
            "points": f"maps/{layout.name}-{state}.bin",
            "count": len(layout.ids),
            "extent": EXTENT,
            "groups": [
                {
                    "name": group.name or f"Group {number + 1}",
                    "words": list(group.words),
                    "count": group.count,
                    "x": group.x,
                    "y": group.y,
                    "cover": group.cover,
                    "address": f"?{WITHIN}={layout.name}.g{number}",
                }
                for number, group in enumerate(layout.groups)
            ],
            "chosen": chosen_part(library, layout),
            "base": "/",
        },
        key="map",
        on_open=take_opening,
    )


def chosen_part(library: Library, layout: Layout) -> str | None:
    """Return the part of this map that the address names, None for none; of another map it is told."""
    text = within()
    if not text:
        return None
    try:
        maps.region(library, library_state(), text)
    except QueryError as error:
        complain(error)
        return None
    name, _, part = text.partition(".")
    return part if name == layout.name else None


def take_opening() -> None:
    """Keep where to go: it leads to the search page, which a callback cannot open."""
    asked = st.session_state.map.open
    if not isinstance(asked, dict):
        return
    if isinstance(asked.get("within"), str):
        st.session_state.chosen_address = {WITHIN: asked["within"]}
    elif isinstance(asked.get("id"), int):
        st.session_state.chosen_address = {"q": f"id:{asked['id']}"}
