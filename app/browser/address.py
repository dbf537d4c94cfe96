"""The state of the search page lives in its address, so that back, forward, reload and sharing work."""

from __future__ import annotations

import streamlit as st

QUERY = "q"


def query_text() -> str:
    """Return the query that the address holds, '' for none."""
    return str(st.query_params.get(QUERY, "")).strip()


def go_to_query(text: str) -> None:
    """Make the address hold another query: a step that the browser's back button takes back."""
    text = text.strip()
    kept = {name: value for name, value in st.query_params.to_dict().items() if name != QUERY}
    st.query_params.from_dict(kept | ({QUERY: text} if text else {}))
