"""The search page without a browser: start, empty, results, errors."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app.browser import search_page
from app.browser.frame import DEFECT
from app.browser.shelf import current_library
from app.browser.uploads import uploads
from indexer import forget, index_folders
from model import Encoder
from search import Hit, Library, QueryError
from search.library import Answer
from search.query import parse
from search.saved import SavedQueries


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


Find = Callable[..., list[str]]
Component = Callable[[AppTest, str], dict[str, Any] | None]


def param(page: AppTest, name: str) -> str:
    """What the address holds under a name."""
    value = page.query_params[name]
    return value if isinstance(value, str) else value[0]


@pytest.fixture
def find(use_gallery: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Let the page find what the test wants found; returns the queries that were asked."""

    def install(count: int = 3, error: Exception | None = None, *, is_cut: bool = False) -> list[str]:
        asked: list[str] = []

        def answer(library: Library, query: str, k: int, among: object = None) -> Answer:
            asked.append(query)
            if error is not None:
                raise error
            ids = [int(image_id) for image_id in library.reader.ids()[: min(count, k)]]
            hits = [
                Hit(
                    record.path,
                    score=0.9 - at / 10,
                    id=record.id,
                    probability=0.8,
                    folded=(7,) if at == 0 else (),
                )
                for at, record in enumerate(library.reader.images(ids))
            ]
            return Answer(tuple(hits), count, candidates=12, is_cut=is_cut, query=parse(query))

        monkeypatch.setattr(search_page, "search", answer)
        return asked

    return install


def test_without_a_library_the_page_leads_to_the_first_index(component: Component) -> None:
    page = open_page()
    assert page.title[0].value == "Find your pictures by what they show"
    assert page.text_input(key="folder_to_add") is not None
    assert component(page, "search_bar") is None


def test_a_library_that_was_emptied_says_so(pictures: Path, own_library: Path) -> None:
    index_folders(own_library, [pictures], Encoder.load("starter"), workers=1)
    forget(own_library, pictures)
    page = open_page(q="a dog")
    assert "This library holds no pictures now" in [heading.value for heading in page.header]
    assert not page.error


def test_without_a_query_the_pictures_added_last_are_shown(find: Find, component: Component) -> None:
    asked = find()
    page = open_page()
    field = component(page, "search_bar")
    assert field is not None
    assert (field["query"], field["problem"]) == ("", None)
    results = component(page, "results")
    assert results is not None
    assert results["ids"] == sorted(results["ids"], reverse=True)
    assert len(results["ids"]) == 12
    assert "12 pictures" in page.caption[0].value
    assert asked == []


def test_more_hits_are_asked_for_than_before_however_few_tiles_they_fold_into(
    use_gallery: Path,
) -> None:
    def take_more() -> None:
        import streamlit as st

        from app.browser import search_page

        st.session_state.results = st.session_state.more_of_results
        search_page.take_more()

    asked = []
    scrolled: dict[str, int] = {}
    for _ in range(3):
        more = AppTest.from_function(take_more, default_timeout=60)
        more.query_params["q"] = "a red car"
        more.session_state["more_of_results"] = SimpleNamespace(more=7)
        more.session_state["scrolled"] = scrolled
        scrolled = more.run().session_state["scrolled"]
        asked.append(scrolled["a red car"])
    assert asked == [800, 3200, 10_000]


def test_the_query_of_the_address_is_answered(find: Find, component: Component) -> None:
    asked = find(count=3)
    page = open_page(q="a red car")
    assert asked == ["a red car"]
    results = component(page, "results")
    assert results is not None
    assert len(results["ids"]) == len(results["names"]) == len(results["aspects"]) == 3
    assert results["shares"] == [0.8, 0.8, 0.8]
    assert results["folded"] == [1, 0, 0]
    assert results["tips"][0] == "80% likely, score 0.900"
    assert not results["has_more"]
    reader = current_library().reader
    for image_id, content_hash, name, folder in zip(
        results["ids"], results["hashes"], results["names"], results["folder"], strict=True
    ):
        (record,) = reader.images([image_id])
        assert record.content_hash == content_hash
        assert results["folders"][folder] + name == str(record.path)


def test_a_query_that_is_not_understood_shows_where_beside_the_field(
    find: Find, component: Component
) -> None:
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


def test_what_was_found_last_stays_after_a_mistake(find: Find, component: Component) -> None:
    find(count=3)
    page = open_page(q="a red car")
    found = component(page, "results")
    assert found is not None
    for mistake in ("dog colour:red", "upload:0123456789abcdef"):
        find(count=3) if "colour" in mistake else find(error=QueryError("gone"))
        page.query_params["q"] = mistake
        page.run()
        kept = component(page, "results")
        assert kept is not None
        assert kept["ids"] == found["ids"]
        assert "These are still the pictures for a red car" in [text.value for text in page.caption]


def test_what_a_search_complains_about_is_told_below_the_field(find: Find, component: Component) -> None:
    find(error=QueryError("There is no image *7* here."))
    page = open_page(q="id:7")
    (error,) = page.error
    assert error.value.replace("\\", "") == "There is no image *7* here."
    assert component(page, "search_bar") is not None
    assert not page.exception


def test_a_defect_is_told_without_a_traceback(find: Find, component: Component) -> None:
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


def test_nothing_that_looks_like_it_is_an_answer_with_proposals(find: Find, component: Component) -> None:
    find(count=0, is_cut=True)
    page = open_page(q="zebra + moon - night is:portrait")
    assert "Nothing here looks like that" in [heading.value for heading in page.header]
    labels = [button.label for button in page.button]
    assert labels[0] == "Show what comes closest"
    assert len(labels) == 3
    next(button for button in page.button if button.label == "Show what comes closest").click().run()
    assert param(page, "all") == "1"
    assert param(page, "q") == "zebra + moon - night is:portrait"
    page = open_page(q="zebra + moon - night is:portrait")
    next(button for button in page.button if button.label.startswith("Without the filters")).click().run()
    assert param(page, "q") == "zebra + moon - night"


def test_the_order_stands_in_the_address(find: Find) -> None:
    find()
    page = open_page(q="dog", order="date")
    order = page.selectbox(key="order")
    assert order.value == "date"
    order.set_value("relevance").run()
    assert "order" not in page.query_params
    page.selectbox(key="order").set_value("size").run()
    assert param(page, "order") == "size"
    assert param(page, "q") == "dog"


@pytest.mark.parametrize(
    ("name", "value"), [("order", "sideways"), ("copies", "../etc"), ("copies", "9" * 30)]
)
def test_an_address_that_makes_no_sense_harms_nothing(find: Find, name: str, value: str) -> None:
    find()
    page = open_page(q="dog", **{name: value})
    assert not page.error
    assert not page.exception


def test_copies_of_a_picture_that_is_gone_are_told(find: Find) -> None:
    find()
    page = open_page(copies="999999")
    assert "No image" in page.error[0].value.replace("\\", "")


def test_filters_show_what_the_query_says_and_write_it(find: Find, component: Component) -> None:
    find()
    page = open_page(q="dog is:portrait type:png after:2023-04 before:2023-07")
    assert page.button_group(key="shape").value == "portrait"
    assert page.button_group(key="formats").value == ["png"]
    dates = component(page, "dates")
    assert dates is not None
    assert (dates["months"], sum(dates["counts"])) == (["2023-04", "2023-05", "2023-06", "2023-07"], 0)
    page = open_page(q="dog is:portrait after:2020-02")
    page.button_group(key="shape").set_value("landscape").run()
    assert param(page, "q") == "dog after:2020-02-01 is:landscape"
    page = open_page(q="dog type:png")
    page.button_group(key="formats").set_value(["png", "webp"]).run()
    assert "type:png,webp" in param(page, "q")
    page.button_group(key="formats").set_value([]).run()
    assert "type:" not in param(page, "q")


@pytest.mark.parametrize("query", ["type:gif after:0800", "type:gif after:0800 before:0900"])
def test_years_of_three_digits_are_filters_too(use_gallery: Path, component: Component, query: str) -> None:
    page = open_page(q=query)
    assert "No picture fits the filters" in [heading.value for heading in page.header]
    assert not page.error
    assert not page.exception


def test_counts_are_of_what_the_other_filters_leave(find: Find, component: Component) -> None:
    find()
    page = open_page(q="dog is:landscape after:2023-04 before:2023-07")
    dates = component(page, "dates")
    assert dates is not None
    assert dates["months"][0] == "2023-05"
    assert (sum(dates["counts"]), dates["counts"][0]) == (8, 1)
    assert (dates["first"], dates["months"][dates["last"]]) == (0, "2023-06")
    assert page.button_group(key="shape").options == ["landscape 1"]
    assert "Counted among what the other filters leave." in [text.value for text in page.caption]
    page = open_page(q="dog type:webp")
    assert page.button_group(key="formats").options == ["PNG 7", "WEBP 4", "JPEG 1"]


def test_folders_and_cameras_are_proposed_while_typing(find: Find, component: Component) -> None:
    find()
    open_page(q="dog")  # has counted when it has shown itself
    field = component(open_page(q="dog"), "search_bar")
    assert field is not None
    by_key = {value["key"]: value for value in field["values"]}
    assert by_key["in:rome"]["text"] == "in:rome"
    assert by_key["in:rome"]["hint"].startswith("5 in ")
    assert by_key["camera:imago <script>document.title=1</script>"]["text"] == (
        'camera:"Imago <script>document.title=1</script>"'
    )


def test_folders_and_cameras_are_counted_and_chosen(find: Find, gallery: Path) -> None:
    find()
    page = open_page(q="dog")
    folders = page.multiselect(key="folders")
    rome = str(gallery / "2023" / "rome")
    assert folders.options == [f"{gallery} (12)", f"{gallery / '2023'} (5)", f"{rome} (5)"]
    folders.set_value([rome]).run()
    assert param(page, "q") == f"dog in:{rome}"
    cameras = page.multiselect(key="cameras")
    assert cameras.options == ["Imago <script>document.title=1</script> (1)"]
    cameras.set_value(["Imago <script>document.title=1</script>"]).run()
    assert param(page, "q") == f'dog in:{rome} camera:"Imago <script>document.title=1</script>"'
    assert page.multiselect(key="folders").value == [rome]


def test_a_query_is_saved_and_proposed(find: Find, component: Component) -> None:
    find()
    page = open_page(q="dog is:portrait")
    page.text_input(key="name_to_save").set_value("tall")
    next(button for button in page.button if button.label == "Save this query").click().run()
    field = component(page, "search_bar")
    assert field is not None
    assert field["saved"] == [{"name": "tall", "query": "dog is:portrait"}]
    page.text_input(key="name_to_save").set_value("no name!")
    next(button for button in page.button if button.label == "Save this query").click().run()
    field = component(page, "search_bar")
    assert field is not None
    assert len(field["saved"]) == 1


def test_others_neither_see_nor_keep_saved_queries(
    use_gallery: Path, component: Component, monkeypatch: pytest.MonkeyPatch
) -> None:
    SavedQueries().save("private", "my medical letters")
    monkeypatch.setattr("app.browser.frame.st.get_option", {"server.address": "0.0.0.0"}.get)
    page = open_page(q="is:landscape")
    field = component(page, "search_bar")
    assert field is not None
    assert field["saved"] == []
    assert component(page, "results") is not None
    assert not any(button.label == "Save this query" for button in page.button)
    assert not any(each.key == "name_to_save" for each in page.text_input)


def test_an_upload_finds_its_twin_first(use_gallery: Path, gallery: Path, component: Component) -> None:
    name = uploads.add((gallery / "3.png").read_bytes())
    results = component(open_page(q=f"upload:{name}"), "results")
    assert results is not None
    assert results["names"][0] == "3.png"
    assert results["tips"][0].endswith("score 1.000")


def test_an_upload_that_is_gone_is_told(use_gallery: Path) -> None:
    page = open_page(q="upload:0123456789abcdef")
    assert "uploaded picture is gone" in page.error[0].value


def test_a_hit_without_probability_shows_its_score_as_bar() -> None:
    hit = Hit(Path("a.jpg"), 0.3, 1)
    assert search_page.share_of(hit) == 0.3
    assert search_page.share_of(replace(hit, score=-0.2)) == 0
    assert search_page.share_of(replace(hit, probability=0.9)) == 0.9


def test_for_others_no_path_is_read(use_gallery: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.browser.frame.st.get_option", {"server.address": "0.0.0.0"}.get)
    page = open_page(q="/etc/hosts.png")
    assert "it reads no paths" in page.error[0].value
    assert open_page(q="id:1").error == []
