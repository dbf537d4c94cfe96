"""BERT (Devlin et al. 2018, https://arxiv.org/abs/1810.04805), as Transformers lays out its checkpoints.

A text tower in which every token sees every other, with norms after the additions and a pooler on the first token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from model.configuration import Configuration
from model.inputs import check_attention_mask, check_ids, check_like_ids
from model.layers import (
    Attention,
    BlockSettings,
    Build,
    Embedding,
    LayerNorm,
    Mlp,
    Places,
    Pooler,
    attention_pattern,
    dropout,
    run_blocks,
    tokens_at,
)
from model.outputs import TowerOutput
from model.pretrained import PretrainedModel
from model.weights import EMBEDDING, LINEAR, NORM, Rename, Row, WeightTable, under

if TYPE_CHECKING:
    from jax.typing import ArrayLike, DTypeLike


@dataclass(frozen=True)
class BertConfig(Configuration):
    """Names and defaults are those of Transformers."""

    model_types: ClassVar[tuple[str, ...]] = ("bert",)
    # Written by the first conversions, read by none.
    ignored: ClassVar[frozenset[str]] = frozenset(
        {
            "directionality",
            "pooler_fc_size",
            "pooler_num_attention_heads",
            "pooler_num_fc_layers",
            "pooler_size_per_head",
            "pooler_type",
        }
    )
    inert: ClassVar[dict[str, tuple[Any, ...]]] = {"position_embedding_type": ("absolute", None)}

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.block_settings()

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
        )

    @property
    def longest_text(self) -> int:
        """How many tokens a text can have."""
        return self.max_position_embeddings


BLOCK_ROWS = (
    Row("attention.self.query", "attention.query", LINEAR),
    Row("attention.self.key", "attention.key", LINEAR),
    Row("attention.self.value", "attention.value", LINEAR),
    Row("attention.output.dense", "attention.out", LINEAR),
    Row("attention.output.LayerNorm", "attention_norm", NORM),
    Row("intermediate.dense", "mlp.up", LINEAR),
    Row("output.dense", "mlp.down", LINEAR),
    Row("output.LayerNorm", "mlp_norm", NORM),
)

ROWS = (
    Row("embeddings.word_embeddings", "token_embedding", EMBEDDING),
    Row("embeddings.position_embeddings", "position_embedding", EMBEDDING),
    Row("embeddings.token_type_embeddings", "type_embedding", EMBEDDING),
    Row("embeddings.LayerNorm", "first_norm", NORM),
    *under(BLOCK_ROWS, "encoder.layer.{}.", "blocks.{}."),
    Row("pooler.dense", "pooler.dense", LINEAR),
)


class PostNormBlock(nnx.Module):
    """Attention, then MLP, each added and then normalised: the block of the first transformers."""

    def __init__(self, settings: BlockSettings, build: Build) -> None:
        self.attention = Attention(settings, build)
        self.attention_norm = LayerNorm(settings.width, build, epsilon=settings.epsilon)
        self.mlp = Mlp(settings, build)
        self.mlp_norm = LayerNorm(settings.width, build, epsilon=settings.epsilon)
        self.dropout_rate = settings.hidden_dropout

    @property
    def is_random(self) -> bool:
        """As `model.layers.Block` says."""
        return max(self.dropout_rate, self.attention.dropout_rate) > 0.0

    def __call__(
        self,
        hidden: jax.Array,
        mask: jax.Array | None = None,
        *,
        rngs: nnx.Rngs | None = None,
        at: Places | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """As `model.layers.Block` says."""
        attended, weights = self.attention(hidden, mask, rngs=rngs, at=at)
        hidden = self.attention_norm(tokens_at(hidden, at) + dropout(attended, self.dropout_rate, rngs))
        hidden = self.mlp_norm(hidden + dropout(self.mlp(hidden), self.dropout_rate, rngs))
        return hidden, weights


class BertModel(PretrainedModel):
    """The text tower."""

    configuration_class: ClassVar[type[Configuration]] = BertConfig
    weights = WeightTable(
        ROWS,
        # The first checkpoints name a norm's arrays as its paper does.
        renames=(
            Rename(r"^(bert|roberta)\.", ""),
            Rename(r"LayerNorm\.gamma$", "LayerNorm.weight"),
            Rename(r"LayerNorm\.beta$", "LayerNorm.bias"),
        ),
        # Heads for the words that were hidden, for the next sentence, for classes.
        elsewhere=(r"^cls\.", r"^lm_head\.", r"^classifier\.", r"^qa_outputs\."),
        optional=("pooler",),
    )
    config: BertConfig

    def __init__(
        self,
        config: BertConfig,
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
        self.config = config
        self.token_embedding = Embedding(config.vocab_size, width, build, deviation=deviation)
        self.position_embedding = Embedding(config.max_position_embeddings, width, build, deviation=deviation)
        self.type_embedding = Embedding(config.type_vocab_size, width, build, deviation=deviation)
        self.first_norm = LayerNorm(width, build, epsilon=config.layer_norm_eps)
        self.blocks = nnx.List([PostNormBlock(settings, build) for _ in range(config.num_hidden_layers)])
        self.pooler = Pooler(width, width, build, activation_name="tanh", deviation=deviation)

    def positions(self, ids: jax.Array) -> jax.Array:
        """Where each token stands if the caller does not say: int32 (1 or batch, length) for ids (batch, length)."""
        return jnp.arange(ids.shape[1], dtype=jnp.int32)[None]

    def __call__(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        token_type_ids: ArrayLike | None = None,
        position_ids: ArrayLike | None = None,
        *,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> TowerOutput:
        """Encode texts.

        Args:
            input_ids: integer (batch, length).
            attention_mask: (batch, length), 0 where there is padding; None: none is.
            token_type_ids: integer (batch or 1, length), which of two texts a token is of; None: 0.
            position_ids: integer (batch or 1, length); None: by the model's own rule.
            output_attentions: whether to return every block's attention weights.
            output_hidden_states: whether to return what went into the blocks and what left each; the last of them is
                `last_hidden_state`.
            rngs: turns dropout on, with its stream `dropout`.

        Returns:
            The tower's output; `pooler_output` is made of the first token.

        Raises:
            ModelInputError: the arrays do not fit.
        """
        config = self.config
        ids = check_ids(input_ids, config.vocab_size, config.longest_text)
        mask = check_attention_mask(attention_mask, ids)
        types = check_like_ids(
            "token_type_ids",
            jnp.zeros((1, ids.shape[1]), jnp.int32) if token_type_ids is None else token_type_ids,
            ids,
            config.type_vocab_size,
        )
        positions = check_like_ids(
            "position_ids",
            self.positions(ids) if position_ids is None else position_ids,
            ids,
            config.max_position_embeddings,
        )
        embedded = self.token_embedding(ids) + self.type_embedding(types) + self.position_embedding(positions)
        passed = run_blocks(
            self.blocks,
            dropout(self.first_norm(embedded), config.hidden_dropout_prob, rngs),
            attention_pattern(ids.shape[1], mask, causal=False),
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            rngs=rngs,
        )
        return TowerOutput(passed.last, self.pooler(passed.pooled), passed.hidden_states, passed.attentions)
