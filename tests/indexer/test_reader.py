"""The door to a library: snapshots, lookups, and what it does about damage."""

from __future__ import annotations

import shutil
import sqlite3
import sys
import threading
from contextlib import closing

import numpy as np
import pytest
from indexer_fakes import draw
from PIL import Image

from indexer import (
    ImageGoneError,
    LibraryError,
    LibraryNotFoundError,
    LibraryReader,
    default_library_path,
    display_path,
    examine,
    forget,
    index_folders,
)
from indexer.catalog import Catalog
from indexer.migrations import SCHEMA_VERSION


@pytest.fixture
def filled(index, photos, library):
    """A library of ten pictures."""
    for number in range(10):
        draw(photos / f"{number}.png", number)
    index()
    return library


def test_images_come_in_the_order_asked_with_all_they_have(index, photos, library):
    first, second = draw(photos / "a.png", 1, (50, 20)), draw(photos / "b.jpg", 2, (10, 40))
    index()
    with LibraryReader.open(library) as reader:
        ids = [reader.find(second), reader.find(first)]
        records = reader.images([*ids, ids[0]])
        assert [record.path for record in records] == [second, first, second]
        record = records[1]
        assert (record.width_pixels, record.height_pixels, record.format) == (50, 20, "png")
        assert record.size_bytes == first.stat().st_size
        assert record.modified_seconds == pytest.approx(first.stat().st_mtime)
        assert (record.copies, record.is_offline, record.taken_at) == (1, False, None)
        assert len(record.content_hash) == 64


def test_all_files_of_an_image(index, photos, library):
    first = draw(photos / "b.png", 1)
    index()
    second = photos / "a.png"
    shutil.copy(first, second)
    other = draw(photos / "c.png", 2)
    index()
    with LibraryReader.open(library) as reader:
        one, two = reader.find(first), reader.find(other)
        assert reader.paths([two, one]) == [[other], [first, second]]
        assert reader.paths([]) == []
        with pytest.raises(ImageGoneError, match="id 999"):
            reader.paths([one, 999])


def test_what_tells_copies_is_known_from_indexing(index, photos, library):
    first = draw(photos / "a.png", 1, (300, 200))
    with Image.open(first) as picture:
        picture.resize((150, 100)).save(photos / "b.jpg", quality=60)
        turned = picture.transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6  # shown turned back
        turned.save(photos / "c.jpg", exif=exif, quality=90)
    draw(photos / "d.png", 2, (300, 200))
    index()
    with LibraryReader.open(library) as reader:
        ids = [reader.find(photos / name) for name in ("a.png", "b.jpg", "c.jpg", "d.png")]
        known = reader.difference_hashes([*ids, 999])
        a, b, c, d = (known[image_id] for image_id in ids)
        assert (a ^ b).bit_count() <= 5
        assert (a ^ c).bit_count() <= 5
        assert (a ^ d).bit_count() > 13
        assert max(known.values()) < 1 << 64
        assert set(known) == set(ids)


def test_many_ids_at_once(filled):
    with LibraryReader.open(filled) as reader:
        ids = np.tile(reader.ids(), 200)
        assert [record.id for record in reader.images(ids)] == ids.tolist()


def test_ids_that_are_gone(filled):
    with LibraryReader.open(filled) as reader:
        with pytest.raises(ImageGoneError, match=r"id 999, 1000 is in this library") as caught:
            reader.images([1, 999, 1000])
        assert caught.value.image_ids == [999, 1000]
        with pytest.raises(ImageGoneError, match="id 999"):
            reader.vectors([999])


def test_find_and_find_content(filled, photos, tmp_path):
    with LibraryReader.open(filled) as reader:
        image_id = reader.find(photos / "3.png")
        copy = shutil.copy(photos / "3.png", tmp_path / "elsewhere")
        assert reader.find(copy) is None
        assert reader.find_content(copy) == image_id
        assert reader.find(photos) is reader.find(tmp_path) is None
        assert reader.find_content(draw(tmp_path / "new.png", 99)) is None


def test_nearest_among(filled):
    with LibraryReader.open(filled) as reader:
        (query,) = reader.vectors([4])
        scores, ids = reader.nearest(query[None], 20)
        assert ids.shape == (1, 10)
        assert ids[0, 0] == 4
        assert scores[0, 0] == pytest.approx(1, abs=2e-3)
        few_scores, few = reader.nearest(query[None], 20, among=np.array([9, 4, 9, 777, -3]))
        assert few.tolist() == [[4, 9]]
        assert few_scores[0].tolist() == [scores[0, ids[0].tolist().index(wanted)] for wanted in (4, 9)]
        assert reader.nearest(query[None], 5, among=np.empty(0, np.int64))[1].shape == (1, 0)
        assert reader.nearest(query[None], 0)[1].shape == (1, 0)
        assert reader.nearest(np.empty((0, 16), np.float32), 5)[1].shape[0] == 0
        both = reader.nearest(reader.vectors([1, 2]), 3)
        assert both[1][:, 0].tolist() == [1, 2]


def test_a_query_of_another_size_is_refused(filled):
    with (
        LibraryReader.open(filled) as reader,
        pytest.raises(LibraryError, match=r"\(1, 5\).*have 16 numbers"),
    ):
        reader.nearest(np.zeros((1, 5), np.float32), 1)


def test_status(filled, photos, encoder):
    (photos / "bad.jpg").touch()
    with LibraryReader.open(filled) as reader:
        status = reader.status()
    assert (status.images, status.files, status.failed, status.skipped) == (10, 10, 0, 0)
    assert status.model == encoder.identity
    assert status.next_model is None
    assert [(root.path, root.is_online, root.files) for root in status.roots] == [(photos, True, 10)]
    assert status.library_bytes > 1000
    assert status.created_at < status.last_run_at
    assert (status.offline_images, status.schema_version, status.notices) == (0, SCHEMA_VERSION, [])


def test_no_library(tmp_path):
    with pytest.raises(LibraryNotFoundError, match=r"no library at .*nowhere yet.*imago index FOLDER"):
        LibraryReader.open(tmp_path / "nowhere")
    (tmp_path / "library").mkdir()
    with pytest.raises(LibraryNotFoundError):
        LibraryReader.open(tmp_path / "library")


def test_a_library_without_a_model_yet(tmp_path):
    Catalog.open(tmp_path).close()
    with LibraryReader.open(tmp_path) as reader:
        assert reader.model is None
        assert len(reader) == 0
        assert reader.ids().shape == (0,)
        assert reader.nearest(np.zeros((1, 3), np.float32), 5)[1].shape == (1, 0)
        assert reader.status().images == 0
        assert reader.notices == []


class TestSnapshot:
    def test_it_stays_while_the_library_changes_until_it_is_refreshed(self, index, photos, filled):
        with LibraryReader.open(filled) as reader:
            before = reader.ids().tolist()
            gone = reader.find(photos / "0.png")
            assert not reader.refresh()
            (photos / "0.png").unlink()
            draw(photos / "new.png", 77)
            index()
            assert reader.ids().tolist() == before
            (query,) = reader.vectors([1])
            assert reader.nearest(query[None], 20)[1].shape == (1, 10)
            assert reader.refresh()
            assert reader.ids().tolist() == [*sorted({*before} - {gone}), 11]
            assert not reader.refresh()

    def test_an_image_that_went_away_since_is_said_to_be_gone(self, index, photos, filled):
        with LibraryReader.open(filled) as reader:
            gone = reader.find(photos / "0.png")
            (photos / "0.png").unlink()
            index()
            with pytest.raises(ImageGoneError):
                reader.images([gone])

    def test_the_file_is_replaced_between_two_looks_at_it(self, index, photos, filled, monkeypatch):
        from indexer import reader as module

        verify, calls = module.verify, []

        def replace_first(path, info, should_stop):
            if not calls:
                calls.append(1)
                draw(photos / "new.png", 77)
                index()
            verify(path, info, should_stop)

        monkeypatch.setattr(module, "verify", replace_first)
        with LibraryReader.open(filled) as reader:
            assert len(reader) == 11
            assert reader.notices == []

    def test_threads(self, filled):
        failures = []
        with LibraryReader.open(filled) as reader:
            query = reader.vectors([5])

            def work():
                try:
                    for _ in range(30):
                        assert reader.nearest(query, 3)[1][0, 0] == 5
                        assert reader.images([5])[0].id == 5
                        reader.refresh()
                except BaseException as error:  # noqa: BLE001  (any)
                    failures.append(error)

            threads = [threading.Thread(target=work) for _ in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert failures == []


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no names that are not Unicode")
@pytest.mark.parametrize("approximate", [False, True])
def test_a_library_whose_path_is_not_unicode(photos, encoder, tmp_path, monkeypatch, approximate):
    for module in ("approximate_index", "pipeline"):
        monkeypatch.setattr(f"indexer.{module}.MINIMUM_VECTORS", 10)
    for number in range(30):
        draw(photos / f"{number}.png", number)
    place = tmp_path / "l\udcff"
    for _ in range(2):
        assert index_folders(place, [photos], encoder, workers=1, approximate=approximate).notices == []
    with LibraryReader.open(place) as reader:
        assert reader.is_approximate is approximate
        assert reader.notices == []
        ids = reader.ids()
        found = reader.nearest(reader.vectors(ids), 1, exact=True)[1]
        assert found[:, 0].tolist() == ids.tolist()
        assert reader.nearest(reader.vectors(ids), 1)[1].shape == (30, 1)
    assert not [finding for finding in examine(place) if finding.is_problem]


class TestDamagedIndex:
    """vectors.faiss is derived: without it everything still answers, says so, and the next run mends it."""

    @pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "foreign"])
    def test_it_is_detected_told_and_made_anew(self, index, filled, damage):
        path = filled / "vectors.faiss"
        with LibraryReader.open(filled) as reader:
            query = reader.vectors([3])
            expected = reader.nearest(query, 10)
        data = bytearray(path.read_bytes())
        if damage == "missing":
            path.unlink()
        elif damage == "truncated":
            path.write_bytes(data[:-40])
        elif damage == "flipped":
            data[200] ^= 4
            path.write_bytes(data)
        else:
            path.write_bytes(b"something else entirely")
        with LibraryReader.open(filled) as reader:
            found = reader.nearest(query, 10)
            (notice,) = reader.notices
        assert "vectors.faiss is not usable" in notice
        assert "imago index" in notice
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])
        (notice,) = index().notices
        assert "vectors.faiss was not usable" in notice
        with LibraryReader.open(filled) as reader:
            assert reader.notices == []
            np.testing.assert_array_equal(reader.nearest(query, 10)[0], expected[0])

    def test_an_old_file_put_back_is_detected(self, index, filled, photos):
        path = filled / "vectors.faiss"
        old = path.read_bytes()
        with LibraryReader.open(filled) as reader:
            gone = reader.find(photos / "0.png")
        (photos / "0.png").unlink()
        index()
        path.write_bytes(old)
        with LibraryReader.open(filled) as reader:
            assert gone not in reader.ids()
            assert "older than the catalog" in reader.notices[0]

    @pytest.mark.parametrize("runs", [1, 2])
    def test_a_catalog_put_back_gets_no_vectors_of_a_newer_file(self, index, check, filled, photos, runs):
        shutil.copy(filled / "catalog.db", photos.parent / "backup.db")
        for number in range(runs):
            draw(photos / f"later{number}.png", 100 + number)
            index()
        shutil.copy(photos.parent / "backup.db", filled / "catalog.db")
        with LibraryReader.open(filled) as reader:
            assert len(reader) == 10
            assert "newer than the catalog" in reader.notices[0]
        assert "newer than the catalog" in next(
            finding.message for finding in examine(filled) if finding.name == "index"
        )
        for number in range(runs):
            (photos / f"later{number}.png").unlink()
            draw(
                photos / f"other{number}.png", 200 + number
            )  # gets the number and the sequence of what was lost
        assert "newer than the catalog" in index().notices[0]
        check(sorted(photos.iterdir()))
        assert not [finding for finding in examine(filled) if finding.is_problem]

    def test_a_catalog_put_back_finds_what_was_forgotten_since(self, index, check, filled, photos):
        shutil.copy(filled / "catalog.db", photos.parent / "backup.db")
        forget(filled, photos / "3.png")
        shutil.copy(photos.parent / "backup.db", filled / "catalog.db")
        index()
        check(sorted(photos.iterdir()))

    def test_a_file_of_the_same_generation_and_another_past_is_detected(self, index, check, filled, photos):
        shutil.copytree(filled, photos.parent / "backup")
        (photos / "3.png").unlink()
        index()
        newer = (filled / "vectors.faiss").read_bytes()
        shutil.copy(photos.parent / "backup" / "catalog.db", filled / "catalog.db")
        shutil.copy(photos.parent / "backup" / "vectors.faiss", filled / "vectors.faiss")
        draw(photos / "3.png", 300)
        index()
        (filled / "vectors.faiss").write_bytes(newer)
        with LibraryReader.open(filled) as reader:
            assert "not the one that the catalog noted" in reader.notices[0]
        index()
        check(sorted(photos.iterdir()))

    def test_a_file_that_a_former_version_noted_is_used(self, index, filled, photos):
        with closing(sqlite3.connect(filled / "catalog.db")) as catalog, catalog:
            assert catalog.execute("DELETE FROM settings WHERE key = 'vectors_checksum'").rowcount == 1
        with LibraryReader.open(filled) as reader:
            assert (len(reader), reader.notices) == (10, [])
        assert index().notices == []

    def test_one_of_another_library_is_detected(self, index, filled, photos, encoder, tmp_path):
        from indexer import index_folders

        index_folders(tmp_path / "other", [photos], encoder, workers=1)
        shutil.copy(tmp_path / "other" / "vectors.faiss", filled / "vectors.faiss")
        with LibraryReader.open(filled) as reader:
            assert "belongs to another library" in reader.notices[0]


def test_default_library_path(monkeypatch, tmp_path):
    monkeypatch.setenv("IMAGO_LIBRARY", str(tmp_path))
    assert default_library_path() == tmp_path
    monkeypatch.delenv("IMAGO_LIBRARY")
    assert default_library_path().parts[-2:] == ("imago", "library")


@pytest.mark.parametrize(
    ("name", "shown"),
    [("plain é 日", "plain é 日"), ("caf\udce9", "caf\\xe9"), ("a\nb\x1b[31m", "a\\nb\\x1b[31m")],
)
def test_display_path(name, shown):
    assert display_path(name) == shown
