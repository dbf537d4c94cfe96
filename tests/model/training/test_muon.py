"""Muon: its iteration against the polynomial of the singular values, its momentum against optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
import pytest

from model.training.muon import orthogonal, scale_by_muon


@pytest.mark.parametrize("shape", [(12, 12), (12, 18), (18, 12), (12, 48), (48, 12)])
def test_five_iterations_are_a_polynomial_of_the_singular_values(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(0).normal(size=shape)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / np.linalg.norm(values)
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    found = orthogonal(jnp.asarray(matrix, jnp.float32))
    np.testing.assert_allclose(found, left * values @ right, atol=1e-5)


@pytest.mark.parametrize("shape", [(12, 18), (12, 48)])
def test_no_product_is_rounded_where_a_device_would_do_so_to_be_faster(shape: tuple[int, int]) -> None:
    lines = str(jax.make_jaxpr(orthogonal)(jnp.zeros(shape))).split("dot_general")[1:]
    assert len(lines) > 10
    assert all("Precision.HIGHEST" in line for line in lines)


def test_a_gradient_of_zero_changes_nothing() -> None:
    assert not np.asarray(orthogonal(jnp.zeros((4, 9)))).any()


def test_momentum_is_that_of_optax_once_its_beginning_is_forgotten() -> None:
    random = np.random.default_rng(1)
    every = {"matrix": optax.contrib.MuonDimensionNumbers()}
    ours, theirs = scale_by_muon(), optax.contrib.scale_by_muon(weight_dimension_numbers=every)
    zeros = {"matrix": jnp.zeros((6, 10))}
    ours_state, theirs_state = ours.init(zeros), theirs.init(zeros)
    step, their_step = jax.jit(ours.update), jax.jit(theirs.update)
    for _ in range(200):
        gradients = {"matrix": jnp.asarray(random.normal(size=(6, 10)), jnp.float32)}
        update, ours_state = step(gradients, ours_state)
        expected, theirs_state = their_step(gradients, theirs_state)
    np.testing.assert_allclose(update["matrix"], 0.2 * 10**0.5 * expected["matrix"], atol=1e-4)
