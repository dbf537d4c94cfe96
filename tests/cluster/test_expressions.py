"""Texts as codes, and filters as expressions in which no text of people is left."""

from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st

from indexer.cluster.encoding import decode_all, encode, encode_all
from indexer.cluster.expressions import EVERYTHING, NOTHING, condition_of
from indexer.cluster.rows import moment_number
from indexer.filters import CameraContains, HasFormat, InFolder, NameMatches, NearPlace, Not, SideBetween

TEXTS = st.text(st.characters(codec=None), max_size=12)  # lone surrogates included


@given(TEXTS, TEXTS)
@example("añb", "\xb1")  # a byte of a character is no character
@example("0g0g", "g0")
@example("ab", "\x16")  # the lower half of one byte and the upper half of the next are no byte
@example("z%z", "%")
def test_a_code_contains_another_where_the_text_does(whole: str, part: str) -> None:
    assert (encode(part) in encode(whole)) == (part in whole)
    assert re.fullmatch("[0-9a-v]*", encode(whole))


@given(st.lists(TEXTS, max_size=5))
def test_what_is_put_into_a_column_comes_out(texts: list[str]) -> None:
    column, kept = encode_all(texts, 65_535)
    assert decode_all(column) == texts
    assert kept == len(texts)


def test_a_column_keeps_no_half_text() -> None:
    column, kept = encode_all(["abc", "de", "f"], 12)
    assert kept == 1
    assert decode_all(column) == ["abc"]
    assert len(column) <= 12


@given(TEXTS)
@example('") or (id >= 0) or ("')
@example("\\\"'%_\n*?")
def test_no_text_gets_into_an_expression(text: str) -> None:
    for wanted in (
        InFolder((text,)), InFolder(("/" + text,)), NameMatches((text,)), NameMatches((text + "*",)),
        CameraContains((text,)), HasFormat((text,)),
    ):  # fmt: skip
        for each in (wanted, Not(wanted)):
            expression = condition_of([each]).expression
            literals = re.findall(r'"([^"]*)"', expression)
            assert all(re.fullmatch(r"[0-9a-zA-Z%]*", literal) for literal in literals)
            rest = re.sub(r'"[^"]*"', "", expression)
            assert re.fullmatch(r"[a-z_ ()0-9<>=!\[\],]*", rest), expression


def test_numbers_that_are_none_choose_nothing() -> None:
    for bad in (float("nan"), float("inf")):
        assert condition_of([NearPlace(bad, 0, 1)]).expression == f"({NOTHING})"
        assert condition_of([Not(NearPlace(0, bad, 1))]).expression == EVERYTHING
    clipped = condition_of([SideBetween("width", -(10**30), 10**30)]).expression
    assert str(2**62) in clipped
    assert "000000000000000000000" not in clipped


def test_moments_sort_as_their_texts() -> None:
    texts = ["", "0001-01-01T00:00:00", "1999-12-31T23:59:59", "2023-05-01T12:34:56", "9999-01-01T00:00:00"]
    numbers = [moment_number(text) for text in texts]
    assert numbers == sorted(numbers)
    assert numbers[0] < 0 < numbers[1]
