"""Texts that are asked for at the same time go through the tower together.

Search is synchronous and asks for texts in the middle of its work, so the batching sits beneath it, in a front of
the encoder, and `search/` knows nothing of it. The first caller runs the tower at once; those that come while it
runs wait for their turn, and the first of them takes all along in one call. So a lone query waits for nobody, and
the batches grow by themselves as the load does, which a fixed waiting time cannot do.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from PIL import Image

    from model import Encoder, ImagePreprocessor, ModelIdentity

MAXIMUM_TEXTS = 32
"""What the tower takes in one piece; more would only make the first wait for the last."""
WORTHWHILE_TEXTS = 8
"""Fewer go through one by one: the tower knows one text and a full piece, and pads all between to a full one, which
costs as much as six (starter) to a dozen (ViT-B/32's text tower) single texts."""


@dataclass(eq=False)
class _Request:
    texts: Sequence[str]
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
        self._lock = threading.Lock()  # guards what waits
        self._tower = threading.Lock()  # held during a call
        self._waiting: deque[_Request] = deque()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    @property
    def identity(self) -> ModelIdentity:
        """The encoder's."""
        return self._encoder.identity

    @property
    def preprocessor(self) -> ImagePreprocessor:
        """The encoder's."""
        return self._encoder.preprocessor

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """As `Encoder.encode_images`."""
        return self._encoder.encode_images(images)

    def encode_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As `Encoder.encode_pixels`."""
        return self._encoder.encode_pixels(pixels)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """As `Encoder.encode_texts`: float32 (len(texts), dimension), in the order of the texts."""
        if not texts:
            return np.empty((0, self._encoder.dimension), np.float32)
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
        pieces = [texts] if len(texts) >= WORTHWHILE_TEXTS else [[text] for text in texts]
        try:
            vectors = dict(
                zip(
                    texts,
                    np.concatenate([self._encoder.encode_texts(piece) for piece in pieces]),
                    strict=True,
                )
            )
        except BaseException as error:  # noqa: BLE001  (whoever waits must hear of it, whatever it is)
            for request in batch:
                request.error = error
            return
        for request in batch:
            request.vectors = np.stack([vectors[text] for text in request.texts])
        if self._on_batch is not None:
            for piece in pieces:
                self._on_batch(len(piece))
