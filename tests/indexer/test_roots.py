"""Letting go of folders and files."""

from __future__ import annotations

import pytest
from indexer_fakes import draw

from indexer import LibraryNotFoundError, LibraryReader, NotInLibraryError, forget


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
    written = [path.read_bytes() for path in library.iterdir()]
    for trace in (vector.tobytes(), content_hash, b"secret.png"):
        assert any(trace in data for data in written)
    forget(library, secret)
    for path in library.iterdir():
        for trace in (vector.tobytes(), content_hash, b"secret.png"):
            assert trace not in path.read_bytes(), path


def test_forgetting_a_folder_below_a_root_says_that_it_returns(index, check, photos, library):
    kept, gone = draw(photos / "a.png", 1), draw(photos / "sub" / "b.png", 2)
    draw(photos / "subway.png", 3)
    index()
    summary = forget(library, photos / "sub")
    assert (summary.files, summary.will_return) == (1, True)
    check([kept, photos / "subway.png"])
    assert index().embedded == 1
    check([kept, gone, photos / "subway.png"])


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
