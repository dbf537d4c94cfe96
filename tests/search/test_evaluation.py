"""Metrics on matrices that can be checked by hand, captions in all their forms, and whole evaluations."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from search.errors import EvaluationError
from search.evaluation import (
    Caption,
    accuracy,
    class_vectors,
    evaluate,
    evaluate_classes,
    figures_of,
    index_recall,
    ranks_of_right_columns,
    read_captions,
    read_classes,
    recall_at,
)

if TYPE_CHECKING:
    from pathlib import Path

SCORES = np.array(
    [
        [0.9, 0.1, 0.2, 0.3],  # right 0: first
        [0.9, 0.1, 0.2, 0.3],  # right 1: last
        [0.5, 0.5, 0.5, 0.1],  # right 2: level with two wrong ones, so third
        [0.4, 0.6, 0.5, 0.7],  # right 1 and 2: the better of them second
    ]
)
RIGHT = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 1, 0]], np.bool_)


def test_ranks_and_what_is_made_of_them() -> None:
    ranks = ranks_of_right_columns(SCORES, RIGHT)
    assert ranks.tolist() == [1, 4, 3, 2]
    assert [recall_at(ranks, k) for k in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 1.0]
    figures = figures_of(ranks)
    assert (figures.recall_at_1, figures.recall_at_5, figures.median_rank, figures.queries) == (
        0.25,
        1,
        2.5,
        4,
    )


def test_a_model_that_says_the_same_of_everything_gets_nothing() -> None:
    ranks = ranks_of_right_columns(np.ones((5, 20)), np.eye(5, 20, dtype=np.bool_))
    assert ranks.tolist() == [20] * 5
    assert accuracy(np.ones((5, 20)), np.arange(5)) == 0


def test_accuracy() -> None:
    assert accuracy(SCORES, np.array([0, 0, 3, 1])) == 0.5


def test_no_ranks() -> None:
    with pytest.raises(EvaluationError, match="nothing to evaluate"):
        figures_of(np.zeros(0, np.int64))


EXPECTED = [Caption("a.jpg", 'a "red" car', "test"), Caption("b/c.jpg", "two, or three dogs", "train")]


JSON_LINES = """\
{"file": "a.jpg", "caption": "a \\"red\\" car", "split": "test"}

{"image": "b/c.jpg", "captions": ["two, or three dogs"], "split": "train"}
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.tsv", 'file\tcaption\tsplit\na.jpg\ta "red" car\ttest\nb/c.jpg\ttwo, or three dogs\ttrain\n'),
        (
            "c.txt",
            'image\ttext\tsplit\r\na.jpg\ta "red" car\ttest\r\nb\\c.jpg\ttwo, or three dogs\ttrain\r\n',
        ),
        (
            "c.csv",
            '\ufefffile,caption,split\na.jpg,"a ""red"" car",test\nb/c.jpg,"two, or three dogs",train\n',
        ),
        (
            "c.jsonl",
            JSON_LINES,
        ),
    ],
)
def test_captions_of_every_form(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    assert read_captions(path) == EXPECTED
    assert read_captions(path, split="test") == EXPECTED[:1]
    with pytest.raises(EvaluationError, match="no split 'val'; there are: test, train"):
        read_captions(path, split="val")


def test_captions_of_coco(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    content = {
        "images": [{"id": 7, "file_name": "7.jpg"}],
        "annotations": [{"image_id": 7, "caption": "a dog\n"}, {"image_id": 7, "caption": "the dog"}],
    }
    path.write_text(json.dumps(content))
    assert read_captions(path) == [Caption("7.jpg", "a dog"), Caption("7.jpg", "the dog")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.tsv", ""),
        ("c.tsv", "picture\twords\na.jpg\tdog\n"),
        ("c.tsv", "file\tcaption\n"),
        ("c.tsv", "file\tcaption\na.jpg\n"),
        ("c.csv", 'file,caption\na.jpg,"dog\n'),
        ("c.jsonl", "{"),
        ("c.jsonl", "[1]"),
        ("c.jsonl", '{"file": "a.jpg", "captions": [1]}'),
        ("c.json", "[]"),
        ("c.json", '{"images": [], "annotations": [{"image_id": 1, "caption": "dog"}]}'),
    ],
)
def test_what_holds_no_captions(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(EvaluationError, match="captions"):
        read_captions(path)
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_captions(tmp_path / "none.tsv")


def test_retrieval_on_painted_pictures(painted, colours, tmp_path: Path) -> None:
    captions = [Caption(f"{name}/{name}0.png", name) for name in ("red", "green", "blue", "white")]
    captions += [Caption("red/red0.png", "red red"), Caption("nowhere.png", "black")]
    report = evaluate(painted.photos, captions, colours)
    assert (report.images, report.captions) == (4, 5)
    assert report.text_to_image.recall_at_1 == report.image_to_text.recall_at_1 == 1
    assert [file for file, _ in report.failed] == [str(painted.photos / "nowhere.png")]
    assert json.loads(json.dumps(report.as_dict()))["text_to_image"]["queries"] == 5
    # Wrong captions: blue is called white and the other way round.
    swapped = [Caption("blue/blue0.png", "white"), Caption("white/white0.png", "blue")]
    assert evaluate(painted.photos, swapped, colours).text_to_image.recall_at_1 == 0
    with pytest.raises(EvaluationError, match="None of the 1 images"):
        evaluate(tmp_path, [Caption("x.png", "x")], colours)


def test_classes_of_painted_pictures(painted, colours, tmp_path: Path) -> None:
    report = evaluate_classes(painted.photos, colours, templates=["a photo of {}", "{}"])
    # 60 of one colour; of the four pictures in two/ none is called two.
    assert (report.images, report.classes) == (64, 7)
    assert report.accuracy == pytest.approx(60 / 64)
    assert report.mean_class_accuracy == pytest.approx(6 / 7)
    (tmp_path / "one").mkdir()
    with pytest.raises(EvaluationError, match="at least two"):
        evaluate_classes(tmp_path, colours)
    with pytest.raises(EvaluationError, match="A template needs"):
        evaluate_classes(painted.photos, colours, templates=["a photo"])


def test_folders_whose_names_read_alike_hold_one_class(tmp_path: Path) -> None:
    for name in ("hot_dog/1.jpg", "hot-dog/2.jpg", "hot dog/3.jpg", "cat/4.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    classes = {name: {file.name for file in files} for name, files in read_classes(tmp_path).items()}
    assert classes == {"hot dog": {"1.jpg", "2.jpg", "3.jpg"}, "cat": {"4.jpg"}}


def test_a_class_is_the_mean_of_its_prompts(colours) -> None:
    vectors = class_vectors(["red"], ["{} green", "{} blue"], colours)
    by_hand = colours.encode_texts(["red green", "red blue"]).mean(0)
    np.testing.assert_allclose(vectors[0], by_hand / np.linalg.norm(by_hand), atol=1e-6)


def test_an_index_that_misses_one_of_four(library, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(vectors, k, *, exact=False):
        scores, ids = nearest(vectors, k + 1)
        kept = slice(0, k) if exact else slice(1, k + 1)  # the best one is missed
        return scores[:, kept], ids[:, kept]

    nearest = library.reader.nearest
    monkeypatch.setattr(library.reader, "nearest", careless)
    by_hand = []
    for text in ("red", "blue green"):
        scores = nearest(library.embed_texts([text]), 5)[0][0]
        by_hand.append(np.count_nonzero(scores[1:] >= scores[3]) / 4)
    report = index_recall(library, ["red", "blue green"], k=4)
    assert report.recall == pytest.approx(np.mean(by_hand))
    assert report.recall < 1


def test_the_exact_index_finds_all(library) -> None:
    report = index_recall(library, ["red", "blue", "something else"], k=10)
    assert (report.recall, report.queries, report.images) == (1, 3, 63)
    with pytest.raises(EvaluationError):
        index_recall(library, [])
