"""Texts that are asked for at the same time go through the tower together.

Search is synchronous and embeds the words of its query in the middle of its work. So before a search is given a
thread, its words are embedded here, and the library remembers them. The first who asks has the tower run at once;
those who come while it runs wait, and the next run takes all of them along. So a lone query waits for nobody, and
the batches grow by themselves as the load does, which a fixed waiting time cannot do.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from search import Library

MAXIMUM_TEXTS = 32
"""What the tower takes in one piece; more would only make the first wait for the last."""


@dataclass(frozen=True, eq=False)
class _Request:
    library: Library
    texts: Sequence[str]
    done: asyncio.Future[None]


class TextBatcher:
    """Embeds texts for the requests of one event loop.

    Args:
        on_batch: Told the number of texts of each call of the tower.
    """

    def __init__(self, on_batch: Callable[[int], None] | None = None) -> None:
        self._on_batch = on_batch
        self._waiting: deque[_Request] = deque()
        self._task: asyncio.Task[None] | None = None
        # Of its own: searches that hold all threads must not hold up the next.
        self._limiter = CapacityLimiter(1)

    async def embed(self, library: Library, texts: Sequence[str]) -> None:
        """Have a library remember the vectors of texts.

        What goes wrong here is not told: the search that follows meets it again, and tells it.
        """
        new = [text for text in texts if not library.remembers(text)]
        if not new:
            return
        request = _Request(library, new, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="texts")
        await request.done

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch = self._next_batch()
                texts = list(dict.fromkeys(text for request in batch for text in request.texts))
                try:
                    await run_sync(batch[0].library.embed_texts, texts, limiter=self._limiter)
                    if self._on_batch is not None:
                        self._on_batch(len(texts))
                except Exception:  # noqa: BLE001, S110  (see `embed`)
                    pass
                finally:
                    for request in batch:
                        if not request.done.done():  # its client may have gone
                            request.done.set_result(None)
        finally:
            self._task = None

    def _next_batch(self) -> list[_Request]:
        """The requests of the next call: of one library, as many as fit, at least one, in the order of their coming."""
        batch: list[_Request] = []
        size = 0
        while self._waiting:
            request = self._waiting[0]
            if batch and (
                request.library is not batch[0].library or size + len(request.texts) > MAXIMUM_TEXTS
            ):
                break
            batch.append(self._waiting.popleft())
            size += len(request.texts)
        return batch
