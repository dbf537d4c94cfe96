"""Which architectures `Encoder` can run, and what is to be known of a checkpoint before its weights are read.

To add a family: write its towers in a file of their own (see `model.clip`), then a reader here and a line
in `_READERS`. Needs no JAX, so that naming a model, preparing pictures and tokenising texts start at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.checkpoint import CONFIG_NAME, read_json
from model.errors import CheckpointError, ConfigurationError, UnsupportedCheckpointError
from model.preprocess import ImagePreprocessor
from model.tokenizer import TextCleaning

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

# Bookkeeping in a config.json: two files that differ only here describe the same model.
_LABELS = frozenset({"architectures", "dtype", "torch_dtype", "transformers_version"})


@dataclass(frozen=True)
class TowerClass:
    """A class that reads one tower from a checkpoint.

    Attributes:
        module: Where the class is; importing it imports JAX.
        name: Of the class.
        output: The field of what it returns that holds the features, (batch, dimension).
    """

    module: str
    name: str
    output: str


@dataclass(frozen=True)
class CheckpointDescription:
    """What an encoder needs to know of a checkpoint besides its weights.

    Attributes:
        folder: Where its files are.
        settings: The configuration, as it was read.
        text_tower: Reads the text tower.
        vision_tower: Reads the vision tower.
        dimension: Length of an embedding.
        preprocessor: Prepares pictures.
        text_length: Number of positions of the text tower.
        vocabulary_size: Number of token ids it knows.
        pads_to_full_length: Whether texts must be padded to `text_length`, because the tower looks at the
            padding too.
        reads_attention_mask: Whether the text tower takes a mask.
        pad_id: The id that texts are padded with; None leaves it to the tokenizer's files.
        cleaning: What happens to a text before it is tokenised.
    """

    folder: Path
    settings: Mapping[str, Any]
    text_tower: TowerClass
    vision_tower: TowerClass
    dimension: int
    preprocessor: ImagePreprocessor
    text_length: int
    vocabulary_size: int
    pads_to_full_length: bool = False
    reads_attention_mask: bool = True
    pad_id: int | None = None
    cleaning: TextCleaning = TextCleaning.NONE


def describe(folder: Path) -> CheckpointDescription:
    """Reads a checkpoint's configuration files.

    Raises:
        CheckpointError: If files are missing or damaged.
        UnsupportedCheckpointError: If it is whole, but of an architecture that is not read here.
        ConfigurationError: If its settings contradict each other or are unknown.
    """
    settings = read_json(folder / CONFIG_NAME)
    kind = settings.get("model_type")
    if kind not in _READERS:
        raise UnsupportedCheckpointError(
            f"{folder} is of type {kind!r}, which cannot encode texts and pictures here. Supported are "
            f"{', '.join(sorted(_READERS))}."
        )
    description = _READERS[kind](folder, settings)
    _check_image_size(description)
    return description


def _describe_clip(folder: Path, settings: Mapping[str, Any]) -> CheckpointDescription:
    text = _section(settings, "text_config")
    return CheckpointDescription(
        folder=folder,
        settings=settings,
        text_tower=TowerClass("model.clip", "CLIPTextModelWithProjection", "text_embeds"),
        vision_tower=TowerClass("model.clip", "CLIPVisionModelWithProjection", "image_embeds"),
        dimension=_integer(settings, "projection_dim", 512),
        preprocessor=ImagePreprocessor.from_pretrained(folder),
        text_length=_integer(text, "max_position_embeddings", 77),
        vocabulary_size=_integer(text, "vocab_size", 49408),
    )


_READERS: dict[str, Callable[[Path, Mapping[str, Any]], CheckpointDescription]] = {
    "clip": _describe_clip,
}


def without_labels(settings: object) -> object:
    """Returns a configuration without what does not change any vector, ready for a fingerprint."""
    if isinstance(settings, dict):
        return {
            key: without_labels(value)
            for key, value in settings.items()
            if key not in _LABELS and not key.startswith("_")
        }
    if isinstance(settings, list):
        return [without_labels(item) for item in settings]
    return settings


def _section(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Returns a part of a joint configuration; the family's first files call it `..._dict`, which wins."""
    for key in (f"{name}_dict", name):
        value = settings.get(key)
        if isinstance(value, dict):
            return value
        if value is not None:
            raise ConfigurationError(f"{key} is {value!r:.100}; it must be an object.")
    return {}


def _integer(settings: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = settings.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"{key} is {value!r}; it must be a whole number above 0.")
    return value


def _check_image_size(description: CheckpointDescription) -> None:
    declared = _section(description.settings, "vision_config").get("image_size")
    if declared is None:
        return
    height, width = (
        declared if isinstance(declared, (list, tuple)) and len(declared) == 2 else (declared, declared)
    )
    made = (description.preprocessor.input_height_pixels, description.preprocessor.input_width_pixels)
    if made != (height, width):
        raise CheckpointError(
            f"{description.folder} does not agree with itself: its vision tower takes pictures of "
            f"{height}x{width} pixels, "
            f"its preprocessing makes {made[0]}x{made[1]}. Take all its files from one place."
        )
