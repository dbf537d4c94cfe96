"""Losses against PyTorch's, and on several devices."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.contrast import contrastive_loss
from model.training.losses import Pairs, sigmoid_loss, softmax_loss
from model.training.step import unit

Arrays = dict[str, np.ndarray]
MakePairs = Callable[[np.ndarray], Pairs]


@pytest.fixture(autouse=True)
def strict_jax() -> Iterator[None]:
    """No silent change of dtype and no silent broadcasting: the losses are all ours."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="module")
def embeds() -> tuple[jax.Array, jax.Array]:
    images, texts = jax.random.normal(jax.random.key(0), (2, 6, 5))
    return unit(images), unit(texts)


def test_relations_say_what_fits_and_what_nobody_knows(pairs_of: MakePairs, training_golden: Arrays) -> None:
    np.testing.assert_array_equal(pairs_of(training_golden["fits"]).fits(), training_golden["fits"])


def test_softmax_loss_of_pairs_alone_is_clip_s(
    pairs_of: MakePairs, embeds: tuple[jax.Array, jax.Array]
) -> None:
    images, texts = embeds
    loss = softmax_loss(images, texts, jnp.float32(5), pairs_of(2 * np.eye(6, dtype=int) - 1))
    assert float(loss) == pytest.approx(float(contrastive_loss(5 * texts @ images.T)), rel=1e-6)


def test_sigmoid_loss_and_gradients_are_pytorch_s(pairs_of: MakePairs, training_golden: Arrays) -> None:
    names = ("images", "texts", "scale", "bias")
    given = [jnp.asarray(training_golden[f"sigmoid_{name}"]) for name in names]
    pairs = pairs_of(training_golden["fits"])

    def loss_of(images: jax.Array, texts: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        return sigmoid_loss(unit(images), unit(texts), scale, bias, pairs)

    loss, gradients = jax.value_and_grad(loss_of, argnums=(0, 1, 2, 3))(*given)
    np.testing.assert_allclose(loss, training_golden["sigmoid_loss"], rtol=1e-5)
    for name, gradient in zip(names, gradients, strict=True):
        np.testing.assert_allclose(
            gradient, training_golden[f"sigmoid_{name}_gradient"], atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_pairs_that_nobody_knows_count_for_nothing(
    pairs_of: MakePairs, kind: str, embeds: tuple[jax.Array, jax.Array]
) -> None:
    images, texts = embeds
    fits = 2 * np.eye(6, dtype=int) - 1
    fits[2, 4] = 0

    def loss_of(moved: jax.Array) -> jax.Array:
        scale, pairs = jnp.float32(3), pairs_of(fits)
        if kind == "softmax":
            return softmax_loss(images, moved, scale, pairs)
        return sigmoid_loss(images, moved, scale, jnp.float32(-1), pairs)

    # Where all but image 2 stand at the origin, text 4 can learn from the unknown pair alone.
    images = images.at[jnp.array([0, 1, 3, 4, 5])].set(0.0)
    gradient = jax.grad(loss_of)(texts)
    assert np.abs(gradient[4]).max() == 0
    assert np.abs(gradient[3]).max() > 1e-3
    assert np.isfinite(gradient).all()


TWO_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from model.training.losses import Pairs, sigmoid_loss, softmax_loss
from model.training.step import unit
assert jax.device_count() == 2
images, texts = (unit(array) for array in jax.random.normal(jax.random.key(1), (2, 8, 5)))
numbers = np.random.default_rng(0).integers(0, 5, (8, 3)).astype(np.int32)
terms = np.concatenate([numbers, numbers[:, :1]], axis=1)
pairs = Pairs(*map(jnp.asarray, (terms, numbers[:, :2], numbers[:, 0], numbers[:, 1:])))
assert {-1, 0, 1} == set(np.unique(pairs.fits()).tolist())
mesh = Mesh(np.asarray(jax.devices()), ("batch",))
divided = NamedSharding(mesh, PartitionSpec("batch"))
shared = jax.device_put((images, texts, pairs), divided)
scale, bias = jnp.float32(4), jnp.float32(-2)
for name, alone, together in (
    ("softmax", lambda i, t, p: softmax_loss(i, t, scale, p), lambda i, t, p: softmax_loss(i, t, scale, p)),
    ("sigmoid", lambda i, t, p: sigmoid_loss(i, t, scale, bias, p),
     lambda i, t, p: sigmoid_loss(i, t, scale, bias, p, mesh=mesh)),
):
    one = jax.jit(jax.value_and_grad(alone, argnums=(0, 1)))(images, texts, pairs)
    two = jax.jit(jax.value_and_grad(together, argnums=(0, 1)))(*shared)
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6, err_msg=name)
    if name == "sigmoid":
        text = jax.jit(together).lower(*shared).compile().as_text()
        assert "collective-permute" in text and "all-gather" not in text
print("same")
"""


def test_losses_are_the_same_divided_over_two_devices(two_devices: Callable[[str], str]) -> None:
    assert two_devices(TWO_DEVICES).splitlines()[-1] == "same"
