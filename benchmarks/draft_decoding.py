"""How far a JPEG's vector moves when the decoder shrinks it, for several scales.

    .venv/bin/python -m benchmarks.draft_decoding FOLDER [FOLDER ...] [--model starter] [--limit 200] [--enlarge 1 2.6]
        [--multiples 1 2 3]

For each multiple of the model's input size that the decoder must leave, prints the worst and the median cosine between
the vectors of the shrunk and of the full decode, and how many are below 0.998, for the photographs as they are and
enlarged, since small ones are rarely shrunk. `ImagePreprocessor.minimum_side_pixels` is chosen by this.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from model import Encoder


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("folder", type=Path, nargs="+")
    arguments.add_argument("--model", default="starter")
    arguments.add_argument("--limit", type=int, default=200, help="photographs, shared evenly by the folders")
    arguments.add_argument("--enlarge", type=float, nargs="+", default=[1.0, 1.4, 2.6, 3.3, 4.4])
    arguments.add_argument("--multiples", type=float, nargs="+", default=[1, 2, 3, 4, 5])
    options = arguments.parse_args()
    encoder = Encoder.load(options.model)
    preprocess = encoder.preprocessor
    side = max(preprocess.resize_height_pixels, preprocess.resize_width_pixels)
    share = options.limit // len(options.folder)
    files = [path for folder in options.folder for path in sorted(folder.rglob("*.jpg"))[:share]]

    print(f"{options.model}, input {side} pixels, {len(files)} photographs")
    for factor in options.enlarge:
        contents = [enlarged(path, factor) for path in files]

        def vectors(multiple: float | None, contents: list[bytes] = contents) -> tuple[np.ndarray, int]:
            pixels, shrunk = [], 0
            for content in contents:
                with Image.open(io.BytesIO(content)) as image:
                    full_size = image.size
                    if multiple is not None:
                        image.draft(image.mode, (int(multiple * side), int(multiple * side)))
                    is_shrunk = image.size != full_size
                    shrunk += is_shrunk
                    pixels.append(preprocess(image, full_size if is_shrunk else None))
            return encoder.encode_pixels(np.stack(pixels)), shrunk

        full, _ = vectors(None)
        for multiple in options.multiples:
            others, shrunk = vectors(multiple)
            cosines = (full * others).sum(axis=1)
            print(
                f"  enlarged {factor} x, at least {multiple:g} x: worst {cosines.min():.4f}, "
                f"median {np.median(cosines):.6f}, {shrunk} of them shrunk, {(cosines < 0.998).sum()} below 0.998"
            )


def enlarged(path: Path, factor: float) -> bytes:
    if factor == 1:
        return path.read_bytes()
    buffer = io.BytesIO()
    with Image.open(path) as image:
        size = (round(image.width * factor), round(image.height * factor))
        image.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
