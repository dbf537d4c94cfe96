"""The search page: one field for the whole query language, filters beside it, and a grid of what fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.browser import address, components, copies
from app.browser.columns import columns_of
from app.browser.facets import Question, counter
from app.browser.filters_panel import show_filters
from app.browser.frame import complain, is_open_to_others, plain
from app.browser.maps import maps
from app.browser.query_edit import only_first_term, only_last_word, parsed, without_filters
from app.browser.shelf import current_library, library_path, library_state
from app.browser.start import show_start
from app.browser.uploads import MAXIMUM_UPLOAD_BYTES, uploads
from app.browser.wording import shown
from indexer.errors import ImageGoneError, LibraryNotFoundError
from indexer.filters import CameraContains, InFolder
from search import Hit, QueryError, SearchError
from search.library import Answer
from search.query import ImagePath, ImageUpload, Query, Text, expand, format_query, parse
from search.saved import SavedQueries

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from indexer.facets import Facets
    from search import Library

FIRST_HITS = 200
"""Fills several screens; the rest comes as one scrolls."""

COPIES_LOOKED_AT = 100

VALUES_SUGGESTED = 300

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
    chosen = st.session_state.pop("chosen_page", None)
    if chosen is not None:
        st.switch_page(st.session_state.explore_page, query_params=chosen)
    query, copied = address.query_text(), address.copies_of()
    # The field stands there before the search begins: the first one of all waits for the model.
    problem = problem_of(query)
    show_field(query, problem)
    among, part_problem = part_of_map(library)
    with st.sidebar:
        if problem is None and part_problem is None:
            question = Question(parsed(query).filters, address.within())
            show_filters(
                lambda: counter.of(library, library_state(), question),
                query,
                is_restricted=question != Question(),
            )
        else:
            st.caption("Filters come back when the query can be understood.")
    if problem is not None:
        show_last_valid(library)
        return
    if address.within():
        show_part(among)
    if part_problem is not None:
        complain(part_problem)
        show_last_valid(library)
        return
    try:
        if copied is None and not query:
            show_latest(library, among)
            return
        answer = (
            find_copies(library, copied)
            if copied is not None
            else search(library, query, wanted_hits(query), among)
        )
    except Exception as error:  # noqa: BLE001 told below the field, so that another query can be tried
        complain(error)
        show_last_valid(library)
        return
    st.session_state.last_valid = (library, query or "the copies", answer.hits[:FIRST_HITS])
    if answer.hits:
        show_hits(library, query, answer)
    else:
        show_nothing(query, answer)


def show_last_valid(library: Library) -> None:
    """Show what was found last: a slip of the finger must not take the pictures away."""
    of_library, query, hits = st.session_state.get("last_valid", (None, "", ()))
    if of_library is not library or not hits:
        return
    st.caption(f"These are still the pictures for {plain(shown(query))}")
    try:
        show_grid(library, hits, label=f"Pictures for {query}")
    except ImageGoneError:
        return  # one of them has left the library since


def part_of_map(library: Library) -> tuple[NDArray[np.int64] | None, SearchError | None]:
    """Return the ids of the part of the map in the address, None for all pictures, and what is wrong with it."""
    text = address.within()
    if not text:
        return None, None
    try:
        return maps.region(library, library_state(), text), None
    except SearchError as error:
        return None, error


def show_part(ids: NDArray[np.int64] | None) -> None:
    """Show that only a part of the map is searched, None for one that is not there, and the way out of it."""
    with st.container(horizontal=True, vertical_alignment="center"):
        if ids is not None:
            number = f"{len(ids):,} picture{'s' if len(ids) != 1 else ''}"
            st.markdown(f":material/explore: Among **{number}** of the map", width="content")
            st.button("Show on the map", on_click=show_on_map)
        st.button("All pictures", icon=":material/close:", on_click=address.leave_part)


def show_on_map() -> None:
    """Keep where to go: another page, which a callback cannot open."""
    st.session_state.chosen_page = {address.WITHIN: address.within()}


def show_latest(library: Library, among: NDArray[np.int64] | None = None) -> None:
    """Show what was added last: something to look at before the first query."""
    ids = library.reader.ids() if among is None else among
    count = wanted_hits("")
    latest = [int(image_id) for image_id in ids[::-1][:count]]
    st.caption(f"{len(ids):,} picture{'s' if len(ids) != 1 else ''}; added last:")
    show_grid(
        library,
        [Hit(Path(), 1.0, image_id) for image_id in latest],
        label="Added last",
        has_more=len(latest) < min(len(ids), MOST_HITS),
        has_bars=False,
    )


def wanted_hits(query: str) -> int:
    """Return how many hits to show: more once somebody has scrolled to the end of this very query's."""
    scrolled: dict[str, int] = st.session_state.get("scrolled", {})
    return min(scrolled.get(query, FIRST_HITS), MOST_HITS)


def search(library: Library, query: str, count: int, among: NDArray[np.int64] | None = None) -> Answer:
    """Return the answer to a query text, with the order and the cut that the address asks for."""
    understood = parsed(query)
    if is_open_to_others():
        _refuse_paths(understood)
    names = [term.target.name for term in understood.terms if isinstance(term.target, ImageUpload)]
    pictures = {name: uploads.picture(name, library.encoder.preprocessor) for name in names}
    gone = [name for name, picture in pictures.items() if picture is None]
    if gone:
        raise QueryError("The uploaded picture is gone: it is kept only while Imago runs. Choose it again.")
    answer = library.answer(
        query,
        count,
        order=address.order(),  # type: ignore[arg-type]
        all_hits=address.shows_all() or None,
        uploads={name: picture for name, picture in pictures.items() if picture is not None},
        among=among,
    )
    # What resembles a picture are its near copies first of all: those are for looking at, not for hiding.
    if address.order() == "relevance" and any(isinstance(term.target, Text) for term in understood.terms):
        answer = replace(answer, hits=copies.folded(library, answer.hits))
    return answer


def _refuse_paths(query: Query) -> None:
    """Refuse what would be read outside the library for somebody at another machine."""
    if any(isinstance(term.target, ImagePath) for term in expand(query, SavedQueries().lookup()).terms):
        raise QueryError(
            "Others can reach this app, so it reads no paths, which would be this machine's: choose the picture with "
            "the button instead, or put the words in quotes.",
            query=query.source,
        )


def find_copies(library: Library, image_id: int) -> Answer:
    """Return a picture and its near-duplicates, most alike first."""
    hits = library.similar(image_id, COPIES_LOOKED_AT)
    itself, *records = library.reader.images([image_id, *(hit.id for hit in hits)])
    comparison = library.comparison([itself, *records])
    near = [
        hit
        for hit, record in zip(hits, records, strict=True)
        if comparison.is_near(itself, record, hit.score)
    ]
    found = (Hit(itself.path, 1.0, itself.id, copies=itself.copies), *near)
    return Answer(found, len(found), len(library.reader), is_cut=False, query=Query(()))


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
    pictures = [term.target.name for term in parsed(query).terms if isinstance(term.target, ImageUpload)]
    components.search_bar(
        {
            "query": query,
            "placeholder": "dog on a beach",
            "problem": problem,
            "uploads": [
                {"name": name, "thumbnail": f"uploads/{name}.webp"}
                for name in pictures
                if uploads.thumbnail(name)
            ],
            "saved": [{"name": name, "query": text} for name, text in saved_queries().items()],
            "filters": [{"start": start, "hint": hint} for start, hint in FILTERS],
            "values": suggested_values(counter.everything()),
            "maximum_upload_bytes": MAXIMUM_UPLOAD_BYTES,
            "base": "/",
        },
        key="field",
        on_search=take_query,
    )


def suggested_values(facets: Facets) -> list[dict[str, Any]]:
    """Return what can stand behind `in:` and `camera:`: the text to take, what it is found by, and a hint."""
    by_name: dict[str, list[str]] = {}
    for folder in facets.folders:
        by_name.setdefault(Path(folder).name or folder, []).append(folder)
    values = []
    for name, folders in list(by_name.items())[:VALUES_SUGGESTED]:
        number = facets.folders[folders[0]]
        hint = f"{number:,} in {folders[0]}" if len(folders) == 1 else f"{len(folders)} folders of this name"
        text = format_query(Query((), (InFolder((name,)),)))
        values.append({"text": text, "key": f"in:{name}".casefold(), "hint": shown(hint)})
    for camera, number in list(facets.cameras.items())[:VALUES_SUGGESTED]:
        text = format_query(Query((), (CameraContains((camera,)),)))
        values.append(
            {"text": shown(text), "key": shown(f"camera:{camera}").casefold(), "hint": f"{number:,}"}
        )
    return values


def saved_queries() -> dict[str, str]:
    """Return the person's saved queries; none for others, nor where they cannot be read, which using one tells."""
    if is_open_to_others():
        return {}
    try:
        return SavedQueries().all()
    except SearchError:
        return {}


def take_query() -> None:
    """Put what was typed into the address."""
    asked = st.session_state.field.search
    if isinstance(asked, dict):
        address.go_to_query(str(asked.get("query", "")))


def show_hits(library: Library, query: str, answer: Answer) -> None:
    """Show the hits as a grid, and above it how many, in which order, and what can be done with the query."""
    count = f"{answer.total:,} picture{'s' if answer.total != 1 else ''}"
    shown_now = sum(1 + len(hit.folded) for hit in answer.hits)
    has_more = shown_now < min(answer.total, MOST_HITS)
    left, right = st.columns([3, 2], vertical_alignment="center")
    with left:
        if address.copies_of() is not None:
            st.caption(f"{count}: this one and its near copies")
        elif address.shows_all():
            st.caption(f"{count}, also those that do not look like it")
        else:
            st.caption(count if answer.total <= MOST_HITS else f"{count}; the first {MOST_HITS:,} are shown")
    with right, st.container(horizontal=True, horizontal_alignment="right"):
        if address.copies_of() is None:
            show_order()
            if not is_open_to_others():
                show_saving(query)
    label = f"Pictures for {query}" if query else "Copies"
    has_bars = bool(answer.query.terms)  # filters alone fit or do not
    show_grid(library, answer.hits, label=label, has_more=has_more, has_bars=has_bars)


def show_grid(
    library: Library, hits: Sequence[Hit], *, label: str, has_more: bool = False, has_bars: bool = True
) -> None:
    """Show hits as a grid."""
    data = columns_of(
        library,
        [hit.id for hit in hits],
        shares=[share_of(hit) if has_bars else None for hit in hits],
        tips=[tip_of(hit) if has_bars else "" for hit in hits],
        folded=[len(hit.folded) + hit.copies - 1 for hit in hits],
    )
    token = "|".join(
        [label, address.order(), str(address.shows_all()), str(address.copies_of()), address.within()]
    )
    components.results(
        data | {"token": token, "has_more": has_more, "label": label, "base": "/"},
        key="results",
        on_more=take_more,
        on_act=take_action,
    )


def share_of(hit: Hit) -> float:
    """Return how well a hit fits as 0 to 1: its probability, or its score where none can be told."""
    return min(1.0, max(0.0, hit.score)) if hit.probability is None else hit.probability


def tip_of(hit: Hit) -> str:
    """Return how well a hit fits, in words."""
    score = f"score {hit.score:.3f}"
    return score if hit.probability is None else f"{hit.probability:.0%} likely, {score}"


def show_order() -> None:
    """Show the choice of the order."""
    st.session_state.order = address.order()
    st.selectbox(
        "Order",
        list(address.ORDERS),
        key="order",
        format_func=address.ORDERS.__getitem__,
        label_visibility="collapsed",
        width=150,
        on_change=lambda: address.go_to_order(st.session_state.order),
    )


def show_saving(query: str) -> None:
    """Show the way to keep the query under a name."""
    with st.popover("Save", icon=":material/bookmark:"), st.form("save_query", border=False):
        st.text_input("Name", key="name_to_save", placeholder="beach", help="Use it as @name in any query.")
        st.form_submit_button("Save this query", on_click=keep_query, args=(query,))
        told = st.session_state.pop("told_of_saving", None)
        if told:
            st.caption(plain(told))


def keep_query(query: str) -> None:
    """Keep the query under the name that was typed."""
    name = st.session_state.name_to_save.strip()
    try:
        SavedQueries().save(name, query)
    except (SearchError, OSError) as error:
        st.session_state.told_of_saving = shown(str(error))
    else:
        st.session_state.told_of_saving = f"Saved. Use it as @{name.removeprefix('@')}."


def show_nothing(query: str, answer: Answer) -> None:
    """Say that nothing fits, and propose what may."""
    if not answer.candidates and not answer.query.filters and not address.within():
        st.header("This library holds no pictures now")
        st.write("The page Library adds folders to it.")
        return
    if answer.nothing_fits:
        st.header("Nothing here looks like that")
        st.write("No picture of this library looks enough like what was asked for to be shown as an answer.")
    else:
        st.header("No picture fits the filters")
    proposals: dict[str, str] = {}
    if answer.nothing_fits:
        st.button(
            "Show what comes closest",
            on_click=address.go_to_query,
            args=(query,),
            kwargs={"show_all": True},
        )
    understood = parsed(query)
    if understood.filters and understood.terms:
        proposals[without_filters(query)] = "Without the filters"
    if len(understood.terms) > 1:
        proposals[only_first_term(query)] = "Only the first term"
    last_word = only_last_word(query)
    if answer.nothing_fits and last_word is not None and not understood.filters:
        proposals[last_word] = "Only the last word"
    for text, why in proposals.items():
        st.button(f"{why}: {plain(text)}", on_click=address.go_to_query, args=(text,), key=f"try {text}")


def take_more() -> None:
    """Show more hits of this query from now on."""
    if st.session_state.results.more:
        query = address.query_text()
        # Of hits, not of the tiles that near copies were folded into. Only the last query's: a session must not grow
        # with every query that it was asked.
        st.session_state.scrolled = {query: min(wanted_hits(query) * 4, MOST_HITS)}


def take_action() -> None:
    """Do what was chosen for a picture: it is another address."""
    new = address.address_after(st.session_state.results.act, address.query_text())
    if new is not None:
        st.query_params.from_dict(new)


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
