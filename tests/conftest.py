"""What all tests share: no network, own folders, drawn pictures."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

os.environ["HF_HUB_OFFLINE"] = "1"
# The machine's own choice would make numbers depend on the processor that runs the tests.
os.environ["IMAGO_PRECISION"] = "float32"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache of compiled code for the whole run, never the user's."""
    cache = tmp_path_factory.mktemp("cache")
    os.environ["IMAGO_CACHE"] = str(cache)
    return cache


@pytest.fixture(autouse=True)
def own_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the default library at a folder of the test's own."""
    library = tmp_path / "library"
    monkeypatch.setenv("IMAGO_LIBRARY", str(library))
    return library


@pytest.fixture(scope="session")
def draw_picture() -> Callable[[int], Image.Image]:
    """Return a function that draws a picture all of its own for each seed: shapes on a gradient, 160x120."""

    def draw(seed: int) -> Image.Image:
        random = np.random.default_rng(seed)
        corners = random.integers(0, 256, (2, 2, 3), dtype=np.uint8)
        picture = Image.fromarray(corners).resize((160, 120), Image.Resampling.BICUBIC)
        pen = ImageDraw.Draw(picture)
        for _ in range(4):
            left, top = (int(value) for value in random.integers(0, 110, 2))
            width, height = (int(value) for value in random.integers(15, 60, 2))
            colour = tuple(int(value) for value in random.integers(0, 256, 3))
            shape = pen.ellipse if random.random() < 0.5 else pen.rectangle
            shape((left, top, left + width, top + height), fill=colour)
        return picture

    return draw


@pytest.fixture
def pictures(tmp_path: Path, draw_picture: Callable[[int], Image.Image]) -> Path:
    """A folder of six drawn pictures, `0.png` to `5.png`."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed in range(6):
        draw_picture(seed).save(folder / f"{seed}.png")
    return folder
