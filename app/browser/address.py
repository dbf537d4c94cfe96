"""The state of the search page lives in its address, so that back, forward, reload and sharing work."""

from __future__ import annotations

import streamlit as st

from app.browser.query_edit import with_filter, with_term
from indexer.filters import InFolder
from search.query import ImageId, Term
from search.ranking import LESS_LIKE_WEIGHT

QUERY = "q"
ORDER = "order"
ALL = "all"
COPIES = "copies"
WITHIN = "within"

ORDERS = {"relevance": "Best first", "date": "Newest first", "name": "By name", "size": "Largest first"}


def query_text() -> str:
    """Return the query that the address holds, '' for none."""
    return str(st.query_params.get(QUERY, "")).strip()


def order() -> str:
    """Return the order that the address asks for."""
    given = str(st.query_params.get(ORDER, "relevance"))
    return given if given in ORDERS else "relevance"


def shows_all() -> bool:
    """Return whether pictures that do not look like the query are wanted, too."""
    return st.query_params.get(ALL) == "1"


def copies_of() -> int | None:
    """Return the id of the picture whose copies are wanted, None for a usual search."""
    given = str(st.query_params.get(COPIES, ""))
    return int(given) if given.isascii() and given.isdigit() and len(given) < 19 else None


def within() -> str:
    """Return the part of the map that is searched within, '' for all pictures."""
    return str(st.query_params.get(WITHIN, "")).strip()[:1000]


def address_of_query(text: str, *, show_all: bool = False) -> dict[str, str]:
    """Return the address that holds another query, in the order of now and within the same part of the map."""
    new = {QUERY: text.strip()} if text.strip() else {}
    if order() != "relevance":
        new[ORDER] = order()
    if within():
        new[WITHIN] = within()
    return new | ({ALL: "1"} if show_all else {})


def go_to_query(text: str, *, show_all: bool = False) -> None:
    """Make the address hold another query: a step that the browser's back button takes back."""
    st.query_params.from_dict(address_of_query(text, show_all=show_all))


def refine_query(text: str) -> None:
    """Make the address hold the same query, refined: what was chosen for it stays."""
    go_to_query(text, show_all=shows_all())


def leave_part() -> None:
    """Make the address hold the same query over all pictures."""
    kept = st.query_params.to_dict()
    kept.pop(WITHIN, None)
    st.query_params.from_dict(kept)


def go_to_order(name: str) -> None:
    """Make the address hold another order."""
    kept = st.query_params.to_dict()
    kept.pop(ORDER, None)
    st.query_params.from_dict(kept | ({ORDER: name} if name != "relevance" else {}))


def address_after(action: object, query: str) -> dict[str, str] | None:
    """Return the address that an action of the one-image view leads to; None for what is no action.

    Args:
        action: What the view sent: `kind`, and `id`, `folder` or `query`.
        query: The query whose results the picture was among, '' for none.
    """
    if not isinstance(action, dict):
        return None
    image_id, folder = action.get("id"), str(action.get("folder", "")).rstrip("/\\")
    match action.get("kind"):
        case "more_like" if isinstance(image_id, int):
            return address_of_query(f"id:{image_id}")
        case "less_like" if isinstance(image_id, int):
            text = with_term(query, Term(ImageId(image_id), weight=-LESS_LIKE_WEIGHT))
            return address_of_query(text, show_all=shows_all())
        case "copies" if isinstance(image_id, int):
            return {COPIES: str(image_id)}
        case "folder" if folder:
            return address_of_query(with_filter(query, InFolder, InFolder((folder,))), show_all=shows_all())
        case "query":
            return address_of_query(str(action.get("query", "")))
        case _:
            return None
