"""What a tower keeps in memory."""

import gc
from pathlib import Path

import jax
import numpy as np
import pytest

from model.encoder import Encoder


def test_of_matrices_only_the_narrow_copies_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGO_CACHE", str(tmp_path))
    before = {id(array) for array in jax.live_arrays()}
    encoder = Encoder.load("starter", precision="bfloat16")
    encoder.encode_texts(["dog"])
    encoder.encode_pixels(np.zeros((1, 60, 60, 3), np.uint8))
    gc.collect()
    # By the memory itself: JAX lists some arrays twice.
    new = {array.unsafe_buffer_pointer(): array for array in jax.live_arrays() if id(array) not in before}
    kept_bytes = {
        dtype: sum(array.nbytes for array in new.values() if array.ndim > 1 and array.dtype == dtype)
        for dtype in ("bfloat16", "float32")
    }
    # What stays in float32 are the tables of tokens and positions.
    assert kept_bytes["bfloat16"] > 6e6
    assert kept_bytes["float32"] < 0.5 * kept_bytes["bfloat16"]
