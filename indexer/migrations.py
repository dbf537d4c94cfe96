"""The schema of catalog.db, as numbered steps that are never changed once released.

A step and its record commit together, with `PRAGMA user_version` set to its number, so that a reader knows
the version without importing sqlite-utils (which takes seconds where pandas is installed).

The tables, after all steps:

- `settings`: key, JSON value.
- `roots`: the folders looked after. `device` tells an empty folder from an unused mount point.
- `models`: whose vectors these are; one is `active`, one may be `building`.
- `images`: one row for each content. Ids are never used twice, so that an id in a bookmark cannot come to
  mean another picture. `gone_at` is set while no file holds the content.
- `files`: one row for each file seen. `path` is TEXT, or BLOB where the file system's bytes are not UTF-8.
- `vectors`: half-precision, little-endian, one row for each image and model. `sequence` only grows: what lies
  beyond the last sequence of vectors.faiss is what that file does not hold yet.
- `departed`: images that vectors.faiss may still hold and that must not be found.
- `fingerprints`: what tells re-encoded and resized copies (`indexer.fingerprint`), of images that were decoded since
  the table is there.
"""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator

    from sqlite_utils.db import Database

SCHEMA_VERSION = 2
MIGRATION_SET = "imago"


def migrate(connection: sqlite3.Connection, *, up_to: int = SCHEMA_VERSION) -> None:
    """Brings a catalog, blank or old, to the schema of this version.

    Args:
        connection: In autocommit mode.
        up_to: For tests: the version to stop at.
    """
    with _without_pandas():
        from sqlite_utils import Database, Migrations

    migrations = Migrations(MIGRATION_SET)
    for number, step in enumerate(_STEPS[:up_to], start=1):

        def apply(db: Database, number: int = number, step: Callable[[Database], None] = step) -> None:
            step(db)
            db.execute(f"PRAGMA user_version = {number}")

        migrations(name=f"{number:04d}{step.__name__}")(apply)
    database = Database(connection, execute_plugins=False)
    migrations.apply(database)


@contextmanager
def _without_pandas() -> Iterator[None]:
    """Lets sqlite-utils be imported without pandas, which it only wants for types that we never pass.

    Where pandas is installed (Streamlit brings it), that import is most of the cost of making a library.
    Only while no other thread runs: one that imports pandas meanwhile would be told that there is none.
    """
    if "pandas" in sys.modules or threading.active_count() > 1:
        yield
        return
    sys.modules["pandas"] = None  # type: ignore[assignment]  # the documented way to make an import fail
    try:
        yield
    finally:
        del sys.modules["pandas"]


def _first_schema(db: Database) -> None:
    for statement in (
        "CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        """CREATE TABLE roots (
            id INTEGER PRIMARY KEY,
            path NOT NULL UNIQUE,
            device TEXT,
            is_online INTEGER NOT NULL DEFAULT 1,
            added_at TEXT NOT NULL,
            last_scanned_at TEXT
        )""",
        """CREATE TABLE models (
            id INTEGER PRIMARY KEY,
            role TEXT NOT NULL CHECK (role IN ('active', 'building')),
            identity TEXT NOT NULL,
            dimension INTEGER NOT NULL,
            created_at TEXT NOT NULL
        )""",
        "CREATE UNIQUE INDEX models_role ON models (role)",
        """CREATE TABLE images (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            content_hash BLOB NOT NULL,
            size_bytes INTEGER NOT NULL,
            format TEXT NOT NULL,
            width_pixels INTEGER NOT NULL,
            height_pixels INTEGER NOT NULL,
            taken_at TEXT,
            camera_make TEXT,
            camera_model TEXT,
            latitude REAL,
            longitude REAL,
            added_at TEXT NOT NULL,
            gone_at TEXT
        )""",
        "CREATE UNIQUE INDEX images_content ON images (content_hash, size_bytes)",
        "CREATE INDEX images_gone ON images (gone_at) WHERE gone_at IS NOT NULL",
        """CREATE TABLE files (
            id INTEGER PRIMARY KEY,
            root_id INTEGER NOT NULL REFERENCES roots (id),
            path NOT NULL,
            size_bytes INTEGER NOT NULL,
            modified_ns INTEGER NOT NULL,
            inode INTEGER NOT NULL,
            read_ns INTEGER NOT NULL,
            status TEXT NOT NULL CHECK (status IN ('indexed', 'skipped', 'failed')),
            image_id INTEGER REFERENCES images (id),
            reason TEXT,
            checked_at TEXT NOT NULL,
            CHECK ((status = 'indexed') = (image_id IS NOT NULL)),
            CHECK ((status = 'indexed') = (reason IS NULL))
        )""",
        "CREATE UNIQUE INDEX files_path ON files (root_id, path)",
        "CREATE INDEX files_image ON files (image_id) WHERE image_id IS NOT NULL",
        "CREATE INDEX files_failed ON files (status) WHERE status = 'failed'",
        """CREATE TABLE vectors (
            sequence INTEGER PRIMARY KEY AUTOINCREMENT,
            image_id INTEGER NOT NULL REFERENCES images (id),
            model_id INTEGER NOT NULL,
            vector BLOB NOT NULL
        )""",
        "CREATE UNIQUE INDEX vectors_image ON vectors (image_id, model_id)",
        "CREATE INDEX vectors_model ON vectors (model_id)",
        "CREATE TABLE departed (image_id INTEGER PRIMARY KEY)",
    ):
        db.execute(statement)


def _fingerprints(db: Database) -> None:
    db.execute("CREATE TABLE fingerprints (image_id INTEGER PRIMARY KEY, difference_hash INTEGER NOT NULL)")


_STEPS: tuple[Callable[[Database], None], ...] = (_first_schema, _fingerprints)
