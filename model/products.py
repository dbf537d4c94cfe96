"""Matrix products whose operands are rounded to a dtype, with gradients that are rounded alike.

Products always give float32, sums and all: on a CPU with AMX that is also the fast way. With float32 operands they are
made at full precision, which JAX's default is not on every back end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def product(subscripts: str, left: jax.Array, right: jax.Array, dtype: np.dtype[Any]) -> jax.Array:
    """Every matrix product of every model goes through here.

    Args:
        subscripts: an einsum of two operands, every axis named, none summed away within one operand.
        left: any float dtype.
        right: any float dtype.
        dtype: both operands are rounded to it first. So are gradients on their way back, which reach the operands in
            the operands' own dtype, not rounded again.

    Returns:
        float32.
    """
    if dtype == jnp.float32:
        return _einsum(subscripts, left, right, dtype, jax.lax.Precision.HIGHEST)
    return _rounded_product(_Rounding(subscripts, dtype, left.dtype, right.dtype), left, right)


def _einsum(
    subscripts: str,
    left: jax.Array,
    right: jax.Array,
    dtype: np.dtype[Any],
    precision: jax.lax.Precision = jax.lax.Precision.DEFAULT,
) -> jax.Array:
    return jnp.einsum(
        subscripts,
        left.astype(dtype),
        right.astype(dtype),
        precision=precision,
        preferred_element_type=jnp.float32,
    )


@dataclass(frozen=True)
class _Rounding:
    """A product in half precision, and the dtypes that its operands come in and their gradients go back in."""

    subscripts: str
    dtype: np.dtype[Any]
    left_dtype: np.dtype[Any]
    right_dtype: np.dtype[Any]


# JAX's own rule would multiply float32 gradients with half operands, at which no processor is fast, and
# round the gradients of float32 weights to half.
@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rounded_product(how: _Rounding, left: jax.Array, right: jax.Array) -> jax.Array:
    return _einsum(how.subscripts, left, right, how.dtype)


def _rounded_product_forward(
    how: _Rounding, left: jax.Array, right: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    operands = (left.astype(how.dtype), right.astype(how.dtype))
    return _einsum(how.subscripts, *operands, how.dtype), operands


def _rounded_product_backward(
    how: _Rounding, operands: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    inputs, output = how.subscripts.split("->")
    first, second = inputs.split(",")
    left, right = operands
    gradient = gradient.astype(how.dtype)
    # Of products with axes that all three arrays have, XLA's CPU back end lacks some transposed forms in half
    # (jaxlib 0.10: "Unsupported element type for DotThunk"). They are attention's, a small part of the work.
    einsum = _einsum_as_the_platform_can if set(output) & set(first) & set(second) else _einsum
    of_left = einsum(f"{output},{second}->{first}", gradient, right, how.dtype)
    of_right = einsum(f"{first},{output}->{second}", left, gradient, how.dtype)
    return of_left.astype(how.left_dtype), of_right.astype(how.right_dtype)


def _einsum_as_the_platform_can(
    subscripts: str, left: jax.Array, right: jax.Array, dtype: np.dtype[Any]
) -> jax.Array:
    """The product of half operands, on a CPU by way of float32, which gives the same numbers."""
    product_of_them: jax.Array = jax.lax.platform_dependent(
        left,
        right,
        cpu=lambda left, right: _einsum(subscripts, left, right, np.dtype(np.float32)),
        default=lambda left, right: _einsum(subscripts, left, right, dtype),
    )
    return product_of_them


_rounded_product.defvjp(_rounded_product_forward, _rounded_product_backward)
