"""What surrounds each page: errors become a line beside what failed, a missing library a friendly start."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, NoReturn

import streamlit as st

from app.failures import explain
from app.hosts import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable

OTHERS_LOOK_ON = (
    "Others can reach this app, so it shows the library and changes nothing: folders are added, and the model is "
    "chosen, where it is opened for this machine alone."
)
DEFECT = "Something in Imago failed; the terminal that runs it has the details."


def guarded(page: Callable[[], None]) -> Callable[[], None]:
    """Return a page that never shows a traceback: what people can mend is told, the rest is logged."""

    @functools.wraps(page)
    def show() -> None:
        try:
            page()
        except Exception as error:  # noqa: BLE001 whatever it is, no traceback may reach the page
            complain(error)

    # Streamlit tells pages apart by the name of their function.
    show.__name__ = show.__qualname__ = page.__module__.rpartition(".")[2]
    return show


def is_open_to_others() -> bool:
    """Return whether other machines reach this app: whoever does may look, but not read or change what is beside."""
    host: str | None = st.get_option("server.address")
    return host is not None and not is_loopback(host)


def open_search(query_params: dict[str, str]) -> NoReturn:
    """Leave for the search page with this address."""
    st.switch_page(st.session_state.search_page, query_params=query_params)


def complain(error: Exception) -> None:
    """Show an error where the page is just now."""
    line = explain(error)
    if line is None:
        logging.getLogger(__name__).error("a page failed", exc_info=error)
        line = DEFECT
    st.error(plain(line), icon=":material/error:")


def plain(text: str) -> str:
    """Return text so that Markdown shows it as it is: paths and names are full of its marks."""
    return "".join(f"\\{letter}" if letter in _MARKS else letter for letter in text.replace("\n", " "))


_MARKS = frozenset("\\`*_{}[]()<>#+-.!|~$:&")
