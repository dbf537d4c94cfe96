"""The checkpoint that a run starts from: someone else's, or one made here with random weights.

A new model is written as a checkpoint first and read like any other, so that there is one way on from here.
"""

from __future__ import annotations

import importlib
import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from model.clip import CLIPConfig, CLIPModel
from model.errors import ConfigurationError, UnsupportedCheckpointError
from model.families import describe
from model.preprocess import JOINT_SETTINGS_NAME, SETTINGS_NAME
from model.pretrained import PretrainedModel, locate_folder
from model.tokenizer import TextTokenizer, load_tokenizer
from model.whole_file import put_in_place

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from model.families import CheckpointDescription
    from model.training.config import ModelConfig, NewModelConfig

# The whole model of each family that can be trained: `model_type` to module, class and the loss it was made for.
WHOLE_MODELS = {
    "clip": ("model.clip", "CLIPModel", "softmax"),
    "siglip": ("model.siglip", "SiglipModel", "sigmoid"),
    "vision-text-dual-encoder": ("model.dual_encoder", "VisionTextDualEncoderModel", "softmax"),
}

# Everything of a checkpoint that goes with the weights into the result unchanged.
SIDE_FILES = (
    SETTINGS_NAME,
    JOINT_SETTINGS_NAME,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)

# An end token with this id means an older rule of pooling: at the highest id of a text.
_OLDER_END = 2

# Special tokens of a new vocabulary. Their order matters: the end must not be the id above.
_PADDING, _UNKNOWN, _BEGIN, _END = SPECIAL_TOKENS = ("<pad>", "<unk>", "<bos>", "<eos>")


@dataclass(frozen=True)
class Start:
    """A checkpoint, ready to be trained.

    Attributes:
        folder: of its files.
        model: with float32 parameters.
        model_class: the class of the model.
        description: what is known of the checkpoint besides the weights.
        loss: what its family is trained with.
    """

    folder: Path
    model: PretrainedModel
    model_class: type[PretrainedModel]
    description: CheckpointDescription
    loss: str

    @property
    def vision_width(self) -> int:
        """Width of the vision tower."""
        config: Any = self.model.config  # each of WHOLE_MODELS has a vision_config
        return int(config.vision_config.hidden_size)


def load_start(folder: Path, dtype: str) -> Start:
    """Read a checkpoint to train it.

    Args:
        folder: of its files.
        dtype: of the operands of matrix products.

    Raises:
        UnsupportedCheckpointError: its family cannot be trained here.
    """
    description = describe(folder)
    kind = description.settings.get("model_type")
    if kind not in WHOLE_MODELS:
        raise UnsupportedCheckpointError(
            f"{folder} cannot be trained here: its model_type is {kind!r}, and only {', '.join(WHOLE_MODELS)} can be. "
            "Take the same model in Transformers' layout, if there is one"
        )
    module, name, loss = WHOLE_MODELS[kind]
    model_class: type[PretrainedModel] = getattr(importlib.import_module(module), name)
    model = model_class.from_pretrained(folder, dtype=jnp.dtype(dtype), param_dtype=jnp.float32)
    return Start(folder, model, model_class, description, loss)


def find_base(config: ModelConfig) -> Path:
    """The folder of the checkpoint that a configuration names as its base (ModelNotFoundError)."""
    if config.base is None:
        raise ConfigurationError("this model has no base: it is new")
    return locate_folder(config.base)


def make_new(config: NewModelConfig, folder: Path, texts: Iterable[str], seed: int) -> None:
    """Write a checkpoint with random weights.

    Args:
        config: what it is like.
        folder: made here; nothing is left of it if this fails.
        texts: what a new tokenizer learns its words from.
        seed: of the weights.
    """
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    text = dict(config.configuration.get("text_config", {}))
    if config.tokenizer is None:
        size = _write_tokenizer(
            unfinished, texts, config.vocabulary_size, text.get("max_position_embeddings", 77)
        )
        text |= {
            "vocab_size": size,
            "pad_token_id": SPECIAL_TOKENS.index(_PADDING),
            "bos_token_id": SPECIAL_TOKENS.index(_BEGIN),
            "eos_token_id": SPECIAL_TOKENS.index(_END),
        }
    else:
        copied = copy_side_files(config.tokenizer, unfinished)
        if not copied:
            raise ConfigurationError(f"model.new.tokenizer: {config.tokenizer} holds no tokenizer")
        text |= _ids_of(config.tokenizer, text.get("max_position_embeddings", 77))
    settings = CLIPConfig.from_dict(config.configuration | {"text_config": text})
    size_pixels = settings.vision_config.image_size
    height, width = (size_pixels, size_pixels) if isinstance(size_pixels, int) else size_pixels
    (unfinished / SETTINGS_NAME).write_text(
        json.dumps(
            {
                "image_processor_type": "CLIPImageProcessor",
                "do_resize": True,
                "size": {"shortest_edge": height} if height == width else {"height": height, "width": width},
                "resample": 3,
                "do_center_crop": True,
                "crop_size": {"height": height, "width": width},
                "do_rescale": True,
                "rescale_factor": 1 / 255,
                "do_normalize": True,
                "image_mean": list(config.image_mean),
                "image_std": list(config.image_std),
                "do_convert_rgb": True,
            },
            indent=2,
        )
        + "\n",
        encoding="utf-8",
    )
    CLIPModel(settings, rngs=nnx.Rngs(params=jax.random.key(seed))).save_pretrained(unfinished)
    put_in_place(unfinished, folder)


def copy_side_files(source: Path, target: Path) -> list[str]:
    """Copy a checkpoint's tokenizer and image settings; returns the names of the files."""
    names = [name for name in SIDE_FILES if (source / name).is_file()]
    for name in names:
        shutil.copyfile(source / name, target / name)
    return names


def _ids_of(folder: Path, positions: int) -> dict[str, int]:
    """What a text tower must know of a tokenizer: how many ids there are, and which of them are special.

    CLIP pools at the first end token, so a tower that waits for another one gives all texts the same vector.
    """
    tokenizer = load_tokenizer(folder)
    tokenizer.no_padding()
    encoded = tokenizer.encode("a")
    ids, special = encoded.ids, encoded.special_tokens_mask
    if not ids or not special[-1]:
        raise ConfigurationError(
            f"model.new.tokenizer: that of {folder} closes no text with a token of its own, where the text tower would "
            "pool. Leave model.new.tokenizer out, or give its post-processor a closing token"
        )
    if ids[-1] == _OLDER_END:
        raise ConfigurationError(
            f"model.new.tokenizer: that of {folder} closes texts with the id {_OLDER_END}, which in CLIP's "
            "configurations stands for an older rule of pooling. Leave model.new.tokenizer out, or take another"
        )
    found = {
        "vocab_size": int(tokenizer.get_vocab_size(with_added_tokens=True)),
        "pad_token_id": TextTokenizer.from_pretrained(folder, max_length=positions).pad_id,
        "eos_token_id": int(ids[-1]),
    }
    return found | ({"bos_token_id": int(ids[0])} if special[0] else {})


def _write_tokenizer(folder: Path, texts: Iterable[str], vocabulary_size: int, positions: int) -> int:
    """Train byte-level BPE on texts, lower case and without accents; returns the number of tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=_UNKNOWN))
    # Bytes know no unknown letter; a space before the first word makes it the same token as in mid-sentence.
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BEGIN} $A {_END}",
        pair=f"{_BEGIN} $A {_END} $B {_END}",
        special_tokens=[(token, SPECIAL_TOKENS.index(token)) for token in (_BEGIN, _END)],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": _PADDING,
        "unk_token": _UNKNOWN,
        "bos_token": _BEGIN,
        "eos_token": _END,
        "model_max_length": positions,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return int(tokenizer.get_vocab_size())
