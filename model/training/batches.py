"""From sources to batches, decoded in parallel and ahead of the training step that wants them."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from model.training.errors import TrainingDataError
from model.training.images import DRAWS, BrokenImageError, augment, compose, decode
from model.training.mixture import ShuffledSource, shares
from model.training.sources import FilePlace
from model.training.texts import Meaning, Relations, Text, TextMaker, join

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    import numpy.typing as npt

    from model.preprocess import ImagePreprocessor
    from model.tokenizer import TextTokenizer
    from model.training.config import AugmentationConfig
    from model.training.sources import Entry, ImageContent, Source

# Per example: the image's draws, four for its text, two for composing.
_DRAWS = DRAWS + 6

# Batches that wait, ready, for the step: enough to ride out a slow read, few enough to cost little memory.
_BATCHES_AHEAD = 3

BATCHES_IN_HAND = _BATCHES_AHEAD + 1
"""Batches that are made at most while nobody asks for the next: those that wait, and one that finds no room."""

# Images that one task of the thread pool decodes: a task costs about as much as a small image.
_IMAGES_IN_A_TASK = 16


@dataclass(frozen=True)
class Batch:
    """What one step learns from.

    Attributes:
        pixels: uint8 (batch, height, width, 3).
        input_ids: int32 (batch, tokens).
        attention_mask: int32 (batch, tokens).
        relations: which text fits which image.
        broken: origin and reason of each image that could not be decoded; another one took its place.
        cut_texts: how many texts had more tokens than fit.
    """

    pixels: npt.NDArray[np.uint8]
    input_ids: npt.NDArray[np.int32]
    attention_mask: npt.NDArray[np.int32]
    relations: Relations
    broken: tuple[tuple[str, str], ...]
    cut_texts: int


def _draws(seed: tuple[int, int], examples: int) -> npt.NDArray[np.float64]:
    """Random numbers of a batch: float64 (examples, _DRAWS).

    The last one of `augment` came later and is drawn after all others, so that earlier runs can be made again.
    """
    generator = np.random.default_rng(seed)
    first, last = generator.random((examples, _DRAWS - 1)), generator.random((examples, 1))
    return np.concatenate([first[:, : DRAWS - 1], last, first[:, DRAWS - 1 :]], axis=1)


class LengthCounter:
    """A tokenizer that notices which texts are cut.

    Args:
        fitting: cuts at the length that is used.
        longer: the same tokenizer, cutting one token later; None where nothing is lost by asking no further.
        length: tokens that every text is padded to.
    """

    def __init__(self, fitting: TextTokenizer, longer: TextTokenizer, *, length: int) -> None:
        self._fitting = fitting
        self._longer = longer
        self.length = length

    def __call__(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], int]:
        """Ids and attention mask, int32 (texts, length) both, and how many texts were cut."""
        ids = self._longer.ids(texts)
        too_long = [row for row, found in enumerate(ids) if len(found) > self.length]
        if too_long:
            # Cutting is the tokenizer's own business: it knows which closing token must stay.
            for row, found in zip(too_long, self._fitting.ids([texts[row] for row in too_long]), strict=True):
                ids[row] = found
        padded = self._fitting.pad(ids, length=self.length)
        return padded.input_ids, padded.attention_mask, len(too_long)


class BatchMaker:
    """Makes the batch of any step, always the same one for the same step."""

    def __init__(
        self,
        sources: Sequence[Source],
        weights: Sequence[float],
        *,
        groups: Sequence[int | None],
        batch_size: int,
        seed: int,
        preprocessor: ImagePreprocessor,
        augmentation: AugmentationConfig,
        crop_areas: Sequence[tuple[float, float] | None],
        texts: TextMaker,
        tokenizer: LengthCounter,
        workers: int,
        window_examples: int,
        window_bytes: int,
    ) -> None:
        """Prepare; nothing is read before the first batch is made.

        Args:
            sources: what to draw from.
            weights: their shares.
            groups: how many examples of each come together, see `shares`.
            batch_size: examples in a batch.
            seed: of everything random.
            preprocessor: tells the size of images.
            augmentation: what happens to images.
            crop_areas: of each source, in place of the augmentation's.
            texts: makes texts of names.
            tokenizer: makes ids of texts.
            workers: decoding threads; Pillow works without holding Python's lock.
            window_examples: see `ShuffledSource`.
            window_bytes: the same.

        Raises:
            ConfigurationError: groups that may meet do not fit into a batch.
        """
        self._weights = list(weights)
        self._groups = list(groups)
        self._batch_size = batch_size
        self._shares(1)  # so that groups which do not fit are refused before anything is read
        self._seed = seed
        self._size = (preprocessor.input_height_pixels, preprocessor.input_width_pixels)
        self._side_pixels = preprocessor.minimum_side_pixels
        self._compose_share = augmentation.compose
        self._augmentations = [
            augmentation if area is None else replace(augmentation, crop_area=area) for area in crop_areas
        ]
        self._texts = texts
        self._tokenizer = tokenizer
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._sources = [
            ShuffledSource(source, (seed, number), window_examples=window_examples, window_bytes=window_bytes)
            for number, source in enumerate(sources)
        ]

    def _shares(self, steps: int) -> npt.NDArray[np.int64]:
        return shares(self._weights, self._batch_size, steps, self._groups)

    def close(self) -> None:
        """Let the decoding threads go."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def from_step(self, start: int, end: int) -> Generator[Batch]:
        """The batches of steps `start` to `end`, made ahead in a thread of their own.

        Close the generator to stop that thread. Errors in it are raised here.
        """
        ready: queue.Queue[Batch | BaseException] = queue.Queue(_BATCHES_AHEAD)
        stop = threading.Event()

        def put(item: Batch | BaseException) -> None:
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.1)
                except queue.Full:
                    continue
                return

        def produce() -> None:
            try:
                counts = self._shares(end)
                positions = counts[:start].sum(axis=0)
                for step in range(start, end):
                    if stop.is_set():
                        return
                    put(self._make(step, positions, counts[step]))
                    positions = positions + counts[step]
            except BaseException as error:  # noqa: BLE001 (raised again where the batches are used)
                put(error)

        producer = threading.Thread(target=produce, name="batches", daemon=True)
        producer.start()
        try:
            for _ in range(start, end):
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            producer.join()

    def make(self, step: int) -> Batch:
        """The batch of one step."""
        counts = self._shares(step + 1)
        return self._make(step, counts[:step].sum(axis=0), counts[step])

    def _make(self, step: int, positions: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> Batch:
        drawn = [
            example
            for source, position, count in zip(self._sources, positions, counts, strict=True)
            for example in source.take(int(position), int(count))
        ]
        augmentations = [
            augmentation
            for augmentation, count in zip(self._augmentations, counts, strict=True)
            for _ in range(count)
        ]
        draws = _draws((self._seed, step), len(drawn))
        tasks = [
            self._pool.submit(self._decode, drawn[some], augmentations[some], draws[some])
            for some in (
                slice(start, start + _IMAGES_IN_A_TASK) for start in range(0, len(drawn), _IMAGES_IN_A_TASK)
            )
        ]
        meanings = [self._texts.meaning(entry) for entry, _ in drawn]
        texts = [
            self._texts.make(meaning, draw[DRAWS:]) for meaning, draw in zip(meanings, draws, strict=True)
        ]
        images = [image for task in tasks for image in task.result()]
        broken = self._replace_broken([entry for entry, _ in drawn], images, meanings, texts)
        pixels = np.stack(images)
        self._compose(pixels, meanings, texts, draws[:, DRAWS + 4 :])
        ids, mask, cut = self._tokenizer([text.content for text in texts])
        return Batch(pixels, ids, mask, self._texts.relations(meanings, texts), broken, cut)

    def _decode(
        self,
        examples: Sequence[tuple[Entry, ImageContent]],
        augmentations: Sequence[AugmentationConfig],
        draws: npt.NDArray[np.float64],
    ) -> list[npt.NDArray[np.uint8] | str]:
        """Pixels of each image, or why there are none."""
        results: list[npt.NDArray[np.uint8] | str] = []
        for (_, content), augmentation, draw in zip(examples, augmentations, draws, strict=True):
            # A random crop is enlarged: decode a JPEG only as small as the smallest crop allows.
            side_pixels = round(self._side_pixels / augmentation.crop_area[0] ** 0.5)
            try:
                results.append(augment(decode(read(content), side_pixels), augmentation, self._size, draw))
            except (BrokenImageError, OSError) as error:
                results.append(str(error))
        return results

    def _replace_broken(
        self,
        entries: Sequence[Entry],
        images: list[npt.NDArray[np.uint8] | str],
        meanings: list[Meaning],
        texts: list[Text],
    ) -> tuple[tuple[str, str], ...]:
        """Let the next good example of the batch stand in for each broken one, so that shapes stay as they are."""
        broken = tuple(
            (entry.origin, image)
            for entry, image in zip(entries, images, strict=True)
            if isinstance(image, str)
        )
        if not broken:
            return ()
        count = len(images)
        good = [number for number, image in enumerate(images) if not isinstance(image, str)]
        if not good:
            origin, reason = broken[0]
            raise TrainingDataError(
                f"none of the {count} images of a batch can be decoded; the first is {origin}: {reason}"
            )
        for number in range(count):
            if isinstance(images[number], str):
                other = min(good, key=lambda candidate: (candidate - number) % count)
                images[number], meanings[number], texts[number] = images[other], meanings[other], texts[other]
        return broken

    def _compose(
        self,
        pixels: npt.NDArray[np.uint8],
        meanings: list[Meaning],
        texts: list[Text],
        draws: npt.NDArray[np.float64],
    ) -> None:
        """Join pairs of examples side by side, in place; only things with names, sentences do not join."""
        if not self._compose_share:
            return
        order = [
            int(number)
            for number in np.argsort(draws[:, 1], kind="stable")
            if draws[number, 0] < self._compose_share and meanings[number].names
        ]
        whole = {number: (pixels[number].copy(), meanings[number], texts[number]) for number in order}
        for first, second in pairwise([*order, *order[:1]] if len(order) > 1 else []):
            left, meaning, text = whole[first]
            right, other_meaning, other_text = whole[second]
            pixels[first] = compose(left, right)
            meanings[first], texts[first] = join((meaning, text), (other_meaning, other_text))


def read(content: ImageContent) -> bytes:
    """The bytes, read now if they lie in a file; raises the OSError that says why there are none."""
    if isinstance(content, OSError):
        raise content
    return content.read() if isinstance(content, FilePlace) else content
