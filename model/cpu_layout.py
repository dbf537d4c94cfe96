"""How the matrices of a tower lie while a CPU computes with them: the same numbers, other places.

Wide MLPs are computed in pieces of their inner width, so that what a piece computes in between stays in a core's cache.
A piece is some columns of the first matrix and the rows of the second that belong to them; what the pieces give adds up
to what the whole gives.

Matrices of half precision lie as in most checkpoints, a row for each output: XLA's products of bfloat16 are up to twice
as fast so. Of float32 some are faster and others slower.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from model.layers import Build, Linear, Mlp, along_last, joined_heads
from model.products import product

Path: TypeAlias = tuple[Any, ...]

# Narrower ones stay in the cache as they are.
_LEAST_WIDTH = 2048

_PIECES = "pieces"


class MlpPiece(Mlp):
    """Some of the inner width of an `Mlp`; gives what that adds to the whole's outputs."""

    def __init__(self, mlp: Mlp, index: int, count: int) -> None:
        self.up = _part(mlp.up, index, count, axis=1)
        self.down = _part(mlp.down, index, count, axis=0)
        self.activation = mlp.activation


class DividedMlp(nnx.Module):
    """An `Mlp` in pieces."""

    def __init__(self, mlp: Mlp, count: int) -> None:
        """Take the parameters of `mlp`, whose inner width must be divisible by `count`."""
        self.pieces = nnx.List([MlpPiece(mlp, index, count) for index in range(count)])

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Float32 (..., width) to the same."""
        total, *others = (piece(hidden) for piece in self.pieces)
        for other in others:
            total = total + other
        return total


def divide_mlps(model: nnx.Module) -> None:
    """Divide the wide ones among the MLPs of a tower, into pieces no wider than twice its hidden states."""
    for _, module in list(nnx.iter_modules(model)):
        for name, part in list(vars(module).items()):
            if isinstance(part, Mlp):
                width, inner_width = part.up.kernel.shape
                count = _count(width, inner_width) if inner_width >= _LEAST_WIDTH else 1
                if count > 1:
                    setattr(module, name, DividedMlp(part, count))


class TurnedLinear(nnx.Module):
    """A `Linear` whose kernel is (out, in)."""

    def __init__(self, linear: Linear) -> None:
        self.kernel = nnx.Param(linear.kernel[...].T)
        self.bias = linear.bias
        self.dtype = linear.dtype

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Float (..., in) to float32 (..., out)."""
        axes = "abcdefgh"[: inputs.ndim - 1]
        outputs = product(f"{axes}y,zy->{axes}z", inputs, self.kernel[...], self.dtype)
        return outputs if self.bias is None else outputs + along_last(self.bias[...], outputs)

    def of_heads(self, inputs: jax.Array) -> jax.Array:
        """As `Linear.of_heads`."""
        return self(joined_heads(inputs))


def turn_kernels(model: nnx.Module) -> None:
    """Make each `Linear` of a tower a `TurnedLinear`."""
    for _, module in list(nnx.iter_modules(model)):
        for name, part in list(vars(module).items()):
            if type(part) is Linear:
                setattr(module, name, TurnedLinear(part))


def whole_path(path: Path) -> tuple[Path, int | None]:
    """Give the path that a parameter had before `divide_mlps`, and which piece of that parameter it is, if one."""
    if _PIECES not in path:
        return path, None
    place = path.index(_PIECES)
    return path[:place] + path[place + 2 :], path[place + 1]


def _count(width: int, inner_width: int) -> int:
    """Into how many pieces to divide; each has products of its own to prepare at a start, so not into many."""
    least = -(-inner_width // (2 * width))
    return next((count for count in range(least, 2 * least + 1) if inner_width % count == 0), 1)


def _part(linear: Linear, index: int, count: int, axis: int) -> Linear:
    """Of the outputs (axis 1) or of the inputs (axis 0), which share one bias: the first piece adds it."""
    kernel = _slice(linear.kernel[...], index, count, axis)
    bias = linear.bias if axis == 1 or index == 0 else None
    build = Build(None, linear.dtype, jnp.dtype(kernel.dtype))
    part = Linear(kernel.shape[0], kernel.shape[1], build, use_bias=bias is not None)
    part.kernel = nnx.Param(kernel)
    if bias is not None:
        part.bias = nnx.Param(_slice(bias[...], index, count, 0) if axis == 1 else bias[...])
    return part


def _slice(array: jax.Array, index: int, count: int, axis: int) -> jax.Array:
    length = array.shape[axis] // count
    return jax.lax.slice_in_dim(array, index * length, (index + 1) * length, axis=axis)
