"""The browser app's frame: what every page shares. Streamlit runs this file from top to bottom each time."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from app.browser import duplicates_page, explore_page, library_page, search_page
from app.browser.frame import guarded

st.set_page_config(page_title="Imago", page_icon=Path(__file__).parent / "icon.svg", layout="wide")
st.html(
    """<style>
    .stMainBlockContainer { padding-top: 4.5rem; padding-bottom: 3rem; }
    @media (max-width: 640px) { .stMainBlockContainer { padding-left: 0.8rem; padding-right: 0.8rem; } }
    </style>"""
)
search = st.Page(
    guarded(search_page.show), title="Search", icon=":material/search:", url_path="search", default=True
)
explore = st.Page(guarded(explore_page.show), title="Explore", icon=":material/explore:", url_path="explore")
st.session_state.search_page, st.session_state.explore_page = search, explore
st.navigation(
    [
        search,
        explore,
        st.Page(
            guarded(duplicates_page.show),
            title="Duplicates",
            icon=":material/content_copy:",
            url_path="duplicates",
        ),
        st.Page(
            guarded(library_page.show), title="Library", icon=":material/photo_library:", url_path="library"
        ),
    ],
    position="top",
).run()
