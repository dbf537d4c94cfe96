"""What a library's pictures are, counted: by month, folder, camera, format and shape.

Counting reads every picture's entry in the catalog, so it is done once for a state of the library, in the
background for a large one, and kept.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.browser.wording import camera_told, shown
from search.matching import looks_like_screenshot, moment_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from indexer import ImageRecord
    from search import Library

COUNTED_AT_ONCE = 3000
"""Pictures that are counted while the page waits; more are counted in the background."""

SHARE_OF_TIME = 20
"""A library that goes on changing is counted again after this many times what counting it took."""


@dataclass(frozen=True)
class Facets:
    """Counts of a library.

    Attributes:
        months: By month, `2023-05`, ascending.
        folders: By folder, those above included, most pictures first.
        cameras: By camera as told to people, most pictures first.
        formats: By format, `jpeg`, most pictures first.
        shapes: By `portrait`, `landscape`, `square`, `screenshot`.
    """

    months: dict[str, int] = field(default_factory=dict)
    folders: dict[str, int] = field(default_factory=dict)
    cameras: dict[str, int] = field(default_factory=dict)
    formats: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, int] = field(default_factory=dict)


def count(records: Iterable[ImageRecord], roots: Iterable[Path]) -> Facets:
    """Count pictures.

    Args:
        records: The pictures.
        roots: Folders that the library looks after; what lies above them is not counted.
    """
    months: Counter[str] = Counter()
    leaves: Counter[Path] = Counter()
    cameras: Counter[str] = Counter()
    formats: Counter[str] = Counter()
    shapes: Counter[str] = Counter()
    for record in records:
        months[f"{moment_of(record):%Y-%m}"] += 1
        leaves[record.path.parent] += 1
        camera = camera_told(record)
        if camera:
            cameras[camera] += 1
        formats[record.format] += 1
        width, height = record.width_pixels, record.height_pixels
        shapes["square" if width == height else "portrait" if height > width else "landscape"] += 1
        if looks_like_screenshot(record):
            shapes["screenshot"] += 1
    return Facets(
        months=dict(sorted(months.items())),
        folders=_with_parents(leaves, frozenset(roots)),
        cameras=dict(cameras.most_common()),
        formats=dict(formats.most_common()),
        shapes=dict(shapes),
    )


def _with_parents(leaves: Counter[Path], roots: frozenset[Path]) -> dict[str, int]:
    total: Counter[Path] = Counter()
    for folder, number in leaves.items():
        if shown(folder) != str(folder):
            continue  # bytes that are no text cannot be written into a query
        total[folder] += number
        above = folder
        while above not in roots and above.parent != above:
            above = above.parent
            total[above] += number
    return {
        str(folder): number for folder, number in sorted(total.items(), key=lambda item: (-item[1], item[0]))
    }


class FacetCounter:
    """Counts of one library at a time, the last ones kept. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted: tuple[object, Facets] | None = None
        self._counting: object = None
        self._library: Library | None = None
        self._next_time = 0.0

    def of(self, library: Library, state: object) -> Facets | None:
        """Return the counts of a library; older ones, or None, while a large library is being counted.

        Args:
            library: The library.
            state: Another object or value whenever the library has changed.
        """
        with self._lock:
            if self._library is not library:
                self._library, self._counted, self._counting = library, None, None
            if self._counted is not None and self._counted[0] == state:
                return self._counted[1]
            older = None if self._counted is None else self._counted[1]
            # While a large library is being indexed it changes every few seconds: counting it takes longer.
            is_too_soon = older is not None and time.monotonic() < self._next_time
            if self._counting is not None or is_too_soon:
                return older
            self._counting = state
        if len(library.reader) <= COUNTED_AT_ONCE:
            return self._count(library, state)
        threading.Thread(target=self._count, args=(library, state), name="facets", daemon=True).start()
        return older

    def _count(self, library: Library, state: object) -> Facets:
        started = time.monotonic()
        try:
            reader = library.reader
            facets = count(reader.images(reader.ids()), [root.path for root in reader.roots()])
        except Exception:
            with self._lock:
                self._counting = None  # another look may do better
            raise
        with self._lock:
            if self._library is not library:
                return facets  # another one took its place meanwhile
            self._counted = (state, facets)
            self._counting = None
            self._next_time = time.monotonic() + SHARE_OF_TIME * (time.monotonic() - started)
        return facets


counter = FacetCounter()
"""That of this server."""
