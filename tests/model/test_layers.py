"""The blocks of all families, and the shortcut to the one token that a tower is pooled at."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model import Dinov2Config
from model.bert import PostNormBlock
from model.dinov2 import Dinov2Block
from model.layers import (
    ACTIVATIONS,
    LEAST_VALUES,
    BlockSettings,
    Build,
    PreNormBlock,
    attention_pattern,
    run_blocks,
    tokens_at,
)
from model.open_clip import ScaledBlock

WIDTH, TOKENS = 32, 7


def settings(**more: Any) -> BlockSettings:
    # Weights large enough that the blocks do something.
    large = dict.fromkeys(("in_deviation", "out_deviation", "up_deviation", "down_deviation"), 0.2)
    return BlockSettings(
        width=WIDTH, heads=4, mlp_width=64, activation="gelu", epsilon=1e-5, **(large | more)
    )


def build(seed: int) -> Build:
    return Build.of(nnx.Rngs(seed), jnp.float32, jnp.float32)


MAKERS: dict[str, Callable[[int], Any]] = {
    "pre-norm": lambda seed: PreNormBlock(settings(), build(seed)),
    "post-norm": lambda seed: PostNormBlock(settings(), build(seed)),
    "scaled": lambda seed: ScaledBlock(settings(), 0.7, build(seed)),
    "dinov2": lambda seed: Dinov2Block(
        Dinov2Config(hidden_size=WIDTH, num_attention_heads=4, layerscale_value=0.7), build(seed)
    ),
}


@pytest.fixture(params=MAKERS)
def blocks(request: pytest.FixtureRequest) -> list[Any]:
    return [MAKERS[request.param](seed) for seed in range(2)]


def hidden_states() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (3, TOKENS, WIDTH))


@pytest.mark.parametrize("places", [0, -1, [6, 0, 3]])
@pytest.mark.parametrize("is_causal", [True, False])
def test_the_pooled_token_is_that_of_the_last_states(
    blocks: list[Any], places: int | list[int], is_causal: bool
) -> None:
    at = places if isinstance(places, int) else jnp.asarray(places)
    mask = np.ones((3, TOKENS), bool)
    mask[1, 4:] = False
    pattern = attention_pattern(TOKENS, jnp.asarray(mask), causal=is_causal)
    passed = run_blocks(blocks, hidden_states(), pattern, pooled_at=at)
    expected = np.asarray(passed.last)[np.arange(3), places]
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(passed.pooled, expected, rtol=0, atol=5e-6)


def test_the_pooled_token_of_no_blocks_is_that_which_went_in() -> None:
    hidden = hidden_states()
    np.testing.assert_array_equal(run_blocks([], hidden, pooled_at=2).pooled, hidden[:, 2])


def test_who_wants_the_pooled_token_alone_does_not_pay_for_the_others(blocks: list[Any]) -> None:
    graph, state = nnx.split(nnx.List(blocks))

    def operations(want: Callable[[Any], jax.Array]) -> float:
        def function(state: nnx.State, hidden: jax.Array) -> jax.Array:
            return want(run_blocks(nnx.merge(graph, state), hidden))

        compiled = jax.jit(function).lower(state, hidden_states()).compile()
        return float(compiled.cost_analysis()["flops"])

    whole, pooled = operations(lambda passed: passed.last), operations(lambda passed: passed.pooled)
    # Keys and values of all tokens, a sixth of a block's products, and a seventh of the rest.
    assert pooled < 0.75 * whole


def test_where_numbers_are_drawn_both_see_the_same_ones() -> None:
    made = [PreNormBlock(settings(hidden_dropout=0.5), build(seed)) for seed in range(2)]
    passed = run_blocks(made, hidden_states(), pooled_at=-1, rngs=nnx.Rngs(dropout=3))
    np.testing.assert_array_equal(passed.pooled, passed.last[:, -1])
    assert not np.allclose(passed.last, run_blocks(made, hidden_states()).last)


def test_a_token_of_each_sequence() -> None:
    hidden = hidden_states()
    assert tokens_at(hidden, None) is hidden
    np.testing.assert_array_equal(tokens_at(hidden, -2), hidden[:, [5]])
    np.testing.assert_array_equal(
        tokens_at(hidden, jnp.asarray([1, 2, 0]))[:, 0], hidden[[0, 1, 2], [1, 2, 0]]
    )


def test_activations_give_nothing_less_than_is_said() -> None:
    assert LEAST_VALUES.keys() == ACTIVATIONS.keys()
    inputs = jnp.linspace(-30.0, 30.0, 600_001)
    for name, least in LEAST_VALUES.items():
        found = float(ACTIVATIONS[name](inputs).min())
        assert least <= found < least + 2e-4, name
