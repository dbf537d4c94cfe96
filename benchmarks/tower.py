"""How many images a second our vision tower takes, and texts its text tower: prints one JSON object.

    .venv/bin/python -m benchmarks.tower MODEL [--texts] [--precision auto] [--batch 32] [--calls 8] [--peak-tflops 989]

With --texts, the text tower is measured instead, in a process that has done nothing else, as a search is. With
--peak-tflops, what the accelerator could do at most in that precision, also the share of it that the tower uses:
twice the multiplications of its matrix products against the clock. Compiling and two calls are not measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np

from model import Encoder
from model.registry import find_model

QUERIES = [
    f"a {colour} {thing}" for colour in ("red", "blue", "wet", "old") for thing in ("car", "dog", "tree")
]


def tower_flops(settings: dict, side_pixels: int) -> float:
    """Floating point operations of a CLIP's matrix products for one image; a multiplication and an addition are two.

    Of the last block only what the class token needs is computed: the keys and values of all tokens, the rest of one.
    """
    vision = settings["vision_config"]
    width, inner, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    patches = (side_pixels // patch) ** 2
    tokens = patches + 1
    keys_and_values = 4 * tokens * width * width
    rest_of_a_token = 2 * (2 * width * width + 2 * width * inner) + 4 * tokens * width
    blocks = vision["num_hidden_layers"] * keys_and_values
    blocks += ((vision["num_hidden_layers"] - 1) * tokens + 1) * rest_of_a_token
    return blocks + 2 * patches * 3 * patch * patch * width


def seconds_of(call, calls: int) -> list[float]:
    seconds = []
    for number in range(calls + 2):
        started = time.perf_counter()
        call(number)
        if number >= 2:
            seconds.append(time.perf_counter() - started)
    return seconds


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("model")
    arguments.add_argument("--precision", default="auto")
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--texts", action="store_true", help="measure the text tower, not the images'")
    arguments.add_argument("--calls", type=int, default=8)
    arguments.add_argument("--peak-tflops", type=float)
    options = arguments.parse_args()
    found = measure_texts(options) if options.texts else measure_images(options)
    print(json.dumps(found))


def measure_texts(options: argparse.Namespace) -> dict[str, object]:
    encoder = Encoder.load(options.model, precision=options.precision)
    seconds = seconds_of(
        lambda number: encoder.encode_texts([QUERIES[number % len(QUERIES)]]), 10 * options.calls
    )
    return {"precision": encoder.precision, "text_p50_ms": 1000 * statistics.median(seconds)}


def measure_images(options: argparse.Namespace) -> dict[str, object]:
    encoder = Encoder.load(options.model, precision=options.precision)
    side, batch = encoder.preprocessor.input_height_pixels, options.batch
    pixels = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
    images = batch / statistics.median(seconds_of(lambda _: encoder.encode_pixels(pixels), options.calls))
    found = {"precision": encoder.precision, "batch": batch, "images_per_second": images}
    if options.peak_tflops:
        settings = json.loads((find_model(options.model).folder / "config.json").read_text())
        found["flop_utilisation"] = images * tower_flops(settings, side) / (options.peak_tflops * 1e12)
    return found


if __name__ == "__main__":
    main()
