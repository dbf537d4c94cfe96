"""DINOv2 (Oquab et al. 2023, https://arxiv.org/abs/2304.07193), as Transformers lays out its checkpoints.

ViT with a learned scale on what each half of a block adds, no pooler, and positions that are resampled to any image:
it was trained at 518 pixels and is mostly used at 224.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from model.configuration import Configuration, Pixels, grid, height_and_width
from model.inputs import check_pixels_of_any_size
from model.layers import (
    Attention,
    BlockSettings,
    Build,
    LayerNorm,
    Linear,
    Mlp,
    PatchDropout,
    PatchEmbedding,
    Places,
    along_last,
    dropout,
    run_blocks,
    tokens_at,
)
from model.outputs import TowerOutput
from model.pretrained import PretrainedModel
from model.products import product
from model.vit import ATTENTION_RENAMES, ATTENTION_ROWS, EMBEDDING_ROWS, with_class_token
from model.weights import LINEAR, NORM, PARAMETER, Rename, Row, WeightTable, under

if TYPE_CHECKING:
    from jax.typing import ArrayLike, DTypeLike


@dataclass(frozen=True)
class Dinov2Config(Configuration):
    """Names and defaults are those of Transformers. Sizes in pixels; pairs are height, width."""

    model_types: ClassVar[tuple[str, ...]] = ("dinov2",)
    # Of its use as the backbone of detectors.
    ignored: ClassVar[frozenset[str]] = frozenset(
        {"apply_layernorm", "out_features", "out_indices", "reshape_hidden_states", "stage_names"}
    )

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: float = 4
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-6
    image_size: Pixels = 224
    patch_size: Pixels = 14
    num_channels: int = 3
    qkv_bias: bool = True
    layerscale_value: float = 1.0
    drop_path_rate: float = 0.0
    use_swiglu_ffn: bool = False
    use_mask_token: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.block_settings()
        grid(self.image_size, self.patch_size)

    def block_settings(self) -> BlockSettings:
        """What its blocks have in common."""
        mlp_width = int(self.hidden_size * self.mlp_ratio)
        if self.use_swiglu_ffn:
            # Three products instead of two: two thirds of the width, up to a multiple of 8, cost the same.
            mlp_width = (int(mlp_width * 2 / 3) + 7) // 8 * 8
        return BlockSettings(
            width=self.hidden_size,
            heads=self.num_attention_heads,
            mlp_width=mlp_width,
            activation=self.hidden_act,
            epsilon=self.layer_norm_eps,
            attention_dropout=self.attention_probs_dropout_prob,
            in_deviation=self.initializer_range,
            out_deviation=self.initializer_range,
            up_deviation=self.initializer_range,
            down_deviation=self.initializer_range,
            qkv_bias=self.qkv_bias,
        )


BLOCK_ROWS = (
    Row("norm1", "attention_norm", NORM),
    *under(ATTENTION_ROWS, "attention.", "attention."),
    Row("layer_scale1.lambda1", "attention_scale", PARAMETER),
    Row("norm2", "mlp_norm", NORM),
    Row("mlp.fc1", "mlp.up", LINEAR),
    Row("mlp.fc2", "mlp.down", LINEAR),
    Row("mlp.weights_in", "mlp.gate_and_up", LINEAR),
    Row("mlp.weights_out", "mlp.gated_down", LINEAR),
    Row("layer_scale2.lambda1", "mlp_scale", PARAMETER),
)

ROWS = (
    *under(EMBEDDING_ROWS, "embeddings."),
    Row("embeddings.mask_token", "mask_token", PARAMETER),
    *under(BLOCK_ROWS, "encoder.layer.{}.", "blocks.{}."),
    Row("layernorm", "final_norm", NORM),
)


class SwiGlu(nnx.Module):
    """An MLP whose widened half is gated by the other (Shazeer 2020, https://arxiv.org/abs/2002.05202)."""

    def __init__(self, settings: BlockSettings, build: Build) -> None:
        width, mlp_width = settings.width, settings.mlp_width
        self.gate_and_up = Linear(width, 2 * mlp_width, build, deviation=settings.up_deviation)
        self.gated_down = Linear(mlp_width, width, build, deviation=settings.down_deviation)

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Float32 (..., width) to the same."""
        gate, up = jnp.split(self.gate_and_up(hidden), 2, axis=-1)
        return self.gated_down(jax.nn.silu(gate) * up)


class Dinov2Block(nnx.Module):
    """A pre-norm block whose two additions are scaled channel by channel, and in training left out now and then."""

    def __init__(self, config: Dinov2Config, build: Build) -> None:
        settings = config.block_settings()
        self.attention_norm = LayerNorm(settings.width, build, epsilon=settings.epsilon)
        self.attention = Attention(settings, build)
        self.attention_scale = build.constant((settings.width,), config.layerscale_value)
        self.mlp_norm = LayerNorm(settings.width, build, epsilon=settings.epsilon)
        self.mlp = SwiGlu(settings, build) if config.use_swiglu_ffn else Mlp(settings, build)
        self.mlp_scale = build.constant((settings.width,), config.layerscale_value)
        self.drop_rate = config.drop_path_rate

    @property
    def is_random(self) -> bool:
        """As `model.layers.Block` says."""
        return max(self.drop_rate, self.attention.dropout_rate) > 0.0

    def __call__(
        self,
        hidden: jax.Array,
        mask: jax.Array | None = None,
        *,
        rngs: nnx.Rngs | None = None,
        at: Places | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """As `model.layers.Block` says."""
        attended, weights = self.attention(self.attention_norm(hidden), mask, rngs=rngs, at=at)
        hidden = tokens_at(hidden, at) + self._addition(attended, self.attention_scale, rngs)
        hidden = hidden + self._addition(self.mlp(self.mlp_norm(hidden)), self.mlp_scale, rngs)
        return hidden, weights

    def _addition(self, added: jax.Array, scale: nnx.Param[jax.Array], rngs: nnx.Rngs | None) -> jax.Array:
        """Scaled, and with `rngs` dropped for whole images (Huang et al. 2016, https://arxiv.org/abs/1603.09382)."""
        kept = dropout(jnp.ones((added.shape[0], 1, 1)), self.drop_rate, rngs)
        return added * along_last(scale[...], added) * kept


class Dinov2Model(PretrainedModel):
    """The vision tower."""

    configuration_class = Dinov2Config
    weights = WeightTable(
        ROWS, renames=(Rename(r"^dinov2\.", ""), *ATTENTION_RENAMES), elsewhere=(r"^classifier\.",)
    )
    config: Dinov2Config

    def __init__(
        self,
        config: Dinov2Config,
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
        width, deviation = config.hidden_size, config.initializer_range
        rows, columns = grid(config.image_size, config.patch_size)
        self.config = config
        self.class_token = build.normal((1, 1, width), deviation)
        # Stood for hidden patches in the pretraining and is only carried along.
        self.mask_token = build.constant((1, width), 0.0) if config.use_mask_token else None
        self.position_embedding = build.normal((1, rows * columns + 1, width), deviation)
        self.patch_dropout = PatchDropout(prefix_tokens=1)
        self.patch_embedding = PatchEmbedding(
            height_and_width(config.patch_size), config.num_channels, width, build, deviation=deviation
        )
        self.blocks = nnx.List([Dinov2Block(config, build) for _ in range(config.num_hidden_layers)])
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
            pixel_values: float (batch, channels, height, width), normalised, of any size that holds a patch.
            output_attentions: whether to return every block's attention weights.
            output_hidden_states: whether to return what went into the blocks and what left each; the last of them is
                before the final norm.
            rngs: turns dropout on, with its stream `dropout`.

        Returns:
            The tower's output; `pooler_output` is the first token of `last_hidden_state`.

        Raises:
            ModelInputError: the array does not fit.
        """
        config = self.config
        patch = height_and_width(config.patch_size)
        images = check_pixels_of_any_size(pixel_values, config.num_channels, patch)
        tokens = with_class_token(self.class_token, self.patch_embedding(images))
        positions = self._positions(images.shape[1] // patch[0], images.shape[2] // patch[1])
        tokens = self.patch_dropout(tokens + jnp.broadcast_to(positions, tokens.shape), rngs)
        passed = run_blocks(
            self.blocks,
            dropout(tokens, config.hidden_dropout_prob, rngs),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            rngs=rngs,
        )
        last, pooled = self.final_norm(passed.last), self.final_norm(passed.pooled)
        return TowerOutput(last, pooled, passed.hidden_states, passed.attentions)

    def _positions(self, rows: int, columns: int) -> jax.Array:
        """Positions for a grid of patches: float32 (1, 1 + rows * columns, width)."""
        table = self.position_embedding[...].astype(jnp.float32)
        known_rows, known_columns = grid(self.config.image_size, self.config.patch_size)
        if (rows, columns) == (known_rows, known_columns):
            return table
        patches = table[0, 1:].reshape(known_rows, known_columns, -1)
        patches = product(
            "nr,rcw->ncw", jnp.asarray(bicubic(known_rows, rows)), patches, np.dtype(np.float32)
        )
        patches = product(
            "mc,ncw->nmw", jnp.asarray(bicubic(known_columns, columns)), patches, np.dtype(np.float32)
        )
        return jnp.concatenate([table[:, :1], patches.reshape(1, rows * columns, -1)], axis=1)


def bicubic(known: int, wanted: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Bicubic interpolation along one axis as a matrix (wanted, known): PyTorch's, which JAX's is not.

    The kernel is Keys' (1981) with a = -0.75, samples lie at pixel centres, the outermost values go on beyond the
    edge, and shrinking does not smooth first.
    """
    a = -0.75
    centres = (np.arange(wanted) + 0.5) * (known / wanted) - 0.5
    first = np.floor(centres).astype(int)
    matrix = np.zeros((wanted, known))
    for offset in (-1, 0, 1, 2):
        distance = np.abs(centres - (first + offset))
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((distance - 5) * distance + 8) * distance * a - 4 * a
        weight = np.where(distance <= 1, near, far)
        np.add.at(matrix, (np.arange(wanted), np.clip(first + offset, 0, known - 1)), weight)
    return matrix.astype(np.float32)
