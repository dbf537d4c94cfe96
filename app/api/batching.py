"""Texts that are asked for at the same time go through the tower together.

Search is synchronous and asks for texts in the middle of its work, so the batching sits beneath it, in a
front of the encoder, and `search/` knows nothing of it. The first caller runs the tower at once; those that
come while it runs wait for their turn, and the first of them takes all along in one call. So a lone query
waits for nobody, and the batches grow by themselves as the load does, which a fixed waiting time cannot do.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from model import Encoder

MAXIMUM_TEXTS = 32
"""What the tower takes in one piece; more would only make the first wait for the last."""
REMEMBERED_TEXTS = 1024
"""The next page of a query costs no tower call; 3 MB for 768 dimensions."""


@dataclass(eq=False)
class _Request:
    texts: list[str]
    vectors: NDArray[np.float32] | None = None
    error: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return self.vectors is not None or self.error is not None


class BatchingEncoder:
    """A front of an `Encoder` for many threads; everything but `encode_texts` is the encoder's own.

    Args:
        encoder: What does the work.
        on_batch: Told the number of texts of each call of the tower.
    """

    def __init__(self, encoder: Encoder, on_batch: Callable[[int], None] | None = None) -> None:
        self._encoder = encoder
        self._on_batch = on_batch
        self._lock = threading.Lock()  # guards the two collections
        self._tower = threading.Lock()  # held during a call
        self._waiting: deque[_Request] = deque()
        self._remembered: OrderedDict[str, NDArray[np.float32]] = OrderedDict()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As `Encoder.encode_texts`: float32 (len(texts), dimension), in the order of the texts."""
        if not texts:
            return np.empty((0, self._encoder.dimension), np.float32)
        known: dict[str, NDArray[np.float32]] = {}
        with self._lock:
            for text in texts:
                if text in self._remembered:
                    self._remembered.move_to_end(text)
                    known[text] = self._remembered[text]
        missing = list(dict.fromkeys(text for text in texts if text not in known))
        if missing:
            known.update(zip(missing, self._ask(missing), strict=True))
        return np.stack([known[text] for text in texts])

    def _ask(self, texts: list[str]) -> NDArray[np.float32]:
        request = _Request(texts)
        with self._lock:
            self._waiting.append(request)
        while not request.is_done:
            with self._tower:
                if not request.is_done:  # else somebody took it along
                    self._run(self._next_batch())
        if request.vectors is None:
            raise request.error or RuntimeError("a batch of texts was lost")
        return request.vectors

    def _next_batch(self) -> list[_Request]:
        """The requests of the next call: as many as fit, at least one, in the order of their coming."""
        batch: list[_Request] = []
        size = 0
        with self._lock:
            while self._waiting and (not batch or size + len(self._waiting[0].texts) <= MAXIMUM_TEXTS):
                batch.append(self._waiting.popleft())
                size += len(batch[-1].texts)
        return batch

    def _run(self, batch: list[_Request]) -> None:
        texts = list(dict.fromkeys(text for request in batch for text in request.texts))
        try:
            vectors = dict(zip(texts, self._encoder.encode_texts(texts), strict=True))
        except BaseException as error:  # noqa: BLE001  (whoever waits must hear of it, whatever it is)
            for request in batch:
                request.error = error
            return
        with self._lock:
            self._remembered.update(vectors)
            while len(self._remembered) > REMEMBERED_TEXTS:
                self._remembered.popitem(last=False)
        for request in batch:
            request.vectors = np.stack([vectors[text] for text in request.texts])
        if self._on_batch is not None:
            self._on_batch(len(texts))
