"""Near copies among hits, and counts that are kept."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from app.browser import copies, facets
from app.browser.shelf import current_library
from indexer import index_folders
from indexer.filters import HasShape
from model import Encoder
from search import Hit


@pytest.fixture
def doubled(tmp_path: Path, own_library: Path, draw_picture: Callable[[int], Image.Image]) -> Path:
    """A library with one picture in two sizes and two others."""
    folder = tmp_path / "doubled"
    folder.mkdir()
    draw_picture(1).resize((640, 480)).save(folder / "large.png")
    draw_picture(1).resize((320, 240)).save(folder / "small.png")
    draw_picture(2).save(folder / "other.png")
    index_folders(own_library, [folder], Encoder.load("starter"), workers=1)
    return own_library


def test_near_copies_are_folded_into_the_first(doubled: Path) -> None:
    library = current_library()
    ids = {record.path.name: record.id for record in library.reader.images(library.reader.ids())}
    hits = [Hit(Path(name), 0.5, ids[name]) for name in ("small.png", "other.png", "large.png")]
    first, second = copies.folded(library, hits)
    assert (first.path.name, first.folded) == ("small.png", (ids["large.png"],))
    assert (second.path.name, second.folded) == ("other.png", ())
    assert copies.folded(library, hits[:1]) == tuple(hits[:1])
    assert copies.folded(library, []) == ()


def test_copies_are_known_by_what_indexing_found(doubled: Path, tmp_path: Path) -> None:
    library = current_library()
    records = library.reader.images(library.reader.ids())
    for record in records:
        record.path.unlink()  # a disk that is away, or slow
    hits = [Hit(record.path, 0.5, record.id) for record in records]
    assert len(copies.folded(library, hits)) == 2
    comparison = library.comparison(records)
    large, small = (record for record in records if record.path.name != "other.png")
    assert comparison.is_near(large, small, 0.99)


def test_counts_are_kept_for_a_state_and_renewed_for_another(use_gallery: Path) -> None:
    counter, library = facets.FacetCounter(), current_library()
    counted, is_current = counter.of(library, 1)
    assert counted is not None
    assert is_current
    assert counter.of(library, 1)[0] is counted
    counter._next_time = 0.0
    renewed, _ = counter.of(library, 2)
    assert renewed == counted
    assert renewed is not counted


def test_a_large_library_is_counted_in_the_background_and_not_too_often(
    use_gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facets, "COUNTED_AT_ONCE", 5)
    counter, library = facets.FacetCounter(), current_library()
    assert counter.of(library, 1) == (None, False)
    while not (answer := counter.of(library, 1))[1]:
        time.sleep(0.01)
    counted, _ = answer
    assert counted is not None
    assert sum(counted.months.values()) == 12
    counter._next_time = time.monotonic() + 1000
    assert counter.of(library, 2) == (counted, True)
    portraits = facets.Question((HasShape("portrait"),))
    assert counter.of(library, 2, portraits) == (counted, False)  # stands in meanwhile
    counter._next_time = 0.0
    while not (answer := counter.of(library, 2, portraits))[1]:
        time.sleep(0.01)
    assert answer[0] is not None
    assert sum(answer[0].months.values()) == answer[0].shapes["portrait"] == 4
    assert answer[0].shapes == counted.shapes  # the choice that was made does not take the others away
