"""Files that are there whole or not at all, whatever happens while they are written, a power failure too."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Writes a file, readable by its owner only, in place of the one that is there; makes its folder if need be.

    Args:
        path: The file.
        content: All that it shall hold.

    Raises:
        OSError: It cannot be written. What was there before is there still, and nothing is left beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power failure could leave a whole file of zeros
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def put_in_place(unfinished: Path, path: Path) -> None:
    """Gives a finished file, or a folder of files, its name; what is on the disk by then is all of it.

    Args:
        unfinished: On the same disk as `path`.
        path: A file there is replaced, a folder must not be there.

    Raises:
        OSError: The disk is full, or something else of the system is in the way.
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
