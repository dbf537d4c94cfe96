"""Embeds a folder of JPEGs as a plain loop does: full decode, resize, crop, ONNX Runtime float32. Prints JSON.

    .venv-peers/bin/python benchmarks/peers/folder.py CHECKPOINT FOLDER

The preprocessing is that of rclip (https://github.com/yurijmikhalevich/rclip): shortest edge to 224 bicubic, centre
crop, RGB, normalise. Writing the vectors anywhere is left out, in the loop's favour.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from tower import export

SIDE = 224
BATCH = 32
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        scale = SIDE / min(image.size)
        width, height = (max(SIDE, round(edge * scale)) for edge in image.size)
        small = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    values = np.asarray(small.crop((left, top, left + SIDE, top + SIDE)), np.float32) / 255
    return ((values - MEAN) / DEVIATION).transpose(2, 0, 1)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("checkpoint", type=Path)
    arguments.add_argument("folder", type=Path)
    options = arguments.parse_args()
    files = sorted(options.folder.rglob("*.jpg"))
    session = onnxruntime.InferenceSession(
        str(export(options.checkpoint)), providers=["CPUExecutionProvider"]
    )
    started = time.perf_counter()
    for start in range(0, len(files), BATCH):
        batch = np.stack([pixels_of(path) for path in files[start : start + BATCH]])
        session.run(["image_embeds"], {"pixel_values": batch})
    print(json.dumps({"seconds": time.perf_counter() - started, "files": len(files)}))


if __name__ == "__main__":
    main()
