"""Products of unsigned with signed 8-bit integers, as they are.

JAX has them on a CPU too, but widens both operands to int32 first, which is slower than float32. XLA itself multiplies
them with what a processor has for it: AVX-512 VNNI has no other instruction for bytes.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.extend.core import Primitive
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo
from jax.interpreters import mlir

_mixed_product = Primitive("mixed_product")


@jax.jit
def mixed_product(left: jax.Array, right: jax.Array) -> jax.Array:
    """Multiply uint8 (..., in) with int8 (out, in): int32 (..., out), exact."""
    product: jax.Array = _mixed_product.bind(left, right)  # type: ignore[no-untyped-call]
    return product


def _shape(left: jax.core.ShapedArray, right: jax.core.ShapedArray) -> jax.core.ShapedArray:
    return jax.core.ShapedArray((*left.shape[:-1], right.shape[0]), np.dtype(np.int32))


def _lower(
    context: mlir.LoweringRuleContext, left: ir.Value[Any], right: ir.Value[Any]
) -> list[ir.Value[Any]]:
    (outputs,) = context.avals_out
    dimensions = stablehlo.DotDimensionNumbers.get(
        lhs_batching_dimensions=[],
        rhs_batching_dimensions=[],
        lhs_contracting_dimensions=[outputs.ndim - 1],
        rhs_contracting_dimensions=[1],
    )
    shape = ir.RankedTensorType.get(outputs.shape, ir.IntegerType.get_signless(32))
    return [stablehlo.dot_general(shape, left, right, dimensions)]


_mixed_product.def_abstract_eval(_shape)  # type: ignore[no-untyped-call]
mlir.register_lowering(_mixed_product, _lower)
