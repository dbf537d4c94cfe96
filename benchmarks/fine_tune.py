"""What fine-tuning on a few class folders gains: zero-shot accuracy on other pictures of them, before and after.

    .venv/bin/python -m benchmarks.fine_tune [--model starter] [--minutes 10] [--train 40] [--test 40]

The folders are drawn for the occasion: six kinds of figure, in any colours, places, sizes and directions. Everything
runs as a person would do it: `imago train --data FOLDER --model M --out OUT --max-minutes N`, then `imago eval`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image, ImageDraw

SIDE_PIXELS = 128


def ring(draw: ImageDraw.ImageDraw, size: int, colour: tuple[int, ...]) -> None:
    low, high = SIDE_PIXELS // 2 - size, SIDE_PIXELS // 2 + size
    draw.ellipse((low, low, high, high), outline=colour, width=max(4, size // 4))


def triangle(draw: ImageDraw.ImageDraw, size: int, colour: tuple[int, ...]) -> None:
    draw.regular_polygon((SIDE_PIXELS // 2, SIDE_PIXELS // 2, size), 3, fill=colour)


def cross(draw: ImageDraw.ImageDraw, size: int, colour: tuple[int, ...]) -> None:
    middle, thick = SIDE_PIXELS // 2, size // 4
    draw.rectangle((middle - size, middle - thick, middle + size, middle + thick), fill=colour)
    draw.rectangle((middle - thick, middle - size, middle + thick, middle + size), fill=colour)


def stripes(draw: ImageDraw.ImageDraw, size: int, colour: tuple[int, ...]) -> None:
    step = max(8, size // 3)
    for left in range(-SIDE_PIXELS, 2 * SIDE_PIXELS, 2 * step):
        draw.rectangle((left, -SIDE_PIXELS, left + step, 2 * SIDE_PIXELS), fill=colour)


def checkerboard(draw: ImageDraw.ImageDraw, size: int, colour: tuple[int, ...]) -> None:
    step = max(8, size // 3)
    for row in range(SIDE_PIXELS // step + 1):
        for column in range(row % 2, SIDE_PIXELS // step + 1, 2):
            left, top = column * step, row * step
            draw.rectangle((left, top, left + step - 1, top + step - 1), fill=colour)


def spiral(draw: ImageDraw.ImageDraw, size: int, colour: tuple[int, ...]) -> None:
    turns = [angle / 10 for angle in range(180)]
    points = [
        (
            SIDE_PIXELS / 2 + size * turn / 18 * math.cos(turn),
            SIDE_PIXELS / 2 + size * turn / 18 * math.sin(turn),
        )
        for turn in turns
    ]
    draw.line(points, fill=colour, width=5)


FIGURES = {
    "ring": ring,
    "triangle": triangle,
    "cross": cross,
    "stripes": stripes,
    "checkerboard": checkerboard,
    "spiral": spiral,
}


def draw_folders(folder: Path, count: int, seed: int) -> None:
    """Draw `count` pictures of each kind into a folder of its name."""
    dice = random.Random(seed)
    for name, figure in FIGURES.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            ground, colour = (tuple(dice.randrange(256) for _ in range(3)) for _ in range(2))
            while sum(abs(a - b) for a, b in zip(ground, colour, strict=True)) < 150:
                colour = tuple(dice.randrange(256) for _ in range(3))
            image = Image.new("RGB", (SIDE_PIXELS, SIDE_PIXELS), ground)
            figure(ImageDraw.Draw(image), dice.randrange(24, 56), colour)
            shift = tuple(dice.randrange(-16, 17) for _ in range(2))
            image = image.rotate(dice.randrange(360), translate=shift, fillcolor=ground)
            image.save(folder / name / f"{number}.png")


def imago(*words: str) -> str:
    """Run a command and return what it printed."""
    return subprocess.run(
        [sys.executable, "-m", "app", *words], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--model", default="starter")
    arguments.add_argument("--minutes", type=float, default=10)
    arguments.add_argument("--train", type=int, default=40, help="pictures of each kind")
    arguments.add_argument("--test", type=int, default=40, help="pictures of each kind")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        training, test, out = (Path(name) / part for part in ("train", "test", "out"))
        draw_folders(training, options.train, seed=1)
        draw_folders(test, options.test, seed=2)
        measure = ("eval", str(test), "--classes", "--json", "--model")
        before = json.loads(imago(*measure, options.model))
        began = time.perf_counter()
        minutes = ("--max-minutes", str(options.minutes))
        imago("train", "--data", str(training), "--model", options.model, "--out", str(out), *minutes)
        seconds = time.perf_counter() - began
        after = json.loads(imago(*measure, str(out)))
    print(f"accuracy among {len(FIGURES)} kinds, {options.train} pictures of each, {options.model}:")
    print(f"before {before['accuracy']:.3f}, after {after['accuracy']:.3f}, in {seconds:.0f} s")


if __name__ == "__main__":
    main()
