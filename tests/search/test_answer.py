"""Everything that `Library.answer` can be asked for, on a real library of painted pictures."""

from __future__ import annotations

import base64
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from indexer import index_folders
from indexer.errors import ImageGoneError
from search import Library, QueryError, QueryImageError, format_query, parse
from search.nulls import Nulls
from search.ranking import mix

if TYPE_CHECKING:
    from pathlib import Path

    from search import Hit


def folders(hits: list[Hit] | tuple[Hit, ...]) -> set[str]:
    return {hit.path.parent.name for hit in hits}


def ids(hits: list[Hit] | tuple[Hit, ...]) -> list[int]:
    return [hit.id for hit in hits]


# -- The cut


def test_words_that_fit_give_what_fits_and_no_more(library: Library) -> None:
    answer = library.answer("green", k=50)
    assert answer.is_cut
    assert not answer.nothing_fits
    assert 8 <= answer.total <= 14
    assert folders(answer.hits) <= {"green", "two"}
    assert answer.candidates == 63
    chances = [hit.probability for hit in answer.hits]
    assert chances == sorted(chances, reverse=True)
    assert all(chance >= 0.5 for chance in chances)


def test_nothing_here_looks_like_that(library: Library) -> None:
    answer = library.answer("piano")
    assert answer.nothing_fits
    assert answer.hits == ()
    assert len(answer.closest) == 20
    assert all(hit.probability < 0.5 for hit in answer.closest)
    everything = library.answer("piano", all_hits=True)
    assert everything.hits == answer.closest
    assert not everything.nothing_fits
    assert everything.total == 63


def test_a_model_that_is_sure_of_a_pair_is_believed(painted, colours) -> None:
    """SigLIP's sigmoid counts where it is higher than what comparison with other queries says."""
    with Library.open(painted.path, encoder=colours) as library:
        closest = library.answer("piano", k=63).closest
        scores = sorted({hit.score for hit in closest}, reverse=True)
        colours.logit_scale = 1e5
        colours.logit_bias = -1e5 * (scores[0] + scores[1]) / 2
        expected = [hit.id for hit in closest if hit.score == scores[0]]
        sure = library.answer("piano", k=63)
        assert ids(sure.hits) == expected
        assert all(hit.probability > 0.5 for hit in sure.hits)
        assert library.answer("2:piano", k=63).hits == sure.hits
        assert library.answer("piano + 0.001:drum", k=63).nothing_fits  # of a mixture it says nothing
        colours.logit_bias = None
        assert library.answer("piano", k=63).nothing_fits


def test_pictures_alone_are_never_cut(library: Library) -> None:
    answer = library.answer(int(library.reader.ids()[0]), k=100)
    assert not answer.is_cut
    assert len(answer.hits) == 63


def test_a_small_library_is_not_judged(tmp_path: Path, painted, colours) -> None:
    index_folders(tmp_path / "small", [painted.photos / "red"], colours, workers=1)
    with Library.open(tmp_path / "small", encoder=colours) as library:
        hits = library.search("piano")
        assert len(hits) == 10
        assert {hit.probability for hit in hits} == {None}


def test_what_is_measured_while_the_library_changes_is_not_kept(library: Library, colours) -> None:
    begun, changed = threading.Event(), threading.Event()
    encode_texts = colours.encode_texts

    def wait_and_encode(texts):
        if len(texts) > 1 and not begun.is_set():  # the neutral ones
            begun.set()
            assert changed.wait(20)
        return encode_texts(texts)

    colours.identity = replace(colours.identity, weights_fingerprint="not measured yet")
    nulls = Nulls(library.reader, lambda: colours)
    colours.encode_texts = wait_and_encode
    query, one = parse("red"), np.eye(1, 32, dtype=np.float32)
    mixture = mix(one, [1.0], nulls.sampled().vectors)
    with ThreadPoolExecutor() as pool:
        measured = pool.submit(nulls.of, query, mixture)
        assert begun.wait(20)
        nulls.forget()  # does not wait for the tower
        changed.set()
        assert measured.result(20) is not None
    first = nulls.of(query, mixture)
    assert first is not measured.result()
    assert nulls.of(query, mixture) is first


def test_looking_away_is_no_measure_for_looking(library: Library, colours) -> None:
    nulls = Nulls(library.reader, lambda: colours)
    one = np.eye(1, 32, dtype=np.float32)
    sample = nulls.sampled().vectors
    nulls.of(parse("red"), mix(one, [-1.0], sample))
    away = nulls.of(parse("red"), mix(one, [-1.0], sample))
    assert nulls.of(parse("red"), mix(one, [1.0], sample)) is not away


def test_neutral_texts_are_embedded_once_for_each_model(painted, colours) -> None:
    for _ in range(2):
        with Library.open(painted.path, encoder=colours) as library:
            library.search("red")
    colours.texts_encoded = 0
    with Library.open(painted.path, encoder=colours) as library:
        library.search("red")
        library.search("red")
    assert colours.texts_encoded == 1


# -- Terms


def test_plus_and_minus(library: Library) -> None:
    best = library.search("red + blue", k=1, all_hits=True)[0]
    assert best.path.name == "red-blue.png"
    without = library.search("red - blue", k=5, all_hits=True)
    assert {hit.path.name[:3] for hit in without} <= {"red", "cop"}
    assert "red-blue.png" not in {hit.path.name for hit in without}


def test_a_picture_and_a_word(library: Library, painted) -> None:
    path = painted.photos / "red" / "red4.png"
    best = library.search(f'"{path}" + green', k=1, all_hits=True)[0]
    assert best.path.name == "red-green.png"


def test_uploads(library: Library, painted) -> None:
    path = painted.photos / "green" / "green3.png"
    data = path.read_bytes()
    by_path = library.search(path, k=3)
    with Image.open(path) as image:
        for upload in (data, bytearray(data), image):
            answer = library.answer("upload:a", k=3, uploads={"a": upload})
            assert ids(answer.hits) == ids(by_path)
    with pytest.raises(QueryError, match="No picture named b"):
        library.answer("red + upload:b", uploads={"a": data})


@pytest.mark.parametrize("data", [b"", b"words", b"\xff\xd8\xff broken"])
def test_an_upload_that_is_no_picture(library: Library, data: bytes) -> None:
    with pytest.raises(QueryImageError, match="the uploaded picture a"):
        library.answer("upload:a", uploads={"a": data})


def test_addresses_go_through_the_fetcher(painted, colours) -> None:
    data = (painted.photos / "blue" / "blue1.png").read_bytes()
    asked = []

    def fetch(url: str) -> bytes:
        asked.append(url)
        return data

    with Library.open(painted.path, encoder=colours, fetch=fetch) as library:
        hits = library.search("https://example.org/a.png", k=3)
    assert asked == ["https://example.org/a.png"]
    assert folders(hits) == {"blue"}
    with (
        Library.open(painted.path, encoder=colours) as library,
        pytest.raises(QueryError, match="--allow-urls"),
    ):
        library.search("https://example.org/a.png")


def test_terms_that_cancel_out(library: Library, painted) -> None:
    path = painted.photos / "red" / "red4.png"
    with pytest.raises(QueryError, match="cancel"):
        library.search(f'"{path}" - id:{library.reader.find(path)}')


def test_an_id_in_words_that_is_gone(library: Library) -> None:
    with pytest.raises(ImageGoneError):
        library.search("red - id:999")


# -- Filters


def test_filters_narrow_what_is_looked_at(library: Library) -> None:
    answer = library.answer("red in:two", all_hits=True)
    assert answer.candidates == 4  # one of them also lies in another folder, by whose path it is shown
    assert folders(answer.hits) == {"two", "red"}
    everything = {hit.id: hit.score for hit in library.search("red", k=100, all_hits=True)}
    assert all(hit.score == everything[hit.id] for hit in answer.hits)


def test_filters_alone_list_what_fits(library: Library) -> None:
    answer = library.answer("in:green,blue name:*5.png")
    assert sorted(hit.path.name for hit in answer.hits) == ["blue5.png", "green5.png"]
    assert [(hit.score, hit.probability) for hit in answer.hits] == [(1, None), (1, None)]
    assert not answer.is_cut


def test_a_filter_that_nothing_fits(library: Library) -> None:
    for text in ("in:nowhere", "red in:nowhere", "id:1 in:nowhere"):
        answer = library.answer(text)
        assert (answer.total, answer.candidates, answer.hits) == (0, 0, ())
        assert not answer.nothing_fits


def test_a_folder_relative_to_here(library: Library, painted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(painted.photos)
    assert folders(library.search("in:./two", k=100)) == {"two", "red"}
    monkeypatch.setenv("HOME", str(painted.photos))
    monkeypatch.setenv("USERPROFILE", str(painted.photos))
    assert folders(library.search("in:~/two", k=100)) == {"two", "red"}


def test_a_folder_of_hostile_names(tmp_path: Path, colours) -> None:
    names = ["100%", "a_b", "it's", "[x]", 'say "hi"', "a,b", "ünï", "-in:x"]
    for i, name in enumerate(names):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40), (i * 30, 0, 0)).save(tmp_path / "photos" / name / "p.png")
    index_folders(tmp_path / "library", [tmp_path / "photos"], colours, workers=1)
    with Library.open(tmp_path / "library", encoder=colours) as library:
        for name in names:
            quoted = name.replace('"', '\\"')
            assert folders(library.search(f'in:"{quoted}"')) == {name}
        for text in ("in:%", "in:_", "in:*", "in:1", "in:a"):
            assert library.search(text) == []


# -- Order and pages


def test_orders_within_the_cut(library: Library) -> None:
    fitting = set(ids(library.answer("green", k=100).hits))
    by_name = library.answer("green", k=100, order="name").hits
    assert set(ids(by_name)) == fitting
    names = [hit.path.name for hit in by_name]
    assert names == sorted(names)
    down = library.answer("green", k=100, order="name", descending=True).hits
    assert [hit.path.name for hit in down] == names[::-1]
    sizes = [hit.path.stat().st_size for hit in library.answer("green", k=100, order="size").hits]
    assert sizes == sorted(sizes, reverse=True)
    with pytest.raises(QueryError, match="no order 'colour'"):
        library.answer("green", order="colour")


@pytest.mark.parametrize("order", ["relevance", "date", "name", "size"])
@pytest.mark.parametrize("text", ["green", "id:3", "in:photos"])
def test_pages_neither_repeat_nor_skip(library: Library, order: str, text: str) -> None:
    whole = ids(library.answer(text, k=100, order=order, all_hits=True).hits)
    assert len(whole) == 63
    by_offset = [
        image_id
        for start in range(0, 70, 10)
        for image_id in ids(library.answer(text, k=10, offset=start, order=order, all_hits=True).hits)
    ]
    assert by_offset == whole
    paged: list[int] = []
    page = None
    for _ in range(8):
        answer = library.answer(text, k=10, page=page, order=order, all_hits=True)
        paged += ids(answer.hits)
        page = answer.next_page
        assert answer.total == 63
        if page is None:
            break
    assert paged == whole


def test_a_page_holds_when_the_library_grows(tmp_path: Path, painted, colours) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in (painted.photos / "red").iterdir():
        (photos / path.name).write_bytes(path.read_bytes())
    index_folders(tmp_path / "library", [photos], colours, workers=1)
    with Library.open(tmp_path / "library", encoder=colours) as library:
        first = library.answer("in:photos", k=5, order="name")
        (photos / "a-new-one.png").write_bytes((painted.photos / "blue" / "blue0.png").read_bytes())
        index_folders(tmp_path / "library", [photos], colours, workers=1)
        assert library.refresh()
        second = library.answer("in:photos", k=5, order="name", page=first.next_page)
        assert [hit.path.name for hit in first.hits + second.hits] == [f"red{i}.png" for i in range(10)]
        assert second.next_page is None


def test_a_page_by_relevance_holds_when_many_come_before_it(tmp_path: Path, colours) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(12):
        picture = Image.new("RGB", (64, 64), "red")
        picture.paste("blue", (0, 0, 64, 10 + 4 * number))
        picture.save(photos / f"old{number:02}.png")
    index_folders(tmp_path / "library", [photos], colours, workers=1)
    with Library.open(tmp_path / "library", encoder=colours) as library:
        first = library.answer("red", k=5, all_hits=True)
        for number in range(80):
            Image.new("RGB", (64 + number, 64), "red").save(photos / f"new{number}.png")
        index_folders(tmp_path / "library", [photos], colours, workers=1)
        assert library.refresh()
        second = library.answer("red", k=5, page=first.next_page, all_hits=True)
        third = library.answer("red", k=5, page=second.next_page, all_hits=True)
        names = [hit.path.name for hit in first.hits + second.hits + third.hits]
        assert names == [f"old{number:02}.png" for number in range(12)]
        assert (second.total, third.next_page) == (92, None)


@pytest.mark.parametrize("before", [-1, 1.5, "1", True, None])
def test_a_page_that_was_tampered_with(library: Library, before: object) -> None:
    page = base64.urlsafe_b64encode(json.dumps(["relevance", -0.5, 1, False, before]).encode()).decode()
    with pytest.raises(QueryError, match="not the name of a page"):
        library.answer("green", page=page)


@pytest.mark.parametrize("score", [10**400, "x", None, [1]])
def test_a_page_after_a_score_that_is_none(library: Library, score: object) -> None:
    page = base64.urlsafe_b64encode(json.dumps(["relevance", score, 1, False, 0]).encode()).decode()
    with pytest.raises(QueryError, match="not the name of a page"):
        library.answer("green", page=page)


@pytest.mark.parametrize("page", ["", "x", "!!!!", "W10", "WzFd", "bnVsbA", "é"])
def test_what_is_no_page(library: Library, page: str) -> None:
    with pytest.raises(QueryError, match="not the name of a page"):
        library.answer("green", page=page)


def test_a_page_of_another_order(library: Library) -> None:
    page = library.answer("in:photos", k=5, order="name").next_page
    with pytest.raises(QueryError, match="not the name of a page"):
        library.answer("in:photos", k=5, order="size", page=page)


@pytest.mark.parametrize("offset", [-1, 1.5, "1", True])
def test_what_is_no_offset(library: Library, offset: object) -> None:
    with pytest.raises(QueryError, match="hits to skip"):
        library.answer("green", offset=offset)


def test_beyond_the_last_hit(library: Library) -> None:
    answer = library.answer("green", offset=1000)
    assert answer.hits == ()
    assert answer.next_page is None
    assert answer.total > 0


# -- Feedback, reasons, folding


def test_feedback_moves_the_query(library: Library, painted) -> None:
    blue = library.reader.find(painted.photos / "blue" / "blue2.png")
    red = library.reader.find(painted.photos / "red" / "red2.png")
    plain = library.search("white", k=100, all_hits=True)
    moved = library.search("white", k=100, all_hits=True, more_like=[blue], less_like=[red])

    def share_at_top(hits: list[Hit], colour: str) -> float:
        places = [i for i, hit in enumerate(hits) if hit.path.parent.name == colour]
        return float(np.mean(places))

    assert share_at_top(moved, "blue") < share_at_top(plain, "blue")
    assert share_at_top(moved, "red") > share_at_top(plain, "red")
    assert folders(library.answer("in:photos", k=5, more_like=[blue]).hits) == {"blue"}


def test_feedback_that_makes_no_sense(library: Library) -> None:
    with pytest.raises(QueryError, match="right and as wrong"):
        library.search("red", more_like=[1], less_like=[1])
    with pytest.raises(QueryError, match="Only images that are wrong"):
        library.search("in:photos", less_like=[1])
    with pytest.raises(ImageGoneError):
        library.search("red", more_like=[999])


def test_why(library: Library) -> None:
    hit = library.search("red + 2:blue - green", k=1, all_hits=True, explain=True)[0]
    assert [(part.term, part.weight) for part in hit.why] == [("red", 1), ("blue", 2), ("green", -1)]
    assert sum(part.share for part in hit.why) > 0
    assert library.search("red", k=1)[0].why == ()


def test_near_duplicates_are_folded(tmp_path: Path, draw_picture, colours) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(4):
        picture = draw_picture(seed).resize((320, 240))
        picture.save(photos / f"{seed}.png")
        picture.save(photos / f"{seed}-again.jpg", quality=70)
        picture.resize((160, 120)).save(photos / f"{seed}-small.png")
    index_folders(tmp_path / "library", [photos], colours, workers=1)
    with Library.open(tmp_path / "library", encoder=colours) as library:
        plain = library.answer("red", k=20)
        folded = library.answer("red", k=20, fold=True)
        assert (plain.total, folded.total) == (12, 4)
        for hit in folded.hits:
            names = {record.path.name[0] for record in library.reader.images([hit.id, *hit.folded])}
            assert len(names) == 1
            assert len(hit.folded) == 2
        assert {hit.id for hit in plain.hits} == {
            image_id for hit in folded.hits for image_id in (hit.id, *hit.folded)
        }
        groups = library.duplicates("near")
        assert sorted(group.best.path.name[0] for group in groups) == ["0", "1", "2", "3"]
        # Most pixels, then most bytes: never the small one.
        assert not any("small" in group.best.path.name for group in groups)
        assert all(len(group.others) == 2 for group in groups)


def test_exact_copies(library: Library) -> None:
    (group,) = library.duplicates("exact")
    assert group.best.copies == 2
    assert group.others == ()
    (paths,) = group.paths.values()
    assert paths[0] == group.best.path
    assert len(set(paths)) == 2
    assert len({path.read_bytes() for path in paths}) == 1


# -- Threads and forms of queries


def test_a_parsed_query_asks_the_same(library: Library) -> None:
    query = parse("red + blue in:photos")
    assert library.search(query, k=5) == library.search(format_query(query), k=5)
    assert library.answer("2:red", k=1).query == parse("2:red")


def test_many_threads_get_the_same_answers(painted, colours) -> None:
    texts = ["red", "green - red", "blue + white", "in:two", "id:2", "yellow is:square"]
    with Library.open(painted.path, encoder=colours) as library:
        expected = [library.search(text) for text in texts]
    found: list[list] = []
    with Library.open(painted.path, encoder=colours) as library:

        def ask() -> None:
            found.append([library.search(text) for text in texts])

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [expected] * 8


def test_an_upload_stream_of_every_mode(library: Library) -> None:
    for mode in ("1", "L", "P", "RGBA", "CMYK", "I;16"):
        stream = io.BytesIO()
        Image.new("RGB", (50, 40), "red").convert("L" if mode == "I;16" else mode).save(stream, "TIFF")
        assert library.answer("upload:x", k=1, uploads={"x": stream.getvalue()}).hits


def test_more_pictures_in_a_query_than_would_leave_any(library: Library) -> None:
    text = "red " + " ".join(f"+ id:{i}" for i in library.reader.ids()[:60])
    assert library.answer(text, k=5).hits[0].probability is None
