"""Letting go of folders and files."""

from __future__ import annotations

import os

import pytest
from indexer_fakes import draw

from indexer import LibraryNotFoundError, LibraryReader, NotInLibraryError, forget
from indexer.catalog import Catalog


def test_forgetting_a_root(index, check, photos, tmp_path, library):
    kept, other = draw(photos / "a.png", 1), draw(tmp_path / "more" / "b.png", 2)
    draw(tmp_path / "more" / "copy.png", 1)
    index(photos, tmp_path / "more")
    with LibraryReader.open(library) as reader:
        gone = reader.find(other)
    summary = forget(library, tmp_path / "more")
    assert (summary.files, summary.image_ids, summary.will_return) == (2, [gone], False)
    assert other.exists()
    check([kept])
    with LibraryReader.open(library) as reader:
        assert [root.path for root in reader.roots()] == [photos]
        (vector,) = reader.vectors(reader.ids())
    for name in ("catalog.db", "vectors.faiss"):  # what was forgotten is nowhere in the files
        data = (library / name).read_bytes()
        assert vector.astype("<f2").tobytes() in data


def test_nothing_of_it_stays_on_the_disk(index, photos, library):
    draw(photos / "a.png", 1)
    secret = draw(photos / "secret.png", 2)
    index()
    with LibraryReader.open(library) as reader:
        (vector,) = reader.vectors([reader.find(secret)]).astype("<f2")
        content_hash = bytes.fromhex(reader.images([reader.find(secret)])[0].content_hash)
        (difference_hash,) = reader.difference_hashes([reader.find(secret)]).values()
    traces = (vector.tobytes(), content_hash, b"secret.png", difference_hash.to_bytes(8, "big"))
    written = [path.read_bytes() for path in library.iterdir()]
    for trace in traces:
        assert any(trace in data for data in written)
    forget(library, secret)
    for path in library.iterdir():
        for trace in traces:
            assert trace not in path.read_bytes(), path


def test_a_file_that_is_held_open_is_said_and_written_by_a_later_run(
    index, check, photos, held_open, monkeypatch
):
    library = photos.parent / "library"
    monkeypatch.setattr("indexer.vector_index._SMALL", 0)  # so that no drift as small as this has it written
    monkeypatch.setattr("indexer.vector_index._DRIFT", 0.9)
    kept, secret = draw(photos / "a.png", 1), draw(photos / "secret.png", 2)
    index()
    with LibraryReader.open(library) as reader:
        trace = reader.vectors([reader.find(secret)]).astype("<f2").tobytes()
    with held_open():
        (notice,) = forget(library, secret).notices
        secret.unlink()
        assert "holds the vectors of what was forgotten" in notice
        assert "could not be renewed" in index().notices[0]
    check([kept])
    assert trace in (library / "vectors.faiss").read_bytes()
    assert index().notices == []
    assert trace not in (library / "vectors.faiss").read_bytes()
    check([kept])


def test_what_a_former_version_left_of_forgotten_pictures_goes_too(index, photos, library):
    draw(photos / "a.png", 1)
    index()
    with Catalog.open(library) as catalog, catalog.transaction():
        catalog.salvage("fingerprints", ["image_id", "difference_hash"], [(2, 0x1234567890ABCDEF)])
    trace = 0x1234567890ABCDEF.to_bytes(8, "big")
    assert trace in (library / "catalog.db").read_bytes()
    index(all_known=True)
    assert trace not in (library / "catalog.db").read_bytes()
    with LibraryReader.open(library) as reader:
        assert list(reader.difference_hashes([1, 2])) == [1]


def test_forgetting_a_folder_below_a_root_says_that_it_returns(index, check, photos, library):
    kept, gone = draw(photos / "a.png", 1), draw(photos / "sub" / "b.png", 2)
    draw(photos / "subway.png", 3)
    index()
    summary = forget(library, photos / "sub")
    assert (summary.files, summary.will_return) == (1, True)
    check([kept, photos / "subway.png"])
    assert index().embedded == 1
    check([kept, gone, photos / "subway.png"])


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
class TestLinks:
    def test_forgetting_a_link_leaves_the_folder_behind_it(self, index, check, photos, tmp_path, library):
        """A root leads by a link into another: each is known by its own paths."""
        kept, other = draw(photos / "a.png", 1), draw(tmp_path / "more" / "b.png", 2)
        (photos / "link").symlink_to(tmp_path / "more")
        index(photos, tmp_path / "more")
        check([kept, other, photos / "link" / "b.png"])
        summary = forget(library, photos / "link")
        assert (summary.files, summary.image_ids, summary.will_return) == (1, [], True)
        with LibraryReader.open(library) as reader:
            assert [root.path for root in reader.roots()] == [photos, tmp_path / "more"]
            assert reader.find(other) is not None

    def test_forgetting_a_linked_file(self, index, check, photos, tmp_path, library):
        kept, other = draw(photos / "a.png", 1), draw(tmp_path / "more" / "b.png", 2)
        (photos / "link.png").symlink_to(other)
        (tmp_path / "way").symlink_to(photos)
        index(photos, tmp_path / "more")
        assert (
            forget(library, tmp_path / "way" / "link.png").files == 1
        )  # the folders on the way are resolved
        check([kept, other])

    def test_a_link_that_the_library_does_not_know_means_what_it_leads_to(
        self, index, check, photos, tmp_path, library
    ):
        kept, other = draw(photos / "a.png", 1), draw(tmp_path / "more" / "b.png", 2)
        draw(photos / "sub" / "c.png", 3)
        index(photos, tmp_path / "more")
        (tmp_path / "to a folder").symlink_to(photos / "sub")
        (tmp_path / "to a root").symlink_to(tmp_path / "more")
        assert forget(library, tmp_path / "to a folder").files == 1
        check([kept, other])
        assert forget(library, tmp_path / "to a root").files == 1
        check([kept])
        forget(library, photos / "sub" / "..")
        with LibraryReader.open(library) as reader:
            assert reader.roots() == []


def test_forgetting_what_is_not_there(index, photos, library, tmp_path):
    draw(photos / "a.png", 1)
    with pytest.raises(LibraryNotFoundError):
        forget(library, photos)
    index()
    with pytest.raises(NotInLibraryError, match=r"knows nothing at .*elsewhere.*imago roots"):
        forget(library, tmp_path / "elsewhere")


def test_a_first_folder_without_images_is_not_looked_after(index, photos, tmp_path, library):
    from indexer import NothingToIndexError

    draw(photos / "a.png", 1)
    index()
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").touch()
    with pytest.raises(NothingToIndexError):
        index(tmp_path / "docs")
    with LibraryReader.open(library) as reader:
        assert [root.path for root in reader.roots()] == [photos]
