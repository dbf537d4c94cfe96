"""The map of the library: kept from earlier, made in the background where there is none or where it has drifted."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from search import QueryError
from search import layout as layouts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search import Library
    from search.layout import Layout

SECONDS_BETWEEN_TRIES = 60.0
"""A library that is being indexed drifts all the time, and what failed once will most likely fail at once again."""

DIED = "The process that drew the map ended without a word; the terminal that runs Imago may say more."


@dataclass
class Drawing:
    """A map that is being made.

    Attributes:
        step: What is being done.
        share: How far it is, 0 to 1.
        is_running: Whether its process is there.
        error: Why it failed; None if it did not.
    """

    step: str = "starting"
    share: float = 0.0
    is_running: bool = True
    error: str | None = None
    ended_at: float = 0.0


class Maps:
    """The map of one library at a time. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._library: Library | None = None
        self._drawing: Drawing | None = None
        self._shown: dict[str | None, tuple[object, Layout]] = {}

    def of(self, library: Library, state: object) -> tuple[Layout | None, Drawing | None]:
        """Return the map as the library is now, and the one that is being made, each None where there is none.

        Args:
            library: The library.
            state: Another object or value whenever the library has changed.
        """
        with self._lock:
            self._look_at(library)
            shown = self._shown.get(None)
            if shown is not None and shown[0] == state:
                return shown[1], self._drawing
            kept = layouts.kept(library.reader)
            is_due = (
                kept is None or kept.drift(library.reader.ids()) > layouts.DRIFT or _could_be_better(kept)
            )
            if is_due and self._may_draw():
                self._draw(library)
            if kept is None:
                return None, self._drawing
            current = layouts.updated(kept, library.reader)
            if self._drawing is None or not self._drawing.is_running:
                self._shown[None] = (state, current)
            return current, self._drawing

    def named(self, library: Library, state: object, name: str) -> Layout:
        """Return the map of this name, with the pictures that the library holds now.

        Raises:
            QueryError: It is not kept any more.
        """
        with self._lock:
            self._look_at(library)
            for shown_state, shown in self._shown.values():
                if shown_state == state and shown.name == name:
                    return shown
            kept = layouts.kept(library.reader, name)
            if kept is None:
                raise QueryError(
                    "The map that this part belongs to is gone: choose it anew on the Explore page."
                )
            current = layouts.updated(kept, library.reader)
            self._shown = {
                key: value for key, value in self._shown.items() if key is None
            }  # one old map at a time
            self._shown[name] = (state, current)
            return current

    def region(self, library: Library, state: object, text: str) -> NDArray[np.int64]:
        """Return the ids of the pictures in a part of a map, ascending, int64 (n,).

        Args:
            library: The library.
            state: As for `of`.
            text: The map's name, a point, and what `Layout.region` takes.

        Raises:
            QueryError: There is no such map or part.
        """
        name, point, part = text.partition(".")
        if not point:
            raise QueryError("This is no part of a map: choose one on the Explore page.")
        return self.named(library, state, name).region(part)

    def _look_at(self, library: Library) -> None:
        if self._library is not library:
            self._library, self._shown = library, {}
            if self._drawing is not None and not self._drawing.is_running:
                self._drawing = None

    def _may_draw(self) -> bool:
        drawing = self._drawing
        return drawing is None or (
            not drawing.is_running and time.monotonic() > drawing.ended_at + SECONDS_BETWEEN_TRIES
        )

    def _draw(self, library: Library) -> None:
        drawing = self._drawing = Drawing()
        thread = threading.Thread(
            target=self._watch, args=(drawing, str(library.reader.place)), name="map", daemon=True
        )
        thread.start()

    def _watch(self, drawing: Drawing, path: str) -> None:
        try:
            with subprocess.Popen(
                [sys.executable, "-m", "app.browser.layout_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
            ) as process:
                assert process.stdin is not None  # noqa: S101
                assert process.stdout is not None  # noqa: S101
                process.stdin.write(json.dumps({"library": path}) + "\n")
                process.stdin.flush()
                is_told = False
                for line in process.stdout:
                    is_told |= _take(drawing, line)
                if not is_told:
                    drawing.error = DIED
        except OSError as error:
            drawing.error = str(error)
        finally:
            with self._lock:
                drawing.ended_at = time.monotonic()
                drawing.is_running = False
                self._shown.pop(None, None)


def _take(drawing: Drawing, line: str) -> bool:
    """Note what a line tells; whether it is the last word."""
    try:
        ((kind, value),) = json.loads(line).items()
    except (ValueError, AttributeError):
        return False  # some library printed
    if kind == "progress":
        drawing.step, drawing.share = value["step"], value["share"]
    elif kind == "error":
        drawing.error = value
    return kind in {"done", "error"}


def _could_be_better(kept: Layout) -> bool:
    return kept.method == "pca" and layouts.can_lay_out_well() and len(kept.ids) >= layouts.FEWEST_FOR_TSNE


def points_of(layout: Layout) -> bytes:
    """Return a map as the bytes that the page draws: little endian, how many, ids, positions, groups.

    uint32 (2,): the number of pictures n, and 0; float64 (n,): ids, exact up to 2**53; uint16 (n, 2): positions;
    uint16 (n,): groups.
    """
    return b"".join(
        [
            np.array([len(layout.ids), 0], "<u4").tobytes(),
            layout.ids.astype("<f8").tobytes(),
            layout.positions.astype("<u2").tobytes(),
            layout.group_of.astype("<u2").tobytes(),
        ]
    )


maps = Maps()
"""That of this server."""
