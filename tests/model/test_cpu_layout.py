"""Where a CPU wants the matrices of a tower: the numbers stay those that they were."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model import cpu_layout
from model.clip import CLIPVisionConfig, CLIPVisionModelWithProjection
from model.cpu_layout import DividedMlp, TurnedLinear, divide_mlps, turn_kernels, whole_path
from model.layers import BlockSettings, Build, Linear, Mlp

BUILD = Build.of(nnx.Rngs(0), jnp.float32, jnp.float32)


def random_like(module: nnx.Module, seed: int) -> None:
    """Give every parameter, biases too, values that cannot be mistaken for another's."""
    state = nnx.state(module)
    random = np.random.default_rng(seed)
    nnx.update(
        module,
        jax.tree.map(lambda leaf: jnp.asarray(0.1 * random.standard_normal(leaf.shape), leaf.dtype), state),
    )


def make_mlp(width: int, inner_width: int) -> Mlp:
    mlp = Mlp(BlockSettings(width, 2, inner_width, "quick_gelu", 1e-5), BUILD)
    random_like(mlp, 0)
    return mlp


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_the_pieces_add_up_to_the_whole(count: int) -> None:
    mlp = make_mlp(8, 24)
    hidden = jnp.asarray(np.random.default_rng(1).standard_normal((2, 5, 8)).astype(np.float32))
    divided = DividedMlp(mlp, count)
    assert [piece.up.kernel.shape for piece in divided.pieces] == [(8, 24 // count)] * count
    np.testing.assert_allclose(divided(hidden), mlp(hidden), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("width", "inner_width", "count"),
    [(768, 3072, 2), (1152, 4304, 2), (1024, 2730, 2), (768, 1536, 1), (512, 2187, 3), (1000, 4001, 1)],
)
def test_pieces_are_equal_few_and_no_wider_than_twice_the_hidden_states(
    width: int, inner_width: int, count: int
) -> None:
    assert cpu_layout._count(width, inner_width) == count


def make_tower() -> CLIPVisionModelWithProjection:
    settings: dict[str, Any] = {
        "image_size": 16,
        "patch_size": 8,
        "hidden_size": 16,
        "num_attention_heads": 2,
    }
    config = CLIPVisionConfig.from_dict(settings | {"intermediate_size": 64, "num_hidden_layers": 2})
    tower = CLIPVisionModelWithProjection(config, rngs=nnx.Rngs(0))
    random_like(tower, 2)
    return tower


def test_a_tower_laid_out_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_layout, "_LEAST_WIDTH", 64)
    tower = make_tower()
    pixels = np.random.default_rng(3).standard_normal((3, 3, 16, 16)).astype(np.float32)
    expected = tower(pixels).image_embeds
    divide_mlps(tower)
    turn_kernels(tower)
    assert [type(block.mlp) for block in tower.vision_model.blocks] == [DividedMlp] * 2
    assert not [module for _, module in nnx.iter_modules(tower) if isinstance(module, Linear)]
    assert tower.vision_model.blocks[0].mlp.pieces[0].up.kernel.shape == (32, 16)
    assert isinstance(tower.visual_projection, TurnedLinear)
    np.testing.assert_allclose(tower(pixels).image_embeds, expected, rtol=1e-4, atol=1e-6)


def test_narrow_mlps_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_layout, "_LEAST_WIDTH", 65)
    tower = make_tower()
    divide_mlps(tower)
    assert [type(block.mlp) for block in tower.vision_model.blocks] == [Mlp] * 2


def test_the_paths_of_pieces_lead_to_the_parameters_that_they_are_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_layout, "_LEAST_WIDTH", 64)
    tower = make_tower()
    before = set(nnx.to_flat_state(nnx.state(tower)).paths)
    divide_mlps(tower)
    after = [whole_path(path) for path in nnx.to_flat_state(nnx.state(tower)).paths]
    assert {path for path, _ in after} == before
    of_one = [piece for path, piece in after if path[-4:] == (1, "mlp", "up", "kernel")]
    assert of_one == [0, 1]
