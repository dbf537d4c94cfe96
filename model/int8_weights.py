"""Weights rounded to 8-bit integers, with NumPy alone: for `model.int8`, and for `model.replay` to do it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

LARGEST_INTEGER = 127

# Of the values of a row that are all smaller, or zero, the steps would be zero.
SMALLEST_LARGEST = float(np.finfo(np.float32).tiny) * LARGEST_INTEGER


def quantized(kernel: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Rounds a matrix to integers.

    Args:
        kernel: Float (in, out).

    Returns:
        int8 (out, in), in which order XLA's CPU back end multiplies faster, and the steps, float32 (out,): a column
        is about its integers times its step.
    """
    rows = np.asarray(kernel, dtype=np.float32).T
    steps = np.maximum(np.abs(rows).max(axis=1), SMALLEST_LARGEST) / np.float32(LARGEST_INTEGER)
    return np.ascontiguousarray(np.rint(rows / steps[:, None]).astype(np.int8)), steps
