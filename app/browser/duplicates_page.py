"""The duplicates page: pictures that show the same thing, side by side, with the best copy proposed.

Nothing is ever deleted here: Imago shows, people decide.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import streamlit as st

from app.browser import components
from app.browser.address import address_after
from app.browser.columns import columns_of
from app.browser.frame import complain, open_search
from app.browser.shelf import current_library, library_path, library_state
from app.browser.start import show_start
from app.browser.wording import bytes_told
from indexer.errors import LibraryNotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence, Set

    from indexer import ImageRecord
    from search import Library
    from search.grouping import DuplicateGroup, Kind

KINDS: dict[Kind, tuple[str, str]] = {
    "near": (
        "Near copies",
        "The same picture in another size or format, slightly cropped, or from one burst.",
    ),
    "exact": ("Exact copies", "Files with the very same bytes."),
    "similar": (
        "Similar",
        "Pictures that are more alike than nearly all others: the same scene, most likely.",
    ),
}

GROUPS_ON_A_PAGE = 100
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_KEPT = 30.0


@dataclass
class Comparing:
    """A comparison of a whole library, which goes on in the background."""

    library: Library
    state: object
    done: int = 0
    total: int = 0
    groups: list[DuplicateGroup] | None = None
    error: Exception | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    ended_at: float = 0.0
    has_gone: bool = False

    def may_be_renewed(self) -> bool:
        """Return whether it ended a while ago: a library that is being indexed changes every few seconds.

        One with pictures in it that are gone may be renewed at once.
        """
        return self.ended.is_set() and (self.has_gone or time.monotonic() > self.ended_at + SECONDS_KEPT)


class Comparisons:
    """The comparisons of the library as it is now, one for each kind. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_kind: dict[Kind, Comparing] = {}

    def of(self, library: Library, state: object, kind: Kind) -> Comparing:
        """Return the comparison, begun now if it was not; `state` is another one when the library has changed."""
        with self._lock:
            known = self._by_kind.get(kind)
            has_changed = known is not None and known.state != state and known.may_be_renewed()
            if known is None or known.library is not library or has_changed:
                comparing = self._by_kind[kind] = Comparing(library, state)
                thread = threading.Thread(
                    target=self._compare, args=(library, kind, comparing), name="duplicates", daemon=True
                )
                thread.start()
            return self._by_kind[kind]

    @staticmethod
    def _compare(library: Library, kind: Kind, comparing: Comparing) -> None:
        def tell(done: int, total: int) -> None:
            comparing.done, comparing.total = done, total

        try:
            comparing.groups = library.duplicates(kind, progress=tell)
        except Exception as error:  # noqa: BLE001 told on the page
            comparing.error = error
        finally:
            comparing.ended_at = time.monotonic()
            comparing.ended.set()


comparisons = Comparisons()
"""Those of this server."""


def show() -> None:
    """Draw the page."""
    chosen = st.session_state.pop("chosen_address", None)
    if chosen is not None:
        open_search(chosen)
    try:
        library = current_library()
        has_pictures = library.reader.model is not None
    except LibraryNotFoundError:
        has_pictures = False
    if not has_pictures:
        show_start(library_path())
        return
    st.title("Duplicates")
    kind = st.segmented_control(
        "Kind",
        list(KINDS),
        default="near",
        key="kind",
        required=True,
        bind="query-params",
        format_func=lambda name: KINDS[name][0],
        label_visibility="collapsed",
    )
    st.caption(KINDS[kind][1] + " Nothing is deleted here.")
    show_groups_of(kind)


def show_groups_of(kind: Kind) -> None:
    """Show the groups, or how far the comparison is."""
    library = current_library()
    comparing = comparisons.of(library, library_state(), kind)
    if comparing.error is not None:
        complain(comparing.error)
    elif comparing.groups is None:
        watch(kind)
    else:
        groups = without_gone(comparing.groups, set(library.reader.ids().tolist()))
        comparing.has_gone = groups != comparing.groups
        if groups:
            show_groups(library, kind, groups)
        else:
            st.info("There are none.", icon=":material/check:")


def without_gone(groups: Sequence[DuplicateGroup], there: Set[int]) -> list[DuplicateGroup]:
    """Return what is left of groups whose best copy and at least one of the others are among the ids there."""
    left = []
    for group in groups:
        others = [
            (record, cosine)
            for record, cosine in zip(group.others, group.cosines, strict=True)
            if record.id in there
        ]
        if group.best.id not in there or (group.others and not others):
            continue
        if len(others) < len(group.others):
            records, cosines = zip(*others, strict=True)
            left.append(replace(group, others=records, cosines=cosines))
        else:
            left.append(group)
    return left


@st.fragment(run_every=SECONDS_BETWEEN_LOOKS)
def watch(kind: Kind) -> None:
    """Show how far the comparison is, and the groups when it has ended."""
    comparing = comparisons.of(current_library(), library_state(), kind)
    if comparing.groups is not None or comparing.error is not None:
        st.rerun(scope="app")
    share = comparing.done / comparing.total if comparing.total else 0.0
    st.progress(min(share, 1.0), text=f"Comparing: {comparing.done:,} of {comparing.total:,} pictures")


def show_groups(library: Library, kind: Kind, groups: Sequence[DuplicateGroup]) -> None:
    """Show a page of groups, the largest first."""
    pages = -(-len(groups) // GROUPS_ON_A_PAGE)
    page = 1
    if pages > 1:
        page = st.pagination(pages, key="page", bind="query-params")
    start = (page - 1) * GROUPS_ON_A_PAGE
    shown_groups = groups[start : start + GROUPS_ON_A_PAGE]
    freed = sum(_freed_bytes(group) for group in groups)
    number = f"{len(groups):,} group{'s' if len(groups) != 1 else ''}"
    st.caption(f"{number}; the best copies alone would take {bytes_told(freed)} less on the disk")
    ids: list[int] = []
    sections, marks, tips, folded = [], [], [], []
    for group in shown_groups:
        sections.append({"start": len(ids), "title": _title(group)})
        ids += [group.best.id, *(record.id for record in group.others)]
        marks += ["best copy", *("" for _ in group.others)]
        tips += [_size(group.best), *(_size(record) for record in group.others)]
        folded += [record.copies - 1 for record in (group.best, *group.others)]
    components.results(
        columns_of(library, ids, shares=[None] * len(ids), tips=tips, folded=folded)
        | {
            "groups": sections,
            "marks": marks,
            "token": f"{kind} {page}",
            "has_more": False,
            "label": f"{KINDS[kind][0]}, {len(shown_groups)} groups",
            "base": "/",
        },
        key="groups",
        on_more=lambda: None,
        on_act=take_action,
    )


def _title(group: DuplicateGroup) -> str:
    number = group.best.copies if group.kind == "exact" else 1 + len(group.others)
    what = "files" if group.kind == "exact" else "pictures"
    return f"{number} {what}, {bytes_told(_freed_bytes(group))} more than the best copy alone"


def _freed_bytes(group: DuplicateGroup) -> int:
    if group.kind == "exact":
        return group.best.size_bytes * (group.best.copies - 1)
    return sum(record.size_bytes for record in group.others)


def _size(record: ImageRecord) -> str:
    return f"{record.width_pixels:,} x {record.height_pixels:,} pixels, {bytes_told(record.size_bytes)}"


def take_action() -> None:
    """Keep what was chosen for a picture: it leads to the search page, which a callback cannot open."""
    st.session_state.chosen_address = address_after(st.session_state.groups.act, "")
