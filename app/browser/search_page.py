"""The search page: one field for the whole query language, and a grid of what fits, best first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from app.browser import components
from app.browser.address import go_to_query, query_text
from app.browser.frame import complain
from app.browser.shelf import current_library, library_path
from app.browser.start import show_start
from app.browser.uploads import MAXIMUM_UPLOAD_BYTES
from app.browser.wording import shown
from indexer.errors import LibraryNotFoundError
from search import QueryError
from search.query import parse

if TYPE_CHECKING:
    from search import Hit, Library

FIRST_HITS = 200
"""Fills several screens; the rest comes as one scrolls."""

MOST_HITS = 10_000
"""What a person may scroll through; the query is to be sharpened beyond that."""


def show() -> None:
    """Draw the page."""
    try:
        library = current_library()
        has_pictures = library.reader.model is not None
    except LibraryNotFoundError:
        has_pictures = False
    if not has_pictures:
        show_start(library_path())
        return
    query = query_text()
    # The field stands there before the search begins: the first one of all waits for the model.
    problem = problem_of(query)
    show_field(query, problem)
    if not query:
        st.caption(f"{library.reader.status().images:,} pictures")
    if not query or problem:
        return
    try:
        hits = search(library, query, wanted_hits(query))
    except Exception as error:  # noqa: BLE001 told below the field, so that another query can be tried
        complain(error)
        return
    show_hits(library, query, hits)


def wanted_hits(query: str) -> int:
    """Return how many hits to show: more once somebody has scrolled to the end of this very query's."""
    scrolled: dict[str, int] = st.session_state.get("scrolled", {})
    return min(scrolled.get(query, FIRST_HITS), MOST_HITS)


def search(library: Library, query: str, count: int) -> list[Hit]:
    """Return the hits for a query text."""
    return library.search(query, k=count)


def problem_of(query: str) -> dict[str, Any] | None:
    """Return what keeps a query from being understood, and where; None if it is."""
    try:
        if query:
            parse(query)
    except QueryError as error:
        return {
            "text": shown(error.reason),
            "query": error.query,
            "column": error.column,
            "length": error.length,
        }
    return None


def show_field(query: str, problem: dict[str, Any] | None) -> None:
    """Show the search field with the query of the address in it."""
    components.search_bar(
        {
            "query": query,
            "placeholder": "dog on a beach",
            "problem": problem,
            "uploads": [],
            "saved": [],
            "filters": [{"start": start, "hint": hint} for start, hint in FILTERS],
            "values": [],
            "maximum_upload_bytes": MAXIMUM_UPLOAD_BYTES,
            "base": "/",
        },
        key="field",
        on_search=take_query,
    )


def take_query() -> None:
    """Put what was typed into the address."""
    asked = st.session_state.field.search
    if isinstance(asked, dict):
        go_to_query(str(asked.get("query", "")))


def show_hits(library: Library, query: str, hits: list[Hit]) -> None:
    """Show the hits as a grid."""
    has_more = len(hits) == wanted_hits(query) < MOST_HITS
    count = f"more than {len(hits):,}" if has_more else f"{len(hits):,}"
    st.caption(f"{count} pictures, best first")
    components.results(
        columns(library, hits)
        | {"token": query, "has_more": has_more, "label": f"Pictures for {query}", "base": "/"},
        key="results",
        on_more=take_more,
        on_act=take_action,
    )


def columns(library: Library, hits: list[Hit]) -> dict[str, Any]:
    """Return the hits as the columns that the grid takes."""
    records = library.reader.images([hit.id for hit in hits])
    folders: dict[str, int] = {}
    folder_of = []
    for record in records:
        parent = shown(record.path.parent)
        separator = "" if parent.endswith(("/", "\\")) else ("\\" if "\\" in parent else "/")
        folder_of.append(folders.setdefault(parent + separator, len(folders)))
    best = max((hit.score for hit in hits), default=1.0)
    return {
        "ids": [record.id for record in records],
        "hashes": [record.content_hash for record in records],
        "names": [shown(record.path.name) for record in records],
        "folders": list(folders),
        "folder": folder_of,
        "aspects": [round(record.width_pixels / max(record.height_pixels, 1), 3) for record in records],
        "shares": [round(max(hit.score, 0.0) / best, 3) if best > 0 else 0.0 for hit in hits],
        "tips": [f"score {hit.score:.3f}" for hit in hits],
        "folded": [0] * len(hits),
    }


def take_more() -> None:
    """Show more hits of this query from now on."""
    shown_now = st.session_state.results.more
    if isinstance(shown_now, int) and shown_now > 0:
        # Only the last query's: a session must not grow with every query that it was asked.
        st.session_state.scrolled = {query_text(): min(shown_now * 4, MOST_HITS)}


def take_action() -> None:
    """Do what was chosen for a picture: most of it is another query."""
    action = st.session_state.results.act
    if not isinstance(action, dict):
        return
    query, image_id = query_text(), action.get("id")
    match action.get("kind"):
        case "more_like" if isinstance(image_id, int):
            go_to_query(f"id:{image_id}")
        case "less_like" if isinstance(image_id, int):
            go_to_query(f"{query} - id:{image_id}")
        case "query":
            go_to_query(str(action.get("query", "")))
        case _:
            pass


FILTERS = (
    ("in:", "in a folder"),
    ("after:", "taken after a date"),
    ("before:", "taken before a date"),
    ("date:", "taken on a day, in a month or year"),
    ("camera:", "taken with a camera"),
    ("near:", "taken near a place"),
    ("is:portrait", "higher than wide"),
    ("is:landscape", "wider than high"),
    ("is:square", "as high as wide"),
    ("is:screenshot", "screenshots"),
    ("type:", "file format"),
    ("width:", "width in pixels"),
    ("height:", "height in pixels"),
    ("name:", "file name"),
)
"""What the field proposes while one types."""
