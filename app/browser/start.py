"""The page for those who have no library yet: it leads to the first index."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app.browser.frame import OTHERS_LOOK_ON, is_open_to_others, plain
from app.browser.indexing_job import job
from app.browser.indexing_panel import show_folder_form, show_job
from app.browser.wording import shown

if TYPE_CHECKING:
    from pathlib import Path


def show_start(library_path: Path) -> None:
    """Welcome a newcomer, and make the first index."""
    _, middle, _ = st.columns([1, 4, 1])
    with middle:
        st.title("Find your pictures by what they show")
        st.markdown(
            "Choose a folder of pictures. Imago looks at each one once, on this machine alone, and then finds "
            "them by words, by another picture, or by both. Your files stay where they are, unchanged."
        )
        if is_open_to_others():
            st.info(OTHERS_LOOK_ON)
            return
        if job.state is None or not job.state.is_running:
            show_folder_form(library_path, label="Index")
        show_job(library_path)
        st.caption(f"The library will lie in {plain(shown(library_path))}")
