"""Which parameters are trained, low-rank adaptation, the optimiser."""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.errors import ConfigurationError
from model.training.config import LoraConfig, ModelConfig, OptimizerConfig
from model.training.parameters import Plan, follow, learning_rate, optimizer

SHAPES: Mapping[str, tuple[int, ...]] = {
    "logit_scale": (),
    "text_model.blocks.0.attention.query.kernel": (4, 4),
    "text_model.blocks.0.attention.query.bias": (4,),
    "text_projection.kernel": (4, 3),
    "vision_model.blocks.0.mlp.up.kernel": (4, 8),
    "vision_model.patch_embedding.kernel": (2, 2, 3, 4),
    "visual_projection.kernel": (4, 3),
}


def plan(**settings: object) -> Plan:
    return Plan.of(ModelConfig(base="any", **settings), SHAPES)  # type: ignore[arg-type]


def test_everything_is_trained_unless_told_otherwise() -> None:
    assert plan() == Plan(frozenset(SHAPES), frozenset(), dict.fromkeys(sorted(SHAPES), 1.0))


def test_a_locked_tower_keeps_its_projection_trained() -> None:
    assert plan(lock="vision").trained == {name for name in SHAPES if not name.startswith("vision_model.")}
    assert plan(lock="text").trained == {name for name in SHAPES if not name.startswith("text_model.")}


def test_patterns_freeze_and_scale_and_the_last_counts() -> None:
    made = plan(
        frozen=("*.bias", "logit_scale"),
        learning_rate_scales={"vision_model.*": 0.1, "*patch_embedding*": 0.5},
    )
    assert made.trained == set(SHAPES) - {"logit_scale", "text_model.blocks.0.attention.query.bias"}
    assert made.scales["vision_model.blocks.0.mlp.up.kernel"] == 0.1
    assert made.scales["vision_model.patch_embedding.kernel"] == 0.5
    assert made.scales["text_projection.kernel"] == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frozen": ("vision.*",)}, "model.frozen: 'vision.*' matches no parameter"),
        ({"learning_rate_scales": {"x": 0.1}}, "model.learning_rate_scales: 'x' matches no parameter"),
        ({"frozen": ("*",)}, "leave nothing to train"),
        ({"lora": LoraConfig(targets=("*patch_embedding*",))}, r"is no matrix but of shape (2, 2, 3, 4)"),
    ],
)
def test_patterns_that_cannot_be_meant_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        plan(**settings)
    assert message in str(caught.value)


def test_lora_starts_at_the_base_and_adds_a_scaled_product() -> None:
    lora = LoraConfig(rank=2, alpha=6.0)
    made = plan(lora=lora, lock="text")
    assert made.adapted == {"vision_model.blocks.0.mlp.up.kernel"}
    assert made.trained == {"logit_scale"}
    parameters = {name: jnp.full(shape, 0.5) for name, shape in SHAPES.items()}
    trained = made.start(parameters, lora, seed=0)
    down, up = (f"vision_model.blocks.0.mlp.up.kernel.lora_{end}" for end in ("down", "up"))
    assert {name: value.shape for name, value in trained.items()} == {
        "logit_scale": (),
        down: (4, 2),
        up: (2, 8),
    }
    still = made.still(parameters)
    assert "logit_scale" not in still
    whole = made.whole(trained, still, lora)
    for name, value in parameters.items():
        np.testing.assert_array_equal(whole[name], value, err_msg=name)
    trained[up] = jnp.ones((2, 8))
    expected = 0.5 + 3.0 * np.asarray(trained[down]) @ np.ones((2, 8))
    np.testing.assert_allclose(
        made.whole(trained, still, lora)["vision_model.blocks.0.mlp.up.kernel"], expected, rtol=1e-6
    )


def test_the_rate_climbs_and_falls_as_pytorch_was_told(training_golden: dict[str, np.ndarray]) -> None:
    config = OptimizerConfig(learning_rate=0.1, warmup=0.4)
    rates = [learning_rate(config, step, 5) for step in range(5)]
    np.testing.assert_allclose(rates, training_golden["optimizer_rates"], rtol=1e-6)


def test_the_rate_ends_where_it_should_and_a_single_step_learns() -> None:
    config = OptimizerConfig(learning_rate=0.1, warmup=1.0, final_learning_rate=0.25)
    assert learning_rate(config, 0, 1) == pytest.approx(0.1)
    config = OptimizerConfig(learning_rate=0.1, warmup=0.0, final_learning_rate=0.25)
    assert learning_rate(config, 10_000, 10_000) == pytest.approx(0.025)


def test_the_optimiser_is_pytorch_s_clipped_adamw(training_golden: dict[str, np.ndarray]) -> None:
    shapes: dict[str, tuple[int, ...]] = {"matrix": (3, 2), "vector": (4,)}
    made = Plan.of(ModelConfig(base="any"), shapes)
    transform = optimizer(OptimizerConfig(weight_decay=0.3))
    parameters = {name: jnp.asarray(training_golden[f"optimizer_{name}"]) for name in shapes}
    state = transform.init(parameters)
    for gradient, rate in zip(
        training_golden["optimizer_gradients"], training_golden["optimizer_rates"], strict=True
    ):
        gradients = {"matrix": jnp.asarray(gradient[:6].reshape(3, 2)), "vector": jnp.asarray(gradient[6:])}
        updates, state = transform.update(gradients, state, parameters)
        parameters = follow(parameters, updates, jnp.asarray(rate), made)
    for name in shapes:
        np.testing.assert_allclose(parameters[name], training_golden[f"optimizer_{name}_after"], atol=1e-6)


def test_muon_turns_matrices_within_blocks_into_orthogonal_ones_of_adamw_s_size() -> None:
    random = np.random.default_rng(0)
    shapes = {
        "tower.blocks.0.mlp.up.kernel": (24, 96),
        "projection.kernel": (24, 12),
        "tower.blocks.0.bias": (96,),
    }
    gradients = {name: jnp.asarray(random.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    zeros = {name: jnp.zeros(shape) for name, shape in shapes.items()}

    def first(kind: Literal["adamw", "muon"]) -> dict[str, jax.Array]:
        transform = optimizer(OptimizerConfig(kind=kind, weight_decay=0.0))
        updates, _ = transform.update(gradients, transform.init(zeros), zeros)
        return updates

    adamw, muon = first("adamw"), first("muon")
    for name in ("projection.kernel", "tower.blocks.0.bias"):
        np.testing.assert_array_equal(muon[name], adamw[name])
    update = np.asarray(muon["tower.blocks.0.mlp.up.kernel"])
    # Five rounds of the quintic bring singular values near 1, not onto it (Jordan 2024).
    values = np.linalg.svd(update / (0.2 * 96**0.5), compute_uv=False)
    assert values.min() > 0.6
    assert values.max() < 1.3
    assert np.sqrt(np.mean(update**2)) == pytest.approx(0.2, rel=0.2)


def test_scales_slow_a_parameter_down() -> None:
    shapes: dict[str, tuple[int, ...]] = {"fast": (2,), "slow": (2,), "slow.lora_up": (2,)}
    made = Plan.of(ModelConfig(base="any", learning_rate_scales={"slow": 0.25}), shapes)
    ones = {name: jnp.ones(2) for name in shapes}
    moved = follow(ones, ones, jnp.float32(0.4), made)
    assert {name: round(float(value[0]), 6) for name, value in moved.items()} == {
        "fast": 0.6,
        "slow": 0.9,
        "slow.lora_up": 0.9,
    }
