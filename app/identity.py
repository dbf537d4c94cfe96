"""Tells a library from another that took its place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from indexer.paths import CATALOG_NAME
from indexer.reading import is_address

if TYPE_CHECKING:
    from indexer.reading import Place


def catalog_identity(place: Place) -> tuple[int, int] | None:
    """Return what is another one as soon as another catalog lies there, as after a backup was put back.

    Args:
        place: The library's folder or address.

    Returns:
        None where no catalog can be seen: it is not there, or served from an address, whose reader notices by itself
        that another collection took the place of its own.
    """
    if is_address(place):
        return None
    try:
        found = (Path(place) / CATALOG_NAME).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
