"""What the doctor finds, and what it saves."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import numpy as np
import pytest
from indexer_fakes import draw

from indexer import LibraryNotFoundError, LibraryNotWritableError, LibraryReader, index_folders
from indexer.doctor import examine, recover


@pytest.fixture
def filled(index, photos, library):
    for number in range(30):
        draw(photos / f"{number:02}.png", number)
    index()
    return library


def problems(library):
    return {finding.name: finding for finding in examine(library) if finding.is_problem}


def change(library, statement, *values):
    with closing(sqlite3.connect(library / "catalog.db")) as catalog, catalog:
        catalog.execute(statement, values)


def test_a_sound_library(filled):
    findings = examine(filled)
    assert [finding for finding in findings if finding.is_problem] == []
    assert [finding.name for finding in findings] == [
        "catalog",
        "rows",
        "vectors",
        "index",
        "files",
        "search",
    ]
    assert "recall@10 of the exact index against all scores 1.0000 over 20 images" in findings[-1].message
    assert examine(filled, np.ones((3, 16), np.float32))[-1].message.count("over 3 texts as queries") == 1


def test_no_library(tmp_path):
    with pytest.raises(LibraryNotFoundError):
        examine(tmp_path)


def test_each_disagreement_is_found_and_has_a_remedy(filled, photos):
    change(filled, "DELETE FROM vectors WHERE image_id = 3")
    assert "1 images have no vector" in problems(filled)["rows"].message
    change(filled, "DELETE FROM files WHERE image_id = 5")
    found = problems(filled)
    assert found["rows"].remedy
    change(filled, "UPDATE vectors SET vector = ? WHERE image_id = 7", bytes(32))
    found = problems(filled)
    assert "1 of 29 vectors are no unit vectors" in found["vectors"].message
    assert "other vectors than the catalog" in found["index"].message
    (photos / "09.png").unlink()
    assert "1 are not there and 0 have changed" in problems(filled)["files"].message


def test_a_damaged_index_file(filled):
    (filled / "vectors.faiss").write_bytes(b"")
    assert "imago index" in problems(filled)["index"].remedy


@pytest.mark.parametrize("damage", ["one page", "many pages", "tail"])
def test_recovery_saves_what_can_be_read(filled, photos, encoder, tmp_path, damage):
    path = filled / "catalog.db"
    data = bytearray(path.read_bytes())
    pages = len(data) // 8192
    if damage == "tail":
        data = data[: (pages - 2) * 8192]
    else:
        with closing(sqlite3.connect(path)) as catalog:
            tables = {"one page": ["vectors"], "many pages": ["vectors", "files"]}[damage]
            roots = [
                catalog.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
                for table in tables
            ]
        for page in roots:
            data[(page - 1) * 8192 : page * 8192] = b"\xa5" * 8192
    path.write_bytes(data)
    before = path.read_bytes()
    found = problems(filled)
    assert "--recover" in found["catalog"].remedy
    recovery = recover(filled, tmp_path / "new")
    assert path.read_bytes() == before
    assert recovery.lost or damage == "tail"
    assert recovery.images > 0 or damage == "tail"
    summary = index_folders(tmp_path / "new", [photos], encoder, workers=1)
    assert summary.failed == []
    with LibraryReader.open(tmp_path / "new") as reader:
        assert len(reader) == 30
        assert reader.notices == []
    assert problems(tmp_path / "new") == {}


def test_recovery_of_a_sound_library_loses_nothing(filled, check, photos, tmp_path):
    recovery = recover(filled, tmp_path / "new")
    assert (recovery.roots, recovery.files, recovery.images, recovery.vectors, recovery.lost) == (
        1,
        30,
        30,
        30,
        [],
    )
    with LibraryReader.open(filled) as old, LibraryReader.open(tmp_path / "new") as new:
        np.testing.assert_array_equal(old.vectors(old.ids()), new.vectors(new.ids()))
    with pytest.raises(LibraryNotWritableError, match="is not empty"):
        recover(filled, tmp_path / "new")
