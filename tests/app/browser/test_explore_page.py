"""The explore page without a browser: start, too few, being drawn, the map, errors; and searching within a part."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from app.browser import explore_page
from app.browser.frame import DEFECT
from app.browser.maps import Drawing, Maps, points_of
from app.browser.shelf import current_library
from search import QueryError, layout
from search.layout import Layout

Component = Callable[[AppTest, str], dict[str, Any] | None]


def open_page(name: str = "explore_page", **address: str) -> AppTest:
    """Run a page once, with this in its address."""

    def script(name: str) -> None:
        import importlib

        from app.browser.frame import guarded

        guarded(importlib.import_module(f"app.browser.{name}").show)()

    page = AppTest.from_function(script, default_timeout=60, kwargs={"name": name})
    for key, value in address.items():
        page.query_params[key] = value
    return page.run()


@pytest.fixture
def kept_map(use_gallery: Path) -> Layout:
    """A map of the gallery that was drawn earlier."""
    made = layout.lay_out(current_library().reader, None)
    layout.keep(current_library().reader, made)
    return made


def draws_nothing(monkeypatch: pytest.MonkeyPatch, answer: tuple[Layout | None, Drawing | None]) -> None:
    class Fixed(Maps):
        def of(self, library: object, state: object) -> tuple[Layout | None, Drawing | None]:
            return answer

    monkeypatch.setattr(explore_page, "maps", Fixed())


def test_without_a_library_the_page_leads_to_the_first_index() -> None:
    page = open_page()
    assert page.title[0].value == "Find your pictures by what they show"


def test_two_pictures_need_no_map(
    use_gallery: Path, monkeypatch: pytest.MonkeyPatch, component: Component
) -> None:
    monkeypatch.setattr(explore_page, "FEWEST", 13)
    page = open_page()
    assert "a few more pictures" in page.info[0].value
    assert component(page, "explore_map") is None


def test_a_map_that_is_being_drawn_is_waited_for(
    use_gallery: Path, monkeypatch: pytest.MonkeyPatch, component: Component
) -> None:
    draws_nothing(monkeypatch, (None, Drawing(step="laying out", share=0.4)))
    page = open_page()
    assert "being drawn, once (laying out)" in page.get("progress")[0].proto.text
    assert component(page, "explore_map") is None
    assert not page.exception


def test_the_map_is_shown_with_its_groups_as_links(kept_map: Layout, component: Component) -> None:
    page = open_page()
    data = component(page, "explore_map")
    assert data is not None
    assert (data["name"], data["count"], data["chosen"]) == (kept_map.name, 12, None)
    assert data["points"].startswith(f"maps/{kept_map.name}-")
    assert [group["address"] for group in data["groups"]] == [
        f"?within={kept_map.name}.g{number}" for number in range(len(kept_map.groups))
    ]
    assert data["groups"][0]["name"] == "Group 1"  # none where no text tower was at hand
    assert not page.exception


def test_an_older_map_stays_while_the_new_one_is_drawn(
    kept_map: Layout, monkeypatch: pytest.MonkeyPatch, component: Component
) -> None:
    draws_nothing(monkeypatch, (kept_map, Drawing(step="grouping")))
    page = open_page()
    assert "drawn anew" in page.get("progress")[0].proto.text
    assert component(page, "explore_map") is not None


def test_why_no_map_could_be_drawn_is_told(use_gallery: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draws_nothing(monkeypatch, (None, Drawing(is_running=False, error="out of *memory*")))
    page = open_page()
    assert page.error[0].value.replace("\\", "") == "out of *memory*"
    assert not page.exception


def test_a_defect_is_told_without_a_traceback(use_gallery: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(explore_page, "show_map", fail)
    draws_nothing(monkeypatch, (Layout("a", "pca", *[np.zeros(0)] * 3), None))
    page = open_page()
    assert page.error[0].value.replace("\\", "") == DEFECT


def test_a_part_in_the_address_is_shown_and_one_that_is_gone_told(
    kept_map: Layout, component: Component
) -> None:
    data = component(open_page(within=f"{kept_map.name}.g0"), "explore_map")
    assert data is not None
    assert data["chosen"] == "g0"
    page = open_page(within="000000000000.g0")
    assert "gone" in page.error[0].value
    assert component(page, "explore_map") is not None


def test_a_search_within_a_part_finds_only_what_lies_there(kept_map: Layout, component: Component) -> None:
    part = f"{kept_map.name}.g0"
    inside = kept_map.region("g0").tolist()
    assert 0 < len(inside) < 12
    data = component(open_page("search_page", q="dog", within=part), "results")
    assert data is not None
    assert sorted(data["ids"]) == inside
    page = open_page("search_page", within=part)
    data = component(page, "results")
    assert data is not None
    assert sorted(data["ids"]) == inside
    assert f"Among **{len(inside)} pictures**" in page.markdown[0].value
    next(button for button in page.button if button.label == "All pictures").click().run()
    assert "within" not in page.query_params
    data = component(page, "results")
    assert data is not None
    assert len(data["ids"]) == 12


def test_filters_are_counted_within_the_part(kept_map: Layout) -> None:
    page = open_page("search_page", within=f"{kept_map.name}.g0")
    folders = page.multiselect(key="folders").options
    assert folders[0].endswith(f"({len(kept_map.region('g0'))})")


@pytest.mark.parametrize(
    "part", ["x", "000000000000.g0", "../../etc.g0", "{name}.g99", "{name}.pAAA", "{name}."]
)
def test_a_part_that_is_none_is_told_and_can_be_left(kept_map: Layout, part: str) -> None:
    page = open_page("search_page", q="dog", within=part.format(name=kept_map.name))
    assert "map" in page.error[0].value
    assert any(button.label == "All pictures" for button in page.button)
    assert not page.exception


def test_the_map_of_a_library_is_drawn_in_the_background_and_kept(use_gallery: Path, tmp_path: Path) -> None:
    maps, library = Maps(), current_library()
    _, drawing = maps.of(library, 1)
    if drawing is None:  # another test has left one
        (kept, _) = maps.of(library, 1)
        assert kept is not None
        return
    while drawing.is_running:
        _, drawing = maps.of(library, 1)
        assert drawing is not None
    assert drawing.error is None
    made, _ = maps.of(library, 1)
    assert made is not None
    assert made.ids.tolist() == library.reader.ids().tolist()
    assert all(group.name for group in made.groups)


def test_points_are_what_the_page_reads(kept_map: Layout) -> None:
    data = points_of(kept_map)
    assert len(data) == 8 + 12 * (8 + 4 + 2)
    assert np.frombuffer(data, "<u4", 1)[0] == 12
    assert np.frombuffer(data, "<f8", 12, offset=8).tolist() == kept_map.ids.tolist()
    assert (
        np.frombuffer(data, "<u2", 24, offset=8 + 96).reshape(12, 2).tolist() == kept_map.positions.tolist()
    )
    assert np.frombuffer(data, "<u2", 12, offset=8 + 96 + 48).tolist() == kept_map.group_of.tolist()


def test_a_map_that_is_not_kept_is_named(use_gallery: Path) -> None:
    with pytest.raises(QueryError, match="Explore"):
        Maps().region(current_library(), 1, "000000000000.g0")
