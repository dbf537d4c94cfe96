"""Groups of duplicates, found once for each state of the library and kept.

Looking through 100,000 images takes about a minute, and more where files must be read to tell one picture from another,
because they were indexed before that was noted. So it is done in a thread of its own; a request waits for it a little,
and is told to ask again where that was not enough.
"""

from __future__ import annotations

import threading
from http import HTTPStatus
from typing import TYPE_CHECKING

from app.api.problems import ApiError

if TYPE_CHECKING:
    from app.api.shelf import Shelf
    from search.grouping import DuplicateGroup, Kind

PATIENCE_SECONDS = 10.0
"""How long a request waits; most clients give up after half a minute."""
_ASK_AGAIN_SECONDS = 10


class _Search:
    """One look through the library."""

    def __init__(self, shelf: Shelf, kind: Kind) -> None:
        self.version = shelf.version
        self.done = threading.Event()
        self.groups: list[DuplicateGroup] = []
        self.error: Exception | None = None
        self.progress = (0, 0)
        self._shelf, self._kind = shelf, kind
        threading.Thread(target=self._run, name=f"duplicates-{kind}", daemon=True).start()

    def _run(self) -> None:
        try:
            self.groups = self._shelf.ask(lambda library: library.duplicates(self._kind, progress=self._note))
        except Exception as error:  # noqa: BLE001  (whoever waits must hear of it, whatever it is)
            self.error = error
        finally:
            self.done.set()

    def _note(self, done: int, total: int) -> None:
        self.progress = (done, total)


class DuplicateFinder:
    """Answers requests for duplicates of a shelf's library."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._lock = threading.Lock()
        self._searches: dict[Kind, _Search] = {}

    def groups(self, kind: Kind) -> list[DuplicateGroup]:
        """All groups of one kind, the largest first.

        Raises:
            ApiError: They are still being looked for.
        """
        version = self._shelf.version
        with self._lock:
            search = self._searches.get(kind)
            # One that is under way is let end, or a library that is being indexed would never have an answer.
            if search is None or (
                search.done.is_set() and (search.version != version or search.error is not None)
            ):
                search = self._searches[kind] = _Search(self._shelf, kind)
        if not search.done.wait(PATIENCE_SECONDS):
            done, total = search.progress
            raise ApiError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "not_yet",
                f"Duplicates are being looked for: {done:,} of {total:,} images so far. Ask again soon.",
                headers={"Retry-After": str(_ASK_AGAIN_SECONDS)},
            )
        if search.error is not None:
            raise search.error
        return search.groups
