"""The library page: what it holds, adding folders, how indexing goes, what failed, with which model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from app.browser.frame import plain
from app.browser.indexing_job import job
from app.browser.indexing_panel import show_folder_form, show_job, start_indexing
from app.browser.shelf import current_library, library_path, library_place
from app.browser.start import show_start
from app.browser.wording import bytes_told, moment_told, shown
from indexer.errors import LibraryNotFoundError
from indexer.reading import is_address

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from indexer import FileFailure, LibraryStatus

FAILURES_SHOWN = 1000
"""More lines than anybody reads; the command line lists all."""


def show() -> None:
    """Draw the page."""
    path = library_path()
    try:
        reader = current_library().reader
    except LibraryNotFoundError:
        show_start(path)
        return
    status = reader.status()
    st.title("Library")
    show_figures(status)
    for notice in status.notices:
        st.warning(plain(shown(notice)), icon=":material/warning:")
    is_served = is_address(library_place())
    if not is_served:
        show_job(path)
    st.header("Folders")
    show_folders(status, None if is_served else path)
    if is_served:
        st.caption(
            "This library is served from elsewhere: it is indexed and published where its folders are."
        )
    else:
        show_folder_form(path, label="Add")
    if status.failed and not is_served:
        st.header("Files that could not be read")
        show_failures(reader.failures(), path)
    st.header("Model")
    show_model(status)
    st.caption(f"The library lies in {plain(shown(library_place()))}")


def show_figures(status: LibraryStatus) -> None:
    """Show the library in four figures."""
    with st.container(horizontal=True, gap="large"):
        st.metric("Pictures", f"{status.images:,}")
        st.metric("Files", f"{status.files:,}")
        st.metric("Could not be read", f"{status.failed:,}")
        st.metric("On the disk", bytes_told(status.library_bytes))


def show_folders(status: LibraryStatus, path: Path | None) -> None:
    """Show the folders that the library looks after, and the button that brings it up to date if it has a path."""
    if status.roots:
        st.dataframe(
            {
                "Folder": [shown(root.path) for root in status.roots],
                "Pictures": [root.files for root in status.roots],
                "Last looked at": [moment_told(root.last_scanned_at) or "never" for root in status.roots],
                "Now": ["there" if root.is_online else "not there, but remembered" for root in status.roots],
            },
            hide_index=True,
        )
    if path is None:
        return
    is_running = job.state is not None and job.state.is_running
    st.button(
        "Look for changes",
        icon=":material/refresh:",
        disabled=is_running or not status.roots,
        on_click=start_indexing,
        args=((),),
        kwargs={"library_path": path},
        help="Only new and changed pictures are looked at again.",
    )


def show_failures(failures: Sequence[FileFailure], path: Path) -> None:
    """Show which files could not be read and why, and the button that tries them again."""
    st.dataframe(
        {
            "File": [shown(failure.path) for failure in failures[:FAILURES_SHOWN]],
            "Why": [shown(failure.reason) for failure in failures[:FAILURES_SHOWN]],
            "When": [moment_told(failure.failed_at) or "" for failure in failures[:FAILURES_SHOWN]],
        },
        hide_index=True,
    )
    if len(failures) > FAILURES_SHOWN:
        st.caption(f"The first {FAILURES_SHOWN:,} of {len(failures):,}. The command line lists all of them.")
    st.button(
        "Try them again",
        icon=":material/replay:",
        disabled=job.state is not None and job.state.is_running,
        on_click=start_indexing,
        args=((),),
        kwargs={"library_path": path, "retry_failed": True},
        help="They are tried again by themselves when they change.",
    )


def show_model(status: LibraryStatus) -> None:
    """Show which model the library was made with."""
    model = status.model
    if model is None:
        st.write("None yet: the first indexing chooses it.")
        return
    revision = f", revision {plain(model.revision[:12])}" if model.revision else ""
    st.markdown(f"**{plain(shown(model.name))}**{revision}, {model.dimension} numbers a picture")
    if model.name == "starter":
        st.caption(
            "This is the small model that comes along and needs no network. It knows a few hundred everyday things; "
            "others know far more."
        )
