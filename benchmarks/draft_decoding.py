"""How far a JPEG's vector moves when the decoder shrinks it, for several scales.

    .venv/bin/python benchmarks/draft_decoding.py FOLDER [--model starter] [--limit 200]

For each multiple of the model's input size that the decoder must leave, prints the worst and the median cosine between
the vectors of the shrunk and of the full decode. `ImagePreprocessor.minimum_side_pixels` is chosen by this.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from model import Encoder

MULTIPLES = (1, 2, 3, 4, 5)


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("folder", type=Path, nargs="+")
    arguments.add_argument("--model", default="starter")
    arguments.add_argument("--limit", type=int, default=200, help="photographs, shared evenly by the folders")
    options = arguments.parse_args()
    encoder = Encoder.load(options.model)
    preprocess = encoder.preprocessor
    side = max(preprocess.resize_height_pixels, preprocess.resize_width_pixels)
    share = options.limit // len(options.folder)
    files = [path for folder in options.folder for path in sorted(folder.rglob("*.jpg"))[:share]]

    def vectors(multiple: int | None) -> np.ndarray:
        pixels = []
        for path in files:
            with Image.open(path) as image:
                if multiple is not None:
                    image.draft(image.mode, (multiple * side, multiple * side))
                pixels.append(preprocess(image))
        return encoder.encode_pixels(np.stack(pixels))

    full = vectors(None)
    print(f"{options.model}, input {side} pixels, {len(files)} photographs")
    for multiple in MULTIPLES:
        cosines = (full * vectors(multiple)).sum(axis=1)
        print(f"  at least {multiple} x: worst {cosines.min():.4f}, median {np.median(cosines):.6f}")


if __name__ == "__main__":
    main()
