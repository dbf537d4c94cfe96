"""The catalog as a file: how it is opened, by whom it was made, and what goes wrong with it in words for people."""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from indexer.errors import (
    DiskFullError,
    LibraryDamagedError,
    LibraryError,
    LibraryLockedError,
    LibraryNotFoundError,
    LibraryNotWritableError,
    LibraryTooNewError,
)
from indexer.migrations import SCHEMA_VERSION
from indexer.paths import CATALOG_NAME, VECTORS_NAME, display_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

APPLICATION_ID = 0x494D4147  # "IMAG": tells our file from any other SQLite file
_BUSY_SECONDS = 30.0
_SQLITE_MAGIC = b"SQLite format 3\0"
_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT if hasattr(errno, "EDQUOT") else errno.ENOSPC, errno.EFBIG}


def connect(address: str) -> sqlite3.Connection:
    """A connection in autocommit mode to the file of a URI, which waits half a minute for another's lock."""
    return sqlite3.connect(
        address, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )


def connect_for_reading(library_path: Path) -> tuple[sqlite3.Connection, str | None]:
    """Opens the catalog for reading, without ever waiting for a writer.

    Returns:
        The connection, in autocommit mode, and a notice for people if something is not as it should be.

    Raises:
        LibraryNotFoundError: There is no library.
        LibraryDamagedError: It cannot be read as a catalog.
        LibraryTooNewError: It was made by a newer version.
    """
    path = library_path / CATALOG_NAME
    notice = None
    with translated(library_path):
        refuse_foreign_file(library_path)
        if not path.exists() or path.stat().st_size == 0:
            raise LibraryNotFoundError(
                f"There is no library at {display_path(library_path)} yet. Make one with `imago index"
                f" FOLDER`,"
                " or name another with `--library`."
            )
        address = path.absolute().as_uri()
        try:
            connection = connect(f"{address}?mode=ro")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            if _primary_code(error) not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
                raise
            # On a medium that cannot be written, SQLite cannot make the shared memory that WAL needs;
            # nobody can write there either, so the file may be read as it is.
            connection = connect(f"{address}?mode=ro&immutable=1")
            log = path.with_name(path.name + "-wal")
            if log.exists() and log.stat().st_size:
                notice = (
                    "The library cannot be written, and its last run was cut short: what that run did in"
                    " its last seconds is not shown. Make the library writable to see it."
                )
        try:
            check_version(library_path, connection, allow_blank=False)
        except BaseException:
            connection.close()
            raise
    return connection, notice


def check_version(library_path: Path, connection: sqlite3.Connection, *, allow_blank: bool = True) -> int:
    """The schema's version, 0 for a file without tables.

    Raises:
        LibraryNotFoundError: There are no tables, and `allow_blank` is False.
        LibraryDamagedError: The file belongs to another program.
        LibraryTooNewError: It was made by a newer version.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    path = display_path(library_path / CATALOG_NAME)
    if tables and application != APPLICATION_ID:
        raise LibraryDamagedError(
            f"{path} is a database of another program, not a catalog of Imago. It was left as it is; name"
            f" another"
            " folder with `--library`."
        )
    if version == 0 and not allow_blank:
        raise LibraryNotFoundError(
            f"The library at {display_path(library_path)} is not set up yet. Run `imago index FOLDER`."
        )
    if version > SCHEMA_VERSION:
        raise LibraryTooNewError(
            f"{path} was made by a newer version of Imago (schema {version}; this one knows up to"
            f" {SCHEMA_VERSION})."
            " Update Imago, or name another library with `--library`."
        )
    return int(version)


def refuse_foreign_file(library_path: Path) -> None:
    """Raises `LibraryDamagedError` if catalog.db is no SQLite file, before SQLite could touch it."""
    path = library_path / CATALOG_NAME
    if not path.exists():
        return
    with path.open("rb") as file:
        header = file.read(len(_SQLITE_MAGIC))
    is_cut_to_nothing = not header and (library_path / VECTORS_NAME).exists()
    if (header and header != _SQLITE_MAGIC) or is_cut_to_nothing:
        raise LibraryDamagedError(
            f"{display_path(path)} is damaged: {'it is empty' if not header else 'it is no SQLite file'}."
            f" It was left"
            " exactly as it is. `imago doctor` recovers what can be read into a new file; or move it away"
            " and index"
            " again."
        )


@contextmanager
def translated(library_path: Path, *, system_errors: bool = True) -> Iterator[None]:
    """Turns what SQLite and the system say into errors that tell people what to do.

    Args:
        library_path: The library that the errors are about.
        system_errors: False where an `OSError` may come from elsewhere, and only SQLite's are meant.
    """
    path = display_path(library_path / CATALOG_NAME)
    try:
        yield
    except LibraryError:
        raise
    except sqlite3.Error as error:
        code = _primary_code(error)
        if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_disk_full(library_path)):
            raise disk_full(library_path) from error
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB} or "no such table" in str(error):
            raise LibraryDamagedError(
                f"{path} is damaged ({error}). It was left exactly as it is. `imago doctor` recovers what"
                f" can be read"
                " into a new file; or move it away and index again."
            ) from error
        if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}:
            raise LibraryNotWritableError(
                f"{path} cannot be opened for this ({error}). Check the permissions of the library's folder."
            ) from error
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            raise LibraryLockedError(
                f"{path} is locked by another program. Close it and try again."
            ) from error
        raise LibraryError(f"{path}: {error}") from error
    except OSError as error:
        if not system_errors:
            raise
        if is_full(error):
            raise disk_full(library_path) from error
        if isinstance(error, PermissionError) or error.errno == errno.EROFS:
            raise LibraryNotWritableError(
                f"The library {display_path(library_path)} cannot be opened: {error.strerror}."
                " Check its permissions, or name another with `--library`."
            ) from error
        raise


def disk_full(library_path: Path) -> DiskFullError:
    """The error for a disk without room."""
    return DiskFullError(
        f"The disk that holds the library {display_path(library_path)} is full. What was committed is"
        f" safe; make room"
        " and run the same command again, and it goes on from there."
    )


def is_full(error: OSError) -> bool:
    """Whether an error of the system means that there is no room: on the disk, in a quota, in a file."""
    return error.errno in _FULL_ERRNOS


def _primary_code(error: sqlite3.Error) -> int:
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def _is_disk_full(library_path: Path) -> bool:
    """Whether so little is free that an input/output error must mean a full disk."""
    with suppress(OSError, AttributeError):
        disk = os.statvfs(library_path)
        return disk.f_bavail * disk.f_frsize < 1 << 20
    return False
