"""The query language: what each form means, where errors point, and that there are no others."""

from __future__ import annotations

import math
import string
from datetime import datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from indexer.filters import (
    CameraContains,
    HasFormat,
    HasShape,
    InFolder,
    IsScreenshot,
    NameMatches,
    NearPlace,
    Not,
    SideBetween,
    TakenBetween,
)
from search.errors import QueryError
from search.query import (
    FILTER_EXAMPLES,
    MAXIMUM_CHARACTERS,
    MAXIMUM_TERMS,
    ImageId,
    ImagePath,
    ImageUpload,
    ImageUrl,
    Query,
    Saved,
    Term,
    Text,
    expand,
    format_query,
    parse,
)


def terms(text: str, **options: bool) -> list[tuple[object, float]]:
    return [(term.target, term.weight) for term in parse(text, **options).terms]


def filters(text: str) -> tuple[object, ...]:
    return parse(text).filters


def test_words_are_one_text_and_filters_do_not_part_them() -> None:
    query = parse("golden retriever in:holiday on a beach is:portrait")
    assert query.terms == (Term(Text("golden retriever on a beach"), 1.0),)
    assert query.filters == (InFolder(("holiday",)), HasShape("portrait"))


def test_operators_start_terms_whether_spaced_or_glued() -> None:
    expected = [(Text("beach"), 1.0), (Text("sunset sky"), 1.0), (Text("people"), -1.0)]
    assert terms("beach + sunset sky - people") == expected
    assert terms("beach +sunset sky -people") == expected


@pytest.mark.parametrize(
    "word", ["t-shirt", "rock'n'roll", "3/4", "and/or", "me@home", "a+b", "c++", ":)", "#1"]
)
def test_signs_inside_words_are_letters(word: str) -> None:
    assert terms(f"blue {word}") == [(Text(f"blue {word}"), 1.0)]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("./street.jpg", "./street.jpg"),
        ("../a.png", "../a.png"),
        ("/photos/a.png", "/photos/a.png"),
        ("~/a.png", "~/a.png"),
        ('"./my photo.jpg"', "./my photo.jpg"),
        ("./my\\ photo.jpg", "./my photo.jpg"),
        ("C:\\photos\\a.jpg", "C:\\photos\\a.jpg"),
        ("C:/photos/a.jpg", "C:/photos/a.jpg"),
        (".\\a.jpg", ".\\a.jpg"),
        ("\u201c./a b.jpg\u201d", "./a b.jpg"),
    ],
)
def test_paths_are_images(text: str, path: str) -> None:
    assert terms(text) == [(ImagePath(path), 1.0)]


def test_an_image_is_a_term_by_itself() -> None:
    expected = [(ImagePath("./street.jpg"), 1.0), (Text("at night"), 1.0)]
    assert terms("./street.jpg at night") == expected
    assert terms("./street.jpg + at night") == expected
    assert terms("dog id:42 upload:1") == [(Text("dog"), 1.0), (ImageId(42), 1.0), (ImageUpload("1"), 1.0)]


def test_weights() -> None:
    assert terms("2:golden retriever - .5:cat + 0.25:id:7 -3:./a.jpg +4:@pets") == [
        (Text("golden retriever"), 2.0),
        (Text("cat"), -0.5),
        (ImageId(7), 0.25),
        (ImagePath("./a.jpg"), -3.0),
        (Saved("pets"), 4.0),
    ]


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("in:rome", InFolder(("rome",))),
        ('in:"my photos",2023/rome', InFolder(("my photos", "2023/rome"))),
        ('in:"a, b"', InFolder(("a, b",))),
        ("in:C:\\Users\\me", InFolder(("C:\\Users\\me",))),
        ("in:100%_\\'", InFolder(("100%_'",))),
        ("after:2023-05", TakenBetween(datetime(2023, 5, 1), None)),
        ("before:2023", TakenBetween(None, datetime(2023, 1, 1))),
        ("after:2023-05-17T18:30", TakenBetween(datetime(2023, 5, 17, 18, 30), None)),
        ("date:2023", TakenBetween(datetime(2023, 1, 1), datetime(2024, 1, 1))),
        ("date:2023-12", TakenBetween(datetime(2023, 12, 1), datetime(2024, 1, 1))),
        ("date:2024-02-29", TakenBetween(datetime(2024, 2, 29), datetime(2024, 3, 1))),
        ('camera:"Pixel 8"', CameraContains(("Pixel 8",))),
        ("near:48.85,2.35,10km", NearPlace(48.85, 2.35, 10.0)),
        ("near:-48.85,-2.35,500m", NearPlace(-48.85, -2.35, 0.5)),
        ("near:0,180,1mi", NearPlace(0.0, 180.0, 1.609344)),
        ("near:1,2", NearPlace(1.0, 2.0, 10.0)),
        ("near:1,2,1e3km", NearPlace(1.0, 2.0, 1000.0)),
        ("near:1,2,5e-05km", NearPlace(1.0, 2.0, 0.00005)),
        ("is:Screenshot", IsScreenshot()),
        ("-is:square", Not(HasShape("square"))),
        ("TYPE:JPG,.heif", HasFormat(("jpeg", "heic"))),
        ("width:>2000", SideBetween("width", 2001, None)),
        ("width:<=2000", SideBetween("width", None, 2000)),
        ("height:<2000", SideBetween("height", None, 1999)),
        ("height:=5", SideBetween("height", 5, 5)),
        ("height:5..7", SideBetween("height", 5, 7)),
        ("name:IMG_*", NameMatches(("IMG_*",))),
    ],
)
def test_filters(text: str, made: object) -> None:
    assert filters(text) == (made,)


def test_quotes_and_escapes_make_everything_plain() -> None:
    for text in ["+", "-x", "in:rome", "2:x", "@name", 'say "hi"', "./x", "C:\\x", "https://x", "a  b", "\\"]:
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        if text in {"./x", "C:\\x"}:  # a quoted path is a path; an escape within makes it words
            assert terms(f'"{escaped}"') == [(ImagePath(text), 1.0)]
            escaped = "C\\:\\\\x" if text[0] == "C" else "\\./x"
        assert terms(f'"{escaped}"') == [(Text(text), 1.0)]
    assert terms("\\-x in\\:rome") == [(Text("-x in:rome"), 1.0)]


def test_urls_only_when_switched_on() -> None:
    with pytest.raises(QueryError, match="--allow-urls") as caught:
        parse("dog + https://example.org/a.jpg")
    assert caught.value.column == 6
    assert terms("https://example.org/a.jpg?x=1", allow_urls=True) == [
        (ImageUrl("https://example.org/a.jpg?x=1"), 1.0)
    ]


@pytest.mark.parametrize(
    ("text", "column", "length", "part"),
    [
        ("dog +", 4, 1, "Nothing follows this +"),
        ("dog + - cat", 6, 1, "Two signs"),
        ("dog +-cat", 4, 2, "Two signs"),
        ("- people", 0, 8, "Everything is subtracted"),
        ('dog "cat', 4, 4, "no end"),
        ('dog ""', 4, 2, "Nothing stands between"),
        ('dog + " "', 4, 1, "only white space"),
        ("dog colour:red", 4, 7, "no filter colour:"),
        ("dog widht:>5", 4, 6, "Did you mean width:"),
        ("dog 2:cat", 4, 2, 'write "+ 2:..."'),
        ("0:dog", 0, 1, "between 0.001 and 1000, not 0"),
        ("dog + inf:cat", 6, 3, "not inf"),
        ("1e999:dog", 0, 5, "not 1e999"),
        ("NaN:dog", 0, 3, "not NaN"),
        ("2: dog", 0, 2, "Nothing follows this weight"),
        ("2:in:rome", 2, 1, "A filter has no weight"),
        ("dog - in:rome", 4, 1, "write -in: without a space"),
        ("dog in:", 4, 3, "Nothing follows in:"),
        ("in:a,,b", 5, 1, "missing beside this comma"),
        ("after:2023-13", 6, 7, "A date is"),
        ("after:0000", 6, 4, "A date is"),
        ("date:9999", 5, 4, "A date is"),
        ("before:yesterday", 7, 9, "A date is"),
        ("near:91,0", 5, 2, "latitude"),
        ("near:0,181", 7, 3, "longitude"),
        ("near:0,0,0km", 9, 3, "radius"),
        ("near:0,0,1parsec", 9, 7, "radius"),
        ("near:5", 5, 1, "latitude,longitude,radius"),
        ("is:blurry", 3, 6, "is:portrait"),
        ("type:psd", 5, 3, "types are avif, bmp"),
        ("width:big", 6, 3, "number of pixels"),
        ("width:>5..6", 6, 5, "number of pixels"),
        ("width:6..5", 6, 4, "smaller number comes first"),
        ("height:<0", 7, 2, "below 0"),
        ("id:4x", 3, 2, "whole number"),
        ("id:99999999999999999999", 3, 20, "whole number"),
        ("@", 0, 1, "saved query"),
        ("upload:", 0, 7, "uploaded picture"),
        ("dog \0", 4, 1, "not a character"),
        ("in:./\0", 5, 1, "not a character"),
        ("camera:\udcff", 7, 1, "not a character"),
        ("id:" + 5000 * "9", 3, 5000, "whole number"),
        ("dog \ud800", 4, 1, "not a character"),
        ("beach - beach", 6, 7, "added and subtracted"),
        ("is:portrait is:square", 12, 9, "one shape"),
        ("is:portrait -is:portrait", 12, 12, "opposite"),
        ("after:2024 before:2023", 11, 11, "both after 2024-01-01 and before 2023-01-01"),
        ("type:png type:gif", 9, 8, "one type"),
        ("width:>5 width:<6", 9, 8, "at least 6 and at most 5"),
    ],
)
def test_errors_point_at_the_place(text: str, column: int, length: int, part: str) -> None:
    with pytest.raises(QueryError) as caught:
        parse(text)
    error = caught.value
    assert part in error.reason
    assert (error.column, error.length) == (column, length)
    assert str(error) == f"{error.reason} (column {column + 1})"
    assert error.pointer().splitlines()[1] == " " * column + "^" * length


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_an_empty_query_says_what_to_do(text: str) -> None:
    with pytest.raises(QueryError, match="The query is empty"):
        parse(text)


def test_limits() -> None:
    with pytest.raises(QueryError, match="limit is 10,000"):
        parse("x" * (MAXIMUM_CHARACTERS + 1))
    with pytest.raises(QueryError, match="more than 64 terms"):
        parse(" + ".join(f"w{i}" for i in range(MAXIMUM_TERMS + 1)))
    assert len(parse(" + ".join(f"w{i}" for i in range(MAXIMUM_TERMS))).terms) == MAXIMUM_TERMS


def test_repeated_filters_count_once() -> None:
    assert filters("is:square IS:SQUARE") == (HasShape("square"),)


# -- Saved queries


def test_saved_queries_are_put_in_with_their_weights_and_filters() -> None:
    saved = {"pets": "dog + 2:cat in:home", "best": "@pets - 0.5:blur"}
    query = expand(parse("2:@best night is:portrait"), saved.get)
    assert [(term.target, term.weight) for term in query.terms] == [
        (Text("dog"), 2.0),
        (Text("cat"), 4.0),
        (Text("blur"), -1.0),
        (Text("night"), 1.0),
    ]
    assert query.filters == (HasShape("portrait"), InFolder(("home",)))


@pytest.mark.parametrize(
    ("saved", "part"),
    [
        ({}, "no saved query @a"),
        ({"a": "@b", "b": "@a"}, "leads back to itself: a -> b -> a"),
        ({"a": "dog colour:red"}, "The saved query @a (dog colour:red) does not work: There is no filter"),
        ({"a": "is:square"}, "cannot be subtracted"),
        ({f"a{i}" if i else "a": f"@a{i + 1}" for i in range(20)}, "deep"),
    ],
)
def test_saved_queries_that_do_not_work(saved: dict[str, str], part: str) -> None:
    with pytest.raises(QueryError) as caught:
        expand(parse("x - @a"), saved.get)
    assert part in caught.value.reason
    assert caught.value.column == 2


def test_a_saved_query_is_looked_up_once_however_often_it_is_called() -> None:
    saved = {f"a{i + 1}": f"@a{i} " * 64 for i in range(3)} | {"a0": "type:jpeg"}
    asked: list[str] = []

    def lookup(name: str) -> str | None:
        asked.append(name)
        return saved.get(name)

    assert expand(parse("@a3"), lookup).filters == (HasFormat(("jpeg",)),)
    assert asked == ["a3", "a2", "a1", "a0"]


def test_depth_counts_from_the_query_also_where_a_saved_query_is_known_already() -> None:
    saved = {f"a{i + 1}": f"@a{i}" for i in range(9)} | {"a0": "dog"}
    assert len(expand(parse("@a5 + @a7"), saved.get).terms) == 2
    for query in ("@a8", "@a5 + @a8", "@a7 + @a8"):
        with pytest.raises(QueryError, match="deep"):
            expand(parse(query), saved.get)


@pytest.mark.parametrize(
    ("saved", "part"),
    [
        ({f"a{i}": f"@b{i}" for i in range(64)} | {f"b{i}": "dog" for i in range(64)}, "different"),
        ({f"a{i}": " ".join(f"-name:{i}-{j}" for j in range(2)) for i in range(64)}, "64 filters"),
    ],
)
def test_saved_queries_that_come_to_too_much(saved: dict[str, str], part: str) -> None:
    with pytest.raises(QueryError, match=part):
        expand(parse(" ".join(f"@a{i}" for i in range(64))), saved.get)


def test_saved_filters_are_nothing_to_subtract_from() -> None:
    with pytest.raises(QueryError, match="only subtracts"):
        expand(parse("@tall - dog"), {"tall": "is:portrait"}.get)


def test_saved_filters_that_contradict_the_query() -> None:
    with pytest.raises(QueryError, match="contradict"):
        expand(parse("@a is:square"), {"a": "dog is:portrait"}.get)


# -- Any text at all

_PIECES = [
    *FILTER_EXAMPLES,
    *(
        "dog",
        "golden retriever",
        "+",
        "-",
        "2:",
        "0.5:",
        "inf:",
        '"',
        "\\",
        "@pets",
        "./a.jpg",
        "C:\\x",
        "~/",
    ),
    *(
        "id:",
        "id:7",
        "upload:u",
        "https://a.b/c",
        ",",
        ":",
        " ",
        "  ",
        "in:",
        "is:",
        "-is:square",
        "width:<=",
    ),
    *("type:jpg,png", "near:1,2", "after:2023", "date:2024-02", "\u201c", "\u00e9", "\u72ac", "\u00a0"),
]


@settings(max_examples=600, deadline=None)
@given(
    st.one_of(
        st.text(max_size=40),
        st.text(alphabet=string.punctuation + " ab1", max_size=30),
        st.lists(st.sampled_from(_PIECES), max_size=10).map("".join),
        st.lists(st.sampled_from(_PIECES), max_size=10).map(" ".join),
    ),
    st.booleans(),
)
@example('"\\./x" C:\\', True)
@example('https://a"b c"', True)
@example("near:1e-7,-0.0,1e-9m", False)
def test_any_text_is_a_query_or_a_query_error(text: str, allow_urls: bool) -> None:
    try:
        query = parse(text, allow_urls=allow_urls)
    except QueryError as error:
        assert error.column is None or 0 <= error.column <= len(text)  # noqa: PT017
        assert error.reason.endswith(".")  # noqa: PT017
        return
    plain = format_query(query)
    assert parse(plain, allow_urls=allow_urls) == query
    assert format_query(parse(plain, allow_urls=allow_urls)) == plain
    assert all(math.isfinite(term.weight) and term.weight for term in query.terms)


def _is_text(text: str) -> bool:
    return all(not "\ud800" <= character <= "\udfff" for character in text)


_words = st.text(min_size=1, max_size=12).filter(lambda text: text.strip() and "\0" not in text)
_values = st.text(min_size=1, max_size=8).filter(lambda text: "\0" not in text)
_names = st.text(st.sampled_from(string.ascii_letters + string.digits + "_.-"), min_size=1, max_size=8)
_targets = st.one_of(
    _words.filter(_is_text).map(Text),
    _words.map(lambda text: ImagePath("./" + text)),
    st.integers(0, 2**63 - 1).map(ImageId),
    _names.map(ImageUpload),
    _names.map(Saved),
)
_filters = st.one_of(
    st.lists(_values, min_size=1, max_size=3).map(lambda f: InFolder(tuple(f))),
    st.lists(_values, min_size=1, max_size=3).map(lambda f: NameMatches(tuple(f))),
    st.builds(CameraContains, st.tuples(_values.filter(_is_text))),
    st.builds(
        NearPlace,
        st.floats(-90, 90).map(lambda x: x + 0.0),
        st.floats(-180, 180).map(lambda x: x + 0.0),
        st.floats(1e-9, 20_000),
    ),
    st.builds(TakenBetween, st.datetimes().map(lambda d: d.replace(microsecond=0)), st.none()),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(_targets, st.sampled_from([1.0, 2.0, 0.5, 999.875, 0.001, -1.0, -3.25])), max_size=5),
    st.lists(_filters, max_size=1),
    st.booleans(),
)
def test_any_query_survives_being_written_down(
    parts: list[tuple[object, float]], chosen: list[object], turned: bool
) -> None:
    made = [Term(Text("anchor"), 5.0), *(Term(target, weight) for target, weight in parts)]
    sums: dict[object, float] = {}
    for term in made:
        sums[term.target] = sums.get(term.target, 0.0) + term.weight
        if sums[term.target] == 0.0:
            return  # contradicts itself, rightly refused
    query = Query(tuple(made), tuple(Not(each) if turned else each for each in chosen))
    assert parse(format_query(query)) == query
