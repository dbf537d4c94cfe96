"""What the doctor finds, and what it saves."""

from __future__ import annotations

import os
import shlex
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from indexer_fakes import draw

from indexer import (
    LibraryLockedError,
    LibraryNotFoundError,
    LibraryNotWritableError,
    LibraryReader,
    index_folders,
)
from indexer.doctor import examine, recover
from indexer.lock import writer_lock


@pytest.fixture
def filled(index, photos, library):
    for number in range(30):
        path = draw(photos / f"{number:02}.png", number)
        os.utime(path, (1_000_000_000, 1_000_000_000))  # so old that no later run opens it to be sure
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


def test_a_run_without_folders_mends_what_it_is_said_to_mend(filled, photos, encoder):
    with LibraryReader.open(filled) as reader:
        lacking, unheld, gone = (reader.find(photos / f"{number:02}.png") for number in (3, 5, 9))
    change(filled, "DELETE FROM vectors WHERE image_id = ?", lacking)
    (photos / "05.png").unlink()
    change(filled, "DELETE FROM files WHERE image_id = ?", unheld)
    change(filled, "UPDATE images SET gone_at = '2026-01-01' WHERE id = ?", gone)
    found = [finding for finding in examine(filled) if finding.name == "rows"]
    assert len(found) == 3
    assert all("`imago index` without folders" in finding.remedy for finding in found)
    summary = index_folders(filled, [], encoder, workers=1)
    assert (summary.embedded, summary.notices) == (1, [])
    assert problems(filled) == {}
    with LibraryReader.open(filled) as reader:
        assert set(range(1, 31)) - set(reader.ids().tolist()) == {unheld}
    batches = len(encoder.batches)
    assert index_folders(filled, [], encoder, workers=1).unchanged == 29
    assert len(encoder.batches) == batches


@pytest.mark.parametrize("is_in_file", [True, False])
def test_a_vector_of_another_length_hides_no_other_finding(filled, photos, is_in_file):
    if not is_in_file:
        change(filled, "UPDATE vectors SET sequence = 1000 WHERE image_id = 7")
    change(filled, "UPDATE vectors SET vector = ? WHERE image_id = 7", bytes(30))
    (photos / "09.png").unlink()
    found = problems(filled)
    assert "1 of 30 vectors are no unit vectors" in found["vectors"].message
    assert "1 are not there" in found["files"].message
    assert ("search" in found) != is_in_file


def test_a_damaged_index_file(filled):
    (filled / "vectors.faiss").write_bytes(b"")
    assert "imago index" in problems(filled)["index"].remedy


@pytest.mark.parametrize("damage", ["vectors", "vectors and files", "images", "roots", "models", "tail"])
def test_recovery_saves_what_can_be_read(filled, photos, encoder, tmp_path, damage):
    path = filled / "catalog.db"
    data = bytearray(path.read_bytes())
    pages = len(data) // 8192
    if damage == "tail":
        data = data[: (pages - 2) * 8192]
    else:
        with closing(sqlite3.connect(path)) as catalog:
            roots = [
                catalog.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
                for table in damage.split(" and ")
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
    assert recovery.images > 0 or damage in {"images", "tail"}
    summary = index_folders(tmp_path / "new", [photos], encoder, workers=1)
    assert summary.failed == []
    with LibraryReader.open(tmp_path / "new") as reader:
        assert len(reader) == 30
        assert reader.notices == []
    assert problems(tmp_path / "new") == {}


def test_recovery_needs_room_beside_the_new_library_only(filled, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
    target = tmp_path / "shelf" / "new"
    assert recover(filled, target).images == 30
    assert list(target.parent.iterdir()) == [target]


def test_recovery_waits_for_no_writer(filled, tmp_path):
    with writer_lock(filled), pytest.raises(LibraryLockedError):
        recover(filled, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_command_that_recovers_can_be_typed(filled, tmp_path):
    library = filled.rename(tmp_path / "Application Support")
    (library / "catalog.db").write_bytes(b"no catalog")
    remedy = problems(library)["catalog"].remedy
    expected = ["imago", "doctor", "--recover", f"{library}-recovered", "--library", str(library)]
    assert shlex.split(remedy) == expected


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
        assert len(new.difference_hashes(new.ids())) == 30
        assert old.difference_hashes(old.ids()) == new.difference_hashes(new.ids())
    with pytest.raises(LibraryNotWritableError, match="is not empty"):
        recover(filled, tmp_path / "new")


def test_recovery_keeps_no_hash_of_an_image_that_is_lost(filled, tmp_path):
    change(filled, "INSERT INTO fingerprints (image_id, difference_hash) VALUES (99, 1)")
    assert recover(filled, tmp_path / "new").lost == []
    with LibraryReader.open(tmp_path / "new") as reader:
        assert reader.difference_hashes([99]) == {}
        assert len(reader.difference_hashes(reader.ids())) == 30


def test_recovery_makes_vectors_of_another_length_anew(filled, encoder, tmp_path):
    change(filled, "UPDATE vectors SET vector = x'0000' WHERE image_id = 3")
    recovery = recover(filled, tmp_path / "new")
    assert (recovery.vectors, len(recovery.lost)) == (29, 1)
    index_folders(tmp_path / "new", [], encoder, workers=1)
    assert problems(tmp_path / "new") == {}
    with LibraryReader.open(tmp_path / "new") as reader:
        assert len(reader) == 30


def test_recovery_of_a_library_of_a_former_version(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    shutil.copy(Path(__file__).parent / "data" / "catalog-schema-1.db", old / "catalog.db")
    assert recover(old, new).lost == []
