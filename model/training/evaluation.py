"""Scores of a model under training: zero-shot accuracy where images have names, retrieval where they have captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from model.training import metrics
from model.training.batches import read
from model.training.config import ZERO_SHOT_TEMPLATES
from model.training.images import BrokenImageError, plain
from model.training.sources import read_images

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor

    import numpy.typing as npt

    from model.preprocess import ImagePreprocessor
    from model.training.parameters import Parameters
    from model.training.sources import Entry, ImageContent, Source
    from model.training.step import Embedder

    Tokenize = Callable[[Sequence[str]], tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]]
    """From texts to their ids and attention mask, int32 (texts, tokens) both."""

ZERO_SHOT, RETRIEVAL = "zero_shot", "retrieval"

_ENTRIES_READ_AT_ONCE = 512

# Among so many images or less every one is found "within the first ten".
_RECALLED = 10


@dataclass(frozen=True)
class TestSet:
    """Images with what they should be found by, prepared once.

    Attributes:
        title: for people.
        kind: ZERO_SHOT or RETRIEVAL.
        pixels: uint8 (images, height, width, 3).
        wanted: int64; zero-shot: (images,) the class of each image. Retrieval: (texts,) the image of each text.
        input_ids: int32 (texts, tokens).
        attention_mask: int32 (texts, tokens).
        groups: int64 (texts,): the class that a text describes; zero-shot only, empty otherwise.
        broken: origin and reason of images that could not be decoded, which are left out.
    """

    __test__ = False  # not a test, whatever pytest makes of the name

    title: str
    kind: str
    pixels: npt.NDArray[np.uint8]
    wanted: npt.NDArray[np.int64]
    input_ids: npt.NDArray[np.int32]
    attention_mask: npt.NDArray[np.int32]
    groups: npt.NDArray[np.int64]
    broken: tuple[tuple[str, str], ...]


def prepare(
    source: Source,
    title: str,
    *,
    preprocessor: ImagePreprocessor,
    tokenize: Tokenize,
    pool: Executor,
    classes: Source | None = None,
) -> TestSet | None:
    """Decode a test set's images and tokenise its texts.

    A class is described by all its names in all of `ZERO_SHOT_TEMPLATES`; a caption stands for itself.

    Args:
        source: what to test on.
        title: for people.
        preprocessor: prepares images as search does.
        tokenize: makes ids, as search does: what training cuts is not cut here.
        pool: decodes in parallel.
        classes: where to take the classes from, if the source holds only some of them.

    Returns:
        None where there is nothing to score: less than two images or classes, or captions of ten images or less.
    """
    entries, pixels, broken = _decode_all(source.entries, preprocessor, pool)
    if len(entries) < 2:
        return None
    if source.has_captions:
        if len(entries) <= _RECALLED:
            return None
        pairs = [
            (caption, image)
            for image, entry in enumerate(entries)
            for caption in entry.captions or entry.names
        ]
        ids, mask = tokenize([caption for caption, _ in pairs])
        wanted = np.array([image for _, image in pairs], np.int64)
        return TestSet(title, RETRIEVAL, pixels, wanted, ids, mask, np.empty(0, np.int64), broken)
    names = list(dict.fromkeys(entry.names for entry in (classes or source).entries if entry.names))
    if len(names) < 2:
        return None
    number = {name: index for index, name in enumerate(names)}
    prompts = [
        (template.replace("{}", name), number[group])
        for group in names
        for name in group
        for template in ZERO_SHOT_TEMPLATES
    ]
    ids, mask = tokenize([text for text, _ in prompts])
    return TestSet(
        title,
        ZERO_SHOT,
        pixels,
        np.array([number[entry.names] for entry in entries], np.int64),
        ids,
        mask,
        np.array([group for _, group in prompts], np.int64),
        broken,
    )


def score(test: TestSet, embedder: Embedder, parameters: Parameters) -> dict[str, float]:
    """Measure a model's parameters on a test set.

    Returns:
        Zero-shot: `accuracy`. Retrieval, text to image: `recall_at_1`, `recall_at_5`, `recall_at_10`, `median_rank`.
    """
    images = embedder.images(parameters, test.pixels)
    texts = embedder.texts(parameters, test.input_ids, test.attention_mask)
    if test.kind == ZERO_SHOT:
        sums = np.zeros((int(test.groups.max()) + 1, texts.shape[1]), np.float32)
        np.add.at(sums, test.groups, texts)
        classes = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        return {"accuracy": metrics.accuracy(images @ classes.T, test.wanted)}
    places = metrics.ranks(texts @ images.T, test.wanted)
    return {
        **{f"recall_at_{k}": metrics.recall(places, k) for k in (1, 5, 10)},
        "median_rank": float(np.median(places)),
    }


def overall(scores: Sequence[dict[str, float]]) -> float:
    """One figure to choose the best state by: the mean over test sets of accuracy, or recall at 10."""
    return float(np.mean([score.get("accuracy", score.get("recall_at_10", 0.0)) for score in scores]))


def _decode_all(
    entries: Sequence[Entry], preprocessor: ImagePreprocessor, pool: Executor
) -> tuple[list[Entry], npt.NDArray[np.uint8], tuple[tuple[str, str], ...]]:
    good: list[Entry] = []
    broken: list[tuple[str, str]] = []
    pixels: list[npt.NDArray[np.uint8]] = []
    for start in range(0, len(entries), _ENTRIES_READ_AT_ONCE):
        some = entries[start : start + _ENTRIES_READ_AT_ONCE]
        tasks = [pool.submit(_pixels, content, preprocessor) for content in read_images(some)]
        for entry, task in zip(some, tasks, strict=True):
            try:
                pixels.append(task.result())
                good.append(entry)
            except (BrokenImageError, OSError) as error:
                broken.append((entry.origin, str(error)))
    size = (preprocessor.input_height_pixels, preprocessor.input_width_pixels, 3)
    return good, np.stack(pixels) if pixels else np.empty((0, *size), np.uint8), tuple(broken)


def _pixels(content: ImageContent, preprocessor: ImagePreprocessor) -> npt.NDArray[np.uint8]:
    return plain(read(content), preprocessor)
