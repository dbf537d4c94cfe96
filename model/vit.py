"""ViT (Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929), as Transformers lays out its checkpoints.

A plain vision tower: a class token before the patches, the norm after the blocks, and a pooler behind that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import jax.numpy as jnp
from flax import nnx

from model.configuration import Configuration, Pixels, grid, height_and_width
from model.inputs import check_pixels
from model.layers import (
    BlockSettings,
    Build,
    LayerNorm,
    PatchDropout,
    PatchEmbedding,
    Pooler,
    PreNormBlock,
    dropout,
    run_blocks,
)
from model.outputs import TowerOutput
from model.pretrained import PretrainedModel
from model.weights import CONVOLUTION, LINEAR, NORM, PARAMETER, Rename, Row, WeightTable, under

if TYPE_CHECKING:
    import jax
    from jax.typing import ArrayLike, DTypeLike


@dataclass(frozen=True)
class ViTConfig(Configuration):
    """Names and defaults are those of Transformers. Sizes in pixels; pairs are height, width."""

    model_types: ClassVar[tuple[str, ...]] = ("vit",)
    # Of the decoder for masked images.
    ignored: ClassVar[frozenset[str]] = frozenset({"encoder_stride"})

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    image_size: Pixels = 224
    patch_size: Pixels = 16
    num_channels: int = 3
    qkv_bias: bool = True
    pooler_output_size: int | None = None
    pooler_act: str = "tanh"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.block_settings()
        grid(self.image_size, self.patch_size)

    def block_settings(self) -> BlockSettings:
        """What its blocks have in common."""
        return BlockSettings(
            width=self.hidden_size,
            heads=self.num_attention_heads,
            mlp_width=self.intermediate_size,
            activation=self.hidden_act,
            epsilon=self.layer_norm_eps,
            attention_dropout=self.attention_probs_dropout_prob,
            hidden_dropout=self.hidden_dropout_prob,
            in_deviation=self.initializer_range,
            out_deviation=self.initializer_range,
            up_deviation=self.initializer_range,
            down_deviation=self.initializer_range,
            qkv_bias=self.qkv_bias,
        )

    @property
    def pooler_width(self) -> int:
        """Width of `pooler_output`."""
        return self.pooler_output_size or self.hidden_size


EMBEDDING_ROWS = (
    Row("cls_token", "class_token", PARAMETER),
    Row("position_embeddings", "position_embedding", PARAMETER),
    Row("patch_embeddings.projection", "patch_embedding", CONVOLUTION),
)

ATTENTION_ROWS = (
    Row("attention.query", "query", LINEAR),
    Row("attention.key", "key", LINEAR),
    Row("attention.value", "value", LINEAR),
    Row("output.dense", "out", LINEAR),
)

BLOCK_ROWS = (
    Row("layernorm_before", "attention_norm", NORM),
    *under(ATTENTION_ROWS, "attention.", "attention."),
    Row("layernorm_after", "mlp_norm", NORM),
    Row("intermediate.dense", "mlp.up", LINEAR),
    Row("output.dense", "mlp.down", LINEAR),
)

ROWS = (
    *under(EMBEDDING_ROWS, "embeddings."),
    *under(BLOCK_ROWS, "encoder.layer.{}.", "blocks.{}."),
    Row("layernorm", "final_norm", NORM),
    Row("pooler.dense", "pooler.dense", LINEAR),
)

# What Transformers 5 calls the parts of the attention in memory; it saves them under the older names.
ATTENTION_RENAMES = (
    Rename(r"\.attention\.q_proj\.", ".attention.attention.query."),
    Rename(r"\.attention\.k_proj\.", ".attention.attention.key."),
    Rename(r"\.attention\.v_proj\.", ".attention.attention.value."),
    Rename(r"\.attention\.o_proj\.", ".attention.output.dense."),
)


class ViTModel(PretrainedModel):
    """The vision tower."""

    configuration_class = ViTConfig
    weights = WeightTable(
        ROWS,
        renames=(
            Rename(r"^vit\.", ""),
            Rename(r"^layers\.", "encoder.layer."),
            *ATTENTION_RENAMES,
            Rename(r"\.mlp\.fc1\.", ".intermediate.dense."),
            Rename(r"\.mlp\.fc2\.", ".output.dense."),
        ),
        # Heads for classes and for masked images.
        elsewhere=(r"^classifier\.", r"^decoder\.", r"^embeddings\.mask_token$"),
        optional=("pooler",),
    )
    config: ViTConfig

    def __init__(
        self,
        config: ViTConfig,
        *,
        rngs: nnx.Rngs | None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        """Make a fresh tower.

        Args:
            config: its configuration.
            rngs: draws the parameters from its stream `params`; None makes shapes without values.
            dtype: of the operands of matrix products.
            param_dtype: of the parameters.
        """
        build = Build.of(rngs, dtype, param_dtype)
        settings, width, deviation = config.block_settings(), config.hidden_size, config.initializer_range
        rows, columns = grid(config.image_size, config.patch_size)
        self.config = config
        self.class_token = build.normal((1, 1, width), deviation)
        self.position_embedding = build.normal((1, rows * columns + 1, width), deviation)
        self.patch_dropout = PatchDropout(prefix_tokens=1)
        self.patch_embedding = PatchEmbedding(
            height_and_width(config.patch_size), config.num_channels, width, build, deviation=deviation
        )
        self.blocks = nnx.List([PreNormBlock(settings, build) for _ in range(config.num_hidden_layers)])
        self.final_norm = LayerNorm(width, build, epsilon=config.layer_norm_eps)
        self.pooler = Pooler(
            width, config.pooler_width, build, activation_name=config.pooler_act, deviation=deviation
        )

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
            output_hidden_states: whether to return what went into the blocks and what left each; the last of them is
                before the final norm.
            rngs: turns dropout on, with its stream `dropout`.

        Returns:
            The tower's output; `pooler_output` is (batch, pooler_output_size).

        Raises:
            ModelInputError: the array does not fit.
        """
        config = self.config
        images = check_pixels(pixel_values, config.num_channels, height_and_width(config.image_size))
        tokens = with_class_token(self.class_token, self.patch_embedding(images))
        positions = jnp.broadcast_to(self.position_embedding[...].astype(jnp.float32), tokens.shape)
        passed = run_blocks(
            self.blocks,
            dropout(self.patch_dropout(tokens + positions, rngs), config.hidden_dropout_prob, rngs),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            rngs=rngs,
        )
        pooled = self.pooler(self.final_norm(passed.pooled))
        return TowerOutput(self.final_norm(passed.last), pooled, passed.hidden_states, passed.attentions)


def with_class_token(class_token: nnx.Param[jax.Array], patches: jax.Array) -> jax.Array:
    """Put the class token (1, 1, width) before the patches of each image: float32 (batch, 1 + patches, width)."""
    batch, _, width = patches.shape
    first = jnp.broadcast_to(class_token[...].astype(jnp.float32), (batch, 1, width))
    return jnp.concatenate([first, patches], axis=1)
