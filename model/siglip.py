"""SigLIP (Zhai et al. 2023, https://arxiv.org/abs/2303.15343) and SigLIP 2 at fixed resolution.

SigLIP 2 (Tschannen et al. 2025, https://arxiv.org/abs/2502.14786) keeps the architecture; what differs is
the training, a vocabulary of 256,000 tokens, and text in lower case. Checkpoints as Transformers lays them
out.

Unlike CLIP, the text tower looks both ways and is pooled at its last place, padding or not: texts must be
padded to the length it was trained with. The vision tower has no class token; a learned probe attends to
all patches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from model.configuration import Configuration, Pixels, grid, height_and_width
from model.errors import ConfigurationError, ModelInputError
from model.inputs import check_attention_mask, check_ids, check_like_ids, check_pixels
from model.layers import (
    BlockSettings,
    Build,
    Embedding,
    LayerNorm,
    Linear,
    Mlp,
    PatchDropout,
    PatchEmbedding,
    PreNormBlock,
    attention_pattern,
    run_blocks,
)
from model.outputs import DualEncoderOutput, TowerOutput
from model.pretrained import PretrainedModel
from model.products import product
from model.weights import (
    CONVOLUTION,
    EMBEDDING,
    LINEAR,
    NORM,
    PARAMETER,
    STACKED_LINEAR,
    Rename,
    Row,
    WeightTable,
    under,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from jax.typing import ArrayLike, DTypeLike


# Configurations


class _TowerConfiguration(Configuration):
    """What a tower's configuration does when it is asked to read that of a whole SigLIP."""

    part: ClassVar[str]

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Read the tower's own settings, or its part of a whole model's."""
        if settings.get("model_type") != SiglipConfig.model_types[0]:
            return super().from_dict(settings)
        part: Self = getattr(SiglipConfig.from_dict(settings), cls.part)
        return part


@dataclass(frozen=True)
class SiglipTextConfig(_TowerConfiguration):
    """The text tower; names and defaults are those of Transformers."""

    model_types: ClassVar[tuple[str, ...]] = ("siglip_text_model",)
    part: ClassVar[str] = "text_config"

    vocab_size: int = 32000
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 64
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    projection_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _block_settings(self)

    @property
    def dimension(self) -> int:
        """Width of the tower's features."""
        return self.hidden_size if self.projection_size is None else self.projection_size


@dataclass(frozen=True)
class SiglipVisionConfig(_TowerConfiguration):
    """The vision tower; names and defaults as in Transformers. Sizes in pixels; pairs are height, width."""

    model_types: ClassVar[tuple[str, ...]] = ("siglip_vision_model",)
    part: ClassVar[str] = "vision_config"
    # Without the head there is nothing to compare with texts.
    inert: ClassVar[dict[str, tuple[Any, ...]]] = {"vision_use_head": (True,)}

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: Pixels = 224
    patch_size: Pixels = 16
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    attention_dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _block_settings(self)
        grid(self.image_size, self.patch_size)


@dataclass(frozen=True)
class SiglipConfig(Configuration):
    """Both towers."""

    model_types: ClassVar[tuple[str, ...]] = ("siglip",)

    text_config: SiglipTextConfig = field(default_factory=SiglipTextConfig)
    vision_config: SiglipVisionConfig = field(default_factory=SiglipVisionConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text_config.dimension != self.vision_config.hidden_size:
            raise ConfigurationError(
                f"texts would have {self.text_config.dimension} dimensions (projection_size of the text tower) and "
                f"images {self.vision_config.hidden_size} (hidden_size of the vision tower): the two must be equal"
            )

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Read a config.json."""
        cls.check_model_type(settings)
        parts = {
            "text_config": SiglipTextConfig.from_dict(settings.get("text_config") or {}),
            "vision_config": SiglipVisionConfig.from_dict(settings.get("vision_config") or {}),
        }
        return super().from_dict({**settings, **parts})


def _block_settings(config: SiglipTextConfig | SiglipVisionConfig) -> BlockSettings:
    """The blocks of a tower; fresh weights have the variance of Glorot's rule, as in the original."""
    width, mlp_width = config.hidden_size, config.intermediate_size
    across = (2 / (width + mlp_width)) ** 0.5
    return BlockSettings(
        width=width,
        heads=config.num_attention_heads,
        mlp_width=mlp_width,
        activation=config.hidden_act,
        epsilon=config.layer_norm_eps,
        attention_dropout=config.attention_dropout,
        in_deviation=width**-0.5,
        out_deviation=width**-0.5,
        up_deviation=across,
        down_deviation=across,
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

TOKEN_ROW = Row("embeddings.token_embedding", "token_embedding", EMBEDDING)

TEXT_ROWS = (
    Row("embeddings.position_embedding", "position_embedding", EMBEDDING),
    *under(BLOCK_ROWS, "encoder.layers.{}.", "blocks.{}."),
    Row("final_layer_norm", "final_norm", NORM),
    Row("head", "head", LINEAR),
)

HEAD_ROWS = (
    Row("probe", "probe", PARAMETER),
    Row("attention.in_proj", "query", STACKED_LINEAR, part=(0, 3)),
    Row("attention.in_proj", "key", STACKED_LINEAR, part=(1, 3)),
    Row("attention.in_proj", "value", STACKED_LINEAR, part=(2, 3)),
    Row("attention.out_proj", "out", LINEAR),
    Row("layernorm", "norm", NORM),
    Row("mlp.fc1", "mlp.up", LINEAR),
    Row("mlp.fc2", "mlp.down", LINEAR),
)

VISION_ROWS = (
    Row("embeddings.patch_embedding", "patch_embedding", CONVOLUTION),
    Row("embeddings.position_embedding", "position_embedding", EMBEDDING),
    *under(BLOCK_ROWS, "encoder.layers.{}.", "blocks.{}."),
    Row("post_layernorm", "final_norm", NORM),
    *under(HEAD_ROWS, "head.", "head."),
)

# The parts of a whole SigLIP, to be left aside when one of them is loaded alone.
_TEXT_PART = r"^text_model\."
_VISION_PART = r"^vision_model\."
_SCALES = r"^logit_(scale|bias)$"

# Transformers 4 puts a tower that was saved alone under the name that it has in the whole, 5 under none;
# both read the former, so that is what is written.
_TEXT_RENAME = Rename(r"^(?=(embeddings|encoder|final_layer_norm|head)\.)", "text_model.")
_VISION_RENAME = Rename(r"^(?=(embeddings|encoder|post_layernorm|head)\.)", "vision_model.")


# Towers


class SiglipTextTrunk(PretrainedModel):
    """The text tower above its token table, which may be far larger than all the rest (786 MB in SigLIP 2).

    Called with rows of that table, looked up elsewhere.
    """

    configuration_class = SiglipTextConfig
    weights = WeightTable(
        under(TEXT_ROWS, "text_model."),
        renames=(_TEXT_RENAME,),
        elsewhere=(_VISION_PART, _SCALES, r"^text_model\.embeddings\.token_embedding\."),
    )
    config: SiglipTextConfig

    def __init__(
        self,
        config: SiglipTextConfig,
        *,
        rngs: nnx.Rngs | None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        """Make a fresh tower; arguments as for `SiglipModel`."""
        build = Build.of(rngs, dtype, param_dtype)
        settings = _block_settings(config)
        self.config = config
        self.position_embedding = Embedding(
            config.max_position_embeddings, config.hidden_size, build, deviation=config.hidden_size**-0.5
        )
        self.blocks = nnx.List([PreNormBlock(settings, build) for _ in range(config.num_hidden_layers)])
        self.final_norm = LayerNorm(config.hidden_size, build, epsilon=config.layer_norm_eps)
        self.head = Linear(config.hidden_size, config.dimension, build, deviation=config.hidden_size**-0.5)

    def __call__(self, token_rows: ArrayLike) -> TowerOutput:
        """Encode texts whose tokens were looked up.

        Args:
            token_rows: float (batch, length, hidden_size), rows of the token table; length at most
                max_position_embeddings.

        Returns:
            As `SiglipTextModel`.
        """
        rows = jnp.asarray(token_rows)
        longest, width = self.config.max_position_embeddings, self.config.hidden_size
        if rows.ndim != 3 or rows.shape[2] != width or not 1 <= rows.shape[1] <= longest or not rows.shape[0]:
            raise ModelInputError(
                f"token_rows: expected (batch, length up to {longest}, {width}) with no empty axis, got {rows.shape}"
            )
        positions = jnp.arange(rows.shape[1], dtype=jnp.int32)[None]
        return self.encode(rows.astype(jnp.float32), positions, None)

    def encode(
        self,
        rows: jax.Array,
        positions: jax.Array,
        mask: jax.Array | None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> TowerOutput:
        """Send token rows, float32 (batch, length, width), through the tower; the rest as `SiglipTextModel`."""
        passed = run_blocks(
            self.blocks,
            rows + jnp.broadcast_to(self.position_embedding(positions), rows.shape),
            attention_pattern(rows.shape[1], mask, causal=False),
            pooled_at=-1,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            rngs=rngs,
        )
        pooled = self.head(self.final_norm(passed.pooled))
        return TowerOutput(self.final_norm(passed.last), pooled, passed.hidden_states, passed.attentions)


class SiglipTextModel(SiglipTextTrunk):
    """The text tower: looks both ways, pooled at the last place."""

    weights = WeightTable(
        under((TOKEN_ROW, *TEXT_ROWS), "text_model."),
        renames=(_TEXT_RENAME,),
        elsewhere=(_VISION_PART, _SCALES),
    )

    def __init__(
        self,
        config: SiglipTextConfig,
        *,
        rngs: nnx.Rngs | None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        """Make a fresh tower; arguments as for `SiglipModel`."""
        super().__init__(config, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        build = Build.of(rngs, dtype, param_dtype)
        width = config.hidden_size
        self.token_embedding = Embedding(config.vocab_size, width, build, deviation=width**-0.5)

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
            input_ids: integer (batch, length), padded to the length that the tower was trained with, which
                is max_position_embeddings.
            attention_mask: (batch, length), 0 where there is padding. The published checkpoints were trained
                without one: leave it out.
            position_ids: integer (batch or 1, length); None: 0, 1, 2 and so on.
            output_attentions: whether to return every block's attention weights.
            output_hidden_states: whether to return what went into the blocks and what left each. The last of
                them is before the final norm.
            rngs: turns dropout on, with its stream `dropout`.

        Returns:
            The tower's output; `last_hidden_state` passed the final norm, `pooler_output` (batch, dimension)
            is the projection of its last place.

        Raises:
            ModelInputError: the arrays do not fit.
        """
        config = self.config
        ids = check_ids(input_ids, config.vocab_size, config.max_position_embeddings)
        positions = check_like_ids(
            "position_ids",
            jnp.arange(ids.shape[1], dtype=jnp.int32)[None] if position_ids is None else position_ids,
            ids,
            config.max_position_embeddings,
        )
        return self.encode(
            self.token_embedding(ids),
            positions,
            check_attention_mask(attention_mask, ids),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            rngs=rngs,
        )


class AttentionPooling(nnx.Module):
    """A learned probe that attends to all tokens, then an MLP on what it saw (Lee et al.

    2019, Zhai et al. 2022).
    """

    def __init__(self, settings: BlockSettings, build: Build) -> None:
        width, deviation = settings.width, settings.in_deviation
        self.probe = build.normal((1, 1, width), deviation)
        self.query = Linear(width, width, build, deviation=deviation)
        self.key = Linear(width, width, build, deviation=deviation)
        self.value = Linear(width, width, build, deviation=deviation)
        self.out = Linear(width, width, build, deviation=deviation)
        self.norm = LayerNorm(width, build, epsilon=settings.epsilon)
        self.mlp = Mlp(settings, build)
        self.heads = settings.heads
        self.dtype = build.dtype

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Float32 (batch, tokens, width) to (batch, width)."""
        batch, count, width = tokens.shape
        channels = width // self.heads
        query = self.query(self.probe[...].astype(jnp.float32)).reshape(self.heads, channels)
        key = self.key(tokens).reshape(batch, count, self.heads, channels)
        value = self.value(tokens).reshape(batch, count, self.heads, channels)
        scores = product("hc,bthc->bht", query * channels**-0.5, key, self.dtype)
        seen = product("bht,bthc->bhc", jax.nn.softmax(scores, axis=-1), value, self.dtype)
        pooled = self.out(seen.reshape(batch, width))
        return pooled + self.mlp(self.norm(pooled))


class SiglipVisionModel(PretrainedModel):
    """The vision tower: patches without a class token, pooled by attention."""

    configuration_class = SiglipVisionConfig
    weights = WeightTable(
        under(VISION_ROWS, "vision_model."), renames=(_VISION_RENAME,), elsewhere=(_TEXT_PART, _SCALES)
    )
    config: SiglipVisionConfig

    def __init__(
        self,
        config: SiglipVisionConfig,
        *,
        rngs: nnx.Rngs | None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        """Make a fresh tower; arguments as for `SiglipModel`."""
        build = Build.of(rngs, dtype, param_dtype)
        settings = _block_settings(config)
        rows, columns = grid(config.image_size, config.patch_size)
        patch = height_and_width(config.patch_size)
        width = config.hidden_size
        self.config = config
        self.patch_embedding = PatchEmbedding(
            patch,
            config.num_channels,
            width,
            build,
            deviation=(config.num_channels * patch[0] * patch[1]) ** -0.5,
        )
        self.position_embedding = Embedding(rows * columns, width, build, deviation=width**-0.5)
        self.patch_dropout = PatchDropout(prefix_tokens=0)
        self.blocks = nnx.List([PreNormBlock(settings, build) for _ in range(config.num_hidden_layers)])
        self.final_norm = LayerNorm(width, build, epsilon=config.layer_norm_eps)
        self.head = AttentionPooling(settings, build)

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
            output_hidden_states: whether to return what went into the blocks and what left each. The last of
                them is before the final norm.
            rngs: turns dropout on, with its stream `dropout`.

        Returns:
            The tower's output; `last_hidden_state` passed the final norm, `pooler_output` is what the head
            makes of it.

        Raises:
            ModelInputError: the array does not fit.
        """
        config = self.config
        images = check_pixels(pixel_values, config.num_channels, height_and_width(config.image_size))
        patches = self.patch_embedding(images)
        positions = self.position_embedding(jnp.arange(patches.shape[1])[None])
        passed = run_blocks(
            self.blocks,
            self.patch_dropout(patches + jnp.broadcast_to(positions, patches.shape), rngs),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            rngs=rngs,
        )
        last = self.final_norm(passed.last)
        return TowerOutput(last, self.head(last), passed.hidden_states, passed.attentions)


# Both


class SiglipModel(PretrainedModel):
    """Both towers, and the scale and bias that turn their cosines into odds."""

    configuration_class = SiglipConfig
    weights = WeightTable(
        (
            *under((TOKEN_ROW, *TEXT_ROWS), "text_model.", "text_model."),
            *under(VISION_ROWS, "vision_model.", "vision_model."),
            Row("logit_scale", "logit_scale", PARAMETER),
            Row("logit_bias", "logit_bias", PARAMETER),
        )
    )
    config: SiglipConfig

    def __init__(
        self,
        config: SiglipConfig,
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
        self.config = config
        self.text_model = SiglipTextModel(config.text_config, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.vision_model = SiglipVisionModel(
            config.vision_config, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )
        # The paper's: a tenth of a unit of temperature, and odds of a batch where nearly no pair belongs
        # together.
        self.logit_scale = build.constant((1,), 2.302585)
        self.logit_bias = build.constant((1,), -10.0)

    def get_text_features(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        position_ids: ArrayLike | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        """Texts in the shared space: float32 (batch, dimension), not normalised."""
        return self.text_model(input_ids, attention_mask, position_ids, rngs=rngs).pooler_output

    def get_image_features(self, pixel_values: ArrayLike, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Images in the shared space: float32 (batch, dimension), not normalised."""
        return self.vision_model(pixel_values, rngs=rngs).pooler_output

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
            input_ids: integer (texts, length), padded to max_position_embeddings.
            pixel_values: float (images, channels, height, width).
            attention_mask: (texts, length); leave it out for the published checkpoints.
            position_ids: integer (texts or 1, length).
            return_loss: whether to return the sigmoid loss; text i then belongs to image i.
            output_attentions: whether both towers return their attention weights.
            output_hidden_states: whether both towers return their hidden states.
            rngs: turns dropout on, with its stream `dropout`.

        Returns:
            Logits, unit embeddings and both towers' outputs. `match_probabilities` makes probabilities of the
            logits.

        Raises:
            ModelInputError: an array is missing or does not fit.
        """
        if input_ids is None or pixel_values is None:
            raise ModelInputError(
                "expected both input_ids and pixel_values; for one alone call get_text_features or "
                "get_image_features"
            )
        asked: dict[str, Any] = {
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
            "rngs": rngs,
        }
        text = self.text_model(input_ids, attention_mask, position_ids, **asked)
        vision = self.vision_model(pixel_values, **asked)
        texts = text.pooler_output / jnp.linalg.norm(text.pooler_output, axis=-1, keepdims=True)
        images = vision.pooler_output / jnp.linalg.norm(vision.pooler_output, axis=-1, keepdims=True)
        cosines = jnp.matmul(texts, images.T, precision=jax.lax.Precision.HIGHEST)
        scale, bias = (value[...].astype(jnp.float32)[0] for value in (self.logit_scale, self.logit_bias))
        logits = cosines * jnp.exp(scale) + bias
        return DualEncoderOutput(
            logits_per_image=logits.T,
            logits_per_text=logits,
            text_embeds=texts,
            image_embeds=images,
            text_model_output=text,
            vision_model_output=vision,
            loss=sigmoid_loss(logits) if return_loss else None,
        )


def match_probabilities(logits: jax.Array) -> jax.Array:
    """How likely each text belongs to each image, every pair on its own: they need not add up to 1."""
    return jax.nn.sigmoid(logits)


def sigmoid_loss(logits_per_text: jax.Array) -> jax.Array:
    """The paper's loss (algorithm 1): every pair is a yes or no of its own.

    Args:
        logits_per_text: float32 (n, n); text i belongs to image i and to no other.

    Returns:
        float32 scalar: the sum over images, averaged over texts.
    """
    belongs = 2 * jnp.eye(len(logits_per_text), dtype=logits_per_text.dtype) - 1
    return -jnp.mean(jnp.sum(jax.nn.log_sigmoid(belongs * logits_per_text), axis=-1))
