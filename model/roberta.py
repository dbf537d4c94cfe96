"""RoBERTa and XLM-RoBERTa: BERT, except that positions are counted from after the padding id.

Liu et al. 2019 (https://arxiv.org/abs/1907.11692), Conneau et al. 2019 (https://arxiv.org/abs/1911.02116); checkpoints
as Transformers lays them out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import jax.numpy as jnp

from model.bert import BertConfig, BertModel
from model.errors import ConfigurationError

if TYPE_CHECKING:
    import jax

    from model.configuration import Configuration


@dataclass(frozen=True)
class RobertaConfig(BertConfig):
    """Names and defaults are those of Transformers."""

    model_types: ClassVar[tuple[str, ...]] = ("roberta",)

    vocab_size: int = 50265
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | None = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.longest_text < 1:
            raise ConfigurationError(
                f"max_position_embeddings {self.max_position_embeddings} leaves no position after pad_token_id "
                f"{self.pad_token_id}"
            )

    @property
    def longest_text(self) -> int:
        """How many tokens a text can have; the positions up to the padding id are for no token."""
        return self.max_position_embeddings - self.padding - 1

    @property
    def padding(self) -> int:
        """The padding id, which this family cannot do without (ConfigurationError)."""
        if self.pad_token_id is None:
            raise ConfigurationError("pad_token_id is not set: this model counts its positions from it")
        return self.pad_token_id


@dataclass(frozen=True)
class XLMRobertaConfig(RobertaConfig):
    """Names and defaults are those of Transformers."""

    model_types: ClassVar[tuple[str, ...]] = ("xlm-roberta",)

    vocab_size: int = 30522


class RobertaModel(BertModel):
    """The text tower."""

    configuration_class: ClassVar[type[Configuration]] = RobertaConfig
    config: RobertaConfig

    def positions(self, ids: jax.Array) -> jax.Array:
        """Padding, wherever it stands, is at its own id; the other tokens are counted from the next number on."""
        there = (ids != self.config.padding).astype(jnp.int32)
        return jnp.cumsum(there, axis=1) * there + self.config.padding


class XLMRobertaModel(RobertaModel):
    """The text tower; not the XLM of the same makers, but RoBERTa on a hundred languages."""

    configuration_class: ClassVar[type[Configuration]] = XLMRobertaConfig
    config: XLMRobertaConfig
