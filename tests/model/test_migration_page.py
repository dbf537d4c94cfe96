"""The page for people who come from Flax in Transformers says nothing that does not run."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import model
from model.registry import STARTER_FOLDER

PAGE = Path(__file__).resolve().parents[2] / "docs" / "migrate-from-flax-transformers.md"
EXAMPLES = re.findall(r"```python\n# Imago\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def names(tmp_path: Path) -> dict[str, Any]:
    """What the examples take as given, and what they leave."""
    random = np.random.default_rng(0)
    return {
        "jax": jax,
        "jnp": jnp,
        "nnx": nnx,
        "checkpoint": str(STARTER_FOLDER),
        "vision_checkpoint": str(STARTER_FOLDER),
        "text_checkpoint": str(STARTER_FOLDER),
        "folder": tmp_path / "trained",
        "input_ids": np.array([[2, 50, 60, 3], [2, 70, 80, 3]]),
        "attention_mask": np.ones((2, 4), dtype=np.int64),
        "pixel_values": random.standard_normal((2, 3, 70, 70)).astype(np.float32),
        "picture": Image.new("RGB", (80, 60), "red"),
    }


def test_comparing(names: dict[str, Any]) -> None:
    exec(EXAMPLES[0], names)
    np.testing.assert_allclose(names["probabilities"].sum(axis=1), 1, rtol=1e-6)
    assert names["features"].shape == (2, 192)


def test_training_two_towers(names: dict[str, Any]) -> None:
    with pytest.warns(model.UntrainedWeightsWarning):
        exec(EXAMPLES[1], names)
    assert np.isfinite(names["loss"])
    largest = [float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(names["gradients"])]
    assert max(largest) > 0
    again = model.VisionTextDualEncoderModel.from_pretrained(names["folder"])
    given = (names["input_ids"], names["pixel_values"])
    np.testing.assert_array_equal(again(*given).logits_per_text, names["model"](*given).logits_per_text)


def test_the_encoder(names: dict[str, Any]) -> None:
    exec(EXAMPLES[2], names)
    for vectors in (names["text_vectors"], names["image_vectors"]):
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)


def test_every_removed_class_has_a_replacement_that_is_there() -> None:
    table = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `Flax")]
    assert len(EXAMPLES) == 3
    assert len(table) == 7
    for line in table:
        for name in re.findall(r"`(\w+)`", line.split("|")[2]):
            assert name in model.__all__
