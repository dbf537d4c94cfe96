"""One writer at a time: a lock of the operating system, which a dying process cannot leave behind."""

from __future__ import annotations

import json
import os
import platform
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from indexer.errors import LibraryLockedError, LibraryNotWritableError
from indexer.paths import LOCK_NAME, display_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def writer_lock(library_path: Path) -> Iterator[None]:
    """Holds the right to write a library.

    Raises:
        LibraryLockedError: Another process has it; the message says which, where and since when.
        LibraryNotWritableError: The lock file cannot be made.
    """
    from filelock import FileLock, Timeout

    path = library_path / LOCK_NAME
    lock = FileLock(path, timeout=0, mode=0o600)
    try:
        lock.acquire()
    except Timeout:
        raise LibraryLockedError(
            f"Another process is writing the library {display_path(library_path)}: {_holder(path)}."
            " Wait for it to end, or stop it, and try again. Searching is possible meanwhile."
        ) from None
    except OSError as error:
        raise LibraryNotWritableError(
            f"The library {display_path(library_path)} cannot be written: {error.strerror or error}."
            " Give yourself write permission, or name another library with `--library`."
        ) from error
    try:
        with suppress(OSError):  # on Windows a locked file cannot be written by a second handle
            path.write_text(
                json.dumps(
                    {
                        "pid": os.getpid(),
                        "host": platform.node(),
                        "since": datetime.now(UTC).isoformat(timespec="seconds"),
                    }
                )
            )
        yield
    finally:
        with suppress(OSError):
            path.write_text("")
        lock.release()


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "which one is not known"
