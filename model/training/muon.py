"""Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon/): momentum, made orthogonal.

optax has it too (`optax.contrib.scale_by_muon`). There every matrix passes through batched products with a batch of one
and is multiplied out in each iteration, which takes a CPU about twice as long.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]

_MOMENTUM = 0.95

# The quintic iteration of Jordan (2024): steep at zero rather than exact, singular values end between 0.7 and 1.2.
_LINEAR, _CUBIC, _QUINTIC = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5


def scale_by_muon() -> optax.GradientTransformation:
    """Updates of matrices, as large as AdamW's usually are.

    An orthogonal matrix has entries of root mean square max(shape)^-0.5, AdamW's updates one of about 0.2 (Liu et al.
    2025, https://arxiv.org/abs/2502.16982).

    Returns:
        A transformation of gradients whose leaves are all float32 matrices.
    """

    def like_adam(updates: optax.Updates, _: optax.Params) -> optax.Updates:
        return jax.tree.map(lambda update: 0.2 * max(update.shape) ** 0.5 * orthogonal(update), updates)

    return optax.chain(optax.trace(_MOMENTUM, nesterov=True), optax.stateless(like_adam))


def orthogonal(matrix: jax.Array) -> jax.Array:
    """The nearest orthogonal matrix, roughly: the same singular vectors, all singular values near 1.

    Each Newton-Schulz iteration multiplies the matrix X from the left by a polynomial of X Xᵀ. Those polynomials
    commute, so X Xᵀ can be iterated alone and X be multiplied once, at the end; from twice as long as wide that is less
    work.

    Args:
        matrix: float32 (rows, columns).

    Returns:
        float32 (rows, columns).
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.T).T
    short, long = matrix.shape
    matrix = matrix / (jnp.linalg.norm(matrix) + 1e-8)
    if long < 2 * short:
        for _ in range(_ITERATIONS):
            matrix = _product(_factor(_product(matrix, matrix.T)), matrix)
        return matrix
    squared = _product(matrix, matrix.T)
    product = factor = _factor(squared)
    for _ in range(_ITERATIONS - 1):
        squared = _product(_product(factor, squared), factor)
        factor = _factor(squared)
        product = _product(factor, product)
    return _product(product, matrix)


def _factor(squared: jax.Array) -> jax.Array:
    """What an iteration multiplies by: float32 (short, short), of X Xᵀ."""
    return _LINEAR * jnp.eye(len(squared)) + _CUBIC * squared + _QUINTIC * _product(squared, squared)


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    # In full: accelerators round operands to fewer bits unless told otherwise, and X Xᵀ, iterated alone, may then get
    # eigenvalues below zero, which grow with every iteration.
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
