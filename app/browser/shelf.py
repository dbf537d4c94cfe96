"""The one open library of this server: opened on the first look, fresh on every later one.

Streamlit runs a page anew on every interaction, and thumbnails come by the dozen. Opening the library each time
would check its vectors each time; so one stays open, is asked whether anything was committed since, and is
opened anew only when its model changed or another library took its place.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import indexer
from app.identity import catalog_identity
from indexer.errors import ModelMismatchError
from indexer.reading import is_address, state_folder

if TYPE_CHECKING:
    from indexer.reading import Place
    from search import Library

_lock = threading.RLock()
_open: tuple[Place, tuple[int, int] | None, Library] | None = None
_changes = 0


def library_place() -> Place:
    """Return where the library of this server lies: a folder, or an address."""
    named = os.environ.get("IMAGO_LIBRARY")
    if named and is_address(named):
        return named
    return Path(named or indexer.default_library_path()).absolute()


def library_path() -> Path:
    """Return the folder of this server's library; of a served one, that of this machine beside it."""
    return state_folder(library_place())


def current_library(path: Place | None = None) -> Library:
    """Return the library, as it is now. Do not close it: others use it too.

    Raises:
        indexer.errors.LibraryError: No library there, a damaged one, or one that a newer version made.
    """
    from search import Library

    global _open, _changes  # noqa: PLW0603 one per process is the point
    path = path or library_place()
    with _lock:
        identity = catalog_identity(path)
        if _open is not None and _open[:2] == (path, identity):
            library = _open[2]
            model = library.reader.model
            # Moved to another model, the library refuses the tower that is loaded: it is opened anew.
            with suppress(ModelMismatchError):
                if library.refresh():
                    _changes += 1
                if library.reader.model == model:
                    return library
        # The old one is not closed: a search may be running on it. It goes when that ends.
        library = Library.open(path)
        _open = (path, identity, library)
        _changes += 1
        return library


def library_state() -> int:
    """Return a number that is another one whenever the open library has changed."""
    return _changes


def warm_up(path: Place) -> None:
    """Load the library and its model in the background, so that the first query need not wait for them.

    What is wrong with them is told to the one who asks; here nobody does.
    """

    def load() -> None:
        with suppress(Exception):
            current_library(path).encoder.encode_texts(["warm"])

    threading.Thread(target=load, name="warm-up", daemon=True).start()
