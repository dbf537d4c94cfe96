"""One training step: gradients against PyTorch, parts against the whole, averages, what stands still."""

import importlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import CLIPModel
from model.checkpoint import TORCH_DRESS, ArraySource
from model.configuration import height_and_width
from model.contrast import contrastive_loss
from model.preprocess import ImagePreprocessor
from model.training.config import LoraConfig, ModelConfig, OptimizerConfig
from model.training.losses import Pairs
from model.training.parameters import LOGIT_SCALE, Blueprint, Plan
from model.training.start import WHOLE_MODELS
from model.training.step import Embedder, Inputs, State, TowerInputs, Trainer, normalise
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
    inputs = Inputs(
        TowerInputs(
            jnp.asarray(training_golden["pixels"]),
            jnp.asarray(training_golden["input_ids"], jnp.int32),
            jnp.ones(training_golden["input_ids"].shape, jnp.int32),
        ),
        pairs_of(training_golden["fits"]),
    )

    def make_trainer(
        *,
        accumulate: int = 1,
        optimizer_config: OptimizerConfig | None = None,
        logit_scale: float | None = None,
        **settings: Any,
    ) -> tuple[Trainer, State, Inputs]:
        model_config = ModelConfig(base="any", **settings)
        parameters = blueprint.take(clip)
        if logit_scale is not None:
            parameters[LOGIT_SCALE] = jnp.log(jnp.full_like(parameters[LOGIT_SCALE], logit_scale))
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
            reads_attention_mask=True,
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


def test_a_base_that_is_already_beyond_the_bound_is_not_cut_to_it(make: MakeTrainer) -> None:
    trainer, state, inputs = make(logit_scale=112.0)
    _, measured = trainer.step(state, inputs, 0.0)
    assert float(measured.logit_scale) == pytest.approx(112, rel=1e-5)
    trainer, state, inputs = make(logit_scale=112.0)
    for _ in range(4):
        state, measured = trainer.step(state, inputs, 3.0)
        assert float(measured.logit_scale) <= 112.01


def test_patches_are_left_out_at_random_and_anew_in_every_step(make: MakeTrainer) -> None:
    trainer, state, inputs = make()
    losses = []
    for dropout in (0.0, 0.5, 0.5):
        state, measured = trainer.step(state, inputs, 0.0, patch_dropout=dropout)
        losses.append(float(measured.loss))
    assert len(set(losses)) == 3
    trainer, state, inputs = make()
    for expected_loss, dropout in zip(losses, (0.0, 0.5, 0.5), strict=True):
        state, measured = trainer.step(state, inputs, 0.0, patch_dropout=dropout)
        assert float(measured.loss) == expected_loss


@pytest.mark.parametrize("folder", ["siglip", "dual-vit-roberta"])
def test_other_families_have_their_own_loss_and_every_parameter_learns(
    folder: str, reference_folder: Path
) -> None:
    kind = json.loads((reference_folder / folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    module, name, loss_kind = WHOLE_MODELS[kind]
    model_class = getattr(importlib.import_module(module), name)
    model = model_class.from_pretrained(reference_folder / folder)
    vision, text = model.config.vision_config, model.config.text_config
    height, width = height_and_width(vision.image_size)
    preprocessor = ImagePreprocessor.from_config(
        {
            "size": {"height": height, "width": width},
            "do_center_crop": False,
            "image_processor_type": "SiglipImageProcessor",
        }
    )
    blueprint = Blueprint(model)
    parameters = blueprint.take(model)
    trainer = Trainer(
        blueprint,
        Plan.of(ModelConfig(base="any"), {path: value.shape for path, value in parameters.items()}),
        parameters,
        loss=loss_kind,  # type: ignore[arg-type]
        lora=None,
        optimizer_config=OptimizerConfig(),
        preprocessor=preprocessor,
        reads_attention_mask=False,
        accumulate=1,
        devices=jax.devices()[:1],
        seed=0,
    )
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (3, height, width, 3)).astype(np.uint8)
    ids = random.integers(3, text.vocab_size, (3, 8)).astype(np.int32)
    numbers = jnp.arange(3, dtype=jnp.int32)
    nothing = jnp.full((3, 1), -2, jnp.int32)
    inputs = Inputs(
        TowerInputs(jnp.asarray(pixels), jnp.asarray(ids), jnp.ones((3, 8), jnp.int32)),
        Pairs(numbers[:, None], nothing + 1, numbers, nothing),
    )
    if loss_kind == "sigmoid":
        # The bound is that of a softmax; published weights of this family have scales above it.
        above = trainer.start(
            parameters | {LOGIT_SCALE: jnp.full_like(parameters[LOGIT_SCALE], math.log(150))}
        )
        _, measured = trainer.step(above, inputs, 0.0)
        assert float(measured.logit_scale) == pytest.approx(150, rel=1e-5)
    loss, gradients = jax.jit(trainer.gradients)(trainer.start(parameters), inputs)
    output = model(ids, preprocessor.normalize(pixels).transpose(0, 3, 1, 2))
    if loss_kind == "sigmoid":
        logits = np.asarray(output.logits_per_image)
        np.testing.assert_allclose(loss, np.log1p(np.exp((1 - 2 * np.eye(3)) * logits)).sum() / 3, rtol=1e-4)
    else:
        # This family trains with dropout, so the loss is not that of the model at rest.
        assert not np.isclose(loss, float(contrastive_loss(output.logits_per_text)), rtol=1e-4)
    embedder = Embedder(blueprint, preprocessor, reads_attention_mask=False, devices=jax.devices()[:1])
    np.testing.assert_allclose(embedder.images(parameters, pixels), output.image_embeds, atol=1e-5)
    np.testing.assert_allclose(
        embedder.texts(parameters, ids, np.ones_like(ids)), output.text_embeds, atol=1e-5
    )
    # A softmax does not feel what is added to all its scores, and only rows of tables that were looked up learn.
    still = {path for path, value in gradients.items() if np.abs(value).max() == 0}
    assert all("key" in path or "token_type" in path or "logit_bias" in path for path in still), still
