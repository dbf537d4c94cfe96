"""Weights rounded to 8-bit integers, with NumPy alone: for `model.int8`, and for `model.replay` to do it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

LARGEST_INTEGER = 127

# Of the values of a row that are all smaller, or zero, the steps would be zero.
SMALLEST_LARGEST = float(np.finfo(np.float32).tiny) * LARGEST_INTEGER

# What is computed on the way then stays in a core's cache.
_ROWS_AT_A_TIME = 64


def steps_of(kernel: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Returns the step of each output of a matrix, float (in, out): float32 (out,)."""
    rows = np.asarray(kernel, dtype=np.float32).T
    largest = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    steps: npt.NDArray[np.float32] = np.maximum(largest, np.float32(SMALLEST_LARGEST)) / np.float32(
        LARGEST_INTEGER
    )
    return steps


def quantized(kernel: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """Rounds a matrix to integers, of which its columns are about so many steps.

    Args:
        kernel: Float (in, out).

    Returns:
        int8 (out, in), in which order XLA's CPU back end multiplies faster.
    """
    rows = np.asarray(kernel, dtype=np.float32).T
    steps = steps_of(kernel)[:, None]
    integers = np.empty(rows.shape, np.int8)
    for start in range(0, len(rows), _ROWS_AT_A_TIME):
        some = slice(start, start + _ROWS_AT_A_TIME)
        scaled = rows[some] / steps[some]
        integers[some] = np.rint(scaled, out=scaled)
    return integers
