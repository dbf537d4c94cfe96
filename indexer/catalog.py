"""catalog.db: the only truth of a library, and the only module that writes it.

SQLite in WAL mode: a reader sees the last commit and never waits. A commit is synced to the disk
(`synchronous = FULL`), which once every few seconds costs nothing and makes it survive a power cut. What
the tables mean is told in `indexer.migrations`.
"""

from __future__ import annotations

import json
import os
import sqlite3
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.catalog_file import APPLICATION_ID, check_version, connect, refuse_foreign_file, translated
from indexer.errors import LibraryDamagedError
from indexer.fingerprint import to_signed
from indexer.migrations import SCHEMA_VERSION, migrate
from indexer.paths import CATALOG_NAME, catalog_inode, from_catalog, to_catalog
from model.identity import ModelIdentity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from indexer.decode import Metadata

_PAGE_BYTES = 8192  # seven vectors of 512 half-precision numbers fill a page; 4,096 would waste a quarter

# What should not be there: `indexer.doctor` counts it, and a run without folders mends it.
UNHELD_IMAGES = "images WHERE gone_at IS NULL AND NOT EXISTS (SELECT 1 FROM files WHERE image_id = images.id)"
HELD_GONE_IMAGES = "images JOIN files ON image_id = images.id WHERE gone_at IS NOT NULL"
IMAGES_WITHOUT_VECTOR = (
    "images WHERE gone_at IS NULL AND id NOT IN (SELECT image_id FROM vectors WHERE model_id = :model_id)"
)


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
class KnownVectorFile:
    """What the catalog noted of its vectors.faiss.

    Attributes:
        library_id: Tells this library from all others.
        generation: Counts the files that were made; 0 before the first.
        checksum: Of the last one; None where a former version made it, which did not note it.
        last_sequence: The highest that was ever given to a vector.
    """

    library_id: str
    generation: int
    checksum: int | None
    last_sequence: int


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
            refuse_foreign_file(library_path)
            if not path.exists():
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            connection = connect(path.absolute().as_uri())
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
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        # On macOS a plain sync leaves data in the disk's own cache; elsewhere these do nothing.
        connection.execute("PRAGMA fullfsync = ON")
        connection.execute("PRAGMA checkpoint_fullfsync = ON")
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
    def vector_file(self) -> KnownVectorFile:
        """What it noted of its vectors.faiss."""
        return read_known_vector_file(self._db)

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

    def merge_root(
        self, inner: KnownRoot, outer: KnownRoot, prefix: str, *, outer_device: str | None = None
    ) -> None:
        """Makes the files of `inner` files of `outer`, where they lie below `prefix`.

        A root on another disk than the folder around it becomes a place where a disk is or was.
        """
        rows = self._db.execute("SELECT id, path FROM files WHERE root_id = ?", (inner.id,)).fetchall()
        self._db.executemany(
            "UPDATE OR REPLACE files SET root_id = ?, path = ? WHERE id = ?",
            ((outer.id, to_catalog(f"{prefix}/{from_catalog(path)}"), file_id) for file_id, path in rows),
        )
        moved = {f"{prefix}/{path}": mount for path, mount in self.mounts(inner.id).items()}
        if inner.device is not None and inner.device != outer_device:
            moved[prefix] = KnownMount(int(inner.device), inner.is_online)
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
                f"SELECT id FROM {IMAGES_WITHOUT_VECTOR}",  # noqa: S608
                {"model_id": model_id},
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
        size_bytes, modified_ns, inode = stat
        self._db.execute(
            "INSERT INTO files (root_id, path, size_bytes, modified_ns, inode, read_ns, status, image_id,"
            " reason,"
            " checked_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (root_id, path) DO UPDATE SET size_bytes = excluded.size_bytes,"
            " modified_ns = excluded.modified_ns, inode = excluded.inode, read_ns = excluded.read_ns,"
            " status = excluded.status, image_id = excluded.image_id, reason = excluded.reason,"
            " checked_at = excluded.checked_at",
            (
                root_id,
                to_catalog(path),
                size_bytes,
                modified_ns,
                catalog_inode(inode),
                read_ns,
                status,
                image_id,
                reason,
                now(),
            ),
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

    def has_content(self, content_hash: bytes) -> bool:
        """Whether there is an image with this SHA-256, also one that is gone but not yet purged."""
        row = self._db.execute("SELECT 1 FROM images WHERE content_hash = ?", (content_hash,)).fetchone()
        return row is not None

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

    def unsettled_images(self) -> set[int]:
        """Images that count as present without a file, or as gone with one, as no run leaves them."""
        return {
            image_id
            for found in (UNHELD_IMAGES, HELD_GONE_IMAGES)
            for (image_id,) in self._db.execute(f"SELECT images.id FROM {found}")  # noqa: S608
        }

    def purge_gone(self, before: str) -> list[int]:
        """Deletes contents that have been gone since before a moment (ISO 8601); returns their ids."""
        rows = self._db.execute(
            "SELECT id FROM images WHERE gone_at IS NOT NULL AND gone_at < ?", (before,)
        ).fetchall()
        return self.purge(image_id for (image_id,) in rows)

    def purge(self, image_ids: Iterable[int]) -> list[int]:
        """Deletes those of some contents that are gone, vectors, hashes and all; returns their ids."""
        purged = []
        for image_id in image_ids:
            if self._db.execute(
                "SELECT 1 FROM images WHERE id = ? AND gone_at IS NOT NULL", (image_id,)
            ).fetchone():
                self._db.execute("DELETE FROM vectors WHERE image_id = ?", (image_id,))
                self._db.execute("DELETE FROM fingerprints WHERE image_id = ?", (image_id,))
                self._db.execute("DELETE FROM images WHERE id = ?", (image_id,))
                purged.append(image_id)
        return purged

    def delete_orphaned_fingerprints(self) -> None:
        """Deletes hashes of images that are gone for good, which former versions left."""
        orphaned = "fingerprints WHERE image_id NOT IN (SELECT id FROM images)"
        if self._db.execute(f"SELECT 1 FROM {orphaned} LIMIT 1").fetchone():  # noqa: S608
            self.overwrite_deleted()
            with self.transaction():
                self._db.execute(f"DELETE FROM {orphaned}")  # noqa: S608

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

    def finish_generation(self, generation: int, checksum: int) -> None:
        """Notes that a vectors.faiss without departed images is in its place."""
        self.set_setting("generation", generation)
        self.set_setting("vectors_checksum", checksum)
        self._db.execute("DELETE FROM departed")

    # what `indexer.doctor` needs to fill a new catalog from the remains of an old one

    def columns_of(self, table: str) -> list[str]:
        """The names of a table's columns."""
        return [row[1] for row in self._db.execute(f"PRAGMA table_info({table})")]

    def count(self, table: str) -> int:
        """Number of rows of a table."""
        return int(self._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608

    @contextmanager
    def salvaging(self) -> Iterator[None]:
        """Lets rows in that refer to rows which are not there; before it is left, `tidy_after_salvage` is due.

        Not within a transaction, where SQLite would pass over it.
        """
        self._db.execute("PRAGMA foreign_keys = OFF")
        try:
            yield
        finally:
            self._db.execute("PRAGMA foreign_keys = ON")

    def salvage(self, table: str, columns: list[str], rows: Iterable[tuple[Any, ...]]) -> None:
        """Puts in rows as they are, those left out that the schema refuses."""
        marks = ", ".join("?" * len(columns))
        verb = "INSERT OR REPLACE" if table == "settings" else "INSERT OR IGNORE"
        statement = f"{verb} INTO {table} ({', '.join(columns)}) VALUES ({marks})"
        for row in rows:
            with suppress(sqlite3.IntegrityError):
                self._db.execute(statement, row)

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
                " OR length(vector) != 2 * (SELECT dimension FROM models WHERE id = model_id)"
            ).rowcount,
        }
        self._db.execute("DELETE FROM fingerprints WHERE image_id NOT IN (SELECT id FROM images)")
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


def read_setting(connection: sqlite3.Connection, key: str) -> Any:
    """A setting's JSON value, None if it was never set."""
    row = connection.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone()
    return None if row is None else json.loads(row[0])


def read_known_vector_file(connection: sqlite3.Connection) -> KnownVectorFile:
    """What a catalog noted of its vectors.faiss."""
    last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'vectors'").fetchone()
    return KnownVectorFile(
        library_id=str(read_setting(connection, "library_id")),
        generation=int(read_setting(connection, "generation") or 0),
        checksum=read_setting(connection, "vectors_checksum"),
        last_sequence=0 if last is None else int(last[0]),
    )


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


def read_copies(
    connection: sqlite3.Connection, which: str, values: Sequence[Any]
) -> Iterator[tuple[int, str | bytes, str | bytes, bool, int]]:
    """The files of some images: image id, root, path below it, whether its disk is there, time of its last change.

    Copies on a disk that is there come first, the oldest row first among them.

    Args:
        connection: Of a catalog.
        which: A condition in SQL on `image_id`.
        values: Its parameters.
    """
    let_sql_know_what_is_away(connection)
    for image_id, root, path, is_there, modified_ns in connection.execute(
        "SELECT image_id, roots.path, files.path, is_online AND NOT imago_away(root_id, files.path)"  # noqa: S608
        f" AS is_there, modified_ns FROM files JOIN roots ON roots.id = root_id WHERE {which}"
        " ORDER BY is_there DESC, files.id",
        values,
    ):
        yield image_id, root, path, bool(is_there), modified_ns


def read_model(connection: sqlite3.Connection, role: str) -> StoredModel | None:
    """The model with a role."""
    row = connection.execute("SELECT id, identity FROM models WHERE role = ?", (role,)).fetchone()
    return None if row is None else StoredModel(row[0], ModelIdentity.from_dict(json.loads(row[1])))


def now() -> str:
    """This moment as the catalog keeps it: ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
