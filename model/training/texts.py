"""From what is known of an image to a text for it, and to which other images of the batch that text fits as well.

A *term* is a name ("dog") or a whole caption, in lower case. Every image has terms that fit it; every text is made of
one term. Text j fits image i if j's term is among i's. Where j's term is narrower than what is known of i ("chihuahua",
and i is "a dog"), nobody can say, and the pair counts neither for nor against.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from model.training.vocabulary import Vocabulary, normalise

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from model.training.config import TextConfig
    from model.training.sources import Entry

# Rows of `Relations` have fixed widths, so that a compiled step fits every batch.
IMAGE_TERMS = 24
IMAGE_NAMES = 2
BROADER_TERMS = 12

# Real photographs show far more than their captions' nouns; the first few are enough to learn words from.
_CAPTION_TERMS = 6


@dataclass(frozen=True)
class Meaning:
    """What is known of an image.

    Attributes:
        names: exact names, synonyms included; empty where there are captions.
        broader: what the names are kinds of, or what the captions mention.
        captions: whole sentences, as they were given: there are text towers that tell capitals from small letters.
    """

    names: tuple[str, ...]
    broader: tuple[str, ...]
    captions: tuple[str, ...]

    @property
    def terms(self) -> tuple[str, ...]:
        """All that fits the image."""
        return (*self.names, *map(normalise, self.captions), *self.broader)


@dataclass(frozen=True)
class Text:
    """A text for an image, and the term that it was made of."""

    content: str
    term: str


@dataclass(frozen=True)
class Relations:
    """Which texts of a batch fit which images; numbers stand for terms, and equal numbers for equal terms.

    Attributes:
        image_terms: int32 (batch, IMAGE_TERMS), what fits each image, filled up with -1.
        image_names: int32 (batch, IMAGE_NAMES), the first of its exact names, filled up with -1.
        text_term: int32 (batch,), what each text is made of.
        text_broader: int32 (batch, BROADER_TERMS), what that is a kind of, filled up with -2.
    """

    image_terms: npt.NDArray[np.int32]
    image_names: npt.NDArray[np.int32]
    text_term: npt.NDArray[np.int32]
    text_broader: npt.NDArray[np.int32]


class TextMaker:
    """Chooses texts by the settings, with random numbers that are handed in, so that it can be repeated."""

    def __init__(self, config: TextConfig, vocabulary: Vocabulary) -> None:
        self._config = config
        self.vocabulary = vocabulary
        # Bound here and not on the methods: a cache on a method would keep the object alive for ever.
        self._meaning_of_names = lru_cache(maxsize=100_000)(self._find_meaning_of_names)
        self._broader = lru_cache(maxsize=100_000)(vocabulary.broader_names)

    def meaning(self, entry: Entry) -> Meaning:
        """What is known of an entry's image."""
        if not entry.captions:
            return self._meaning_of_names(entry.names)
        mentioned = [term for caption in entry.captions for term in self.vocabulary.known_terms(caption)]
        known = dict.fromkeys(mentioned[: 4 * _CAPTION_TERMS])
        broader = tuple(known)[:_CAPTION_TERMS]
        return Meaning((), (*broader, *self._broader(*broader)), entry.captions)

    def _find_meaning_of_names(self, names: tuple[str, ...]) -> Meaning:
        return Meaning(self.vocabulary.names(*names), self.vocabulary.broader_names(*names), ())

    def make(self, meaning: Meaning, draws: npt.NDArray[np.float64]) -> Text:
        """Make one text.

        Args:
            meaning: of the image.
            draws: float64 (4,), uniform in [0, 1).
        """
        if meaning.captions and not (meaning.broader and draws[0] < self._config.name_captions):
            caption = _pick(meaning.captions, draws[1])
            return Text(_leave_out_words(caption, self._config.word_dropout, draws[2]), normalise(caption))
        broader = not meaning.names or (meaning.broader and draws[0] < self._config.broader_share)
        term = _pick(meaning.broader if broader else meaning.names, draws[1])
        return Text(self.fill(_pick(self._config.templates, draws[2]), term, correct=draws[3] < 0.5), term)

    def fill(self, template: str, term: str, *, correct: bool = True) -> str:
        """Put a term into a template; `correct` makes "an" of an "a" before a vowel."""
        if "{plural}" in template:
            return template.replace("{plural}", self.vocabulary.plural(term))
        if correct and term[:1] in "aeiou":
            template = template.replace(" a {}", " an {}")
            template = f"an {{}}{template[4:]}" if template.startswith("a {}") else template
        return template.replace("{}", term)

    def relations(self, meanings: Sequence[Meaning], texts: Sequence[Text]) -> Relations:
        """Number the terms of a batch."""
        numbers: dict[str, int] = {}

        def rows(terms: Sequence[Sequence[str]], width: int, filler: int) -> npt.NDArray[np.int32]:
            table = np.full((len(terms), width), filler, np.int32)
            for row, names in enumerate(terms):
                found = [numbers.setdefault(name, len(numbers)) for name in names[:width]]
                table[row, : len(found)] = found
            return table

        # An image's own text fits it whatever else had to be cut off.
        image_terms = [(text.term, *meaning.terms) for meaning, text in zip(meanings, texts, strict=True)]
        return Relations(
            rows(image_terms, IMAGE_TERMS, -1),
            rows([meaning.names for meaning in meanings], IMAGE_NAMES, -1),
            rows([(text.term,) for text in texts], 1, -1)[:, 0],
            rows([self._broader(text.term) for text in texts], BROADER_TERMS, -2),
        )


def join(first: tuple[Meaning, Text], second: tuple[Meaning, Text]) -> tuple[Meaning, Text]:
    """What an image means whose halves mean these two, and its text: "a dog and a car"."""
    (left, left_text), (right, right_text) = first, second
    if left_text.term == right_text.term:
        return left, left_text
    meaning = Meaning(
        (), tuple(dict.fromkeys((*left.names, *right.names, *left.broader, *right.broader))), ()
    )
    return meaning, Text(
        f"{left_text.content} and {right_text.content}", f"{left_text.term} and {right_text.term}"
    )


def _leave_out_words(caption: str, share: float, draw: float) -> str:
    """A caption with some of its words, at least one of them."""
    if not share:
        return caption
    words = caption.split()
    # One number has to do for many words: it becomes a seed.
    chances = np.random.default_rng(int(draw * 2**53)).random(len(words))
    kept = [word for word, chance in zip(words, chances, strict=True) if chance >= share]
    return " ".join(kept) or words[int(chances.argmax())]


def _pick(options: tuple[str, ...], draw: float) -> str:
    return options[int(draw * len(options))]
