"""CLIP (Radford et al. 2021, https://arxiv.org/abs/2103.00020), as Transformers lays out its checkpoints.

The file to read before adding a family. It holds, in this order: the configurations, the table that says what
each parameter is called in a checkpoint, the two towers, and the models that people call. The parts that the
towers are built from are in `model.layers`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from model.configuration import Configuration, Pixels, grid, height_and_width
from model.contrast import compare
from model.inputs import check_attention_mask, check_ids, check_like_ids, check_pair, check_pixels
from model.layers import (
    BlockSettings,
    Build,
    Embedding,
    LayerNorm,
    Linear,
    PatchDropout,
    PatchEmbedding,
    PreNormBlock,
    attention_pattern,
    run_blocks,
)
from model.outputs import DualEncoderOutput, ImageEmbeddingOutput, TextEmbeddingOutput, TowerOutput
from model.pretrained import PretrainedModel
from model.weights import CONVOLUTION, EMBEDDING, LINEAR, NORM, PARAMETER, Rename, Row, WeightTable, under

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from jax.typing import ArrayLike, DTypeLike


# Configurations


class _TowerConfiguration(Configuration):
    """What a tower's configuration does when it is asked to read that of a whole CLIP."""

    part: ClassVar[str]
    # Written by early versions, read by none: the code never had these dropouts.
    ignored: ClassVar[frozenset[str]] = frozenset({"dropout"})

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Read the tower's own settings, or its part of a whole model's.

        The width of the projection is the whole model's: the part may say something else, and is not asked.
        """
        holds_towers = "text_config" in settings or "vision_config" in settings
        if settings.get("model_type", "clip" if holds_towers else None) != "clip":
            return super().from_dict(settings)
        whole = CLIPConfig.from_dict(settings)
        part: Self = dataclasses.replace(getattr(whole, cls.part), projection_dim=whole.projection_dim)
        return part


@dataclass(frozen=True)
class CLIPTextConfig(_TowerConfiguration):
    """The text tower; names and defaults are those of Transformers."""

    model_types: ClassVar[tuple[str, ...]] = ("clip_text_model",)
    part: ClassVar[str] = "text_config"

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    initializer_factor: float = 1.0
    pad_token_id: int | None = 1
    bos_token_id: int | None = 49406
    eos_token_id: int = 49407

    def __post_init__(self) -> None:
        super().__post_init__()
        _block_settings(self)


@dataclass(frozen=True)
class CLIPVisionConfig(_TowerConfiguration):
    """The vision tower; names and defaults as in Transformers. Sizes in pixels; pairs are height, width."""

    model_types: ClassVar[tuple[str, ...]] = ("clip_vision_model",)
    part: ClassVar[str] = "vision_config"

    hidden_size: int = 768
    intermediate_size: int = 3072
    projection_dim: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: Pixels = 224
    patch_size: Pixels = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    initializer_factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _block_settings(self)
        grid(self.image_size, self.patch_size)


@dataclass(frozen=True)
class CLIPConfig(Configuration):
    """Both towers, and what joins them."""

    model_types: ClassVar[tuple[str, ...]] = ("clip",)

    text_config: CLIPTextConfig = field(default_factory=CLIPTextConfig)
    vision_config: CLIPVisionConfig = field(default_factory=CLIPVisionConfig)
    projection_dim: int = 512
    logit_scale_init_value: float = 2.6592
    initializer_factor: float = 1.0

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Read a config.json, also the first ones, which held the towers' settings twice."""
        cls.check_model_type(settings)
        settings = dict(settings)
        parts: dict[str, type[_TowerConfiguration]] = {
            "text_config": CLIPTextConfig,
            "vision_config": CLIPVisionConfig,
        }
        for key, part in parts.items():
            given, old = settings.get(key), settings.pop(f"{key}_dict", None)
            # The older place wins, and what it leaves out is the default, whatever the newer place says:
            # the hub's ViT-L/14 has such a file, and this is how Transformers reads it.
            settings[key] = part.from_dict((given if old is None else old) or {})
        return super().from_dict(settings)


def _block_settings(config: CLIPTextConfig | CLIPVisionConfig) -> BlockSettings:
    """The blocks of a tower; fresh weights as the paper's code draws them, smaller the deeper the tower."""
    narrow = config.hidden_size**-0.5 * config.initializer_factor
    deep = narrow * (2 * config.num_hidden_layers) ** -0.5 if config.num_hidden_layers else narrow
    return BlockSettings(
        width=config.hidden_size,
        heads=config.num_attention_heads,
        mlp_width=config.intermediate_size,
        activation=config.hidden_act,
        epsilon=config.layer_norm_eps,
        attention_dropout=config.attention_dropout,
        in_deviation=deep,
        out_deviation=narrow,
        up_deviation=2**-0.5 * narrow,
        down_deviation=deep,
    )


# What the parameters are called in a checkpoint (see `model.weights`)

BLOCK_ROWS = (
    Row("layer_norm1", "attention_norm", NORM),
    Row("self_attn.q_proj", "attention.query", LINEAR),
    Row("self_attn.k_proj", "attention.key", LINEAR),
    Row("self_attn.v_proj", "attention.value", LINEAR),
    Row("self_attn.out_proj", "attention.out", LINEAR),
    Row("layer_norm2", "mlp_norm", NORM),
    Row("mlp.fc1", "mlp.up", LINEAR),
    Row("mlp.fc2", "mlp.down", LINEAR),
)

TEXT_ROWS = (
    Row("embeddings.token_embedding", "token_embedding", EMBEDDING),
    Row("embeddings.position_embedding", "position_embedding", EMBEDDING),
    *under(BLOCK_ROWS, "encoder.layers.{}.", "blocks.{}."),
    Row("final_layer_norm", "final_norm", NORM),
)

VISION_ROWS = (
    Row("embeddings.class_embedding", "class_embedding", PARAMETER),
    Row("embeddings.patch_embedding", "patch_embedding", CONVOLUTION),
    Row("embeddings.position_embedding", "position_embedding", EMBEDDING),
    # The missing letters are in every checkpoint there is.
    Row("pre_layrnorm", "first_norm", NORM),
    *under(BLOCK_ROWS, "encoder.layers.{}.", "blocks.{}."),
    Row("post_layernorm", "final_norm", NORM),
)

TEXT_PROJECTION_ROWS = (
    *under(TEXT_ROWS, "text_model.", "text_model."),
    Row("text_projection", "text_projection", LINEAR),
)

VISION_PROJECTION_ROWS = (
    *under(VISION_ROWS, "vision_model.", "vision_model."),
    Row("visual_projection", "visual_projection", LINEAR),
)

ROWS = (*TEXT_PROJECTION_ROWS, *VISION_PROJECTION_ROWS, Row("logit_scale", "logit_scale", PARAMETER))

# The parts of a whole CLIP, to be left aside when one of them is loaded alone.
_TEXT_PART = r"^text_(model|projection)\."
_VISION_PART = r"^(vision_model|visual_projection)\."
_SCALE = r"^logit_scale$"

# Transformers 4 puts a tower that was saved alone under the name that it has in the whole, 5 under none; both
# read the former, so that is what is written.
_TEXT_TOWER_ROWS = under(TEXT_ROWS, "text_model.")
_VISION_TOWER_ROWS = under(VISION_ROWS, "vision_model.")


# Towers


class CLIPTextModel(PretrainedModel):
    """The text tower: a causal transformer, pooled at the token that ends the text."""

    configuration_class = CLIPTextConfig
    weights = WeightTable(
        _TEXT_TOWER_ROWS,
        renames=(Rename(r"^(?=(embeddings|encoder|final_layer_norm)\.)", "text_model."),),
        elsewhere=(_VISION_PART, r"^text_projection\.", _SCALE),
    )
    config: CLIPTextConfig

    def __init__(
        self,
        config: CLIPTextConfig,
        *,
        rngs: nnx.Rngs | None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        """Make a fresh tower; arguments as for `CLIPModel`."""
        build = Build.of(rngs, dtype, param_dtype)
        settings = _block_settings(config)
        deviation = 0.02 * config.initializer_factor
        self.config = config
        self.token_embedding = Embedding(config.vocab_size, config.hidden_size, build, deviation=deviation)
        self.position_embedding = Embedding(
            config.max_position_embeddings, config.hidden_size, build, deviation=deviation
        )
        self.blocks = nnx.List([PreNormBlock(settings, build) for _ in range(config.num_hidden_layers)])
        self.final_norm = LayerNorm(config.hidden_size, build, epsilon=config.layer_norm_eps)

    def __call__(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        position_ids: ArrayLike | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> TowerOutput:
        """Encode texts.

        Args:
            input_ids: integer (batch, length), length at most max_position_embeddings.
            attention_mask: (batch, length), 0 where there is padding; None: none is.
            position_ids: integer (batch or 1, length); None: 0, 1, 2 and so on.
            output_attentions: whether to return every block's attention weights.
            output_hidden_states: whether to return what went into the blocks and what left each. The last of
                them is before the final norm.
            rngs: turns dropout on, with its stream `dropout`.

        Returns:
            The tower's output; `pooler_output` is the final norm's at the end token: where the ids are
            highest if eos_token_id is 2 (as the first checkpoints wrongly say), else at the first
            eos_token_id.

        Raises:
            ModelInputError: the arrays do not fit.
        """
        config = self.config
        ids = check_ids(input_ids, config.vocab_size, config.max_position_embeddings)
        mask = check_attention_mask(attention_mask, ids)
        positions = check_like_ids(
            "position_ids",
            jnp.arange(ids.shape[1], dtype=jnp.int32)[None] if position_ids is None else position_ids,
            ids,
            config.max_position_embeddings,
        )
        ends = ids if config.eos_token_id == 2 else (ids == config.eos_token_id).astype(jnp.int32)
        passed = run_blocks(
            self.blocks,
            self.token_embedding(ids) + self.position_embedding(positions),
            attention_pattern(ids.shape[1], mask, causal=True),
            pooled_at=jnp.argmax(ends, axis=1),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            rngs=rngs,
        )
        last, pooled = self.final_norm(passed.last), self.final_norm(passed.pooled)
        return TowerOutput(last, pooled, passed.hidden_states, passed.attentions)


class CLIPVisionModel(PretrainedModel):
    """The vision tower: patches and a class token through a transformer, pooled at the class token."""

    configuration_class = CLIPVisionConfig
    weights = WeightTable(
        _VISION_TOWER_ROWS,
        renames=(Rename(r"^(?=(embeddings|encoder|pre_layrnorm|post_layernorm)\.)", "vision_model."),),
        elsewhere=(_TEXT_PART, r"^visual_projection\.", _SCALE),
    )
    config: CLIPVisionConfig

    def __init__(
        self,
        config: CLIPVisionConfig,
        *,
        rngs: nnx.Rngs | None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        """Make a fresh tower; arguments as for `CLIPModel`."""
        build = Build.of(rngs, dtype, param_dtype)
        settings = _block_settings(config)
        rows, columns = grid(config.image_size, config.patch_size)
        deviation = config.initializer_range * config.initializer_factor
        width = config.hidden_size
        self.config = config
        self.class_embedding = build.normal((width,), width**-0.5 * config.initializer_factor)
        self.patch_embedding = PatchEmbedding(
            height_and_width(config.patch_size),
            config.num_channels,
            width,
            build,
            deviation=deviation,
            use_bias=False,
        )
        self.position_embedding = Embedding(rows * columns + 1, width, build, deviation=deviation)
        self.patch_dropout = PatchDropout(prefix_tokens=1)
        self.first_norm = LayerNorm(width, build, epsilon=config.layer_norm_eps)
        self.blocks = nnx.List([PreNormBlock(settings, build) for _ in range(config.num_hidden_layers)])
        self.final_norm = LayerNorm(width, build, epsilon=config.layer_norm_eps)

    def __call__(
        self,
        pixel_values: ArrayLike,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> TowerOutput:
        """Encode images.

        Args:
            pixel_values: float (batch, channels, height, width), normalised, of the configured size.
            output_attentions: whether to return every block's attention weights.
            output_hidden_states: whether to return what went into the blocks (after the first norm) and what
                left each. The last of them is `last_hidden_state`.
            rngs: turns dropout on, with its stream `dropout`.

        Returns:
            The tower's output; `pooler_output` is the final norm of the class token. `last_hidden_state` did
            not pass that norm.

        Raises:
            ModelInputError: the array does not fit.
        """
        config = self.config
        images = check_pixels(pixel_values, config.num_channels, height_and_width(config.image_size))
        patches = self.patch_embedding(images)
        class_token = jnp.broadcast_to(
            self.class_embedding[...].astype(jnp.float32), (patches.shape[0], 1, config.hidden_size)
        )
        tokens = jnp.concatenate([class_token, patches], axis=1)
        tokens = tokens + self.position_embedding(jnp.arange(tokens.shape[1])[None])
        passed = run_blocks(
            self.blocks,
            self.first_norm(self.patch_dropout(tokens, rngs)),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            rngs=rngs,
        )
        pooled = self.final_norm(passed.pooled)
        return TowerOutput(passed.last, pooled, passed.hidden_states, passed.attentions)


# Models


class CLIPTextModelWithProjection(PretrainedModel):
    """The text tower and its projection into the space that both towers share."""

    configuration_class = CLIPTextConfig
    weights = WeightTable(TEXT_PROJECTION_ROWS, elsewhere=(_VISION_PART, _SCALE))
    config: CLIPTextConfig

    def __init__(
        self,
        config: CLIPTextConfig,
        *,
        rngs: nnx.Rngs | None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        """Make a fresh model; arguments as for `CLIPModel`."""
        self.config = config
        self.text_model = CLIPTextModel(config, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.text_projection = _projection(config, config.projection_dim, Build.of(rngs, dtype, param_dtype))

    def __call__(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        position_ids: ArrayLike | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> TextEmbeddingOutput:
        """Encode texts; arguments as for `CLIPTextModel`."""
        output = self.text_model(
            input_ids,
            attention_mask,
            position_ids,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            rngs=rngs,
        )
        return TextEmbeddingOutput.of(output, self.text_projection(output.pooler_output))


class CLIPVisionModelWithProjection(PretrainedModel):
    """The vision tower and its projection into the space that both towers share."""

    configuration_class = CLIPVisionConfig
    weights = WeightTable(VISION_PROJECTION_ROWS, elsewhere=(_TEXT_PART, _SCALE))
    config: CLIPVisionConfig

    def __init__(
        self,
        config: CLIPVisionConfig,
        *,
        rngs: nnx.Rngs | None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        """Make a fresh model; arguments as for `CLIPModel`."""
        self.config = config
        self.vision_model = CLIPVisionModel(config, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.visual_projection = _projection(
            config, config.projection_dim, Build.of(rngs, dtype, param_dtype)
        )

    def __call__(
        self,
        pixel_values: ArrayLike,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> ImageEmbeddingOutput:
        """Encode images; arguments as for `CLIPVisionModel`."""
        output = self.vision_model(
            pixel_values,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            rngs=rngs,
        )
        return ImageEmbeddingOutput.of(output, self.visual_projection(output.pooler_output))


class CLIPModel(PretrainedModel):
    """Both towers, projected into one space, and the scale of their cosines."""

    configuration_class = CLIPConfig
    weights = WeightTable(ROWS)
    config: CLIPConfig

    def __init__(
        self,
        config: CLIPConfig,
        *,
        rngs: nnx.Rngs | None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        """Make a fresh model, to be trained.

        Args:
            config: its configuration.
            rngs: draws the parameters from its stream `params`; None makes shapes without values.
            dtype: of the operands of matrix products.
            param_dtype: of the parameters.
        """
        build = Build.of(rngs, dtype, param_dtype)
        text, vision = config.text_config, config.vision_config
        self.config = config
        self.text_model = CLIPTextModel(text, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.vision_model = CLIPVisionModel(vision, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.text_projection = _projection(text, config.projection_dim, build)
        self.visual_projection = _projection(vision, config.projection_dim, build)
        self.logit_scale = build.constant((), config.logit_scale_init_value)

    def get_text_features(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        position_ids: ArrayLike | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        """Texts in the shared space: float32 (batch, projection_dim), not normalised."""
        output = self.text_model(input_ids, attention_mask, position_ids, rngs=rngs)
        return self.text_projection(output.pooler_output)

    def get_image_features(self, pixel_values: ArrayLike, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Images in the shared space: float32 (batch, projection_dim), not normalised."""
        return self.visual_projection(self.vision_model(pixel_values, rngs=rngs).pooler_output)

    def __call__(
        self,
        input_ids: ArrayLike | None = None,
        pixel_values: ArrayLike | None = None,
        attention_mask: ArrayLike | None = None,
        position_ids: ArrayLike | None = None,
        *,
        return_loss: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> DualEncoderOutput:
        """Compare texts with images.

        Args:
            input_ids: integer (texts, length).
            pixel_values: float (images, channels, height, width).
            attention_mask: (texts, length), 0 where there is padding.
            position_ids: integer (texts or 1, length).
            return_loss: whether to return the contrastive loss; text i then belongs to image i.
            output_attentions: whether both towers return their attention weights.
            output_hidden_states: whether both towers return their hidden states.
            rngs: turns dropout on, with its stream `dropout`.

        Returns:
            Logits, unit embeddings and both towers' outputs, whose `pooler_output` is here, as in
            Transformers 5, the projected one: (batch, projection_dim), not normalised.

        Raises:
            ModelInputError: an array is missing or does not fit.
        """
        input_ids, pixel_values = check_pair(input_ids, pixel_values, equally_many=return_loss)
        asked: dict[str, Any] = {
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
            "rngs": rngs,
        }
        text = self.text_model(input_ids, attention_mask, position_ids, **asked)
        vision = self.vision_model(pixel_values, **asked)
        text = dataclasses.replace(text, pooler_output=self.text_projection(text.pooler_output))
        vision = dataclasses.replace(vision, pooler_output=self.visual_projection(vision.pooler_output))
        return compare(
            text,
            vision,
            text.pooler_output,
            vision.pooler_output,
            self.logit_scale[...],
            return_loss=return_loss,
        )


def _projection(config: CLIPTextConfig | CLIPVisionConfig, dimension: int, build: Build) -> Linear:
    deviation = config.hidden_size**-0.5 * config.initializer_factor
    return Linear(config.hidden_size, dimension, build, deviation=deviation, use_bias=False)
