"""What the models return: frozen records of arrays, with the field names that Transformers users know.

Every record is a JAX pytree, so that it may leave a compiled function. Fields that were not asked for are
None.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import jax


@dataclass(frozen=True)
class ModelOutput:
    """A record whose fields can also be reached as `output["name"]`, and those that are there by position."""

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are not None, in order."""
        values = (getattr(self, field.name) for field in fields(self))
        return tuple(value for value in values if value is not None)

    def __getitem__(self, key: str | int) -> Any:
        """The field of that name (KeyError if there is none), or the one at that place among the present."""
        if isinstance(key, int):
            return self.to_tuple()[key]
        if key not in {field.name for field in fields(self)}:
            raise KeyError(key)
        return getattr(self, key)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TowerOutput(ModelOutput):
    """What one tower makes of its input; all arrays float32.

    Attributes:
        last_hidden_state: (batch, tokens, width).
        pooler_output: (batch, width), one vector for the whole input, by the family's own rule.
        hidden_states: depth + 1 arrays (batch, tokens, width): what went into the first block, then what left
            each.
        attentions: depth arrays (batch, heads, tokens, tokens); each row sums to 1.
    """

    last_hidden_state: jax.Array
    pooler_output: jax.Array
    hidden_states: tuple[jax.Array, ...] | None = None
    attentions: tuple[jax.Array, ...] | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TextEmbeddingOutput(ModelOutput):
    """A text tower's output, and `text_embeds`: (batch, projection_dim), not normalised."""

    text_embeds: jax.Array
    last_hidden_state: jax.Array
    hidden_states: tuple[jax.Array, ...] | None = None
    attentions: tuple[jax.Array, ...] | None = None

    @classmethod
    def of(cls, tower: TowerOutput, text_embeds: jax.Array) -> TextEmbeddingOutput:
        """What a tower returned, with the projection of its pooled output in that one's place."""
        return cls(text_embeds, tower.last_hidden_state, tower.hidden_states, tower.attentions)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ImageEmbeddingOutput(ModelOutput):
    """A vision tower's output, and `image_embeds`: (batch, projection_dim), not normalised."""

    image_embeds: jax.Array
    last_hidden_state: jax.Array
    hidden_states: tuple[jax.Array, ...] | None = None
    attentions: tuple[jax.Array, ...] | None = None

    @classmethod
    def of(cls, tower: TowerOutput, image_embeds: jax.Array) -> ImageEmbeddingOutput:
        """What a tower returned, with the projection of its pooled output in that one's place."""
        return cls(image_embeds, tower.last_hidden_state, tower.hidden_states, tower.attentions)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DualEncoderOutput(ModelOutput):
    """Both towers at once; all arrays float32.

    Attributes:
        loss: scalar, where it was asked for.
        logits_per_image: (images, texts), the scaled cosines.
        logits_per_text: (texts, images), the same transposed.
        text_embeds: (texts, projection_dim), unit norm.
        image_embeds: (images, projection_dim), unit norm.
        text_model_output: the text tower's record.
        vision_model_output: the vision tower's record.
    """

    logits_per_image: jax.Array
    logits_per_text: jax.Array
    text_embeds: jax.Array
    image_embeds: jax.Array
    text_model_output: TowerOutput
    vision_model_output: TowerOutput
    loss: jax.Array | None = None
