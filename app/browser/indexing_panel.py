"""The parts of a page that start indexing and show how it goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.browser.frame import plain
from app.browser.indexing_job import AlreadyIndexingError, JobState, job
from app.browser.wording import seconds_told, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

SECONDS_BETWEEN_LOOKS = 1.0

COMMON_FOLDERS = ("Pictures", "Photos", "Images", "DCIM", "Downloads", "Desktop")
"""Where pictures lie in most homes; those that are there are offered."""


def start_indexing(folders: Sequence[Path], *, library_path: Path, **options: Any) -> None:
    """Start a run, with options of `IndexingJob.start`, or say beside the button why not."""
    try:
        job.start(library_path, folders, **options)
    except (AlreadyIndexingError, OSError) as error:
        st.session_state.indexing_problem = str(error)
    else:
        st.session_state.indexing_problem = None


def show_folder_form(library_path: Path, *, label: str) -> None:
    """Show the field for a folder to index, with the usual ones at hand."""
    usual = [Path.home() / name for name in COMMON_FOLDERS if (Path.home() / name).is_dir()]
    with st.form("add_folder", border=False):
        field, button = st.columns([4, 1], vertical_alignment="bottom")
        with field:
            st.text_input(
                "Folder with pictures",
                value=str(usual[0]) if usual else "",
                placeholder=str(Path.home() / "Pictures"),
                key="folder_to_add",
            )
        with button:
            st.form_submit_button(label, width="stretch", on_click=_add_folder, args=(library_path,))
    others = ", ".join(plain(shown(path)) for path in usual[1:])
    st.caption("Folders within are included." + (f" Also on this machine: {others}" if others else ""))
    problem = st.session_state.get("indexing_problem")
    if problem:
        st.error(plain(problem), icon=":material/error:")


def _add_folder(library_path: Path) -> None:
    text = st.session_state.folder_to_add.strip()
    problem = None
    try:
        folder = Path(text).expanduser().absolute()
        if not text:
            problem = "Which folder? Write where your pictures lie."
        elif not folder.exists():
            problem = (
                f"There is no folder {shown(folder)}: check the spelling, or whether its disk is connected."
            )
        elif not folder.is_dir():
            problem = f"{shown(folder)} is a file: name the folder that it lies in."
    except (OSError, RuntimeError, ValueError) as error:
        problem = f"This folder cannot be used: {error}."
    st.session_state.indexing_problem = problem
    if problem is None:
        start_indexing([folder], library_path=library_path)


def show_job(library_path: Path) -> None:
    """Show the run of this library: live while it goes on, its outcome afterwards; nothing if there was none."""
    state = job.state
    if state is None or state.library_path != library_path or state.only_predicts:
        return
    if state.is_running:
        watch_job()
    else:
        _show_outcome(state)


@st.fragment(run_every=SECONDS_BETWEEN_LOOKS)
def watch_job() -> None:
    """Show how far the run is, and the page anew when it has ended."""
    state = job.state
    if state is None or not state.is_running:
        st.rerun(scope="app")
    share, text = _told(state)
    with st.container(border=True):
        st.progress(share, text=text)
        for notice in state.notices:
            st.caption(plain(shown(notice)))
        if state.only_predicts:
            st.button("Cancel", icon=":material/close:", disabled=state.is_stopping, on_click=job.pause)
            return
        st.button(
            "Pausing ..." if state.is_stopping else "Pause",
            icon=":material/pause:",
            disabled=state.is_stopping,
            on_click=job.pause,
            help="What was done is saved; it goes on from there.",
        )


def _told(state: JobState) -> tuple[float, str]:
    """Return how far the run is, 0 to 1, and that in words."""
    progress = state.progress
    if state.only_predicts:
        return 0.0, "Loading the model, and trying it on a few of your pictures"
    if progress is None:
        return 0.0, "Starting: the model is being loaded"
    if progress.phase == "scanning":
        return 0.0, f"Looking through the folders: {progress.scanned:,} files so far"
    if progress.phase == "finishing":
        return 1.0, "Finishing"
    parts = [f"{progress.done:,} of {progress.total:,}"]
    if progress.images_per_second:
        parts.append(f"{progress.images_per_second:,.0f} pictures a second")
    elif not progress.done:
        parts.append("getting ready")
    if progress.seconds_left is not None:
        parts.append(f"{seconds_told(progress.seconds_left)} left")
    if progress.failed:
        parts.append(f"{progress.failed:,} could not be read")
    return progress.done / progress.total if progress.total else 0.0, " · ".join(parts)


def _show_outcome(state: JobState) -> None:
    if state.error is not None:
        st.error(plain(shown(state.error)), icon=":material/error:")
    elif state.summary is not None:
        counts = [
            f"{state.summary[name]:,} {word}"
            for name, word in _OUTCOMES
            if state.summary[name] or name == "indexed"
        ]
        after = seconds_told(state.summary["seconds"])
        if state.summary["interrupted"]:
            st.info(
                f"Paused after {after}: {', '.join(counts)}. What was done is saved.", icon=":material/pause:"
            )
        else:
            st.success(f"Done after {after}: {', '.join(counts)}.", icon=":material/check:")
    for notice in state.notices:
        st.caption(plain(shown(notice)))
    if state.error is not None or (state.summary is not None and state.summary["interrupted"]):
        st.button(
            "Go on",
            icon=":material/play_arrow:",
            on_click=start_indexing,
            args=(state.folders,),
            kwargs={
                "library_path": state.library_path,
                "model": state.model,
                "change_model": state.changes_model,
            },
        )


_OUTCOMES = (
    ("indexed", "new or changed"),
    ("unchanged", "unchanged"),
    ("moved", "moved"),
    ("restored", "came back"),
    ("removed", "gone"),
    ("failed", "could not be read"),
)
