"""From names to texts, and which text fits which image."""

from pathlib import Path

import numpy as np
import pytest

from model.training.config import TextConfig
from model.training.sources import Entry, FilePlace
from model.training.texts import Meaning, Text, TextMaker, join
from model.training.vocabulary import Vocabulary

WORDS = Vocabulary(synonyms={"dog": ("hound",)}, broader={"chihuahua": ("dog",), "dog": ("animal",)})


def maker(**settings: object) -> TextMaker:
    return TextMaker(TextConfig(**settings), WORDS)  # type: ignore[arg-type]


def entry(*names: str, captions: tuple[str, ...] = ()) -> Entry:
    return Entry(names, captions, FilePlace(Path("none")), "")


def test_a_name_means_its_synonyms_and_everything_broader() -> None:
    meaning = maker().meaning(entry("dog"))
    assert meaning == Meaning(("dog", "hound"), ("animal",), ())
    assert meaning.terms == ("dog", "hound", "animal")


def test_a_caption_means_itself_and_the_things_it_mentions() -> None:
    meaning = maker().meaning(entry(captions=("Two Dogs  run.", "A hound")))
    assert meaning.captions == ("Two Dogs  run.", "A hound")
    assert meaning.terms[:2] == ("two dogs run.", "a hound")
    assert meaning.broader == ("dog", "hound", "animal")


@pytest.mark.parametrize(
    ("draws", "expected"),
    [
        ((0.9, 0.0, 0.0, 0.0), Text("a photo of a dog", "dog")),
        ((0.9, 0.6, 0.9, 0.0), Text("hounds", "hound")),
        ((0.1, 0.0, 0.0, 0.0), Text("a photo of an animal", "animal")),
        ((0.1, 0.0, 0.0, 0.9), Text("a photo of a animal", "animal")),
    ],
)
def test_draws_decide_breadth_name_template_and_article(draws: tuple[float, ...], expected: Text) -> None:
    words = maker(templates=("a photo of a {}", "{plural}"), broader_share=0.2)
    assert words.make(words.meaning(entry("dog")), np.array(draws)) == expected


def test_a_captioned_image_is_now_and_then_named() -> None:
    words = maker(templates=("a {}",), name_captions=0.5)
    meaning = words.meaning(entry(captions=("a dog runs",)))
    assert words.make(meaning, np.array([0.6, 0, 0, 0])) == Text("a dog runs", "a dog runs")
    assert words.make(meaning, np.array([0.4, 0, 0, 0])) == Text("a dog", "dog")


def test_captions_lose_their_share_of_words_and_stay_the_same_caption() -> None:
    caption = "one two three four five six seven eight nine ten"
    words = maker(word_dropout=0.3)
    meaning = words.meaning(entry(captions=(caption,)))
    texts = [words.make(meaning, np.array([0, 0, draw, 0])) for draw in np.linspace(0, 0.999, 300)]
    assert {text.term for text in texts} == {caption}
    kept = [text.content.split() for text in texts]
    assert all(sorted(some, key=caption.split().index) == some for some in kept)
    assert np.mean([len(some) for some in kept]) == pytest.approx(7, abs=0.3)
    assert {word for some in kept for word in some} == set(caption.split())
    assert texts[7] == words.make(meaning, np.array([0, 0, 7 * 0.999 / 299, 0]))


def test_a_caption_keeps_a_word_however_many_are_left_out() -> None:
    words = maker(word_dropout=1.0)
    meaning = words.meaning(entry(captions=("two dogs run",)))
    assert words.make(meaning, np.array([0.9, 0, 0.5, 0])).content in {"two", "dogs", "run"}


def test_captions_are_shown_as_they_are_and_compared_by_their_words() -> None:
    words = maker()
    entries = [
        entry(captions=(caption,)) for caption in ("Two Dogs in Zürich", "two dogs in zürich", "A car")
    ]
    meanings = [words.meaning(one) for one in entries]
    texts = [words.make(meaning, np.full(4, 0.9)) for meaning in meanings]
    assert [text.content for text in texts] == ["Two Dogs in Zürich", "two dogs in zürich", "A car"]
    relations = words.relations(meanings, texts)
    assert relations.text_term[0] == relations.text_term[1] != relations.text_term[2]
    assert relations.text_term[1] in relations.image_terms[0, 1:]


@pytest.mark.parametrize(
    ("template", "term", "expected"),
    [
        ("a {}", "apple", "an apple"),
        ("a photo of a {}", "orange", "a photo of an orange"),
        ("{}", "apple", "apple"),
        ("a {}", "dog", "a dog"),
        ("two {plural}", "baby", "two babies"),
    ],
)
def test_templates_are_filled(template: str, term: str, expected: str) -> None:
    assert maker().fill(template, term) == expected


def test_relations_number_terms_so_that_equal_means_fits() -> None:
    words = maker()
    meanings = [words.meaning(entry(name)) for name in ("chihuahua", "dog", "car")]
    texts = [Text("", term) for term in ("dog", "hound", "chihuahua")]
    relations = words.relations(meanings, texts)
    fits = np.array(
        [[text in set(image) for text in relations.text_term] for image in relations.image_terms[:, 1:]]
    )
    np.testing.assert_array_equal(fits, [[True, True, True], [True, True, False], [False, False, False]])
    dog = relations.image_names[1, 0]
    assert dog in relations.text_broader[2]  # a chihuahua is a dog
    assert dog not in relations.text_broader[1]
    assert (
        relations.image_terms[2, 0] == relations.text_term[2]
    )  # an image's own text fits it, whatever it is


def test_joined_halves_mean_both() -> None:
    first = (Meaning(("dog",), ("animal",), ()), Text("a dog", "dog"))
    second = (Meaning(("car",), (), ()), Text("a car", "car"))
    meaning, text = join(first, second)
    assert text == Text("a dog and a car", "dog and car")
    assert set(meaning.terms) == {"dog", "animal", "car"}
    assert join(first, first) == first
