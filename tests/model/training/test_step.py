"""One training step: gradients against PyTorch, parts against the whole, averages, what stands still."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import CLIPModel
from model.checkpoint import TORCH_DRESS, ArraySource
from model.preprocess import ImagePreprocessor
from model.training.config import LoraConfig, ModelConfig, OptimizerConfig
from model.training.losses import Pairs
from model.training.parameters import Blueprint, Plan
from model.training.step import Inputs, State, TowerInputs, Trainer, normalise
from model.weights import fill

PREPROCESSOR = ImagePreprocessor.from_config(
    {"size": {"shortest_edge": 22}, "crop_size": 22, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
)

MakeTrainer = Callable[..., tuple[Trainer, State, Inputs]]


@pytest.fixture(scope="module")
def clip(reference_folder: Any) -> CLIPModel:
    return CLIPModel.from_pretrained(reference_folder / "clip-first-rules")


@pytest.fixture(scope="module")
def make(
    clip: CLIPModel, training_golden: dict[str, np.ndarray], pairs_of: Callable[[np.ndarray], Pairs]
) -> MakeTrainer:
    """Return a function that makes a trainer, its state and the golden's batch."""
    blueprint = Blueprint(clip)
    parameters = blueprint.take(clip)
    inputs = Inputs(
        TowerInputs(
            jnp.asarray(training_golden["pixels"]),
            jnp.asarray(training_golden["input_ids"], jnp.int32),
            jnp.ones(training_golden["input_ids"].shape, jnp.int32),
        ),
        pairs_of(training_golden["fits"]),
    )

    def make_trainer(
        *, accumulate: int = 1, optimizer_config: OptimizerConfig | None = None, **settings: Any
    ) -> tuple[Trainer, State, Inputs]:
        model_config = ModelConfig(base="any", **settings)
        plan = Plan.of(model_config, {name: value.shape for name, value in parameters.items()})
        config = optimizer_config or OptimizerConfig()
        trainer = Trainer(
            blueprint,
            plan,
            parameters,
            loss="softmax",
            lora=model_config.lora,
            optimizer_config=config,
            preprocessor=PREPROCESSOR,
            accumulate=accumulate,
            devices=jax.devices()[:1],
            seed=0,
        )
        return trainer, trainer.start(parameters), inputs

    return make_trainer


@pytest.fixture(scope="module")
def expected(clip: CLIPModel, training_golden: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """PyTorch's gradients under our parameters' names."""
    arrays = {
        name.removeprefix("gradient:"): value
        for name, value in training_golden.items()
        if name.startswith("gradient:")
    }
    model = CLIPModel(clip.config, rngs=None)
    fill(model, ArraySource(arrays, dress=TORCH_DRESS), CLIPModel.weights)
    return Blueprint(clip).take(model)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_loss_and_every_gradient_are_pytorch_s(
    accumulate: int, make: MakeTrainer, expected: dict[str, jax.Array], training_golden: dict[str, np.ndarray]
) -> None:
    trainer, state, inputs = make(accumulate=accumulate)
    loss, gradients = jax.jit(trainer.gradients)(state, inputs)
    np.testing.assert_allclose(loss, training_golden["loss"], rtol=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(gradient, expected[name], rtol=0, atol=2e-5 * max(scale, 1), err_msg=name)
        assert scale > 1e-6 or name.endswith("attention.key.bias"), (
            name
        )  # which shifts all scores of a softmax alike


def test_pixels_are_normalised_as_search_does_it() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 22, 22, 3)).astype(np.uint8)
    made = normalise(jnp.asarray(pixels), jnp.asarray(PREPROCESSOR.normalization_table))
    np.testing.assert_allclose(made, PREPROCESSOR.normalize(pixels).transpose(0, 3, 1, 2), atol=1e-6)


def test_only_low_rank_additions_move_their_average_follows_and_the_logit_scale_stops(
    make: MakeTrainer,
) -> None:
    trainer, state, inputs = make(
        lock="vision",
        lora=LoraConfig(rank=2, targets=("*.attention.query.kernel",)),
        optimizer_config=OptimizerConfig(ema=0.5),
    )
    before = {name: np.asarray(value) for name, value in trainer.whole(state.trained).items()}
    average = jax.tree.map(np.asarray, state.trained)
    for count in range(4):
        state, measured = trainer.step(state, inputs, 3.0)
        assert float(measured.logit_scale) <= 100.01
        decay = min(0.5, (1 + count) / (10 + count))
        average = jax.tree.map(
            lambda old, new, decay=decay: decay * old + (1 - decay) * new, average, state.trained
        )
    for name, value in state.best_guess.items():
        np.testing.assert_allclose(value, average[name], rtol=1e-5, atol=1e-6, err_msg=name)
        assert not np.allclose(value, state.trained[name], atol=1e-3), name
    moving = {f"text_model.blocks.{number}.attention.query.kernel" for number in range(2)} | {"logit_scale"}
    for name, value in trainer.whole(state.trained).items():
        assert (np.abs(np.asarray(value) - before[name]).max() > 0) == (name in moving), name
