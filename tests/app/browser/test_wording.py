"""How values are told to people."""

import pytest

from app.browser.frame import plain
from app.browser.wording import bytes_told, moment_told, seconds_told, shown


@pytest.mark.parametrize(
    "text", ["*a*", "[x](y)", ":red[z]", "$x$", "<b>", "`code`", "# no heading", "a_b_c", "a & b"]
)
def test_marks_of_markdown_are_told_as_they_are(text: str) -> None:
    told = plain(text)
    for place, letter in enumerate(told):
        if letter in "*[]()$<>`#_&:":
            assert told[place - 1] == "\\"
    assert told.replace("\\", "") == text


def test_lines_become_one() -> None:
    assert plain("first\nsecond") == "first second"


def test_names_that_are_no_text_can_be_shown() -> None:
    assert shown("caf\udce9.png") == "caf?.png"


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1500, "1.5 kB"),
        (123_456_789, "123 MB"),
        (5 * 10**15, "5,000.0 TB"),
    ],
)
def test_sizes(count: int, told: str) -> None:
    assert bytes_told(count) == told


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.4, "0 s"), (59.7, "1 min 0 s"), (125, "2 min 5 s"), (7300, "2 h 1 min")]
)
def test_durations(seconds: float, told: str) -> None:
    assert seconds_told(seconds) == told


@pytest.mark.parametrize(
    ("moment", "told"),
    [
        ("2023-05-04T10:11:12", "4 May 2023, 10:11"),
        ("2023-05-04T10:11:12+02:00", "4 May 2023, 10:11"),
        ("no moment", None),
        (None, None),
        (1e300, None),
    ],
)
def test_moments(moment: str | float | None, told: str | None) -> None:
    assert moment_told(moment) == told
