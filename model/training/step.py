"""One training step, compiled: loss, gradients, update, moving average.

The state is float32 throughout. What is divided over devices is the batch; parameters are on all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from model.layers import PatchDropout
from model.training.losses import BATCH_AXIS, Pairs, sigmoid_loss, softmax_loss
from model.training.parameters import LARGEST_LOGIT_SCALE, LOGIT_BIAS, LOGIT_SCALE, follow, optimizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from model.preprocess import ImagePreprocessor
    from model.training.batches import Batch
    from model.training.config import LoraConfig, OptimizerConfig
    from model.training.parameters import Blueprint, Parameters, Plan


# Rows that a tower is given at a time outside training: one shape is one compilation.
_IMAGES_PER_CALL = 128
_TEXTS_PER_CALL = 256


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Everything that a step changes.

    Attributes:
        step: int32 scalar, steps done.
        trained: what is trained, see `Plan.start`.
        optimizer: the optimiser's own.
        average: moving average of `trained`; empty if none is kept.
    """

    step: jax.Array
    trained: Parameters
    optimizer: Any
    average: Parameters

    @property
    def best_guess(self) -> Parameters:
        """What is validated and exported: the moving average where there is one."""
        return self.average or self.trained


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TowerInputs:
    """What the towers read of a batch; fields as in `Batch`."""

    pixels: jax.Array
    input_ids: jax.Array
    attention_mask: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Inputs:
    """A batch on the devices."""

    towers: TowerInputs
    pairs: Pairs


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Chance:
    """What is random in a step's towers.

    Attributes:
        key: of dropout.
        patch_dropout: share of the patches that the vision tower is not shown; each value is a program of its own.
    """

    key: jax.Array
    patch_dropout: float = field(default=0.0, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Measured:
    """What a step tells: float32 scalars."""

    loss: jax.Array
    gradient_norm: jax.Array
    logit_scale: jax.Array


class Trainer:
    """Holds what does not change during a run, and the compiled functions."""

    def __init__(
        self,
        blueprint: Blueprint,
        plan: Plan,
        parameters: Parameters,
        *,
        loss: Literal["softmax", "sigmoid"],
        lora: LoraConfig | None,
        optimizer_config: OptimizerConfig,
        preprocessor: ImagePreprocessor,
        reads_attention_mask: bool,
        accumulate: int,
        devices: Sequence[jax.Device],
        seed: int,
    ) -> None:
        """Put together a run's functions.

        Args:
            blueprint: of the model.
            plan: what of it is trained.
            parameters: all of them, at their beginning.
            loss: which one.
            lora: of the low-rank additions, if any.
            optimizer_config: of the optimiser and the moving average.
            preprocessor: how pixels are normalised.
            reads_attention_mask: whether the text tower is told what is padding.
            accumulate: parts that a batch is computed in.
            devices: that share it.
            seed: of dropout.
        """
        self._blueprint = blueprint
        self._plan = plan
        self._loss_kind = loss
        self._lora = lora
        self._config = optimizer_config
        self._transform = optimizer(optimizer_config)
        self._accumulate = accumulate
        self._mesh = Mesh(np.asarray(devices), (BATCH_AXIS,))
        self._everywhere, self._divided = _placements(self._mesh)
        self._table = jnp.asarray(preprocessor.normalization_table)
        self._reads_attention_mask = reads_attention_mask
        self._seed = seed
        self._key = jax.random.key(seed)
        self._largest_logit_scale = _largest_logit_scale(loss, parameters)
        self._still = jax.device_put(plan.still(parameters), self._everywhere)
        self._step = jax.jit(self._step_function, donate_argnums=0)

    def start(self, parameters: Parameters) -> State:
        """The state before the first step."""
        # Copies: the state's arrays are given away at each step, the model's own must stay.
        trained = jax.tree.map(jnp.copy, self._plan.start(parameters, self._lora, self._seed))
        average = jax.tree.map(jnp.copy, trained) if self._config.ema is not None else {}
        state = State(jnp.zeros((), jnp.int32), trained, self._transform.init(trained), average)
        placed: State = jax.device_put(state, self._everywhere)
        return placed

    def place(self, batch: Batch) -> Inputs:
        """Send a batch to the devices."""
        pairs = Pairs(**jax.device_put(vars(batch.relations), self._divided))
        arrays = (batch.pixels, batch.input_ids, batch.attention_mask)
        return Inputs(TowerInputs(*jax.device_put(arrays, self._divided)), pairs)

    def step(
        self, state: State, inputs: Inputs, rate: float, *, patch_dropout: float = 0.0
    ) -> tuple[State, Measured]:
        """Learn from one batch. The state that goes in must not be used afterwards.

        Args:
            state: what is known so far.
            inputs: the batch.
            rate: the learning rate.
            patch_dropout: see `AugmentationConfig`.
        """
        # The rate goes in as a number: a run of other length or speed is the same program, compiled already.
        chance = Chance(self._key, patch_dropout)
        result: tuple[State, Measured] = self._step(state, self._still, inputs, np.float32(rate), chance)
        return result

    def whole(self, trained: Parameters) -> Parameters:
        """All parameters of the model."""
        return self._plan.whole(trained, self._still, self._lora)

    def gradients(self, state: State, inputs: Inputs) -> tuple[jax.Array, Parameters]:
        """The loss of a batch and its gradients, which `step` follows."""
        return self._gradients(state, self._still, inputs, Chance(self._key))

    def _loss(self, trained: Parameters, still: Parameters, inputs: Inputs, chance: Chance) -> jax.Array:
        """The loss of a batch, all at once."""
        images, texts = self._features(trained, still, inputs.towers, chance)
        return self._compare(images, texts, self._build(trained, still), inputs.pairs)

    def _build(self, trained: Parameters, still: Parameters) -> Any:
        return self._blueprint.build(self._plan.whole(trained, still, self._lora))

    def _features(
        self, trained: Parameters, still: Parameters, inputs: TowerInputs, chance: Chance
    ) -> tuple[jax.Array, jax.Array]:
        model = self._build(trained, still)
        if chance.patch_dropout:
            for _, module in nnx.iter_modules(model):
                if isinstance(module, PatchDropout):
                    module.rate = chance.patch_dropout
        rngs = nnx.Rngs(dropout=chance.key)
        images = model.get_image_features(normalise(inputs.pixels, self._table), rngs=rngs)
        mask = inputs.attention_mask if self._reads_attention_mask else None
        texts = model.get_text_features(inputs.input_ids, mask, rngs=rngs)
        return unit(images), unit(texts)

    def _compare(self, images: jax.Array, texts: jax.Array, model: Any, pairs: Pairs) -> jax.Array:
        scale = jnp.exp(getattr(model, LOGIT_SCALE)[...]).reshape(())
        if self._loss_kind == "softmax":
            return softmax_loss(images, texts, scale, pairs)
        bias = getattr(model, LOGIT_BIAS)[...].reshape(())
        return sigmoid_loss(images, texts, scale, bias, pairs, mesh=self._mesh)

    def _gradients(
        self, state: State, still: Parameters, inputs: Inputs, chance: Chance
    ) -> tuple[jax.Array, Parameters]:
        """Loss and gradients of a batch, in one piece or in several."""
        chance = replace(chance, key=jax.random.fold_in(chance.key, state.step))
        if self._accumulate == 1:
            return jax.value_and_grad(self._loss)(state.trained, still, inputs, chance)
        return self._gradients_in_parts(state, still, inputs, chance)

    def _gradients_in_parts(
        self, state: State, still: Parameters, inputs: Inputs, chance: Chance
    ) -> tuple[jax.Array, Parameters]:
        """The same gradients in a fraction of the memory, for one more forward pass (Gao et al. 2021, "GradCache").

        A contrastive loss is no sum over parts: each pair is compared with the whole batch. So all vectors are computed
        first, then the loss's gradient with respect to them, and then part by part what that means for the parameters.
        """
        chances = replace(chance, key=jax.random.split(chance.key, self._accumulate))

        def divide(array: jax.Array) -> jax.Array:
            # Rows i, i + parts, ... are part i: each device then has its share of every part.
            return jnp.swapaxes(array.reshape(-1, self._accumulate, *array.shape[1:]), 0, 1)

        def join(array: jax.Array) -> jax.Array:
            return jnp.swapaxes(array, 0, 1).reshape(-1, *array.shape[2:])

        parts = jax.tree.map(divide, inputs.towers)
        features = jax.lax.map(
            lambda part: self._features(state.trained, still, part[0], part[1]), (parts, chances)
        )
        images, texts = (join(array) for array in features)

        def compare(vectors: tuple[jax.Array, jax.Array], trained: Parameters) -> jax.Array:
            return self._compare(*vectors, self._build(trained, still), inputs.pairs)

        loss, (towards, gradients) = jax.value_and_grad(compare, argnums=(0, 1))(
            (images, texts), state.trained
        )

        def accumulate(total: Parameters, part: Any) -> tuple[Parameters, None]:
            inputs_part, chance_part, towards_part = part
            _, pull = jax.vjp(
                lambda trained: self._features(trained, still, inputs_part, chance_part), state.trained
            )
            return jax.tree.map(jnp.add, total, pull(towards_part)[0]), None

        gradients, _ = jax.lax.scan(accumulate, gradients, (parts, chances, jax.tree.map(divide, towards)))
        return loss, gradients

    def _step_function(
        self, state: State, still: Parameters, inputs: Inputs, rate: jax.Array, chance: Chance
    ) -> tuple[State, Measured]:
        loss, gradients = self._gradients(state, still, inputs, chance)
        updates, optimizer_state = self._transform.update(gradients, state.optimizer, state.trained)
        trained = follow(state.trained, updates, rate, self._plan)
        if LOGIT_SCALE in trained and self._largest_logit_scale is not None:
            trained[LOGIT_SCALE] = jnp.minimum(trained[LOGIT_SCALE], self._largest_logit_scale)
        average = state.average
        if self._config.ema is not None:
            # Early on the average follows closely, or the random beginning would stay in it for long.
            count = state.step.astype(jnp.float32)
            decay = jnp.minimum(self._config.ema, (1 + count) / (10 + count))
            average = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, average, trained)
        whole = self._plan.whole(trained, still, self._lora)
        measured = Measured(loss, optax.tree.norm(gradients), jnp.exp(whole[LOGIT_SCALE]).reshape(()))
        return State(state.step + 1, trained, optimizer_state, average), measured


class Embedder:
    """A model's towers alone, for any parameters of it, in portions of one size so that each compiles once."""

    def __init__(
        self,
        blueprint: Blueprint,
        preprocessor: ImagePreprocessor,
        *,
        reads_attention_mask: bool,
        devices: Sequence[jax.Device],
    ) -> None:
        """Prepare the functions; arguments as for `Trainer`."""
        table = jnp.asarray(preprocessor.normalization_table)
        mesh = Mesh(np.asarray(devices), (BATCH_AXIS,))
        self._devices = len(devices)
        self._everywhere, self._divided = _placements(mesh)
        self._images = jax.jit(
            lambda parameters, pixels: unit(
                blueprint.build(parameters).get_image_features(normalise(pixels, table))
            )
        )
        self._texts = jax.jit(
            lambda parameters, ids, mask: unit(
                blueprint.build(parameters).get_text_features(ids, mask if reads_attention_mask else None)
            )
        )

    def images(self, parameters: Parameters, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Unit vectors of images: uint8 (n, height, width, 3) to float32 (n, dim); n at least 1."""
        return self._in_portions(self._images, parameters, _IMAGES_PER_CALL, pixels)

    def texts(
        self, parameters: Parameters, ids: npt.NDArray[np.int32], mask: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float32]:
        """Unit vectors of texts: int32 (n, tokens) both, to float32 (n, dim); n at least 1."""
        return self._in_portions(self._texts, parameters, _TEXTS_PER_CALL, ids, mask)

    def _in_portions(
        self, function: Callable[..., jax.Array], parameters: Parameters, rows: int, *arrays: npt.NDArray[Any]
    ) -> npt.NDArray[np.float32]:
        parameters = jax.device_put(parameters, self._everywhere)
        rows *= self._devices
        count = len(arrays[0])
        outputs = []
        for start in range(0, count, rows):
            # The last portion is filled up with its last row.
            indices = np.minimum(np.arange(start, start + rows), count - 1)
            portion = jax.device_put(tuple(array[indices] for array in arrays), self._divided)
            outputs.append(np.asarray(function(parameters, *portion)))
        return np.concatenate(outputs)[:count]


def _largest_logit_scale(loss: str, parameters: Parameters) -> float | None:
    """The logarithm that the scale may grow to; None where nothing bounds it.

    The bound is CLIP's, whose softmax becomes unstable beyond it; SigLIP has none, and its published weights are above.
    A base that is above it already stays as it is.
    """
    if loss != "softmax":
        return None
    return max(LARGEST_LOGIT_SCALE, float(parameters[LOGIT_SCALE].reshape(())))


def _placements(mesh: Mesh) -> tuple[NamedSharding, NamedSharding]:
    """Whole on every device, and divided along the first axis."""
    whole, divided = PartitionSpec(), PartitionSpec(BATCH_AXIS)  # type: ignore[no-untyped-call]
    return NamedSharding(mesh, whole), NamedSharding(mesh, divided)


def normalise(pixels: jax.Array, table: jax.Array) -> jax.Array:
    """What a vision tower is given: uint8 (n, height, width, 3) to float32 (n, 3, height, width).

    Args:
        pixels: as `ImagePreprocessor` makes them.
        table: its `normalization_table`, float32 (256, 3).
    """
    # The table's two ends hold the scale and the offset; looking 256 values up is slower than one product.
    scale = ((table[255] - table[0]) / 255).reshape(1, 1, 1, 3)
    values = pixels.astype(jnp.float32) * scale + table[0].reshape(1, 1, 1, 3)
    channels_first: jax.Array = values.transpose(0, 3, 1, 2)
    return channels_first


def unit(features: jax.Array) -> jax.Array:
    """Rows of length 1: float32 (n, dim)."""
    lengths: jax.Array = jnp.linalg.norm(features, axis=-1, keepdims=True)
    return features / lengths
