"""A model that sees colours and nothing else, and a real library of painted pictures made with it."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from indexer import index_folders
from model import ImagePreprocessor, ModelIdentity
from search import Library

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))  # for `filter_oracle`

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}
DIMENSION = 32


class ColourEncoder:
    """Embeds a picture as the share of each colour in it, and a text as the colours that it names.

    Colours lie on the first axes; words that are no colours point somewhere into the others.
    """

    def __init__(self, fingerprint: str = "colours") -> None:
        self.identity = ModelIdentity("colours", None, fingerprint, "none", DIMENSION)
        self.dimension = DIMENSION
        self.batch_size = 16
        self.logit_scale: float | None = None
        self.logit_bias: float | None = None
        self.preprocessor = ImagePreprocessor.from_config(
            {
                "do_resize": True,
                "size": {"shortest_edge": 16},
                "resample": 2,
                "do_center_crop": True,
                "crop_size": {"height": 16, "width": 16},
            }
        )
        self.texts_encoded = 0

    def encode_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        palette = np.asarray(list(COLOURS.values()), np.float32)
        flat = pixels.reshape(len(pixels), -1, 1, 3).astype(np.float32)
        near = np.exp(-((flat - palette) ** 2).sum(-1) / 6000)
        vectors = np.zeros((len(pixels), DIMENSION), np.float32)
        vectors[:, : len(COLOURS)] = near.mean(1)
        vectors[:, -1] = 0.05  # never all zero
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        if not images:
            return np.zeros((0, DIMENSION), np.float32)
        return self.encode_pixels(np.stack([self.preprocessor(image) for image in images]))

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.zeros((len(texts), DIMENSION), np.float32)
        self.texts_encoded += len(texts)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                if word in COLOURS:
                    vectors[row, list(COLOURS).index(word)] += 1
                else:
                    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4])
                    # A little of every colour, as with real models, and most of it elsewhere.
                    noise = np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)
                    noise[: len(COLOURS)] *= 0.5
                    noise[-1] = 0
                    vectors[row] += 0.1 * noise
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def paint(colours: Sequence[str], size: tuple[int, int] = (64, 64), shade: int = 0) -> Image.Image:
    """Horizontal stripes of equal height, a little darker or lighter by `shade`."""
    width, height = size
    picture = Image.new("RGB", size)
    for i, colour in enumerate(colours):
        value = tuple(min(255, max(0, part + (shade if part < 128 else -shade))) for part in COLOURS[colour])
        picture.paste(value, (0, i * height // len(colours), width, (i + 1) * height // len(colours)))
    return picture


@dataclass(frozen=True)
class Painted:
    """A library and where its pictures lie."""

    path: Path
    photos: Path


@pytest.fixture
def colours() -> ColourEncoder:
    return ColourEncoder()


@pytest.fixture(scope="session")
def colours_once() -> ColourEncoder:
    """The same for fixtures that live longer than a test."""
    return ColourEncoder()


@pytest.fixture(scope="session")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Painted:
    """Ten shades of each of six colours, stripes of two colours, and one exact copy."""
    base = tmp_path_factory.mktemp("painted")
    photos = base / "photos"
    for name in COLOURS:
        (photos / name).mkdir(parents=True)
        for i in range(10):
            paint([name], shade=10 * i).save(photos / name / f"{name}{i}.png")
    (photos / "two").mkdir()
    for first, second in [("red", "blue"), ("red", "green"), ("yellow", "black")]:
        paint([first, second], size=(96, 64)).save(photos / "two" / f"{first}-{second}.png")
    (photos / "two" / "copy.png").write_bytes((photos / "red" / "red0.png").read_bytes())
    index_folders(base / "library", [photos], ColourEncoder(), workers=1)
    return Painted(base / "library", photos)


@pytest.fixture
def library(painted: Painted, colours: ColourEncoder) -> Iterator[Library]:
    with Library.open(painted.path, encoder=colours) as opened:
        yield opened
