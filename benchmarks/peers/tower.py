"""How many images a second a peer's ViT tower takes: prints one JSON object.

    .venv-peers/bin/python benchmarks/peers/tower.py CHECKPOINT ENGINE [--batch 32] [--calls 8]

ENGINE: onnxruntime-float32, torch-float32, torch-bfloat16 or torch-bfloat16-compiled. The images are ready-made
random values, already normalised; building, exporting, compiling and two calls are not measured.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
import warnings
from pathlib import Path

import torch
from transformers import CLIPVisionModelWithProjection


def export(checkpoint: Path) -> Path:
    """Write the vision tower as ONNX beside the checkpoint, once."""
    path = checkpoint / "vision.onnx"
    if not path.exists():
        model = CLIPVisionModelWithProjection.from_pretrained(checkpoint).eval()
        torch.onnx.export(
            model,
            (torch.zeros(1, 3, 224, 224),),
            str(path),
            input_names=["pixel_values"],
            output_names=["image_embeds", "last_hidden_state"],
            dynamic_axes={"pixel_values": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
    return path


def engine(name: str, checkpoint: Path):
    """Return a function that takes a float32 tensor (batch, 3, 224, 224)."""
    if name == "onnxruntime-float32":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(export(checkpoint)), providers=["CPUExecutionProvider"])
        return lambda pixels: session.run(["image_embeds"], {"pixel_values": pixels.numpy()})[0]
    model = CLIPVisionModelWithProjection.from_pretrained(checkpoint).eval()
    if "bfloat16" in name:
        model = model.bfloat16()
    run = torch.compile(model) if name.endswith("compiled") else model
    return lambda pixels: run(pixels.to(model.dtype)).image_embeds


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("checkpoint", type=Path)
    arguments.add_argument("engine")
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--calls", type=int, default=8)
    options = arguments.parse_args()
    pixels = torch.randn(options.batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    seconds = []
    with torch.inference_mode():
        run = engine(options.engine, options.checkpoint)
        for call in range(options.calls + 2):
            started = time.perf_counter()
            run(pixels)
            if call >= 2:
                seconds.append(time.perf_counter() - started)
    print(json.dumps({"images_per_second": options.batch / statistics.median(seconds)}))


if __name__ == "__main__":
    main()
