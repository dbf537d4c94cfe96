"""The catalog's file: its schema, its versions, and files that are no catalog."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing

import pytest
from indexer_fakes import draw

from indexer import LibraryDamagedError, LibraryNotFoundError, LibraryReader, LibraryTooNewError
from indexer.catalog import Catalog
from indexer.migrations import SCHEMA_VERSION
from indexer.paths import thumbnail_path

TABLES = ["departed", "files", "fingerprints", "images", "models", "roots", "settings", "vectors"]


def test_schema_of_a_new_catalog(tmp_path):
    Catalog.open(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "catalog.db")) as db:
        tables = [
            name
            for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
            if not name.startswith(("sqlite_", "_sqlite"))
        ]
        assert tables == TABLES
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA page_size").fetchone() == (8192,)
        steps = [name for (name,) in db.execute("SELECT name FROM _sqlite_migrations ORDER BY name")]
        assert steps == ["0001_first_schema", "0002_fingerprints"]


def test_image_ids_are_never_used_again(index, photos, library):
    draw(photos / "a.png", 1)
    index()
    with Catalog.open(library) as catalog, catalog.transaction():
        (photos / "a.png").unlink()
        catalog.remove_files([1])
        catalog.settle([1])
        assert catalog.purge_gone("9999") == [1]
    draw(photos / "b.png", 2)
    index()
    with LibraryReader.open(library) as reader:
        assert reader.find(photos / "b.png") == 2


def test_what_is_gone_for_long_is_purged(index, photos, library, monkeypatch):
    draw(photos / "a.png", 1)
    draw(photos / "b.png", 2)
    index()
    kept = (photos / "a.png").read_bytes()
    (photos / "a.png").unlink()
    index()
    monkeypatch.setattr("indexer.pipeline.KEEP_GONE_DAYS", -1)
    index()
    monkeypatch.undo()
    (photos / "a.png").write_bytes(kept)
    summary = index()
    assert (summary.restored, summary.indexed, summary.embedded) == (0, 1, 1)
    with LibraryReader.open(library) as reader:
        assert reader.ids().tolist() == [2, 3]


def test_thumbnails_go_with_what_is_purged(index, photos, library, monkeypatch):
    kept, gone = (
        thumbnail_path(library, hashlib.sha256(draw(photos / name, seed).read_bytes()).hexdigest())
        for seed, name in enumerate(("a.png", "b.png"))
    )
    index()
    stray = thumbnail_path(library, "ab" * 32)
    unfinished = [stray.with_name(".abcdefgh.part"), stray.with_name("tmpabcd_123.part")]
    theirs = [stray.with_name("photo.webp"), library / "thumbnails" / "photo.jpg"]
    for path in (kept, gone, stray, *unfinished, *theirs):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (photos / "b.png").unlink()
    index()
    assert gone.exists()  # it may come back
    monkeypatch.setattr("indexer.pipeline.KEEP_GONE_DAYS", -1)
    index()
    assert [path.exists() for path in (kept, gone, stray, *unfinished)] == [True, *[False] * 4]
    monkeypatch.undo()
    stray.touch()  # as a former version left it
    index(all_known=True)
    assert [path.exists() for path in (kept, stray, *theirs)] == [True, False, True, True]


def test_a_catalog_of_a_newer_version_is_refused_and_left_alone(index, photos, library):
    draw(photos / "a.png", 1)
    index()
    with closing(sqlite3.connect(library / "catalog.db")) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = (library / "catalog.db").read_bytes()
    with pytest.raises(LibraryTooNewError, match=rf"newer version of Imago \(schema {SCHEMA_VERSION + 1}"):
        index()
    with pytest.raises(LibraryTooNewError, match="Update Imago"):
        LibraryReader.open(library)
    assert (library / "catalog.db").read_bytes() == before


class TestDamage:
    @pytest.fixture
    def filled(self, index, photos, library):
        for number in range(60):
            draw(photos / f"{number}.png", number)
        index()
        return library

    def read_all(self, library):
        with LibraryReader.open(library) as reader:
            reader.images(reader.ids())
            reader.status()

    def refused(self, index, library, match):
        path = library / "catalog.db"
        before = path.read_bytes()
        with pytest.raises(LibraryDamagedError, match=match) as caught:
            index()
        assert str(path) in str(caught.value)
        with pytest.raises(LibraryDamagedError, match=match):
            self.read_all(library)
        assert path.read_bytes() == before

    def test_text_in_its_place(self, index, filled):
        (filled / "catalog.db").write_text("not a database" * 100)
        self.refused(index, filled, "is damaged: it is no SQLite file")

    def test_emptied(self, index, filled):
        (filled / "catalog.db").write_bytes(b"")
        self.refused(index, filled, "is damaged: it is empty")

    def test_overwritten_pages(self, index, filled):
        path = filled / "catalog.db"
        data = bytearray(path.read_bytes())
        for start in range(8192, len(data), 8192):
            data[start : start + 4096] = b"\xaa" * 4096
        path.write_bytes(data)
        self.refused(index, filled, "is damaged")

    def test_truncated(self, index, filled):
        path = filled / "catalog.db"
        path.write_bytes(path.read_bytes()[: 3 * 8192])
        self.refused(index, filled, "is damaged")

    def test_a_database_of_another_program(self, index, library):
        library.mkdir()
        with closing(sqlite3.connect(library / "catalog.db")) as db:
            db.execute("CREATE TABLE files (name)")
        before = (library / "catalog.db").read_bytes()
        with pytest.raises(LibraryDamagedError, match="a database of another program"):
            index()
        assert (library / "catalog.db").read_bytes() == before

    def test_a_file_made_by_a_run_that_was_killed_at_once(self, index, check, photos, library):
        library.mkdir()
        (library / "catalog.db").touch()
        with pytest.raises(LibraryNotFoundError):
            LibraryReader.open(library)
        path = draw(photos / "a.png", 1)
        index()
        check([path])
