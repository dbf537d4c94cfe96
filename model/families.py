"""Which architectures `Encoder` can run, and what is to be known of a checkpoint before its weights are read.

To add a family: write its towers in a file of their own (see `model.clip`), then a reader here and a line
in `_READERS`. Needs no JAX, so that naming a model, preparing pictures and tokenising texts start at once.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from model.cache import cached_fingerprint
from model.checkpoint import (
    CONFIG_NAME,
    FLAX_NAME,
    SAFETENSORS_INDEX_NAME,
    SAFETENSORS_NAME,
    names_of_shards,
    open_weights,
)
from model.errors import CheckpointError, ConfigurationError, UnsupportedCheckpointError
from model.flax_file import FlaxFileSource
from model.identity import fingerprint_of_settings
from model.json_file import read_json
from model.open_clip_files import (
    OPEN_CLIP_CONFIG_NAME,
    OPEN_CLIP_WEIGHTS_NAMES,
    open_clip_weights,
    split_open_clip_settings,
)
from model.preprocess import ImagePreprocessor
from model.tokenizer import TextCleaning, read_tokenizer_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from model.checkpoint import WeightSource

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
        weight_files: Where the weights are.
        open_weights: Opens them, reading their names and shapes.
        pads_to_full_length: Whether texts must be padded to `text_length`, because the tower looks at the
            padding too.
        reads_attention_mask: Whether the text tower takes a mask.
        embedding_table: Where the text tower takes rows of its token table instead of ids, the table's
            name in the checkpoint; so a large table can stay in the file.
        pad_id: The id that texts are padded with; None leaves it to the tokenizer's files.
        cleaning: What happens to a text before it is tokenised.
        has_clip_vocabulary: Whether its tokenizer is OpenAI's CLIP's where the folder holds none.
        patch_sides_pixels: Height and width of what the vision tower cuts pictures into.
    """

    folder: Path
    settings: Mapping[str, Any]
    text_tower: TowerClass
    vision_tower: TowerClass
    dimension: int
    preprocessor: ImagePreprocessor
    text_length: int
    vocabulary_size: int
    weight_files: tuple[Path, ...]
    open_weights: Callable[[], WeightSource]
    pads_to_full_length: bool = False
    reads_attention_mask: bool = True
    embedding_table: str | None = None
    pad_id: int | None = None
    cleaning: TextCleaning = TextCleaning.NONE
    has_clip_vocabulary: bool = False
    patch_sides_pixels: tuple[int, int] = (16, 16)

    @property
    def patches(self) -> int:
        """Into how many patches the vision tower cuts a picture."""
        height, width = self.patch_sides_pixels
        pixels = self.preprocessor
        return max(1, pixels.input_height_pixels // height) * max(1, pixels.input_width_pixels // width)

    def weights_fingerprint(self) -> str:
        """Returns a hexadecimal SHA-256 over the weights; reads the files only if they are new to the cache.

        Raises:
            CheckpointError: If there are none, or some are missing.
        """
        if not self.weight_files:
            self.open_weights()  # which knows what to say about their absence
        missing = [file.name for file in self.weight_files if not file.is_file()]
        if missing:
            raise CheckpointError(f"{self.folder} lacks {', '.join(missing)}. Fetch the checkpoint again.")
        prints = {file.name: cached_fingerprint(file) for file in self.weight_files}
        return fingerprint_of_settings(prints) if len(prints) > 1 else next(iter(prints.values()), "")


def describe(folder: Path) -> CheckpointDescription:
    """Reads a checkpoint's configuration files.

    Raises:
        CheckpointError: If files are missing or damaged.
        UnsupportedCheckpointError: If it is whole, but of an architecture that is not read here.
        ConfigurationError: If its settings contradict each other or are unknown.
    """
    if _is_open_clip(folder):
        return _describe_open_clip(folder, read_json(folder / OPEN_CLIP_CONFIG_NAME))
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
        weight_files=_weight_files(folder),
        open_weights=partial(_open_weights, folder),
        patch_sides_pixels=_patch_sides(_section(settings, "vision_config"), 32),
    )


def _describe_siglip(folder: Path, settings: Mapping[str, Any]) -> CheckpointDescription:
    text = _section(settings, "text_config")
    vocabulary_size = _integer(text, "vocab_size", 32000)
    return CheckpointDescription(
        folder=folder,
        settings=settings,
        text_tower=TowerClass("model.siglip", "SiglipTextTrunk", "pooler_output"),
        vision_tower=TowerClass("model.siglip", "SiglipVisionModel", "pooler_output"),
        dimension=_integer(_section(settings, "vision_config"), "hidden_size", 768),
        preprocessor=ImagePreprocessor.from_pretrained(folder),
        text_length=_integer(text, "max_position_embeddings", 64),
        vocabulary_size=vocabulary_size,
        weight_files=_weight_files(folder),
        open_weights=partial(_open_weights, folder),
        # Trained on padded texts without a mask, and pooled at the last place.
        pads_to_full_length=True,
        reads_attention_mask=False,
        embedding_table="text_model.embeddings.token_embedding.weight",
        cleaning=_siglip_cleaning(read_tokenizer_settings(folder), vocabulary_size),
        patch_sides_pixels=_patch_sides(_section(settings, "vision_config"), 16),
    )


def _siglip_cleaning(tokenizer: Mapping[str, Any], vocabulary_size: int) -> TextCleaning:
    """Tells how texts were prepared in training, which the tokenizer's files say only by its name.

    SigLIP 2 lower-cases for Gemma's tokenizer, which does not do it itself; SigLIP drops punctuation, too.
    """
    name = str(tokenizer.get("tokenizer_class", "")).lower()
    if "gemma" in name or "siglip2" in name or (not name and vocabulary_size == _GEMMA_VOCABULARY):
        return TextCleaning.LOWER
    if "siglip" in name or (not name and vocabulary_size == _SIGLIP_VOCABULARY):
        return TextCleaning.BARE
    return TextCleaning.LOWER if tokenizer.get("do_lower_case") is True else TextCleaning.NONE


def _describe_dual_encoder(folder: Path, settings: Mapping[str, Any]) -> CheckpointDescription:
    text = _section(settings, "text_config")
    kind = text.get("model_type")
    # The configuration of a whole CLIP stands for its text tower.
    text = _section(text, "text_config") if kind == "clip" else text
    positions = _integer(text, "max_position_embeddings", 77 if kind in _CLIP_TEXTS else 512)
    pad_id = text.get("pad_token_id", 1)
    vision = _section(settings, "vision_config")
    vision = _section(vision, "vision_config") if vision.get("model_type") == "clip" else vision
    if kind in _ROBERTA_TEXTS:
        if not isinstance(pad_id, int):
            raise ConfigurationError(f"pad_token_id is {pad_id!r}; {kind} counts its positions from it.")
        positions -= pad_id + 1
    return CheckpointDescription(
        folder=folder,
        settings=settings,
        text_tower=TowerClass("model.dual_encoder", "DualEncoderTextModelWithProjection", "text_embeds"),
        vision_tower=TowerClass("model.dual_encoder", "DualEncoderVisionModelWithProjection", "image_embeds"),
        dimension=_integer(settings, "projection_dim", 512),
        preprocessor=ImagePreprocessor.from_pretrained(folder),
        text_length=positions,
        vocabulary_size=_integer(text, "vocab_size", _VOCABULARIES.get(str(kind))),
        weight_files=_weight_files(folder),
        open_weights=partial(_open_weights, folder),
        pad_id=pad_id if kind in _ROBERTA_TEXTS else None,
        patch_sides_pixels=_patch_sides(vision, _PATCH_PIXELS.get(str(vision.get("model_type")), 16)),
    )


def _is_open_clip(folder: Path) -> bool:
    """Tells whether a folder wears OpenCLIP's dress; one that wears both is read as Transformers'."""
    if not (folder / OPEN_CLIP_CONFIG_NAME).is_file():
        return False
    return not ((folder / CONFIG_NAME).is_file() and _weight_files(folder))


def _describe_open_clip(folder: Path, settings: Mapping[str, Any]) -> CheckpointDescription:
    model, preprocess = split_open_clip_settings(settings)
    vision, text = model["vision_cfg"], model["text_cfg"]
    size = vision.get("image_size", 224)
    height, width = size if isinstance(size, (list, tuple)) and len(size) == 2 else (size, size)
    sizes = {"height": height, "width": width}
    # The tower's own size goes before the one in preprocess_cfg, as in OpenCLIP.
    preprocess = {key: value for key, value in preprocess.items() if key != "size"}
    has_own_tokenizer = bool(text.get("hf_tokenizer_name"))
    return CheckpointDescription(
        folder=folder,
        settings=settings,
        text_tower=TowerClass("model.open_clip", "OpenCLIPTextModelWithProjection", "text_embeds"),
        vision_tower=TowerClass("model.open_clip", "OpenCLIPVisionModelWithProjection", "image_embeds"),
        dimension=_integer(model, "embed_dim", 512),
        preprocessor=ImagePreprocessor.from_open_clip_config(
            preprocess,
            image_height_pixels=_integer(sizes, "height"),
            image_width_pixels=_integer(sizes, "width"),
        ),
        text_length=_integer(text, "context_length", 77),
        vocabulary_size=_integer(text, "vocab_size", 49408),
        weight_files=tuple(folder / name for name in OPEN_CLIP_WEIGHTS_NAMES if (folder / name).is_file())[
            :1
        ],
        open_weights=partial(open_clip_weights, folder),
        pads_to_full_length=bool(text.get("no_causal_mask")) or text.get("pool_type") == "last",
        reads_attention_mask=False,
        # OpenCLIP's own tokenizer pads with 0, others with the token that their files name.
        pad_id=None if has_own_tokenizer else 0,
        cleaning=_open_clip_cleaning(
            text.get("tokenizer_kwargs") or {}, "whitespace" if has_own_tokenizer else "lower"
        ),
        has_clip_vocabulary=not has_own_tokenizer,
        patch_sides_pixels=_patch_sides(vision, 16),
    )


def _open_clip_cleaning(settings: Mapping[str, Any], default: str) -> TextCleaning:
    ways = {
        "lower": TextCleaning.WEB,
        "whitespace": TextCleaning.WEB_CASED,
        "canonicalize": TextCleaning.WEB_BARE,
    }
    unknown = {key: value for key, value in settings.items() if key != "clean" and value}
    if unknown:
        raise ConfigurationError(
            f"text_cfg.tokenizer_kwargs has settings that are not known here: {unknown}."
        )
    clean = settings.get("clean", default)
    if clean not in ways:
        raise ConfigurationError(
            f"text_cfg.tokenizer_kwargs.clean is {clean!r}; known are {', '.join(ways)}."
        )
    return ways[clean]


_GEMMA_VOCABULARY = 256_000
_SIGLIP_VOCABULARY = 32_000
_CLIP_TEXTS = frozenset({"clip", "clip_text_model"})
_ROBERTA_TEXTS = frozenset({"roberta", "xlm-roberta"})
# What each text tower's configuration means where it does not say.
_VOCABULARIES = {
    "bert": 30522,
    "clip": 49408,
    "clip_text_model": 49408,
    "roberta": 50265,
    "xlm-roberta": 30522,
}
_PATCH_PIXELS = {"clip": 32, "clip_vision_model": 32, "dinov2": 14}

_READERS: dict[str, Callable[[Path, Mapping[str, Any]], CheckpointDescription]] = {
    "clip": _describe_clip,
    "siglip": _describe_siglip,
    "vision-text-dual-encoder": _describe_dual_encoder,
}


def _open_weights(folder: Path) -> WeightSource:
    """As `open_weights`, but Flax's files are read in place and without Flax where they can be."""
    if _weight_files(folder) == (folder / FLAX_NAME,):
        with contextlib.suppress(UnsupportedCheckpointError):
            return FlaxFileSource(folder / FLAX_NAME)
    return open_weights(folder)


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """Returns the files that `open_weights` reads, as far as they are there."""
    if (folder / SAFETENSORS_NAME).is_file():
        return (folder / SAFETENSORS_NAME,)
    if (folder / SAFETENSORS_INDEX_NAME).is_file():
        return tuple(folder / name for name in names_of_shards(folder / SAFETENSORS_INDEX_NAME))
    return (folder / FLAX_NAME,) if (folder / FLAX_NAME).is_file() else ()


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


def _sides(pixels: Any) -> tuple[Any, Any]:
    """Height and width, of which configurations give one number if they are equal."""
    return tuple(pixels) if isinstance(pixels, (list, tuple)) and len(pixels) == 2 else (pixels, pixels)


def _patch_sides(vision: Mapping[str, Any], default: int) -> tuple[int, int]:
    """What a tower cuts pictures into, in pixels; the tower itself says what is wrong with its configuration."""
    height, width = _sides(vision.get("patch_size", default))
    whole = all(isinstance(side, int) and side > 0 for side in (height, width))
    return (height, width) if whole else (default, default)


def _check_image_size(description: CheckpointDescription) -> None:
    vision = _section(description.settings, "vision_config")
    declared = vision.get("image_size")
    if declared is None:
        return
    height, width = _sides(declared)
    made = (description.preprocessor.input_height_pixels, description.preprocessor.input_width_pixels)
    fits = made == (height, width)
    if not fits and vision.get("model_type") == "dinov2":
        # It was trained at 518 pixels, is used at 224, and interpolates the embeddings of its places.
        patch = _sides(vision.get("patch_size", 14))
        fits = all(isinstance(side, int) and pixels >= side for pixels, side in zip(made, patch, strict=True))
    if not fits:
        raise CheckpointError(
            f"{description.folder} does not agree with itself: its vision tower takes pictures of {height}x{width} "
            f"pixels, its preprocessing makes {made[0]}x{made[1]}. Take all its files from one place."
        )
