"""How queries score that mean something else: what the cut compares a query with (`search.cutoff`)."""

from __future__ import annotations

import hashlib
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from indexer.errors import ImageGoneError
from model.cache import read_entry, write_entry
from search.cutoff import NEUTRAL_TEXTS, SAMPLE_IMAGES, measure_null
from search.query import Text
from search.ranking import mix_alike

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from indexer.reading import Reader
    from search.cutoff import Null
    from search.embedding import QueryEncoder
    from search.query import Query
    from search.ranking import Mixture

_NEUTRAL_MIXTURES: Final = 64
"""Neutral queries for a query of several terms, whose like is measured anew each time."""
_TRIES: Final = 3
_FEWEST_TO_JUDGE: Final = 50
"""In a library with fewer images nothing can be said about chance; all of them fit on a screen anyway."""


@dataclass(frozen=True)
class Sample:
    """Images of the library, evenly spread over the ids, for statistics."""

    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]


class Nulls:
    """Measures null distributions in one library, and keeps those that many queries share.

    Safe to use from several threads.
    """

    def __init__(self, reader: Reader, encoder: Callable[[], QueryEncoder]):
        """Prepare; the model is asked for when words must be embedded."""
        self._reader = reader
        self._encoder = encoder
        self._measuring = threading.RLock()  # held for as long as a tower takes
        self._lock = threading.Lock()  # never held for long
        self._changes = 0
        self._sample: Sample | None = None
        self._nulls: dict[str, Null | None] = {}

    def forget(self) -> None:
        """Measure anew: the library has changed. What is being measured just now is not kept. Never waits."""
        with self._lock:
            self._changes += 1
            self._sample = None
            self._nulls = {}

    def sampled(self) -> Sample:
        """The images that scores are measured on."""
        with self._lock:
            changes = self._changes
            if self._sample is not None:
                return self._sample
        sample = self._drawn()
        with self._lock:
            if changes == self._changes:
                self._sample = self._sample or sample
                return self._sample
        return sample

    def _drawn(self) -> Sample:
        for _ in range(_TRIES - 1):
            with suppress(ImageGoneError):  # the library has changed between the two steps
                return self._draw()
        return self._draw()

    def _draw(self) -> Sample:
        ids = self._reader.sample_ids(SAMPLE_IMAGES)
        return Sample(ids, self._reader.vectors(ids))

    def of(self, query: Query, mixture: Mixture) -> Null | None:
        """How queries of the same make score that mean something else; None where nothing can be said."""
        sample = self.sampled()
        if len(sample.ids) < _FEWEST_TO_JUDGE:
            return None
        kinds = ["text" if isinstance(term.target, Text) else "image" for term in query.terms]
        if not mixture.is_single:
            return self._measured(kinds, mixture, sample)
        # One text is like another, and so is one picture: what was learnt holds until the library changes.
        with self._measuring:
            with self._lock:
                if self._sample is sample and kinds[0] in self._nulls:
                    return self._nulls[kinds[0]]
            null = self._measured(kinds, mixture, sample)
            with self._lock:
                if self._sample is sample:
                    self._nulls[kinds[0]] = null
            return null

    def _measured(self, kinds: Sequence[str], mixture: Mixture, sample: Sample) -> Null | None:
        """Scores of queries put together like this one from neutral texts and from pictures of the library."""
        if kinds.count("image") * 2 > len(sample.ids):
            return None  # too few pictures are left that are not part of the query
        many = len(NEUTRAL_TEXTS) if len(kinds) == 1 else _NEUTRAL_MIXTURES
        rows = np.arange(min(many, len(sample.ids)) if "image" in kinds else many)
        parts = np.empty((len(rows), len(kinds), sample.vectors.shape[1]), np.float32)
        themselves: list[NDArray[np.int64]] = []
        for i, kind in enumerate(kinds):
            # Each term takes its part from another place, so that no neutral query repeats itself.
            if kind == "text":
                neutral = self._neutral_texts()
                parts[:, i] = neutral[(2 * rows + 37 * i) % len(neutral)] if len(kinds) > 1 else neutral[rows]
            else:
                stride = max(1, len(sample.ids) // len(rows))
                at = (rows * stride + 37 * i) % len(sample.ids)
                parts[:, i] = sample.vectors[at]
                themselves.append(at)
        scores = mix_alike(mixture, parts) @ sample.vectors.T
        for at in themselves:
            scores[rows, at] = np.nan  # a picture always resembles itself
        return measure_null(scores)

    def _neutral_texts(self) -> NDArray[np.float32]:
        """Vectors of `NEUTRAL_TEXTS`, float32 (n, dimension): made once for each model, then kept on disk."""
        with self._measuring:
            identity = self._encoder().identity
            key = "\0".join(
                [identity.weights_fingerprint, identity.preprocessing_fingerprint, *NEUTRAL_TEXTS]
            )
            name = hashlib.sha256(key.encode()).hexdigest()
            shape = (len(NEUTRAL_TEXTS), identity.dimension)
            kept = read_entry("neutral", name)
            if kept is not None and len(kept) == 4 * shape[0] * shape[1]:
                return np.frombuffer(kept, "<f4").reshape(shape)
            vectors = self._encoder().encode_texts(NEUTRAL_TEXTS)
            write_entry("neutral", name, vectors.astype("<f4").tobytes())
            return vectors
