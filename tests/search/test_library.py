"""Questions to a real library: words, files, images, ids; and what bad ones get."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from indexer import index_folders
from indexer.errors import ImageGoneError, LibraryNotFoundError, ModelMismatchError
from model.errors import ModelNotFoundError
from search import Library, QueryError, QueryImageError
from search.errors import QueryImageNotFoundError

if TYPE_CHECKING:
    from pathlib import Path


def names(hits: list) -> list[str]:
    return [hit.path.name for hit in hits]


def test_importing_search_is_cheap() -> None:
    code = (
        "import search, sys; from search import QueryError; import search.query;"
        "heavy = {'jax', 'faiss', 'transformers', 'sqlite_utils', 'PIL', 'numpy'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_words_find_what_they_name_best_first(library: Library) -> None:
    hits = library.search("red", k=4)
    assert {hit.path.parent.name for hit in hits} == {"red"} or "copy.png" in names(hits)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(-1 <= hit.score <= 1.0001 for hit in hits)


def test_a_score_is_the_cosine(library: Library, colours) -> None:
    hit = library.search("green", k=1)[0]
    vector = library.reader.vectors([hit.id])[0]
    assert hit.score == pytest.approx(float(vector @ colours.encode_texts(["green"])[0]), abs=1e-5)


def test_an_image_file_an_image_and_an_id_ask_the_same(library: Library, painted) -> None:
    path = painted.photos / "blue" / "blue3.png"
    by_file = library.search(path, k=5)
    image_id = library.reader.find(path)
    with Image.open(path) as image:
        by_image = library.search(image, k=5)
    assert by_file == library.search(image_id, k=5)
    assert [hit.id for hit in by_image] == [hit.id for hit in by_file]
    assert by_file[0].path == path
    assert by_file[0].score == pytest.approx(1, abs=1e-3)


def test_an_image_of_the_library_needs_no_model(painted) -> None:
    with Library.open(painted.path) as library:  # its model, "colours", cannot be loaded
        path = painted.photos / "blue" / "blue3.png"
        assert library.search(path, k=1)[0].path == path
        assert library.similar(library.reader.find(path), k=1)
        with pytest.raises(ModelNotFoundError):
            library.search("red")


def test_a_file_that_changed_is_looked_at_anew(painted, tmp_path, colours) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    path = photos / "a.png"
    path.write_bytes((painted.photos / "red" / "red0.png").read_bytes())
    from indexer import index_folders

    index_folders(tmp_path / "own", [photos], colours, workers=1)
    path.write_bytes((painted.photos / "blue" / "blue0.png").read_bytes())
    with Library.open(tmp_path / "own", encoder=colours) as library:
        assert library.search(path, k=1)[0].score < 0.5
        assert library.similar(path, k=1)[0].score < 0.5


def test_similar_leaves_the_image_itself_out(library: Library, painted) -> None:
    path = painted.photos / "green" / "green2.png"
    image_id = library.reader.find(path)
    for query in (path, str(path), image_id, np.int64(image_id)):
        hits = library.similar(query, k=3)
        assert len(hits) == 3
        assert image_id not in [hit.id for hit in hits]


def test_similar_shows_that_a_picture_from_elsewhere_is_there(library: Library, painted, tmp_path) -> None:
    stranger = tmp_path / "stranger.png"
    stranger.write_bytes((painted.photos / "green" / "green2.png").read_bytes())
    hits = library.similar(stranger, k=3)
    assert "green2.png" in names(hits)
    assert hits[0].score == pytest.approx(1, abs=1e-3)


def test_an_exact_copy_is_one_image(library: Library, painted) -> None:
    copy = library.reader.find(painted.photos / "two" / "copy.png")
    assert copy == library.reader.find(painted.photos / "red" / "red0.png")


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_file_is_no_copy_of_itself(colours, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for name in ("albums", "real"):
        (photos / name).mkdir(parents=True)
    for seed in range(3):
        Image.new("RGB", (20, 20), (200, 50 * seed, 0)).save(photos / "real" / f"{seed}.png")
    (photos / "albums" / "0.png").symlink_to(photos / "real" / "0.png")
    (photos / "real" / "hard.png").hardlink_to(photos / "real" / "1.png")
    for name in ("copy", "other"):
        (photos / f"{name}.png").write_bytes((photos / "real" / "2.png").read_bytes())
    (photos / "albums" / "2.png").symlink_to(photos / "real" / "2.png")
    index_folders(
        tmp_path / "library", [photos / "albums"], colours, workers=1
    )  # links first, as they may be
    index_folders(tmp_path / "library", [photos], colours, workers=1)
    with Library.open(tmp_path / "library", encoder=colours) as library:
        (group,) = library.duplicates("exact")
        expected = {photos / "real" / "2.png", photos / "copy.png", photos / "other.png"}
        assert set(group.paths[group.best.id]) == expected
        assert (group.best.path, group.best.copies) == (photos / "real" / "2.png", 3)
        away = photos.rename(tmp_path / "away")
        assert [found.best.copies for found in library.duplicates("exact")] == [4, 2, 2]
        away.rename(photos)


def test_results_are_stable_over_k(library: Library) -> None:
    for query in ("red", "white black", "nothing of the kind"):
        long = library.search(query, k=30)
        for k in (1, 5, 15):
            assert library.search(query, k=k) == long[:k]


def test_more_than_there_are_gives_all(library: Library) -> None:
    hits = library.similar(library.reader.ids()[0], k=1_000_000)
    assert len(hits) == len(library.reader) - 1
    assert len({hit.id for hit in hits}) == len(hits)


@pytest.mark.parametrize("k", [0, -1, 2.5, "3", None, True])
def test_a_count_that_is_none(library: Library, k: object) -> None:
    with pytest.raises(QueryError, match="whole number of at least 1"):
        library.search("red", k=k)
    with pytest.raises(QueryError, match="whole number of at least 1"):
        library.similar(1, k=k)


@pytest.mark.parametrize("query", ["", "  ", None, True, 2.5, ["red"], b"red"])
def test_a_query_that_is_none(library: Library, query: object) -> None:
    with pytest.raises(QueryError):
        library.search(query)


def test_an_id_that_is_gone(library: Library) -> None:
    for ask in (library.search, library.similar):
        with pytest.raises(ImageGoneError, match="999"):
            ask(999)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("gone.png", None, "There is no image file"),
        ("empty.png", b"", "empty"),
        ("words.png", b"these are words, not pixels", "no image"),
        ("notes.txt", b"these are words, not pixels", "not an image"),
        ("cut.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 20, "damaged"),
    ],
)
def test_a_file_that_is_no_picture(
    library: Library, tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    for ask in (library.search, library.similar):
        with pytest.raises(QueryImageError, match=reason) as caught:
            ask(path)
        assert name in str(caught.value)


def test_how_to_write_a_path_is_said_only_of_a_typed_query(library: Library, tmp_path: Path) -> None:
    path = tmp_path / "gone.png"
    with pytest.raises(QueryImageNotFoundError, match="needs quotes around it"):
        library.search(f"red + {path}")
    for ask in (library.search, library.similar):
        with pytest.raises(QueryImageNotFoundError, match=r"gone\.png\. Check the spelling\.$"):
            ask(path)


def test_a_folder_and_an_impossible_name(library: Library, tmp_path: Path) -> None:
    from pathlib import Path

    with pytest.raises(QueryImageError, match="is a folder"):
        library.search(tmp_path)
    for name in ("a\0b.png", "x" * 5000, "~nobody-of-this-name/x.png"):
        with pytest.raises(QueryImageError, match="no image file"):
            library.search(Path(name))


def test_a_bomb_is_refused_before_it_is_decoded(library: Library, tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)
    with pytest.raises(QueryImageError, match="400 megapixels, more than the limit"):
        library.search(path)


def test_a_picture_without_a_valid_vector_is_said(
    library: Library, colours, tmp_path: Path, monkeypatch
) -> None:
    nothing = np.full((1, colours.dimension), np.nan, np.float32)
    monkeypatch.setattr(colours, "encode_pixels", lambda pixels: nothing)
    path = tmp_path / "strange.png"
    Image.new("RGB", (20, 20), (1, 2, 3)).save(path)
    with pytest.raises(QueryImageError, match=r"no valid vector of .*strange\.png"):
        library.search(path)


def test_another_model_is_refused_at_the_door(painted, colours) -> None:
    other = type(colours)("other weights")
    with pytest.raises(ModelMismatchError, match="colours"):
        Library.open(painted.path, encoder=other)


def test_no_library(tmp_path: Path) -> None:
    with pytest.raises(LibraryNotFoundError):
        Library.open(tmp_path / "nowhere")


def test_a_library_that_moved_to_another_model_refuses_the_old_one(painted, colours, tmp_path: Path) -> None:
    index_folders(tmp_path / "library", [painted.photos / "red"], colours, workers=1)
    with Library.open(tmp_path / "library", encoder=colours) as library:
        assert library.search("red", k=1)
        other = type(colours)("other weights")
        index_folders(tmp_path / "library", [], other, workers=1, change_model=True)
        with pytest.raises(ModelMismatchError):
            library.refresh()
        # Also words whose vectors were remembered, and at every further query.
        for text in ("red", "red", "green"):
            with pytest.raises(ModelMismatchError):
                library.search(text, k=1)
