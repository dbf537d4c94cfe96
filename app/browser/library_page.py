"""The library page: what it holds, adding folders, how indexing goes, what failed, with which model."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.browser.frame import OTHERS_LOOK_ON, is_open_to_others, plain
from app.browser.indexing_job import job
from app.browser.indexing_panel import show_folder_form, show_job, start_indexing, watch_job
from app.browser.shelf import current_library, library_path, library_place
from app.browser.start import show_start
from app.browser.wording import bytes_told, moment_told, seconds_told, shown
from indexer.errors import LibraryNotFoundError
from indexer.reading import is_address
from model.registry import ALIASES, is_on_disk

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from indexer import FileFailure, LibraryStatus

OTHER_MODEL = "another one"

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
    is_read_only = is_served or is_open_to_others()
    if not is_read_only:
        show_job(path)
    st.header("Folders")
    show_folders(status, None if is_read_only else path)
    if is_served:
        st.caption(
            "This library is served from elsewhere: it is indexed and published where its folders are."
        )
    elif is_read_only:
        st.caption(OTHERS_LOOK_ON)
    else:
        show_folder_form(path, label="Add")
    if status.failed and not is_read_only:
        st.header("Files that could not be read")
        show_failures(reader.failures(), path)
    st.header("Model")
    show_model(status, None if is_read_only else path)
    st.caption(f"The library lies in {plain(shown(library_place()))}")


def show_figures(status: LibraryStatus) -> None:
    """Show the library in four figures."""
    with st.container(horizontal=True, gap="large"):
        st.metric("Pictures", f"{status.images:,}")
        st.metric("Files", f"{status.files:,}")
        st.metric("Could not be read", f"{status.failed:,}")
        if status.library_bytes:
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


def show_model(status: LibraryStatus, path: Path | None) -> None:
    """Show which model the library was made with, and the way to another if it has a path."""
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
    if path is None:
        return
    state = job.state if job.state is not None and job.state.library_path == path else None
    if state is not None and state.is_running and not state.only_predicts:
        return
    if status.next_model is not None:
        show_unfinished_change(model.name, status.next_model.name, path)
    elif state is not None and state.is_running:
        watch_job()
    elif state is not None and state.prediction is not None:
        show_prediction(model.name, state.prediction, path)
    else:
        if state is not None and state.only_predicts and state.error is not None:
            st.error(plain(shown(state.error)), icon=":material/error:")
        show_model_choice(model.name, path)


def show_unfinished_change(own: str, other: str, path: Path) -> None:
    """Show that a change of model was begun, with the ways on and back."""
    st.info(
        f"The library is on its way to **{plain(shown(other))}**. Searches answer from {plain(shown(own))} until all "
        "is done.",
        icon=":material/swap_horiz:",
    )
    with st.container(horizontal=True):
        st.button(
            "Go on with the change",
            icon=":material/play_arrow:",
            on_click=start_indexing,
            args=((),),
            kwargs={"library_path": path, "model": other, "change_model": True},
        )
        st.button(
            "Give it up",
            on_click=start_indexing,
            args=((),),
            kwargs={"library_path": path, "model": own, "change_model": True},
            help="What was done for the other model is thrown away; the library stays as it is.",
        )


def show_model_choice(own: str, path: Path) -> None:
    """Show the models that the library could be moved to."""
    with st.expander("Change the model"):
        offered = [name for name in ALIASES if name != own]
        name = st.radio(
            "To which model?",
            [*offered, OTHER_MODEL],
            captions=[
                *map(about_model, offered),
                "Any CLIP, SigLIP or OpenCLIP checkpoint, by its hub id or its folder.",
            ],
            key="other_model",
            format_func=lambda name: (
                f"**{name}**: {ALIASES[name].summary}" if name in ALIASES else f"**{name}**"
            ),
        )
        if name == OTHER_MODEL:
            name = st.text_input(
                "Hub id or folder",
                key="other_model_name",
                placeholder="laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
            ).strip()
        st.button(
            "See what it takes",
            icon=":material/timer:",
            disabled=not name,
            on_click=start_indexing,
            args=((),),
            kwargs={"library_path": path, "model": name, "only_predict": True},
            help="Tries the model on a few of your pictures. Nothing is changed.",
        )


def about_model(name: str) -> str:
    """Return what speaks for a model, and what it takes to get it."""
    alias = ALIASES[name]
    parts = [f"Understands {alias.languages}", f"licence {alias.licence}"]
    parts += [f"{quality.measure} {quality.value:.1f} %" for quality in alias.quality]
    if alias.hub_id is not None and not is_on_disk(name):
        parts.append(f"is fetched from the network first: {bytes_told(alias.download_bytes)}")
    return plain("; ".join(parts) + ".")


def show_prediction(own: str, prediction: dict[str, Any], path: Path) -> None:
    """Show what a change of model will take, and ask."""
    name = plain(shown(prediction["model"]))
    with st.container(border=True):
        if not prediction["is_change"]:
            st.write(f"The library was made with {name} already.")
            st.button("All right", on_click=job.forget)
            return
        parts = [f"{bytes_told(prediction['bytes_needed'])} on the disk"]
        if prediction["seconds"] is not None:
            parts.insert(0, f"about {seconds_told(max(prediction['seconds'], 1))}")
        number = prediction["images"]
        st.markdown(
            f"Moving {number:,} picture{'s' if number != 1 else ''} to **{name}** takes {' and '.join(parts)}. "
            "Until it is done searches answer as before; it can be paused, and goes on later."
        )
        free = shutil.disk_usage(path).free
        if free < prediction["bytes_needed"]:
            st.warning(f"Only {bytes_told(free)} are free on this disk.", icon=":material/warning:")
        with st.container(horizontal=True):
            st.button(
                f"Move the library to {name}",
                type="primary",
                on_click=start_indexing,
                args=((),),
                kwargs={"library_path": path, "model": prediction["model"], "change_model": True},
            )
            st.button(f"Stay with {plain(shown(own))}", on_click=job.forget)
