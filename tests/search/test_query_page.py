"""Every example of docs/query-language.md does what the page says: parses, or is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from search.errors import QueryError
from search.query import FILTER_KEYS, ImageUrl, format_query, parse

PAGE = Path(__file__).parents[2] / "docs" / "query-language.md"


def examples() -> tuple[list[str], list[str]]:
    """Queries in the first column of the page's tables: those that work and those that are refused."""
    works: list[str] = []
    refused: list[str] = []
    heading = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        heading = line if line.startswith("#") else heading
        if match := re.match(r"\| `(.+?)` \| ", line):
            (refused if "refused" in heading else works).append(match[1])
    return works, refused


WORKS, REFUSED = examples()


def test_the_page_has_examples() -> None:
    assert len(WORKS) > 30
    assert len(REFUSED) > 8


@pytest.mark.parametrize("text", WORKS)
def test_an_example_works(text: str) -> None:
    query = parse(text)
    assert parse(format_query(query)) == query


@pytest.mark.parametrize("text", REFUSED)
def test_an_example_is_refused(text: str) -> None:
    with pytest.raises(QueryError) as caught:
        parse(text)
    assert caught.value.column is not None


def test_the_page_knows_every_filter() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [key for key in FILTER_KEYS if f"{key}:" not in page] == []


def test_pairs_that_the_page_calls_the_same() -> None:
    assert parse("beach + sunset - people") == parse("beach +sunset -people")
    assert parse("./street.jpg + night") == parse("./street.jpg night")
    assert parse('"in:love" poster') == parse("in\\:love poster")


def test_the_refused_address_works_where_it_is_allowed() -> None:
    (term,) = parse("https://example.org/dog.jpg", allow_urls=True).terms
    assert isinstance(term.target, ImageUrl)
