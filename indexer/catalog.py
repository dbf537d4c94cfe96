"""catalog.db: the only truth of a library, and the only module that writes it.

SQLite in WAL mode: a reader sees the last commit and never waits. A commit is synced to the disk
(`synchronous = FULL`), which once every few seconds costs nothing and makes it survive a power cut. What
the tables mean is told in `indexer.migrations`.
"""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.errors import (
    DiskFullError,
    LibraryDamagedError,
    LibraryError,
    LibraryLockedError,
    LibraryNotFoundError,
    LibraryNotWritableError,
    LibraryTooNewError,
)
from indexer.fingerprint import to_signed
from indexer.migrations import SCHEMA_VERSION, migrate
from indexer.paths import CATALOG_NAME, VECTORS_NAME, display_path, from_catalog, to_catalog
from model.identity import ModelIdentity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from indexer.decode import Metadata

_APPLICATION_ID = 0x494D4147  # "IMAG": tells our file from any other SQLite file
_PAGE_BYTES = 8192  # seven vectors of 512 half-precision numbers fill a page; 4,096 would waste a quarter
_BUSY_SECONDS = 30.0
_SQLITE_MAGIC = b"SQLite format 3\0"
_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT if hasattr(errno, "EDQUOT") else errno.ENOSPC, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class KnownRoot:
    """A row of `roots`."""

    id: int
    path: str
    device: str | None
    is_online: bool


@dataclass(frozen=True, slots=True)
class KnownMount:
    """A place below a root where another disk is or was.

    Attributes:
        device: The disk's number when it was last seen; systems may give it another one the next time.
        is_online: Whether it was there in the last run.
    """

    device: int
    is_online: bool


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A row of `files`, as the comparison with the disk needs it."""

    id: int
    size_bytes: int
    modified_ns: int
    inode: int
    read_ns: int
    status: str
    image_id: int | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class KnownImage:
    """A content that the catalog knows."""

    id: int
    is_gone: bool
    has_vector: bool


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A row of `models`."""

    id: int
    identity: ModelIdentity


class Catalog:
    """The writer's connection. Whoever opens it holds `indexer.lock.writer_lock`."""

    def __init__(self, library_path: Path, connection: sqlite3.Connection) -> None:
        self.library_path = library_path
        self._db = connection

    @classmethod
    def open(cls, library_path: Path) -> Catalog:
        """Opens the catalog for writing, makes it where there is none, and migrates an old one.

        Raises:
            LibraryDamagedError: The file is no catalog, or not readable as one.
            LibraryTooNewError: Its schema is newer than this program.
            LibraryNotWritableError: It cannot be written.
            DiskFullError: No room for it.
        """
        path = library_path / CATALOG_NAME
        with translated(library_path):
            _refuse_foreign_file(library_path)
            if not path.exists():
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            connection = sqlite3.connect(
                path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                return cls._prepare(library_path, connection)
            except BaseException:
                connection.close()
                raise

    @classmethod
    def _prepare(cls, library_path: Path, connection: sqlite3.Connection) -> Catalog:
        version = check_version(library_path, connection)
        if version == 0:
            connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        if version < SCHEMA_VERSION:
            migrate(connection)
        catalog = cls(library_path, connection)
        if catalog.setting("library_id") is None:
            with catalog.transaction():
                catalog.set_setting("library_id", uuid.uuid4().hex)
                catalog.set_setting("created_at", now())
                catalog.set_setting("generation", 0)
        return catalog

    def __enter__(self) -> Catalog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; SQLite moves the write-ahead log into it."""
        with suppress(sqlite3.Error):
            self._db.execute("PRAGMA optimize")
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, on the disk when it is left."""
        with translated(self.library_path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    # settings

    def setting(self, key: str) -> Any:
        """The value of a setting, None if it was never set."""
        return read_setting(self._db, key)

    def set_setting(self, key: str, value: Any) -> None:
        """Stores a JSON value."""
        self._db.execute(
            "INSERT INTO settings (key, value) VALUES (?, ?)"
            " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, json.dumps(value)),
        )

    @property
    def library_id(self) -> str:
        """Tells this library from all others."""
        return str(self.setting("library_id"))

    @property
    def generation(self) -> int:
        """Counts the files vectors.faiss that were made; an older one must not be used."""
        return int(self.setting("generation"))

    # roots

    def roots(self) -> list[KnownRoot]:
        """All folders looked after, in the order they were added."""
        return [
            KnownRoot(root_id, from_catalog(path), device, bool(is_online))
            for root_id, path, device, is_online in self._db.execute(
                "SELECT id, path, device, is_online FROM roots ORDER BY id"
            )
        ]

    def add_root(self, path: str) -> KnownRoot:
        """Adds a folder."""
        cursor = self._db.execute(
            "INSERT INTO roots (path, added_at) VALUES (?, ?)", (to_catalog(path), now())
        )
        assert cursor.lastrowid is not None  # noqa: S101
        return KnownRoot(cursor.lastrowid, path, None, True)

    def merge_root(self, inner: KnownRoot, outer: KnownRoot, prefix: str) -> None:
        """Makes the files of `inner` files of `outer`, where they lie below `prefix`."""
        rows = self._db.execute("SELECT id, path FROM files WHERE root_id = ?", (inner.id,)).fetchall()
        self._db.executemany(
            "UPDATE OR REPLACE files SET root_id = ?, path = ? WHERE id = ?",
            ((outer.id, to_catalog(f"{prefix}/{from_catalog(path)}"), file_id) for file_id, path in rows),
        )
        moved = {f"{prefix}/{path}": mount for path, mount in self.mounts(inner.id).items()}
        self.set_mounts(outer.id, self.mounts(outer.id) | moved)
        self.remove_root(inner.id)

    def mark_root(
        self, root_id: int, *, is_online: bool, device: str | None = None, is_scanned: bool = False
    ) -> None:
        """Notes whether a folder was there, on which device, and that it was seen to its end."""
        self._db.execute(
            "UPDATE roots SET is_online = ?, device = coalesce(?, device),"
            " last_scanned_at = CASE WHEN ? THEN ? ELSE last_scanned_at END WHERE id = ?",
            (is_online, device, is_scanned, now(), root_id),
        )

    def remove_root(self, root_id: int) -> None:
        """Deletes a folder that has no files any more."""
        self.set_mounts(root_id, {})
        self._db.execute("DELETE FROM roots WHERE id = ?", (root_id,))

    def mounts(self, root_id: int) -> dict[str, KnownMount]:
        """The places below a root where other disks were, by their path below it."""
        return read_mounts(self._db).get(root_id, {})

    def set_mounts(self, root_id: int, mounts: dict[str, KnownMount]) -> None:
        """Replaces what is known of other disks below a root."""
        every = read_mounts(self._db)
        if every.get(root_id, {}) == mounts:
            return
        every[root_id] = mounts
        self.set_setting(
            "mounts",
            {
                str(known): {path: [mount.device, mount.is_online] for path, mount in found.items()}
                for known, found in every.items()
                if found
            },
        )

    # models

    def model(self, role: str) -> StoredModel | None:
        """The model with a role (`active` or `building`)."""
        return read_model(self._db, role)

    def add_model(self, identity: ModelIdentity, role: str) -> StoredModel:
        """Adds a model."""
        cursor = self._db.execute(
            "INSERT INTO models (role, identity, dimension, created_at) VALUES (?, ?, ?, ?)",
            (role, json.dumps(identity.to_dict()), identity.dimension, now()),
        )
        assert cursor.lastrowid is not None  # noqa: S101
        return StoredModel(cursor.lastrowid, identity)

    def remove_model(self, model_id: int) -> None:
        """Deletes a model; its vectors are left to `delete_orphaned_vectors`."""
        self._db.execute("DELETE FROM models WHERE id = ?", (model_id,))

    def replace_active_model(self, old_id: int, new_id: int) -> None:
        """Makes the model that is being built the active one and removes the other."""
        self.remove_model(old_id)
        self._db.execute("UPDATE models SET role = 'active' WHERE id = ?", (new_id,))

    def has_vectors(self, model_id: int) -> bool:
        """Whether there is any vector of a model."""
        row = self._db.execute("SELECT 1 FROM vectors WHERE model_id = ? LIMIT 1", (model_id,)).fetchone()
        return row is not None

    def images_without_vector(self, model_id: int) -> set[int]:
        """Present images that have no vector of a model yet."""
        return {
            image_id
            for (image_id,) in self._db.execute(
                "SELECT id FROM images WHERE gone_at IS NULL AND id NOT IN"
                " (SELECT image_id FROM vectors WHERE model_id = ?)",
                (model_id,),
            )
        }

    def delete_orphaned_vectors(self, rows: int = 20_000) -> None:
        """Deletes vectors whose model is gone, so many in one transaction that the log stays small."""
        models = {model_id for (model_id,) in self._db.execute("SELECT id FROM models")}
        # One probe of an index for each model that ever was.
        orphans = []
        at = self._db.execute("SELECT min(model_id) FROM vectors").fetchone()[0]
        while at is not None:
            if at not in models:
                orphans.append(at)
            at = self._db.execute("SELECT min(model_id) FROM vectors WHERE model_id > ?", (at,)).fetchone()[0]
        for model_id in orphans:
            deleted = rows
            while deleted == rows:
                with self.transaction():
                    deleted = self._db.execute(
                        "DELETE FROM vectors WHERE sequence IN"
                        " (SELECT sequence FROM vectors WHERE model_id = ? LIMIT ?)",
                        (model_id, rows),
                    ).rowcount

    # files

    def files_below(self, root_id: int, prefix: str) -> list[int]:
        """Rows of the file, or of all files in the folder, at a path below a root ("" for all of it)."""
        return [
            row[0]
            for path, row in self.files_of(root_id).items()
            if not prefix or path == prefix or path.startswith(prefix + "/")
        ]

    def files_of(self, root_id: int) -> dict[str, tuple[Any, ...]]:
        """All files known below a root, by their path below it: the fields of `KnownFile` as a tuple."""
        rows = self._db.execute(
            "SELECT path, id, size_bytes, modified_ns, inode, read_ns, status, image_id, reason"
            " FROM files WHERE root_id = ?",
            (root_id,),
        )
        return {row[0] if type(row[0]) is str else os.fsdecode(row[0]): row[1:] for row in rows}

    def put_file(
        self,
        root_id: int,
        path: str,
        stat: tuple[int, int, int],
        status: str,
        *,
        image_id: int | None = None,
        reason: str | None = None,
        read_ns: int,
    ) -> None:
        """Writes what became of a file.

        Args:
            root_id: Its root.
            path: Its path below the root.
            stat: Size in bytes, time of the last change in nanoseconds, inode.
            status: `indexed`, `skipped` or `failed`.
            image_id: Its content, if indexed.
            reason: Why not, if not.
            read_ns: When it was read, nanoseconds since 1970.
        """
        self._db.execute(
            "INSERT INTO files (root_id, path, size_bytes, modified_ns, inode, read_ns, status, image_id,"
            " reason,"
            " checked_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (root_id, path) DO UPDATE SET size_bytes = excluded.size_bytes,"
            " modified_ns = excluded.modified_ns, inode = excluded.inode, read_ns = excluded.read_ns,"
            " status = excluded.status, image_id = excluded.image_id, reason = excluded.reason,"
            " checked_at = excluded.checked_at",
            (root_id, to_catalog(path), *_sqlite_integers(stat), read_ns, status, image_id, reason, now()),
        )

    def remove_files(self, file_ids: Iterable[int]) -> None:
        """Forgets files; their images stay until `settle`."""
        self._db.executemany("DELETE FROM files WHERE id = ?", ((file_id,) for file_id in file_ids))

    def images_of(self, file_ids: Iterable[int]) -> set[int]:
        """The images that files hold."""
        return {
            image_id
            for file_id in file_ids
            for (image_id,) in self._db.execute(
                "SELECT image_id FROM files WHERE id = ? AND image_id IS NOT NULL", (file_id,)
            )
        }

    # images and vectors

    def find_image(self, content_hash: bytes, size_bytes: int, model_id: int) -> KnownImage | None:
        """The image with a content, if it is or was in the library."""
        row = self._db.execute(
            "SELECT id, gone_at IS NOT NULL, EXISTS (SELECT 1 FROM vectors WHERE image_id = images.id AND"
            " model_id = ?)"
            " FROM images WHERE content_hash = ? AND size_bytes = ?",
            (model_id, content_hash, size_bytes),
        ).fetchone()
        return None if row is None else KnownImage(row[0], bool(row[1]), bool(row[2]))

    def add_image(self, content_hash: bytes, size_bytes: int, image_format: str, metadata: Metadata) -> int:
        """Adds a content; returns its id."""
        cursor = self._db.execute(
            "INSERT INTO images (content_hash, size_bytes, format, width_pixels, height_pixels, taken_at,"
            " camera_make,"
            " camera_model, latitude, longitude, added_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                content_hash,
                size_bytes,
                image_format,
                metadata.width_pixels,
                metadata.height_pixels,
                metadata.taken_at,
                metadata.camera_make,
                metadata.camera_model,
                metadata.latitude,
                metadata.longitude,
                now(),
            ),
        )
        assert cursor.lastrowid is not None  # noqa: S101
        if metadata.difference_hash is not None:
            self._db.execute(
                "INSERT OR REPLACE INTO fingerprints (image_id, difference_hash) VALUES (?, ?)",
                (cursor.lastrowid, to_signed(metadata.difference_hash)),
            )
        return cursor.lastrowid

    def add_vector(self, image_id: int, model_id: int, vector: NDArray[np.float32]) -> None:
        """Stores an image's vector, float32 (dimension,), in half precision."""
        self._db.execute(
            "INSERT INTO vectors (image_id, model_id, vector) VALUES (?, ?, ?)",
            (image_id, model_id, vector.astype("<f2").tobytes()),
        )

    def settle(self, image_ids: Iterable[int]) -> None:
        """Marks images gone that no file holds any more, and brings back those that a file holds again."""
        for image_id in image_ids:
            row = self._db.execute(
                "SELECT gone_at IS NOT NULL, EXISTS (SELECT 1 FROM files WHERE image_id = images.id)"
                " FROM images WHERE id = ?",
                (image_id,),
            ).fetchone()
            if row is None:
                continue
            is_gone, is_held = row
            if not is_gone and not is_held:
                self._db.execute("UPDATE images SET gone_at = ? WHERE id = ?", (now(), image_id))
                self._db.execute("INSERT OR IGNORE INTO departed (image_id) VALUES (?)", (image_id,))
            elif is_gone and is_held:
                self._db.execute("UPDATE images SET gone_at = NULL WHERE id = ?", (image_id,))
                self._db.execute("DELETE FROM departed WHERE image_id = ?", (image_id,))
                # vectors.faiss may have been rebuilt without it: a new sequence puts it behind that file's
                # last.
                vectors = self._db.execute(
                    "SELECT model_id, vector FROM vectors WHERE image_id = ?", (image_id,)
                ).fetchall()
                self._db.execute("DELETE FROM vectors WHERE image_id = ?", (image_id,))
                self._db.executemany(
                    "INSERT INTO vectors (image_id, model_id, vector) VALUES (?, ?, ?)",
                    ((image_id, model_id, vector) for model_id, vector in vectors),
                )

    def purge_gone(self, before: str) -> list[int]:
        """Deletes contents that have been gone since before a moment (ISO 8601); returns their ids."""
        rows = self._db.execute(
            "SELECT id FROM images WHERE gone_at IS NOT NULL AND gone_at < ?", (before,)
        ).fetchall()
        return self.purge(image_id for (image_id,) in rows)

    def purge(self, image_ids: Iterable[int]) -> list[int]:
        """Deletes those of some contents that are gone, vectors and all; returns their ids."""
        purged = []
        for image_id in image_ids:
            if self._db.execute(
                "SELECT 1 FROM images WHERE id = ? AND gone_at IS NOT NULL", (image_id,)
            ).fetchone():
                self._db.execute("DELETE FROM vectors WHERE image_id = ?", (image_id,))
                self._db.execute("DELETE FROM images WHERE id = ?", (image_id,))
                purged.append(image_id)
        return purged

    def overwrite_deleted(self) -> None:
        """From now on, deleted rows are overwritten with zeros on the disk."""
        self._db.execute("PRAGMA secure_delete = ON")

    # what vectors.faiss is made from

    def index_state(self, model_id: int) -> tuple[int, int]:
        """Last sequence of all vectors, and number of a model's vectors of images that are present."""
        (sequence,) = self._db.execute("SELECT coalesce(max(sequence), 0) FROM vectors").fetchone()
        (count,) = self._db.execute(
            "SELECT count(*) FROM vectors JOIN images ON images.id = image_id"
            " WHERE model_id = ? AND gone_at IS NULL",
            (model_id,),
        ).fetchone()
        return sequence, count

    def added_since(self, model_id: int, sequence: int) -> int:
        """Number of a model's vectors behind a sequence."""
        (count,) = self._db.execute(
            "SELECT count(*) FROM vectors WHERE sequence > ? AND model_id = ?", (sequence, model_id)
        ).fetchone()
        return int(count)

    def departed_count(self) -> int:
        """Images that vectors.faiss may hold and must not show."""
        return int(self._db.execute("SELECT count(*) FROM departed").fetchone()[0])

    def present_vectors(
        self, model_id: int, dimension: int, rows: int = 16_384
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float16]]]:
        """All vectors of images that are present, by ascending image id, in chunks."""
        cursor = self._db.execute(
            "SELECT image_id, vector FROM vectors JOIN images ON images.id = image_id"
            " WHERE model_id = ? AND gone_at IS NULL ORDER BY image_id",
            (model_id,),
        )
        while chunk := cursor.fetchmany(rows):
            yield unpack_vectors(chunk, dimension)

    def finish_generation(self, generation: int) -> None:
        """Notes that a vectors.faiss without departed images is in its place."""
        self.set_setting("generation", generation)
        self._db.execute("DELETE FROM departed")

    # what `indexer.doctor` needs to fill a new catalog from the remains of an old one

    def columns_of(self, table: str) -> list[str]:
        """The names of a table's columns."""
        return [row[1] for row in self._db.execute(f"PRAGMA table_info({table})")]

    def count(self, table: str) -> int:
        """Number of rows of a table."""
        return int(self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608

    def salvage(self, table: str, columns: list[str], rows: Iterable[tuple[Any, ...]]) -> int:
        """Puts in rows as they are, those left out that the schema refuses; returns how many went in."""
        self._db.execute("PRAGMA defer_foreign_keys = ON")
        marks = ", ".join("?" * len(columns))
        verb = "INSERT OR REPLACE" if table == "settings" else "INSERT OR IGNORE"
        statement = f"{verb} INTO {table} ({', '.join(columns)}) VALUES ({marks})"
        done = 0
        for row in rows:
            try:
                done += self._db.execute(statement, row).rowcount
            except sqlite3.IntegrityError:
                continue
        return done

    def tidy_after_salvage(self) -> dict[str, int]:
        """Takes out rows that lost what they belong to; returns how many of each kind."""
        dropped = {
            "files": self._db.execute(
                "DELETE FROM files WHERE root_id NOT IN (SELECT id FROM roots)"
                " OR (image_id IS NOT NULL AND image_id NOT IN (SELECT id FROM images))"
            ).rowcount,
            "vectors": self._db.execute(
                "DELETE FROM vectors WHERE image_id NOT IN (SELECT id FROM images)"
                " OR model_id NOT IN (SELECT id FROM models)"
            ).rowcount,
        }
        self._db.execute(
            "UPDATE images SET gone_at = ? WHERE gone_at IS NULL"
            " AND NOT EXISTS (SELECT 1 FROM files WHERE image_id = images.id)",
            (now(),),
        )
        self.set_setting("library_id", uuid.uuid4().hex)
        self.set_setting("generation", 0)
        self.set_setting("lacks_vectors", True)
        return dropped


def unpack_vectors(
    rows: Sequence[tuple[int, bytes]], dimension: int
) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    """Ids int64 (n,) and vectors float16 (n, dimension) of rows (image id, blob).

    Raises:
        LibraryDamagedError: A blob has another length.
    """
    ids = np.fromiter((row[0] for row in rows), np.int64, len(rows))
    joined = b"".join(row[1] for row in rows)
    if len(joined) != len(rows) * dimension * 2:
        raise LibraryDamagedError(f"The catalog holds vectors that have not {dimension} numbers.")
    return ids, np.frombuffer(joined, "<f2").reshape(len(rows), dimension)


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
        _refuse_foreign_file(library_path)
        if not path.exists() or path.stat().st_size == 0:
            raise LibraryNotFoundError(
                f"There is no library at {display_path(library_path)} yet. Make one with `imago index"
                f" FOLDER`,"
                " or name another with `--library`."
            )
        address = path.absolute().as_uri()
        try:
            connection = _connect(f"{address}?mode=ro")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            if _primary_code(error) not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
                raise
            # On a medium that cannot be written, SQLite cannot make the shared memory that WAL needs;
            # nobody can write there either, so the file may be read as it is.
            connection = _connect(f"{address}?mode=ro&immutable=1")
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
    if tables and application != _APPLICATION_ID:
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


def read_setting(connection: sqlite3.Connection, key: str) -> Any:
    """A setting's JSON value, None if it was never set."""
    row = connection.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone()
    return None if row is None else json.loads(row[0])


def read_mounts(connection: sqlite3.Connection) -> dict[int, dict[str, KnownMount]]:
    """The places below roots where other disks were: by root, by their path below it."""
    stored: dict[str, dict[str, tuple[int, bool]]] = read_setting(connection, "mounts") or {}
    return {
        int(root_id): {path: KnownMount(*mount) for path, mount in found.items()}
        for root_id, found in stored.items()
    }


def let_sql_know_what_is_away(connection: sqlite3.Connection) -> bool:
    """Makes `imago_away(root_id, path)` say whether a file lies on a disk below its root that is away.

    Returns:
        Whether any disk is. What is away is that of this moment.
    """
    away = {
        root_id: tuple(f"{path}/" for path, mount in found.items() if not mount.is_online)
        for root_id, found in read_mounts(connection).items()
    }

    def is_away(root_id: int, path: str | bytes) -> bool:
        return from_catalog(path).startswith(away.get(root_id, ()))

    connection.create_function("imago_away", 2, is_away)
    return any(away.values())


def read_model(connection: sqlite3.Connection, role: str) -> StoredModel | None:
    """The model with a role."""
    row = connection.execute("SELECT id, identity FROM models WHERE role = ?", (role,)).fetchone()
    return None if row is None else StoredModel(row[0], ModelIdentity.from_dict(json.loads(row[1])))


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


def now() -> str:
    """This moment as the catalog keeps it: ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _connect(address: str) -> sqlite3.Connection:
    return sqlite3.connect(
        address, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )


def _refuse_foreign_file(library_path: Path) -> None:
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


def _primary_code(error: sqlite3.Error) -> int:
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def _is_disk_full(library_path: Path) -> bool:
    """Whether so little is free that an input/output error must mean a full disk."""
    with suppress(OSError, AttributeError):
        disk = os.statvfs(library_path)
        return disk.f_bavail * disk.f_frsize < 1 << 20
    return False


def _sqlite_integers(stat: tuple[int, int, int]) -> tuple[int, int, int]:
    """Inodes of some file systems use all 64 bits; SQLite's integers have a sign."""
    size, modified, inode = stat
    return size, modified, inode - (1 << 64) if inode >= 1 << 63 else inode
