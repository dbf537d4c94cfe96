"""Catalogs of every schema that ever was are opened and brought to the schema of today.

`data/catalog-schema-N.db` was made by the version whose schema was N: three drawn pictures and a broken file in
`/photos`, embedded by the stand-in encoder. When the schema grows, keep these and add one.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from indexer_fakes import FakeEncoder, draw

from indexer import LibraryReader, migrations, read_pixels
from indexer.catalog import Catalog
from indexer.migrations import SCHEMA_VERSION, migrate

DATA = Path(__file__).parent / "data"
VERSIONS = range(1, SCHEMA_VERSION + 1)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_real_catalog_of_each_version(tmp_path, version):
    library = tmp_path / "library"
    library.mkdir()
    shutil.copy(DATA / f"catalog-schema-{version}.db", library / "catalog.db")
    with closing(sqlite3.connect(library / "catalog.db")) as old:
        assert old.execute("PRAGMA user_version").fetchone() == (version,)
    Catalog.open(library).close()
    encoder = FakeEncoder()
    with LibraryReader.open(library) as reader:
        assert reader.status().schema_version == SCHEMA_VERSION
        assert reader.model == encoder.identity
        assert reader.ids().tolist() == [1, 2, 3]
        assert [record.path for record in reader.images([1, 2, 3])] == [
            Path(f"/photos/{n}.png") for n in range(3)
        ]
        assert [failure.reason for failure in reader.failures()] == ["the file is empty"]
        for number in range(3):
            path = draw(tmp_path / f"{number}.png", number)
            fresh = encoder.encode_pixels(read_pixels(path, encoder.preprocessor)[None])
            assert reader.nearest(fresh, 1)[1].tolist() == [[number + 1]]


def test_the_newest_schema_has_a_file_here():
    assert (DATA / f"catalog-schema-{SCHEMA_VERSION}.db").exists()


def test_a_migrated_catalog_has_the_schema_of_a_new_one(tmp_path):
    Catalog.open(tmp_path).close()
    for version in VERSIONS:
        old = tmp_path / f"old-{version}"
        old.mkdir()
        shutil.copy(DATA / f"catalog-schema-{version}.db", old / "catalog.db")
        Catalog.open(old).close()
        assert schema(old) == schema(tmp_path)


def test_a_step_that_fails_leaves_nothing_behind(monkeypatch):
    def half(db):
        db.execute("CREATE TABLE half (a)")
        raise RuntimeError("no")

    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        migrate(db)
        monkeypatch.setattr(migrations, "_STEPS", (*migrations._STEPS, half))
        with pytest.raises(RuntimeError, match="no"):
            migrate(db, up_to=SCHEMA_VERSION + 1)
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert db.execute("SELECT name FROM sqlite_master WHERE name = 'half'").fetchall() == []


def schema(library):
    with closing(sqlite3.connect(library / "catalog.db")) as db:
        return sorted(
            " ".join(sql.split())
            for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
        )
