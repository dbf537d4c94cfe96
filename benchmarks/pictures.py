"""Pictures to measure with, made once in a folder."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

_COPIES = 4


def drawn(folder: Path, count: int) -> Path:
    """Pictures of 500x375 pixels with detail at every scale."""
    if not folder.exists():
        folder.mkdir(parents=True)
        for number in range(count):
            _noise(number, 500, 375).save(folder / f"{number:05}.jpg", quality=90)
    return folder


def copies(photos: Path, folder: Path) -> Path:
    """Each picture several times, with other bytes after its end."""
    if not folder.exists():
        folder.mkdir()
        for number, path in enumerate(sorted(photos.rglob("*.jpg"))):
            for copy in range(_COPIES):
                (folder / f"{number:06}-{copy}.jpg").write_bytes(path.read_bytes() + f"{copy}".encode())
    return folder


def large_photos(folder: Path, count: int) -> Path:
    """JPEGs of 4000x3000 pixels, each drawn ten times, with other bytes after its end.

    Rough enough that a file has about the 4.5 MB that a camera writes: what decoding costs is mostly its bytes.
    """
    if not folder.exists():
        folder.mkdir(parents=True)
        for number in range(0, count, 10):
            buffer = io.BytesIO()
            _noise(number, 4000, 3000, roughness=0.82).save(buffer, "JPEG", quality=93)
            for copy in range(number, number + 10):
                (folder / f"{copy:05}.jpg").write_bytes(buffer.getvalue() + f"{copy}".encode())
    return folder


def small_pictures(folder: Path, count: int) -> Path:
    """JPEGs of 96x72 pixels, a thousand in a folder, each drawn a hundred times, with other bytes after its end."""
    if not folder.exists():
        for number in range(0, count, 100):
            buffer = io.BytesIO()
            _noise(number, 96, 72).save(buffer, "JPEG")
            place = folder / f"{number // 1000:04}"
            place.mkdir(parents=True, exist_ok=True)
            for copy in range(number, number + 100):
                (place / f"{copy:07}.jpg").write_bytes(buffer.getvalue() + f"{copy}".encode())
    return folder


def _noise(seed: int, width: int, height: int, *, roughness: float = 0.55) -> Image.Image:
    """A picture with detail at every scale: octaves of noise, each finer and by `roughness` weaker than the last."""
    random = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    cells, strength = 4, 70.0
    while cells < width:
        rows = max(2, cells * height // width)
        octave = random.standard_normal((rows, cells, 3)).astype(np.float32)
        for channel in range(3):
            plane = Image.fromarray(octave[..., channel])
            total[..., channel] += strength * np.asarray(
                plane.resize((width, height), Image.Resampling.BICUBIC)
            )
        cells, strength = cells * 2, strength * roughness
    return Image.fromarray(np.clip(total + 128, 0, 255).astype(np.uint8))
