"""What the tests of models share: strict JAX, and the goldens of tests/reference."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

REFERENCE = Path(__file__).resolve().parent.parent / "reference"


@pytest.fixture(autouse=True)
def strict_jax() -> Iterator[None]:
    """No silent change of dtype and no silent broadcasting in our own code."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """Compile without XLA's optimisations, in half the time: for modules with many programs that run once."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def full_compilation(quick_compilation: None) -> Iterator[None]:
    """Compile as users do, in a module that else does not."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@dataclass(frozen=True)
class Golden:
    """A checkpoint with the inputs that it was given and what Transformers answered."""

    folder: Path
    arrays: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def check(self, actual: Any, name: str, tolerance: float = 1e-5) -> None:
        """Compare an array, or a tuple of arrays with the expected stack of them."""
        expected = self.arrays[name]
        if isinstance(actual, tuple):
            assert len(actual) == len(expected), name
            actual = np.stack([np.asarray(array) for array in actual])
        actual = np.asarray(actual)
        assert actual.dtype == np.float32, name
        assert actual.shape == expected.shape, name
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance, err_msg=name)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Golden]:
    """Return a function that reads the golden of a name; it fails where there is none."""

    def read(name: str) -> Golden:
        folder = REFERENCE / name
        with np.load(folder / "expected.npz") as arrays:
            return Golden(folder, dict(arrays))

    return read


@pytest.fixture(scope="session")
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs Python code in a process of its own."""

    def run(code: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code],
            input=stdin,
            env={
                **os.environ,
                "PYTHONPATH": str(REFERENCE.parent.parent),
                "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    return run
