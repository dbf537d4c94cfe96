"""Model configurations: frozen dataclasses whose fields carry the names of Transformers' config.json.

A setting that is neither a field nor known bookkeeping raises, so that a checkpoint is never run with a rule
left out.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from model.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

# What Transformers, 2 to 5, writes into every configuration and what changes no number of an encoder's
# output. Keys that start with an underscore are bookkeeping too.
BOOKKEEPING = frozenset(
    """
    architectures attn_implementation auto_map bad_words_ids begin_suppress_tokens bos_token_id
    chunk_size_feed_forward classifier_dropout cross_attention_hidden_size decoder_start_token_id
    diversity_penalty do_sample dtype early_stopping encoder_no_repeat_ngram_size eos_token_id
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id
    gradient_checkpointing id2label initializer_factor initializer_range label2id length_penalty
    max_length min_length model_type name_or_path no_repeat_ngram_size num_beam_groups num_beams
    num_labels num_return_sequences output_attentions output_hidden_states output_past output_scores
    pad_token_id prefix problem_type remove_invalid_values repetition_penalty return_dict
    return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss
    tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript
    transformers_version typical_p use_bfloat16 use_cache
    """.split()  # noqa: SIM905 (a list of quoted words would take a line for each)
)

# Settings of every Transformers configuration that would change the numbers, with the values under which they
# do not.
INERT: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False, None),
    "is_decoder": (False, None),
    "is_encoder_decoder": (False, None),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
}


@dataclass(frozen=True)
class Configuration:
    """What all configurations share: reading, checking and writing.

    Attributes:
        model_types: what `model_type` in a config.json may say; the first is what is written.
        ignored: further keys that change nothing for this family.
        inert: further keys with the only values that are accepted.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    ignored: ClassVar[frozenset[str]] = frozenset()
    inert: ClassVar[dict[str, tuple[Any, ...]]] = {}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Read what a config.json holds; what it leaves out keeps its default.

        Raises:
            ConfigurationError: all unknown settings at once, or a value of the wrong type.
        """
        cls.check_model_type(settings)
        own = {field.name for field in fields(cls)}
        inert = INERT | cls.inert
        problems = [
            f"{key} = {settings[key]!r} is not supported (only {accepted[0]!r} is)"
            for key, accepted in inert.items()
            if key in settings and key not in own and settings[key] not in accepted
        ]
        unknown = [
            key
            for key in settings
            if not (
                key in own or key in inert or key in cls.ignored or key in BOOKKEEPING or key.startswith("_")
            )
        ]
        if unknown:
            named = ", ".join(f"{key} = {settings[key]!r}" for key in unknown)
            problems.append(f"unknown: {named} (known: {', '.join(sorted(own))})")
        if problems:
            raise ConfigurationError(f"settings of {cls.__name__}: {'; '.join(problems)}")
        return cls(**{name: settings[name] for name in own if name in settings})

    @classmethod
    def check_model_type(cls, settings: Mapping[str, Any]) -> None:
        """Refuse the configuration of another architecture; one that does not say what it is passes."""
        found = settings.get("model_type")
        if found is not None and cls.model_types and found not in cls.model_types:
            raise ConfigurationError(
                f"{cls.__name__} expects model_type {' or '.join(map(repr, cls.model_types))}, it got "
                f"{found!r}: load it with that architecture's class"
            )

    def to_dict(self) -> dict[str, Any]:
        """What goes into config.json; `from_dict` gives the same configuration back."""
        settings: dict[str, Any] = {"model_type": self.model_types[0]} if self.model_types else {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Configuration):
                value = value.to_dict()
            settings[field.name] = list(value) if isinstance(value, tuple) else value
        return settings

    def __post_init__(self) -> None:
        """Check each value against its field's type; lists from JSON become tuples."""
        types = typing.get_type_hints(type(self))
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                value = tuple(value)
                object.__setattr__(self, field.name, value)
            if not _fits(value, types[field.name]):
                raise ConfigurationError(
                    f"{type(self).__name__}: {field.name} = {value!r} should be {field.type}"
                )


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a value is of a field's type; an int will do for a float, a bool for nothing but a bool."""
    options = typing.get_args(wanted)
    if typing.get_origin(wanted) is tuple:
        return isinstance(value, tuple) and len(value) == len(options) and all(map(_fits, value, options))
    if options:
        return any(_fits(value, option) for option in options)
    if wanted is bool or isinstance(value, bool):
        return wanted is bool and isinstance(value, bool)
    if wanted is float:
        return isinstance(value, int | float)
    if wanted is int:
        return isinstance(value, int)
    return isinstance(value, wanted)


Pixels = int | tuple[int, int]


def height_and_width(pixels: Pixels) -> tuple[int, int]:
    """Sizes in configurations are one number for a square, or height and width."""
    return (pixels, pixels) if isinstance(pixels, int) else pixels


def grid(image_size: Pixels, patch_size: Pixels) -> tuple[int, int]:
    """Rows and columns of whole patches in an image; ConfigurationError where there is not one."""
    sides = zip(height_and_width(image_size), height_and_width(patch_size), strict=True)
    if any(patch < 1 or image < patch for image, patch in sides):
        raise ConfigurationError(f"image_size {image_size} holds no patch of patch_size {patch_size}")
    (height, width), (patch_height, patch_width) = height_and_width(image_size), height_and_width(patch_size)
    return height // patch_height, width // patch_width
