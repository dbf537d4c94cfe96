"""What the tests of training share: data drawn on the spot, and the smallest models that can learn it."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from model.training import TrainingConfig, config_from_dict
from model.training.losses import Pairs

REFERENCE = Path(__file__).resolve().parent.parent.parent / "reference"

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 190, 40),
    "blue": (30, 50, 220),
    "yellow": (230, 220, 40),
}

TINY = {
    "model_type": "clip",
    "projection_dim": 16,
    "text_config": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
    },
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    },
}


def noisy(colour: tuple[int, int, int], seed: int) -> Image.Image:
    """A 24x24 picture of one colour, with noise."""
    noise = np.random.default_rng(seed).normal(0, 12, (24, 24, 3))
    return Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8))


def flag(upper: str, lower: str) -> Image.Image:
    """A 24x24 picture of two bands."""
    pixels = np.zeros((24, 24, 3), np.uint8)
    pixels[:12], pixels[12:] = COLOURS[upper], COLOURS[lower]
    return Image.fromarray(pixels)


@pytest.fixture(scope="session")
def class_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four class folders of ten pictures each."""
    root = tmp_path_factory.mktemp("classes")
    for number, (name, colour) in enumerate(COLOURS.items()):
        (root / name).mkdir()
        for index in range(10):
            noisy(colour, 100 * number + index).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def flags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of twelve pictures, each with a caption that fits no other, and a captions file."""
    root = tmp_path_factory.mktemp("flags")
    lines = ["file\tcaption"]
    for upper in COLOURS:
        for lower in COLOURS:
            if upper != lower:
                flag(upper, lower).save(root / f"{upper}-{lower}.png")
                lines.append(f"{upper}-{lower}.png\ta flag with {upper} above and {lower} below")
    (root / "captions.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def make_settings(class_folders: Path) -> Callable[..., TrainingConfig]:
    """Return a function that makes a run's configuration; each argument is a table that replaces some defaults."""

    def make(**tables: Any) -> TrainingConfig:
        values: dict[str, Any] = {
            "data": [{"path": str(class_folders)}],
            "model": {"dtype": "float32", "new": {"vocabulary_size": 300, "configuration": TINY}},
            "text": {"length": 16, "vocabulary": ""},
            "schedule": {
                "batch_size": 8,
                "steps": 6,
                "log_every": 1,
                "checkpoint_every": 100,
                "validate_every": 100,
            },
            "optimizer": {"learning_rate": 3e-3, "warmup": 0.2, "ema": 0.9, "weight_decay": 0.0},
            "validation": {"share": 0.2},
            "workers": 2,
        }
        for name, table in tables.items():
            is_table = isinstance(table, dict) and name != "model"
            values[name] = values.get(name, {}) | table if is_table else table
        return config_from_dict(values)

    return make


@pytest.fixture(scope="module", autouse=True)
def quick_compiler() -> Iterator[None]:
    """Compile without optimising: these models run for milliseconds, and would compile for half a minute."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def copy_tree(tmp_path: Path) -> Callable[[Path], Path]:
    """Return a function that copies a folder to where the test may change it."""

    def copy(source: Path) -> Path:
        return Path(shutil.copytree(source, tmp_path / "copy"))

    return copy


@pytest.fixture(scope="session")
def training_golden() -> dict[str, np.ndarray]:
    """What tests/reference/make_training.py stored."""
    with np.load(REFERENCE / "training.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def two_devices(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[[str], str]:
    """Return a function that runs code where JAX sees two devices, and gives what it printed."""

    def run(code: str) -> str:
        done = run_python(
            code,
            XLA_FLAGS="--xla_force_host_platform_device_count=2",
            JAX_PLATFORMS="cpu",
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


@pytest.fixture(autouse=True)
def strict_jax() -> Iterator[None]:
    """No silent broadcasting; optax, which is not ours, mixes dtypes, so those cannot be strict here."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="session")
def pairs_of() -> Callable[[np.ndarray], Pairs]:
    """Return a function that makes relations of a matrix of +1, -1 and 0 (images, texts)."""

    def make(fits: np.ndarray) -> Pairs:
        # Each text is a term of its own, which images list.
        count = len(fits)
        terms = np.full((count, count), -1, np.int32)
        names = np.full((count, 2), -1, np.int32)
        broader = np.full((count, 3), -2, np.int32)
        for image, text in zip(*np.nonzero(fits == 1), strict=True):
            terms[image, text] = text
        for image, text in zip(*np.nonzero(fits == 0), strict=True):
            names[image, 1] = 100 + image
            broader[text, 2] = 100 + image
        return Pairs(
            jnp.asarray(terms), jnp.asarray(names), jnp.arange(count, dtype=jnp.int32), jnp.asarray(broader)
        )

    return make


@pytest.fixture(scope="session")
def reference_folder() -> Path:
    """Where goldens lie."""
    return REFERENCE
