"""Groups of duplicates, found once for each state of the library and kept.

Looking through 100,000 images takes about a minute, and more where files must be read to tell one picture from another,
because they were indexed before that was noted. So it is done in a thread of its own; a request waits for it a little,
without a thread, and gets what was found last where that was not enough. Where nothing was found lately it is told to
ask again.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING

from anyio.to_thread import run_sync

from app.api.problems import ApiError

if TYPE_CHECKING:
    from app.api.shelf import Shelf
    from search.grouping import DuplicateGroup, Kind

PATIENCE_SECONDS = 10.0
"""How long a request waits; most clients give up after half a minute."""
SECONDS_KEPT = 60.0
"""How long what was found goes on being an answer while the library, which has changed, is looked through again. One
that is being indexed changes every few seconds; whoever was told to ask again must find an answer."""
_ASK_AGAIN_SECONDS = 10


class _Search:
    """One look through the library, begun in an event loop."""

    def __init__(self, shelf: Shelf, kind: Kind, version: int) -> None:
        self.version = version
        self.done = asyncio.Event()
        self.groups: list[DuplicateGroup] = []
        self.error: Exception | None = None
        self.progress = (0, 0)
        self.ended_at = 0.0
        self._shelf, self._kind = shelf, kind
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, name=f"duplicates-{kind}", daemon=True).start()

    @property
    def is_fresh(self) -> bool:
        """Whether it ended a short while ago."""
        return time.monotonic() < self.ended_at + SECONDS_KEPT

    def _run(self) -> None:
        try:
            self.groups = self._shelf.ask(lambda library: library.duplicates(self._kind, progress=self._note))
        except Exception as error:  # noqa: BLE001  (whoever waits must hear of it, whatever it is)
            self.error = error
        finally:
            self.ended_at = time.monotonic()
            with suppress(RuntimeError):  # the server has ended meanwhile
                self._loop.call_soon_threadsafe(self.done.set)

    def _note(self, done: int, total: int) -> None:
        self.progress = (done, total)


class DuplicateFinder:
    """Answers requests for duplicates of a shelf's library, all in one event loop."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._searches: dict[Kind, _Search] = {}
        self._earlier: dict[Kind, _Search] = {}  # the last that found something before those

    async def groups(self, kind: Kind) -> list[DuplicateGroup]:
        """All groups of one kind, the largest first.

        Raises:
            ApiError: They are still being looked for.
        """
        version = await run_sync(lambda: self._shelf.version)
        search = self._searches.get(kind)
        # One that is under way is let end, or a library that is being indexed would never have an answer.
        if search is None or (
            search.done.is_set() and (search.version != version or search.error is not None)
        ):
            if search is not None and search.error is None:
                self._earlier[kind] = search
            search = self._searches[kind] = _Search(self._shelf, kind, version)
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await search.done.wait()
        if search.done.is_set():
            if search.error is not None:
                raise search.error
            return search.groups
        earlier = self._earlier.get(kind)
        if earlier is not None and earlier.is_fresh:
            return earlier.groups
        done, total = search.progress
        raise ApiError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "not_yet",
            f"Duplicates are being looked for: {done:,} of {total:,} images so far. Ask again soon.",
            headers={"Retry-After": str(_ASK_AGAIN_SECONDS)},
        )
