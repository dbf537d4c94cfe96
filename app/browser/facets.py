"""Counts beside the search: of the library, or of what the filters leave of it.

Each kind of filter shows how many pictures there would be for each of its choices, so it counts among what all
other filters leave. Counting a large library takes a moment: it is done in the background and kept for as long as
the library stays as it is; until then the last counts stand.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from app.browser.maps import maps
from indexer.facets import FACETS, Facets
from indexer.filters import CameraContains, HasFormat, HasShape, InFolder, IsScreenshot, TakenBetween

if TYPE_CHECKING:
    from collections.abc import Mapping

    from indexer.facets import Facet
    from indexer.filters import Filter
    from search import Library

COUNTED_AT_ONCE = 3000
"""Pictures that are counted while the page waits; more are counted in the background."""

SHARE_OF_TIME = 20
"""A library that goes on changing is counted again after this many times what counting it took."""

KEPT = 64

OWN_FILTERS: Final[Mapping[Facet, tuple[type[Filter], ...]]] = {
    "months": (TakenBetween,),
    "folders": (InFolder,),
    "cameras": (CameraContains,),
    "formats": (HasFormat,),
    "shapes": (HasShape, IsScreenshot),
}
"""What each kind of counts is chosen by, and so does not count within."""


@dataclass(frozen=True)
class Question:
    """What to count.

    Attributes:
        filters: What pictures must fit.
        within: A part of the map as the address names it, '' for all of it.
    """

    filters: tuple[Filter, ...] = ()
    within: str = ""


class FacetCounter:
    """Counts of one library at a time, the last ones kept. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._library: Library | None = None
        self._counted: OrderedDict[Question, tuple[object, Facets]] = OrderedDict()
        self._counting: set[Question] = set()
        self._parts: OrderedDict[tuple[object, Question, frozenset[Facet]], Facets] = OrderedDict()
        self._last: Facets | None = None
        self._next_time = 0.0

    def of(
        self, library: Library, state: object, question: Question | None = None
    ) -> tuple[Facets | None, bool]:
        """Return counts, and whether they are those that were asked for.

        Others stand in while a large library is being counted: older ones, those of another question, or None.

        Args:
            library: The library.
            state: Another object or value whenever the library has changed.
            question: What to count; everything if None.
        """
        question = question or Question()
        with self._lock:
            if self._library is not library:
                self._library, self._last = library, None
                self._counted.clear()
                self._counting.clear()
                self._parts.clear()
            known = self._counted.get(question)
            if known is not None:
                self._counted.move_to_end(question)
                # While a large library is being indexed it changes every few seconds: counting it takes longer.
                if known[0] == state or time.monotonic() < self._next_time:
                    self._last = known[1]
                    return known[1], True
            stand_in = self._last if known is None else known[1]
            if question in self._counting:
                return stand_in, False
            self._counting.add(question)
        if len(library.reader) <= COUNTED_AT_ONCE:
            return self._count(library, state, question), True
        threading.Thread(
            target=self._count, args=(library, state, question), name="facets", daemon=True
        ).start()
        return stand_in, False

    def everything(self) -> Facets:
        """Return the counts of the whole library as far as they are known, for suggestions."""
        with self._lock:
            known = self._counted.get(Question())
            return Facets() if known is None else known[1]

    def _count(self, library: Library, state: object, question: Question) -> Facets:
        started = time.monotonic()
        try:
            facets = self._all_parts(library, state, question)
            with self._lock:
                if self._library is library:  # else another one took its place meanwhile
                    self._counted[question] = (state, facets)
                    self._last = facets
                    self._next_time = time.monotonic() + SHARE_OF_TIME * (time.monotonic() - started)
                    while len(self._counted) > KEPT:
                        self._counted.popitem(last=False)
            return facets
        finally:
            with self._lock:
                self._counting.discard(question)  # another look may do better

    def _all_parts(self, library: Library, state: object, question: Question) -> Facets:
        """Count each facet without its own filters; those that then count the same are counted together."""
        together: dict[Question, set[Facet]] = {}
        for facet in FACETS:
            others = tuple(made for made in question.filters if not isinstance(made, OWN_FILTERS[facet]))
            together.setdefault(replace(question, filters=others), set()).add(facet)
        facets = Facets()
        for asked, which in together.items():
            part = self._part(library, state, asked, frozenset(which))
            facets = replace(facets, **{facet: getattr(part, facet) for facet in which})
        return facets

    def _part(self, library: Library, state: object, question: Question, which: frozenset[Facet]) -> Facets:
        key = (state, question, which)
        with self._lock:
            if key in self._parts:
                return self._parts[key]
        reader = library.reader
        ids = None
        if question.within:
            ids = maps.region(library, state, question.within)
        if question.filters:
            selected = np.asarray(library.select(question.filters), np.int64)
            ids = selected if ids is None else np.intersect1d(ids, selected)
        part = reader.facets(ids, which)
        with self._lock:
            self._parts[key] = part
            while len(self._parts) > KEPT:
                self._parts.popitem(last=False)
        return part


counter = FacetCounter()
"""That of this server."""
