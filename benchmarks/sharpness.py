"""How much a model's zero-shot accuracy depends on how sharp its pictures are.

    .venv/bin/python -m benchmarks.sharpness DATA.parquet [--split train] [--images 3000] [--model starter]

DATA is what `imago train` takes, with names. Each line is the accuracy over the same pictures, blurred by so many of
their own pixels first (0: as they are). The first of a picture's names is its class.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from model import Encoder
from model.training.config import ZERO_SHOT_TEMPLATES, DataConfig
from model.training.sources import open_source, read_images
from search.evaluation import accuracy, class_vectors


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--split", default="train")
    arguments.add_argument("--images", type=int, default=3000)
    arguments.add_argument("--model", default="starter")
    arguments.add_argument("--blur", type=float, nargs="+", default=[0.0, 0.3, 0.6, 0.9], help="in pixels")
    options = arguments.parse_args()
    encoder = Encoder.load(options.model)
    entries = open_source(DataConfig(options.data, split=options.split, limit=options.images)).entries
    images = [Image.open(io.BytesIO(content)).convert("RGB") for content in read_images(entries)]
    names = sorted({entry.names[0] for entry in entries})
    labels = np.array([names.index(entry.names[0]) for entry in entries])
    classes = class_vectors(names, ZERO_SHOT_TEMPLATES, encoder)
    print(
        f"{options.model}, {options.data.name}, {options.split}, {len(images)} pictures, {len(names)} classes"
    )
    for radius in options.blur:
        shown = [image.filter(ImageFilter.GaussianBlur(radius)) if radius else image for image in images]
        print(f"  blurred by {radius}: {accuracy(encoder.encode_images(shown) @ classes.T, labels):.3f}")


if __name__ == "__main__":
    main()
