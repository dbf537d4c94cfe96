"""What controls and actions make of a query's text."""

from collections.abc import Callable
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest

from app.browser import address
from app.browser.filters_panel import all_months
from app.browser.query_edit import (
    filters_of,
    only_first_term,
    only_last_word,
    with_filter,
    with_term,
    without_filters,
)
from indexer.filters import HasShape, InFolder, TakenBetween
from search.query import ImageId, Term, parse


@pytest.mark.parametrize(
    ("text", "new", "expected"),
    [
        ("", HasShape("portrait"), "is:portrait"),
        ("dog", HasShape("portrait"), "dog is:portrait"),
        ("is:square dog", HasShape("portrait"), "dog is:portrait"),
        ("dog is:square type:png", None, "dog type:png"),
        ("dog -is:square", HasShape("portrait"), "dog -is:square is:portrait"),
    ],
)
def test_a_filter_takes_the_place_of_its_kind(text: str, new: HasShape | None, expected: str) -> None:
    assert with_filter(text, HasShape, new) == expected


def test_folders_with_odd_names_survive() -> None:
    folder = '/pictures/my "best", 2023\\ ones'
    text = with_filter("dog", InFolder, InFolder((folder,)))
    assert filters_of(text, InFolder) == [InFolder((folder,))]


def test_spans_of_time_are_read_from_both_filters() -> None:
    since, until = datetime(2023, 5, 1), datetime(2023, 7, 1)
    assert filters_of("dog after:2023-05 before:2023-07", TakenBetween) == [
        TakenBetween(since, None),
        TakenBetween(None, until),
    ]


def test_proposals_take_away() -> None:
    text = "2:dog + beach - people is:portrait"
    assert without_filters(text) == "2:dog + beach - people"
    assert only_first_term(text) == "dog is:portrait"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red car", "car"),
        ("- night + a red car", "car"),
        ('"in:love poster"', "poster"),
        ('"to in:love"', '"in:love"'),
        ('dog "+"', '"+"'),
        ("car", None),
        ("id:7 + a red car", None),
        ("2:", None),
    ],
)
def test_the_last_word_is_a_query_of_its_own(text: str, expected: str | None) -> None:
    assert only_last_word(text) == expected
    if expected is not None:
        parse(expected)


def test_a_term_is_added_once() -> None:
    less = Term(ImageId(7), weight=-0.25)
    text = with_term("dog", less)
    assert text == "dog - 0.25:id:7"
    assert with_term(text, less) == text


def test_months_have_no_gaps_and_no_absurd_beginning() -> None:
    assert all_months(["2022-11", "2023-02"]) == ["2022-11", "2022-12", "2023-01", "2023-02"]
    assert all_months([]) == []
    months = all_months(["1904-01", "2023-02"])
    assert len(months) == 600
    assert months[-1] == "2023-02"


@pytest.fixture
def query_params(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def install(**params: str) -> None:
        monkeypatch.setattr(address, "st", SimpleNamespace(query_params=params))

    return install


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ({"kind": "more_like", "id": 7}, {"q": "id:7", "order": "date"}),
        ({"kind": "less_like", "id": 7}, {"q": "dog - 0.25:id:7", "order": "date", "all": "1"}),
        ({"kind": "copies", "id": 7}, {"copies": "7"}),
        ({"kind": "folder", "id": 7, "folder": "/a b/"}, {"q": 'dog in:"/a b"', "order": "date", "all": "1"}),
        ({"kind": "query", "query": "near:1,2,5km"}, {"q": "near:1,2,5km", "order": "date"}),
        ({"kind": "more_like", "id": "7 or so"}, None),
        ({"kind": "delete", "id": 7}, None),
        ({}, None),
        (None, None),
        ("more_like", None),
    ],
)
def test_actions_lead_to_addresses(
    query_params: Callable[..., None], action: Any, expected: dict[str, str] | None
) -> None:
    query_params(q="dog", order="date", all="1")
    assert address.address_after(action, "dog") == expected
