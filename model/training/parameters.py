"""A model's parameters by name, which of them are trained and how, low-rank adaptation, the optimiser.

Inside training a model is a dictionary of name to float32 array; names are dotted paths such as
`vision_model.blocks.3.attention.query.kernel`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]
from flax import nnx

from model.errors import ConfigurationError
from model.training.muon import scale_by_muon

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from model.training.config import LoraConfig, ModelConfig, OptimizerConfig

Parameters = dict[str, jax.Array]

LOGIT_SCALE = "logit_scale"
LOGIT_BIAS = "logit_bias"

# Beyond a scale of 100 CLIP's training is unstable (Radford et al. 2021, section 2.5).
LARGEST_LOGIT_SCALE = math.log(100)

# What a locked tower is called in the models' attributes.
_TOWERS = {"vision": "vision_model.*", "text": "text_model.*"}

_DOWN, _UP = ".lora_down", ".lora_up"


class Blueprint:
    """A model without its numbers: takes them out and puts others in, also inside compiled functions."""

    def __init__(self, model: nnx.Module) -> None:
        self._graph, state = nnx.split(model)
        self._variables = {
            ".".join(map(str, path)): (path, variable) for path, variable in nnx.to_flat_state(state)
        }

    def take(self, model: nnx.Module) -> Parameters:
        """The parameters of a model of this kind."""
        state = nnx.state(model)
        return {".".join(map(str, path)): variable.get_value() for path, variable in nnx.to_flat_state(state)}

    def build(self, parameters: Mapping[str, jax.Array]) -> Any:
        """A model with these parameters."""
        flat = [
            (path, variable.replace(parameters[name])) for name, (path, variable) in self._variables.items()
        ]
        return nnx.merge(self._graph, nnx.from_flat_state(flat))


@dataclass(frozen=True)
class Plan:
    """Which parameters are trained, and how fast.

    Attributes:
        trained: names of the model's parameters that are trained themselves.
        adapted: names of matrices that get a low-rank addition.
        scales: factor on the learning rate for every trained name and every adapted one.
    """

    trained: frozenset[str]
    adapted: frozenset[str]
    scales: Mapping[str, float]

    @classmethod
    def of(cls, config: ModelConfig, shapes: Mapping[str, tuple[int, ...]]) -> Plan:
        """Match the configuration's patterns with a model's parameters.

        Raises:
            ConfigurationError: a pattern matches nothing, or nothing is left to train.
        """
        names = list(shapes)
        problems: list[str] = []

        def matching(where: str, patterns: Sequence[str], *, optional: bool = False) -> set[str]:
            found: set[str] = set()
            for pattern in patterns:
                hits = {name for name in names if fnmatchcase(name, pattern)}
                if not hits and not optional:
                    problems.append(f"{where}: {pattern!r} matches no parameter")
                found |= hits
            return found

        frozen = matching("model.frozen", config.frozen)
        if config.lock is not None:
            frozen |= matching("model.lock", [_TOWERS[config.lock]])
        adapted: set[str] = set()
        trained = set(names) - frozen
        if config.lora is not None:
            adapted = matching("model.lora.targets", config.lora.targets) - frozen
            # Defaults name parameters that only some families have.
            also = matching("model.lora.also_train", config.lora.also_train, optional=True)
            trained = (also - adapted) & trained
            problems += [
                f"model.lora.targets: {name} is no matrix but of shape {shapes[name]}"
                for name in sorted(adapted)
                if len(shapes[name]) != 2
            ]
        scales = dict.fromkeys(names, 1.0)
        for pattern, scale in config.learning_rate_scales.items():
            scales |= dict.fromkeys(matching("model.learning_rate_scales", [pattern]), scale)
        if problems:
            examples = ", ".join(names[:: max(1, len(names) // 6)])
            raise ConfigurationError(f"{'; '.join(problems)}. Parameters are called: {examples}, ...")
        if not trained and not adapted:
            raise ConfigurationError("model.frozen and model.lock leave nothing to train")
        return cls(
            frozenset(trained), frozenset(adapted), {name: scales[name] for name in sorted(trained | adapted)}
        )

    def start(self, parameters: Parameters, lora: LoraConfig | None, seed: int) -> Parameters:
        """What is trained, at its beginning: parameters, and additions that are zero at first.

        Args:
            parameters: all of the model's.
            lora: width of the additions; None if there are none.
            seed: draws one factor of each addition.
        """
        trained = {name: parameters[name] for name in sorted(self.trained)}
        if lora is None:
            return trained
        key = jax.random.key(seed)
        for number, name in enumerate(sorted(self.adapted)):
            inputs, outputs = parameters[name].shape
            # Initial values as in the paper: one factor random, the other zero.
            down = jax.random.normal(jax.random.fold_in(key, number), (inputs, lora.rank)) * inputs**-0.5
            trained[name + _DOWN] = down
            trained[name + _UP] = jnp.zeros((lora.rank, outputs))
        return trained

    def whole(self, trained: Parameters, still: Parameters, lora: LoraConfig | None) -> Parameters:
        """All of a model's parameters: those that stand still, those that are trained, additions added."""
        parameters = still | {name: trained[name] for name in self.trained}
        if lora is not None:
            for name in self.adapted:
                addition = jnp.matmul(
                    trained[name + _DOWN], trained[name + _UP], precision=jax.lax.Precision.HIGHEST
                )
                parameters[name] = still[name] + (lora.alpha / lora.rank) * addition
        return parameters

    def still(self, parameters: Parameters) -> Parameters:
        """Those that are not trained themselves."""
        return {name: value for name, value in parameters.items() if name not in self.trained}

    def scale_of(self, trained_name: str) -> float:
        """The factor on the learning rate of a name in `start`'s result."""
        return self.scales[trained_name.removesuffix(_DOWN).removesuffix(_UP)]


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The learning rate of one step: from nearly 0 up over the warm-up, then down a half cosine.

    Args:
        config: its highest value and its shape.
        step: counted from 0.
        steps: of the whole run.
    """
    warmup = min(round(config.warmup * steps), steps - 1)
    if step < warmup:
        return config.peak_learning_rate * (step + 1) / (warmup + 1)
    fall = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
    return config.peak_learning_rate * (config.final_learning_rate + (1 - config.final_learning_rate) * fall)


def optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """What `config.kind` says, with clipping, up to the learning rate, which `follow` brings in."""

    def matrices(parameters: Parameters) -> dict[str, bool]:
        return {name: value.ndim >= 2 for name, value in parameters.items()}

    direction = optax.scale_by_adam(config.beta1, config.beta2, config.epsilon)
    if config.kind == "muon":
        direction = optax.partition({"muon": scale_by_muon(), "adam": direction}, _muon_or_adam)
    clip = [] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]
    return optax.chain(
        *clip,
        direction,
        optax.add_decayed_weights(config.weight_decay, mask=matrices),
    )


def _muon_or_adam(parameters: Parameters) -> dict[str, str]:
    """Muon is for matrices between hidden states; embeddings and projections out of the tower are AdamW's."""
    return {
        name: "muon" if value.ndim == 2 and ".blocks." in name else "adam"
        for name, value in parameters.items()
    }


def follow(trained: Parameters, updates: Parameters, rate: jax.Array, plan: Plan) -> Parameters:
    """Take a step: each parameter minus its update times the learning rate times the parameter's own factor."""
    return {name: value - rate * plan.scale_of(name) * updates[name] for name, value in trained.items()}
