"""The filters beside the search: controls that write the query text, and show what it says."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.browser import components
from app.browser.address import query_text, refine_query
from app.browser.query_edit import filters_of, with_filter
from app.browser.wording import shown
from indexer.filters import CameraContains, HasFormat, HasShape, InFolder, IsScreenshot, TakenBetween

if TYPE_CHECKING:
    from collections.abc import Callable

    from indexer.facets import Facets
    from indexer.filters import Filter

SECONDS_BETWEEN_LOOKS = 1.0
FOLDERS_OFFERED = 500
CAMERAS_OFFERED = 100
MONTHS_SHOWN = 600
"""Fifty years; a camera whose clock says 1904 must not squeeze all others into one bar."""

SHAPES = ("landscape", "portrait", "square", "screenshot")


def show_filters(count: Callable[[], tuple[Facets | None, bool]], query: str, *, is_restricted: bool) -> None:
    """Show the panel.

    Args:
        count: Returns counts, None while there are none yet, and whether they are the ones for this query.
        query: The text, which has been understood.
        is_restricted: Whether the counts are of a part of the library.
    """
    st.header("Filters")
    facets, is_current = count()
    if facets is None:
        _wait(count)
        return
    _show_dates(facets, query)
    _show_shapes(facets, query)
    _show_choice(facets.folders, query, InFolder, key="folders", label="Folders", limit=FOLDERS_OFFERED)
    _show_choice(facets.cameras, query, CameraContains, key="cameras", label="Cameras", limit=CAMERAS_OFFERED)
    _show_formats(facets, query)
    if is_current:
        st.caption(
            "Counted among what the other filters leave." if is_restricted else "Counted in all pictures."
        )
    else:
        _wait(count)


@st.fragment(run_every=SECONDS_BETWEEN_LOOKS)
def _wait(count: Callable[[], tuple[Facets | None, bool]]) -> None:
    if count()[1]:
        st.rerun(scope="app")
    st.caption("The pictures are being counted ...")


def _show_dates(facets: Facets, query: str) -> None:
    # "after:" and "before:" are filters of their own, which all must be fitted.
    made = filters_of(query, TakenBetween)
    since = max((each.since for each in made if each.since), default=None)
    until = min((each.until for each in made if each.until), default=None)
    # Where the other filters leave nothing, what was chosen stays to be seen and changed.
    bounds = sorted(_month_of(moment) for moment in (since, until) if moment)
    # Nobody has pictures of the last year there is; a camera without a clock may say so.
    months = all_months([month for month in list(facets.months) or bounds if month < "9999"])
    if len(months) < 2:
        return
    first = sum(month < _month_of(since) for month in months) if since else 0
    last = sum(_next_month(month) < until for month in months) if until else len(months) - 1
    components.dates(
        {
            "months": months,
            "counts": [facets.months.get(month, 0) for month in months],
            "first": min(first, len(months) - 1),
            "last": min(last, len(months) - 1),
        },
        key="dates",
        on_range=_take_dates,
    )


def _take_dates() -> None:
    chosen: Any = st.session_state.dates.range
    if not isinstance(chosen, dict):
        return
    new = None
    if chosen.get("first") and chosen.get("last"):
        new = TakenBetween(datetime.strptime(chosen["first"], "%Y-%m"), _next_month(chosen["last"]))
    refine_query(with_filter(query_text(), TakenBetween, new))


def all_months(counted: list[str]) -> list[str]:
    """Return every month from the first counted to the last, without those too long ago to be shown."""
    if not counted:
        return []
    numbers = [int(month[:4]) * 12 + int(month[5:]) - 1 for month in counted]
    start = max(numbers[0], numbers[-1] - MONTHS_SHOWN + 1)
    return [f"{number // 12:04}-{number % 12 + 1:02}" for number in range(start, numbers[-1] + 1)]


def _month_of(moment: datetime) -> str:
    return f"{moment.year:04}-{moment.month:02}"  # %Y has fewer digits before the year 1000


def _next_month(month: str) -> datetime:
    year, number = int(month[:4]), int(month[5:])
    return datetime(year + number // 12, number % 12 + 1, 1)


def _show_shapes(facets: Facets, query: str) -> None:
    offered = [shape for shape in SHAPES if facets.shapes.get(shape)]
    shapes = [each.shape for each in filters_of(query, HasShape)]
    st.session_state.shape = (
        "screenshot" if filters_of(query, IsScreenshot) else shapes[0] if shapes else None
    )
    if st.session_state.shape not in {*offered, None}:
        offered.append(st.session_state.shape)
    if len(offered) < 2 and st.session_state.shape is None:
        return
    st.pills(
        "Shape",
        offered,
        key="shape",
        format_func=lambda name: f"{name} {facets.shapes.get(name, 0):,}",
        on_change=_take_shape,
    )


def _take_shape() -> None:
    chosen = st.session_state.shape
    text = with_filter(with_filter(query_text(), HasShape, None), IsScreenshot, None)
    new: Filter | None = IsScreenshot() if chosen == "screenshot" else HasShape(chosen) if chosen else None
    refine_query(with_filter(text, HasShape, new))


def _show_formats(facets: Facets, query: str) -> None:
    chosen = [name for made in filters_of(query, HasFormat) for name in made.formats]
    if len(facets.formats) < 2 and not chosen:
        return
    st.session_state.formats = chosen
    st.pills(
        "Formats",
        list(dict.fromkeys([*facets.formats, *chosen])),
        key="formats",
        selection_mode="multi",
        format_func=lambda name: f"{name.upper()} {facets.formats.get(name, 0):,}",
        on_change=_take_formats,
    )


def _take_formats() -> None:
    chosen = st.session_state.formats
    refine_query(with_filter(query_text(), HasFormat, HasFormat(tuple(chosen)) if chosen else None))


def _show_choice(
    counts: dict[str, int],
    query: str,
    kind: type[InFolder | CameraContains],
    *,
    key: str,
    label: str,
    limit: int,
) -> None:
    """Show a field in which one or more folders or cameras can be chosen."""
    chosen = [
        name
        for made in filters_of(query, kind)
        for name in (made.folders if isinstance(made, InFolder) else made.texts)
    ]
    if not counts and not chosen:
        return
    st.session_state[key] = chosen
    st.multiselect(
        label,
        list(dict.fromkeys([*chosen, *list(counts)[:limit]])),
        key=key,
        format_func=lambda name: f"{shown(name)} ({counts[name]:,})" if name in counts else shown(name),
        on_change=_take_choice,
        args=(key, kind),
        placeholder="All",
    )


def _take_choice(key: str, kind: type[InFolder | CameraContains]) -> None:
    chosen = st.session_state[key]
    refine_query(with_filter(query_text(), kind, kind(tuple(chosen)) if chosen else None))
