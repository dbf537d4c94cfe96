"""Which model a library is indexed with where nobody named one: its own, or the default for a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from indexer.errors import LibraryNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from indexer import LibraryStatus


def status_of(library_path: Path) -> LibraryStatus | None:
    """Return how a library stands, None where there is none."""
    from indexer import LibraryReader

    try:
        with LibraryReader.open(library_path) as reader:
            return reader.status()
    except LibraryNotFoundError:
        return None


def model_for(status: LibraryStatus | None, notify: Callable[[str], None]) -> str:
    """Return the name of the model to index with.

    Args:
        status: How the library stands, None for one that is yet to be made.
        notify: Called with a line that says what was chosen and why, where there was a choice.
    """
    if status is not None and status.model is not None:
        return status.model.name
    from model.registry import resolve_default

    return resolve_default(notify=notify)
