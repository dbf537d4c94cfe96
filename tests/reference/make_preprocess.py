"""Writes tests/reference/preprocess.npz: pictures, and what the Pillow processors of Transformers make of
them.

Run in an environment that has Transformers and PyTorch, from the top of the project:

    python tests/reference/make_preprocess.py

The sizes are small and odd on purpose: margins that do not halve, pictures smaller than the crop, both
orientations.
"""

import json
from pathlib import Path

import numpy as np
import transformers
from PIL import Image
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

TARGET = Path(__file__).with_name("preprocess.npz")

PROCESSORS = {
    "CLIPImageProcessor": CLIPImageProcessorPil,
    "SiglipImageProcessor": SiglipImageProcessorPil,
    "ViTImageProcessor": ViTImageProcessorPil,
    "BitImageProcessor": BitImageProcessorPil,
}

CASES = {
    "clip": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 24}, "crop_size": 24},
    "clip_odd": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 26},
        "crop_size": {"height": 19, "width": 23},
        "resample": 1,
    },
    "clip_larger_crop": {"image_processor_type": "CLIPImageProcessor", "size": 17, "crop_size": 24},
    "clip_raw": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 24},
        "crop_size": 24,
        "do_normalize": False,
        "resample": 0,
    },
    "clip_only_crop": {"image_processor_type": "CLIPImageProcessor", "do_resize": False, "crop_size": 25},
    "siglip": {"image_processor_type": "SiglipImageProcessor", "size": {"height": 20, "width": 28}},
    "siglip_bilinear": {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": 24, "width": 24},
        "resample": 2,
    },
    "vit": {"image_processor_type": "ViTImageProcessor", "size": 24, "image_std": [0.3, 0.5, 0.7]},
    "bit": {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 28}, "crop_size": 24},
}


def pictures() -> dict[str, Image.Image]:
    """Smooth shapes with some noise, in every mode that these processors convert as we do."""
    random = np.random.default_rng(20)

    def picture(width: int, height: int, bands: int) -> np.ndarray:
        coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
        noisy = np.clip(smooth + random.integers(-20, 20, smooth.shape), 0, 255).astype(np.uint8)
        more = random.integers(0, 256, (height, width, 4), dtype=np.uint8)
        return np.concatenate([noisy, more], axis=2)[:, :, :bands]

    return {
        "wide": Image.fromarray(picture(61, 37, 3)),
        "tall": Image.fromarray(picture(35, 83, 3)),
        "small": Image.fromarray(picture(11, 13, 3)),
        "grey": Image.fromarray(picture(50, 41, 1)[:, :, 0]),
        "alpha": Image.fromarray(picture(44, 45, 4)),
        "grey_alpha": Image.fromarray(picture(40, 31, 2)),
        "ink": Image.frombytes("CMYK", (30, 33), picture(30, 33, 4).tobytes()),
    }


def main() -> None:
    """Writes the file."""
    arrays: dict[str, np.ndarray] = {}
    images = pictures()
    for name, image in images.items():
        arrays[f"image/{name}"] = np.asarray(image)
    for case, settings in CASES.items():
        keywords = {key: value for key, value in settings.items() if key != "image_processor_type"}
        processor = PROCESSORS[settings["image_processor_type"]](**keywords, do_convert_rgb=True)
        for name, image in images.items():
            values = processor(image, return_tensors="np")["pixel_values"]
            arrays[f"{case}/{name}"] = np.asarray(values, dtype=np.float32)[0]
    about = {
        "cases": CASES,
        "modes": {name: image.mode for name, image in images.items()},
        "transformers": transformers.__version__,
    }
    arrays["about"] = np.array(json.dumps(about))
    np.savez_compressed(TARGET, **arrays)


if __name__ == "__main__":
    main()
