"""Synonyms, broader words, plurals, and finding words in sentences."""

from pathlib import Path

import pytest

from model.errors import ConfigurationError
from model.training.vocabulary import EVERYDAY_NAME, Vocabulary

WORDS = Vocabulary(
    synonyms={"car": ("automobile", "motorcar"), "dog": ("hound",)},
    broader={
        "sports car": ("car",),
        "car": ("vehicle",),
        "chihuahua": ("dog",),
        "dog": ("pet", "animal"),
        "pet": ("animal",),
        "tennis ball": ("ball",),
    },
    plurals={"mouse": "mice"},
)


def test_names_come_with_their_synonyms_whichever_is_given() -> None:
    assert WORDS.names("car") == ("car", "automobile", "motorcar")
    assert WORDS.names("Motorcar", "bus") == ("motorcar", "bus", "car", "automobile")


def test_broader_names_climb_all_the_way_nearest_first_each_once() -> None:
    assert WORDS.broader_names("chihuahua") == ("dog", "hound", "pet", "animal")
    assert WORDS.broader_names("sports car") == ("car", "automobile", "motorcar", "vehicle")
    assert WORDS.broader_names("vehicle") == ()


def test_a_circle_of_broader_words_ends() -> None:
    circle = Vocabulary(broader={"a": ("b",), "b": ("a",)})
    assert circle.broader_names("a") == ("b",)


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("dog", "dogs"),
        ("baby", "babies"),
        ("toy", "toys"),
        ("bus", "buses"),
        ("torch", "torches"),
        ("box", "boxes"),
        ("computer mouse", "computer mice"),
    ],
)
def test_plurals_follow_the_rules_of_spelling_and_the_table(one: str, many: str) -> None:
    assert WORDS.plural(one) == many


def test_terms_of_a_sentence_are_singular_and_the_longest_that_fit() -> None:
    assert WORDS.known_terms("Two dogs chase a tennis ball, past a HOUND.") == ("dog", "tennis ball", "hound")
    assert WORDS.known_terms("nothing known here") == ()


def test_the_vocabulary_in_the_package_is_whole() -> None:
    words = Vocabulary.load(EVERYDAY_NAME)
    assert {"dog", "animal"} <= set(words.broader_names("chihuahua"))
    assert "car" in words.broader_names("sports car")
    circles = [name for name in words.broader if name in words.broader_names(*words.broader[name])]
    assert circles == []
    twice = [
        name for name in words.broader for other in words.names(name) if other in words.broader_names(name)
    ]
    assert twice == []


def test_damaged_vocabularies_are_told(tmp_path: Path) -> None:
    file = tmp_path / "words.toml"
    with pytest.raises(ConfigurationError, match=r"there is no file .*words\.toml"):
        Vocabulary.load(str(file))
    file.write_text('[narrower]\ndog = ["chihuahua"]')
    with pytest.raises(ConfigurationError, match="unknown tables narrower"):
        Vocabulary.load(str(file))
    file.write_text('synonyms = ["dog"]')
    with pytest.raises(ConfigurationError, match=r"synonyms = \['dog'\] must be a table"):
        Vocabulary.load(str(file))
    file.write_text("[synonyms]\ndog = 3")
    with pytest.raises(ConfigurationError, match="dog = 3 must be a list of words"):
        Vocabulary.load(str(file))
