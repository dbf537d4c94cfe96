"""Texts and pictures in, unit vectors out: the one class that the rest of the program asks.

Loading is lazy in steps: `Encoder.load` reads a few small files; a tower is read when it is first asked
something, each alone; JAX is imported with the first tower. Inputs are padded to a few fixed shapes, so
that a tower is compiled a few times and never again: what was compiled is kept on disk and found at the
next start.
"""

from __future__ import annotations

import math
import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from model import cache
from model.errors import CheckpointError, ModelInputError
from model.families import describe, without_labels
from model.identity import PREPROCESSING_VERSION, ModelIdentity, fingerprint_of_settings
from model.machine import (
    PrecisionChoice,
    available_cores,
    backend,
    best_precision,
    device_count,
    forced_precision,
)
from model.registry import find_model
from model.text_inputs import TextInputs
from model.tokenizer import TextCleaning, TextTokenizer, clip_tokenizer, read_tokenizer_settings
from model.towers import Tower

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import jax
    import numpy.typing as npt
    from PIL import Image

    from model.families import CheckpointDescription
    from model.preprocess import ImagePreprocessor
    from model.registry import LocatedModel
    from model.towers import Inputs

# A text costs what a tower of its size takes at most; in company less, the weights being read once for all. Few
# sizes, few programs: those between are put together, and filled up only where little is missing.
TEXT_BATCHES = (32, 16, 4, 1)
_WORTH_FILLING = 0.75

# On a CPU few tokens stay in a core's cache, and many make good use of the weights, which each call reads anew. A GPU
# wants to be filled.
_TOKENS_PER_CALL_CPU = 800
_IMAGES_PER_CALL_GPU = 256
# So that the pictures of a call, and what is computed of them, fit into memory on whatever machine.
_MOST_CORES = 32


class Encoder:
    """Turns texts and pictures into unit vectors that can be compared with each other.

    Safe to use from several threads at once.
    """

    def __init__(
        self, located: LocatedModel, description: CheckpointDescription, *, precision: str | None
    ) -> None:
        """See `load`, which is the way to make one."""
        self._located = located
        self._description = description
        self._forced_precision = forced_precision(precision)
        self._lock = threading.Lock()
        self._text_tower: Tower | None = None
        self._vision_tower: Tower | None = None

    @classmethod
    def load(cls, name: str | Path, *, precision: str | None = None) -> Self:
        """Makes an encoder. Cheap: reads the configuration, not the weights.

        Args:
            name: An alias (`starter`, `clip`, ...), a local folder, or a hub id.
            precision: In which numbers the products are computed: "float32", "bfloat16", "float16" or "int8". None
                leaves it to IMAGO_PRECISION, then to the machine: int8 or bfloat16 where the processor has
                instructions for it, else float32. Vectors of the same picture or text in any of them have a cosine of
                at least 0.999 to those in float32, so a library may mix them.

        Raises:
            ModelNotFoundError: If there is no such model, or it cannot be fetched.
            CheckpointError: If its files are missing or damaged.
            UnsupportedCheckpointError: If it is of an architecture or format that is not read here.
            ConfigurationError: If its settings, or `precision`, are unknown or contradict each other.
        """
        located = find_model(name)
        return cls(located, describe(located.folder), precision=precision)

    @property
    def dimension(self) -> int:
        """Length of one vector."""
        return self._description.dimension

    @property
    def preprocessor(self) -> ImagePreprocessor:
        """Makes the pixels that `encode_pixels` takes; needs no JAX and can be sent to worker processes."""
        return self._description.preprocessor

    @cached_property
    def identity(self) -> ModelIdentity:
        """What to store beside vectors, to know later whether others may be compared with them."""
        folder = self._description.folder
        settings = {
            "version": PREPROCESSING_VERSION,
            "image": self.preprocessor.to_dict(),
            "configuration": without_labels(dict(self._description.settings)),
            "tokenizer": {name: cache.cached_fingerprint(folder / name) for name in _tokenizer_files(folder)},
            "tokenizer_settings": {
                key: value
                for key, value in read_tokenizer_settings(folder).items()
                if key in {"model_max_length", "pad_token", "padding_side"}
            },
            "cleaning": self._description.cleaning,
        }
        return ModelIdentity(
            name=self._located.name,
            revision=self._located.revision,
            weights_fingerprint=self._description.weights_fingerprint(),
            preprocessing_fingerprint=fingerprint_of_settings(settings),
            dimension=self.dimension,
        )

    @cached_property
    def batch_size(self) -> int:
        """How many pictures at a time this machine encodes fastest."""
        return _calls_at_once() * self._images_per_call

    @cached_property
    def _images_per_call(self) -> int:
        if backend() != "cpu":
            return _IMAGES_PER_CALL_GPU * device_count()
        return max(1, _TOKENS_PER_CALL_CPU // self._description.patches)

    @property
    def precision(self) -> str:
        """In which numbers the towers multiply: as asked, or what suits this machine."""
        return self.precision_choice.precision

    @cached_property
    def precision_choice(self) -> PrecisionChoice:
        """The same with its reason, for people."""
        return self._forced_precision or best_precision()

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The checkpoint's tokenizer.

        Raises:
            CheckpointError: If the checkpoint has none, or it is damaged.
        """
        description = self._description
        if description.has_clip_vocabulary and not (description.folder / "tokenizer.json").is_file():
            return TextTokenizer(
                clip_tokenizer(lower_case=description.cleaning is not TextCleaning.WEB_CASED),
                max_length=description.text_length,
                pad_id=description.pad_id or 0,
                cleaning=description.cleaning,
            )
        return TextTokenizer.from_pretrained(
            description.folder,
            max_length=description.text_length,
            pad_id=description.pad_id,
            cleaning=description.cleaning,
        )

    @cached_property
    def _text_inputs(self) -> TextInputs:
        return TextInputs(self._description, self.tokenizer)

    @property
    def logit_scale(self) -> float | None:
        """What the model multiplies a cosine with to say how well a text and a picture fit; None if it cannot.

        Raises:
            CheckpointError: If the weights cannot be read.
        """
        return self._logit_constants[0]

    @property
    def logit_bias(self) -> float | None:
        """What it adds then; None for a model that only compares pictures with each other (CLIP).

        With a bias, as in SigLIP, `sigmoid(logit_scale * cosine + logit_bias)` is the probability that a text
        and a picture belong together.

        Raises:
            CheckpointError: If the weights cannot be read.
        """
        return self._logit_constants[1]

    @cached_property
    def _logit_constants(self) -> tuple[float | None, float | None]:
        source = self._description.open_weights()

        def read(name: str) -> float | None:
            return float(source.read(name).reshape(-1)[0]) if name in source.shapes else None

        scale = read("logit_scale")  # stored as its logarithm
        return None if scale is None else math.exp(scale), read("logit_bias")

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Encodes texts; what is longer than the tower's positions is cut.

        Args:
            texts: Any number of them, none included; an empty text is one, too.

        Returns:
            float32 (len(texts), dimension), each row of length 1, in the order of the texts.

        Raises:
            ModelInputError: If an item is no string.
            CheckpointError: If the files of the text tower are missing or damaged.
        """
        make_inputs = self._text_inputs
        ids = make_inputs.ids(texts)
        vectors = np.empty((len(ids), self.dimension), dtype=np.float32)
        if not ids:
            return vectors
        tower = self._get_text_tower()
        by_length: dict[int, list[int]] = {}
        for row, tokens in enumerate(ids):
            by_length.setdefault(make_inputs.padded_length(len(tokens)), []).append(row)
        for length, rows in by_length.items():
            for some, padded in _text_batches(rows):
                inputs = make_inputs([ids[row] for row in some], length)
                vectors[some] = tower(*(_with_rows(array, padded) for array in inputs))[: len(some)]
        return _checked(vectors)

    def encode_images(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        """Encodes pictures of any size and mode.

        Args:
            images: Any number of Pillow images, none included.

        Returns:
            float32 (len(images), dimension), each row of length 1, in the order of the images.

        Raises:
            ModelInputError: If an item is no image or has no pixels.
            OSError: If a lazily opened file turns out to be damaged.
            CheckpointError: If the files of the vision tower are missing or damaged.
        """
        vectors = np.empty((len(images), self.dimension), dtype=np.float32)
        for some in _batches(range(len(images)), self.batch_size if images else 1):
            pixels = np.stack([self.preprocessor(images[row]) for row in some])
            vectors[some[0] : some[-1] + 1] = self.encode_pixels(pixels)
        return _checked(vectors)

    def encode_pixels(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Encodes pictures that `preprocessor` prepared.

        Args:
            pixels: uint8 (batch, height, width, 3).

        Returns:
            float32 (batch, dimension), each row of length 1. Where a checkpoint makes no numbers of a picture, its row
            is not finite; the others are as they would be without it.

        Raises:
            ModelInputError: If the shape or dtype is another.
            CheckpointError: If the files of the vision tower are missing or damaged.
        """
        expected = (self.preprocessor.input_height_pixels, self.preprocessor.input_width_pixels, 3)
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != expected:
            came = (
                f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
            )
            raise ModelInputError(
                f"Expected uint8 pixels of shape (batch, {expected[0]}, {expected[1]}, 3), got {came}."
            )
        vectors = np.empty((len(pixels), self.dimension), dtype=np.float32)
        if not len(pixels):
            return vectors
        tower, size = self._get_vision_tower(), self._images_per_call
        if len(pixels) == 1:
            vectors[:] = tower(pixels)
        else:
            starts = range(0, len(pixels), size)
            answers = tower.map([(_with_rows(pixels[start : start + size], size),) for start in starts])
            for start, answer in zip(starts, answers, strict=True):
                vectors[start : start + size] = answer[: len(pixels) - start]
        if not np.isfinite(vectors).all(axis=1).any():
            # Strange pictures, or strange weights? What makes no numbers of plain grey makes none of anything.
            _checked(tower(np.full((1, *expected), 128, np.uint8)))
        return vectors

    def _get_text_tower(self) -> Tower:
        with self._lock:
            if self._text_tower is None:
                self._text_tower = _text_tower(self._description, self.precision, self._text_inputs)
            return self._text_tower

    def _get_vision_tower(self) -> Tower:
        with self._lock:
            if self._vision_tower is None:
                self._vision_tower = _vision_tower(self._description, self.precision)
            return self._vision_tower


def _text_tower(description: CheckpointDescription, precision: str, make_inputs: TextInputs) -> Tower:
    def run(model: Any, *inputs: jax.Array) -> jax.Array:  # ids or rows of tokens, perhaps a mask
        features: jax.Array = getattr(model(*inputs), description.text_tower.output)
        return features

    def inputs_to_measure_with() -> Inputs:
        from model.int8 import TEXTS_TO_MEASURE_WITH

        return make_inputs.of_known_tokens(TEXTS_TO_MEASURE_WITH)

    return Tower(description, description.text_tower, precision, run, inputs_to_measure_with)


def _vision_tower(description: CheckpointDescription, precision: str) -> Tower:
    preprocessor = description.preprocessor
    scale, offset = (np.reshape(values, (1, 1, 1, 3)) for values in preprocessor.normalization)

    def run(model: Any, pixels: jax.Array) -> jax.Array:
        from model.int8 import takes_pixels_as_they_are

        values = pixels.astype(np.float32)
        if not takes_pixels_as_they_are(model):
            values = values * scale + offset
        features: jax.Array = getattr(model(values.transpose(0, 3, 1, 2)), description.vision_tower.output)
        return features

    def inputs_to_measure_with() -> Inputs:
        from model.int8 import pictures_to_measure_with

        return (pictures_to_measure_with(preprocessor.input_height_pixels, preprocessor.input_width_pixels),)

    tower = description.vision_tower
    cores = _calls_at_once()
    return Tower(description, tower, precision, run, inputs_to_measure_with, cores=cores, divides_mlps=True)


def _calls_at_once() -> int:
    """Tells how many calls of a picture's tower compute side by side: one on each core of a CPU."""
    return min(available_cores(), _MOST_CORES) if backend() == "cpu" else 1


def _tokenizer_files(folder: Path) -> list[str]:
    whole = ["tokenizer.json"] if (folder / "tokenizer.json").is_file() else []
    older = ["vocab.json", "merges.txt", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"]
    return whole or [name for name in older if (folder / name).is_file()]


def _batches(rows: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _text_batches(rows: Sequence[int]) -> Iterator[tuple[Sequence[int], int]]:
    """Cuts rows into batches, each with the size that it is to be filled up to."""
    start = 0
    while start < len(rows):
        left = len(rows) - start
        size = next(
            size for size in TEXT_BATCHES if left >= size or (size > 4 and left >= _WORTH_FILLING * size)
        )
        yield rows[start : start + size], size
        start += size


def _with_rows(array: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    """Fills a batch up by repeating its first row, which is as good as any and never strange."""
    missing = rows - len(array)
    return array if missing <= 0 else np.concatenate([array, np.repeat(array[:1], missing, axis=0)])


def _checked(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if not np.isfinite(vectors).all():
        raise CheckpointError(
            "The model gave vectors that are not numbers: its weights are damaged, or too large for the precision "
            "chosen. Fetch it again, or choose float32."
        )
    return vectors
