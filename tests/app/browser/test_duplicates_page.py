"""The duplicates page: groups side by side, the best copy proposed, nothing deleted."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from app.browser import duplicates_page
from indexer import index_folders
from model import Encoder

Component = Callable[[AppTest, str], dict[str, Any] | None]


def open_page(**address: str) -> AppTest:
    def script() -> None:
        from app.browser import duplicates_page
        from app.browser.frame import guarded

        guarded(duplicates_page.show)()

    page = AppTest.from_function(script, default_timeout=60)
    for name, value in address.items():
        page.query_params[name] = value
    return page.run()


def opened_when_done(**address: str) -> AppTest:
    """The page once the comparison has ended."""
    page = open_page(**address)
    for comparing in list(duplicates_page.comparisons._by_kind.values()):
        assert comparing.ended.wait(60)
    return page.run()


@pytest.fixture
def doubled(tmp_path: Path, own_library: Path, draw_picture: Callable[[int], Image.Image]) -> Path:
    """A library with one picture in two sizes, one as two identical files, and two of its own."""
    folder = tmp_path / "doubled"
    folder.mkdir()
    draw_picture(1).resize((640, 480)).save(folder / "large.png")
    draw_picture(1).resize((320, 240)).save(folder / "small.png")
    draw_picture(2).save(folder / "one.png")
    shutil.copy(folder / "one.png", folder / "two.png")
    draw_picture(3).save(folder / "other.png")
    index_folders(own_library, [folder], Encoder.load("starter"), workers=1)
    return own_library


def test_without_a_library_the_page_leads_to_the_first_index() -> None:
    assert open_page().title[0].value == "Find your pictures by what they show"


def test_near_copies_stand_together_the_best_first(doubled: Path, component: Component) -> None:
    page = opened_when_done()
    groups = component(page, "results")
    assert groups is not None
    assert groups["names"] == ["large.png", "small.png"]
    assert groups["marks"] == ["best copy", ""]
    assert [group["start"] for group in groups["groups"]] == [0]
    assert groups["groups"][0]["title"].startswith("2 pictures")
    assert groups["tips"][0].startswith("640 x 480 pixels")
    assert "1 groups" not in page.caption[-1].value
    assert not page.exception


def test_what_was_deleted_is_missed_by_nobody(
    doubled: Path, component: Component, draw_picture: Callable[[int], Image.Image]
) -> None:
    folder = doubled.parent / "doubled"
    draw_picture(1).resize((480, 360)).save(folder / "medium.png")
    draw_picture(1).resize((512, 384)).save(folder / "bigger.png")

    def bring_up_to_date() -> None:
        index_folders(doubled, [], Encoder.load("starter"), workers=1)

    bring_up_to_date()
    page = opened_when_done()
    (folder / "medium.png").unlink()
    bring_up_to_date()
    groups = component(page.run(), "results")
    assert groups is not None
    assert groups["names"][0] == "large.png"
    assert set(groups["names"]) == {"large.png", "bigger.png", "small.png"}
    assert not page.error
    page = opened_when_done()  # compares anew
    (folder / "large.png").unlink()
    bring_up_to_date()
    page.run()
    assert page.info[0].value == "There are none."
    assert not page.error
    groups = component(opened_when_done(), "results")
    assert groups is not None
    assert groups["names"] == ["bigger.png", "small.png"]


def test_exact_copies_are_files_of_one_picture(doubled: Path, component: Component) -> None:
    page = opened_when_done(kind="Exact copies")
    groups = component(page, "results")
    assert groups is not None
    assert len(groups["ids"]) == 1
    assert groups["names"][0] in {"one.png", "two.png"}
    assert groups["folded"] == [1]


def test_no_duplicates_is_good_news(use_gallery: Path, component: Component) -> None:
    page = opened_when_done(kind="Exact copies")
    assert page.info[0].value == "There are none."
    assert component(page, "results") is None


def test_what_goes_wrong_is_told(use_gallery: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", "catalog.db")

    monkeypatch.setattr("search.Library.duplicates", fail)
    monkeypatch.setattr(duplicates_page, "comparisons", duplicates_page.Comparisons())
    page = opened_when_done()
    assert "permission denied" in page.error[0].value
    assert not page.exception
