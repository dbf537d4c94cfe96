"""The one open library of a server, kept up to date while it is indexed anew."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from app.identity import catalog_identity
from indexer.errors import LibraryError, ModelMismatchError
from indexer.reading import open_reader
from model.errors import ModelError
from search import Library, SearchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from app.api.metrics import Metrics
    from model import Encoder, ModelIdentity
    from search.embedding import QueryEncoder

    Answer = TypeVar("Answer")

SECONDS_BETWEEN_LOOKS = 0.25
"""How old an answer may be. A look costs microseconds, but there may be hundreds of requests a second."""
_USUAL_TEXTS = ("a dog", "a dog and two children who play with a red ball")
"""Few words and a sentence: queries are hardly longer."""


class Shelf:
    """Hands an open library to requests on many threads.

    A change is noticed at the next request: new and removed images show at once, a new model is loaded, and a
    library that was put in the place of another is opened. The old one is closed when nobody asks it any more.
    """

    def __init__(
        self, path: Path | str, metrics: Metrics, load_encoder: Callable[[str], Encoder] | None = None
    ) -> None:
        """Open the library at `path`.

        Args:
            path: The library's folder or address.
            metrics: Where to count.
            load_encoder: From a model's name to the model; `Encoder.load` when not given.

        Raises:
            indexer.errors.LibraryError: No library there, a damaged one, or one that a newer version made.
            model.errors.ModelError: Its model cannot be loaded.
        """
        self._path = path
        self._metrics = metrics
        self._load_encoder = load_encoder
        self._lock = threading.Lock()
        self._version = 0
        self._looked_at = 0.0
        self._askers: Counter[Library] = Counter()
        self._lock_of_askers = threading.Lock()  # never held for long
        self._catalog = catalog_identity(path)
        self._library = self._open(None)

    @property
    def latest(self) -> Library:
        """The library as it was last looked at; never waits."""
        return self._library

    @property
    def version(self) -> int:
        """Grows whenever the library has changed; looks for that."""
        with self._lock:
            self._look_now_and_then()
            return self._version

    def close(self) -> None:
        """Let go of everything; no request may be under way."""
        with self._lock:
            self._library.close()

    def warm_up(self) -> None:
        """Load, compile and measure what the first queries would wait for."""
        from model.encoder import TEXT_BATCHES

        library = self._library
        if library.reader.model is not None:
            library.search("warm up", k=1)
            # A batch is another program than a single text, and a longer text as well.
            for text in _USUAL_TEXTS:
                for many in TEXT_BATCHES:
                    library.encoder.encode_texts([text] * many)

    def ask(self, question: Callable[[Library], Answer]) -> Answer:
        """Put a question to the library as it is now.

        A library may change between two steps of one question, so that an id is gone which the first step gave.
        Then the question is put once more.
        """
        with self._current() as (library, version):
            try:
                return question(library)
            except LibraryError:
                with self._current(look=True) as (again, new_version):
                    if new_version == version:
                        raise
                    return question(again)

    @contextmanager
    def _current(self, *, look: bool = False) -> Iterator[tuple[Library, int]]:
        """The library, which stays open meanwhile, and its version."""
        with self._lock:
            self._look_now_and_then(look=look)
            library, version = self._library, self._version
            with self._lock_of_askers:
                self._askers[library] += 1
        try:
            yield library, version
        finally:
            with self._lock_of_askers:
                self._askers[library] -= 1
            self._close_if_left(library)

    def _close_if_left(self, library: Library) -> None:
        """Close a library in whose place there is another, if nobody asks it any more."""
        with self._lock_of_askers:
            if library is self._library or self._askers[library]:
                return
            del self._askers[library]
        library.close()

    def _look_now_and_then(self, *, look: bool = False) -> None:
        now = time.monotonic()
        if look or now - self._looked_at >= SECONDS_BETWEEN_LOOKS:
            self._look()
            self._looked_at = now

    def _look(self) -> None:
        catalog = catalog_identity(self._path)
        if catalog == self._catalog:
            has_changed = True
            with suppress(ModelMismatchError):
                has_changed = self._library.refresh()
            # Not what it was a moment ago: a model that could not be loaded then is still to be loaded now.
            if self._library.reader.model == self._model:
                if has_changed:
                    self._changed()
                return
        old = self._library
        self._library, self._catalog = self._open(old), catalog
        self._close_if_left(old)
        self._changed()

    def _changed(self) -> None:
        self._version += 1
        self._metrics.openings.inc()
        self._metrics.images.set(len(self._library.reader))

    def _open(self, previous: Library | None) -> Library:
        with open_reader(self._path) as reader:
            identity = reader.model
        library = Library.open(self._path, None if identity is None else self._encoder(identity, previous))
        self._model = library.reader.model
        self._metrics.images.set(len(library.reader))
        return library

    def _encoder(self, identity: ModelIdentity, previous: Library | None) -> QueryEncoder:
        """The library's model; the one in memory where it is the same."""
        if previous is not None:
            with suppress(
                LibraryError, ModelError, SearchError
            ):  # the old one may have none, or a broken one
                if previous.encoder.identity.is_same_model(identity):
                    return previous.encoder
        load = self._load_encoder
        if load is None:
            from model import Encoder

            load = Encoder.load
        return load(identity.name)
