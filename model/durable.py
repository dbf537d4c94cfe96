"""Files that survive a power failure whole, or not at all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def put_in_place(unfinished: Path, path: Path) -> None:
    """Give a finished file, or a folder of files, its name; what is on the disk by then is all of it.

    Args:
        unfinished: on the same disk as `path`.
        path: a file there is replaced, a folder must not be there.

    Raises:
        OSError: the disk is full, or something else of the system is in the way.
    """
    files = list(unfinished.iterdir()) if unfinished.is_dir() else [unfinished]
    for file in files:
        with file.open("r+b") as handle:
            os.fsync(handle.fileno())
    if unfinished.is_dir():
        _sync_folder(unfinished)
    unfinished.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # has no such thing
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
