"""The search page without a browser: start, empty, results, errors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app.browser import search_page
from app.browser.frame import DEFECT
from app.browser.shelf import current_library
from search import Hit, QueryError


def open_page(**address: str) -> AppTest:
    """Run the page once, with this in its address."""

    def script() -> None:
        from app.browser import search_page
        from app.browser.frame import guarded

        guarded(search_page.show)()

    page = AppTest.from_function(script, default_timeout=60)
    for name, value in address.items():
        page.query_params[name] = value
    return page.run()


def component(page: AppTest, name: str) -> dict[str, Any] | None:
    """What one of our components was given to show, None if it is not on the page."""
    for element in page.get("bidi_component"):
        if element.proto.component_name == f"imago_{name}":
            data = json.loads(element.proto.json)
            assert isinstance(data, dict)
            return data
    return None


@pytest.fixture
def find(use_gallery: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Let the page find what the test wants found; returns the queries that were asked."""

    def install(count: int = 3, error: Exception | None = None) -> list[str]:
        asked: list[str] = []

        def answer(library: object, query: str, k: int) -> list[Hit]:
            asked.append(query)
            if error is not None:
                raise error
            reader = current_library().reader
            records = reader.images(reader.ids()[: min(count, k)])
            return [
                Hit(path=record.path, score=0.9 - at / 10, id=record.id) for at, record in enumerate(records)
            ]

        monkeypatch.setattr(search_page, "search", answer)
        return asked

    return install


def test_without_a_library_the_page_leads_to_the_first_index() -> None:
    page = open_page()
    assert page.title[0].value == "Find your pictures by what they show"
    assert "make index" in page.code[0].value
    assert component(page, "search_bar") is None


def test_without_a_query_the_field_is_empty_and_nothing_was_searched(find: Callable[..., list[str]]) -> None:
    asked = find()
    page = open_page()
    field = component(page, "search_bar")
    assert field is not None
    assert (field["query"], field["problem"]) == ("", None)
    assert component(page, "results") is None
    assert "12 pictures" in page.caption[0].value
    assert asked == []


def test_the_query_of_the_address_is_answered(find: Callable[..., list[str]]) -> None:
    asked = find(count=3)
    page = open_page(q="a red car")
    assert asked == ["a red car"]
    results = component(page, "results")
    assert results is not None
    assert len(results["ids"]) == len(results["names"]) == len(results["aspects"]) == 3
    assert results["token"] == "a red car"
    assert not results["has_more"]
    reader = current_library().reader
    for image_id, content_hash, name, folder in zip(
        results["ids"], results["hashes"], results["names"], results["folder"], strict=True
    ):
        (record,) = reader.images([image_id])
        assert record.content_hash == content_hash
        assert results["folders"][folder] + name == str(record.path)


def test_a_query_that_is_not_understood_shows_where_beside_the_field(find: Callable[..., list[str]]) -> None:
    asked = find()
    page = open_page(q="dog colour:red")
    field = component(page, "search_bar")
    assert field is not None
    assert field["query"] == "dog colour:red"
    assert field["problem"]["query"] == "dog colour:red"
    assert field["problem"]["column"] == 4
    assert "colour" in field["problem"]["text"]
    assert component(page, "results") is None
    assert asked == []
    assert not page.exception


def test_what_a_search_complains_about_is_told_below_the_field(find: Callable[..., list[str]]) -> None:
    find(error=QueryError("There is no image *7* here."))
    page = open_page(q="id:7")
    (error,) = page.error
    assert error.value.replace("\\", "") == "There is no image *7* here."
    assert component(page, "search_bar") is not None
    assert not page.exception


def test_a_defect_is_told_without_a_traceback(find: Callable[..., list[str]]) -> None:
    find(error=RuntimeError("boom"))
    page = open_page(q="dog")
    assert component(page, "search_bar") is not None
    (error,) = page.error
    assert "boom" not in error.value
    assert error.value.replace("\\", "") == DEFECT
    assert not page.exception


def test_a_damaged_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "damaged"
    library.mkdir()
    (library / "catalog.db").write_bytes(b"no database at all" * 100)
    monkeypatch.setenv("IMAGO_LIBRARY", str(library))
    page = open_page(q="dog")
    (error,) = page.error
    assert "damaged" in error.value
    assert not page.exception
