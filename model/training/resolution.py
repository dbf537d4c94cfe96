"""Another image size for a finished vision tower.

Crops show things larger than whole pictures do, so that a tower trained on crops has seen them larger than it will be
shown them. Larger pictures make up for it (Touvron et al. 2019, https://arxiv.org/abs/1906.06423): the patches stay as
they are, there are more of them, and the embeddings of their places are interpolated.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

from model.checkpoint import CONFIG_NAME, SAFETENSORS_NAME
from model.configuration import grid
from model.errors import ConfigurationError
from model.json_file import read_json
from model.preprocess import JOINT_SETTINGS_NAME, SETTINGS_NAME, ImagePreprocessor
from model.training.result import publish

if TYPE_CHECKING:
    from pathlib import Path

_POSITIONS = "vision_model.embeddings.position_embedding.weight"


def check_image_size(settings: dict[str, Any], size_pixels: int) -> None:
    """Check that `with_image_size` can give a checkpoint of these settings such images.

    Raises:
        ConfigurationError: it is no CLIP or SigLIP for square images, or the size is no multiple of its patches.
    """
    vision = settings.get("vision_config", {})
    if settings.get("model_type") not in {"clip", "siglip"} or not isinstance(vision.get("image_size"), int):
        raise ConfigurationError(
            "model.finished_image_size is for CLIP and SigLIP models for square images; leave it out"
        )
    if size_pixels < 1 or size_pixels % vision["patch_size"]:
        raise ConfigurationError(
            f"model.finished_image_size = {size_pixels} must be a multiple of the patch size, {vision['patch_size']}"
        )


def with_image_size(source: Path, target: Path, size_pixels: int) -> None:
    """Write a copy of a checkpoint whose vision tower takes square images of another size.

    Args:
        source: in Transformers' layout, weights in one safetensors file.
        target: made here, of the files in `source`; what was there is replaced.
        size_pixels: of an edge.

    Raises:
        ConfigurationError: as for `check_image_size`.
    """
    settings = read_json(source / CONFIG_NAME)
    check_image_size(settings, size_pixels)
    vision = settings["vision_config"]
    before, after = (grid(size, vision["patch_size"])[0] for size in (vision["image_size"], size_pixels))
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    publish(source, target)
    arrays = load_file(source / SAFETENSORS_NAME)
    arrays[_POSITIONS] = _interpolated(arrays[_POSITIONS], before, after)
    save_file(arrays, target / SAFETENSORS_NAME, metadata={"format": "pt"})
    _write_json(target / CONFIG_NAME, settings | {"vision_config": vision | {"image_size": size_pixels}})
    preprocessor = ImagePreprocessor.from_pretrained(source)
    scaled = _sizes(preprocessor, size_pixels / vision["image_size"])
    if (source / SETTINGS_NAME).is_file():
        _write_json(target / SETTINGS_NAME, read_json(source / SETTINGS_NAME) | scaled)
    if (source / JOINT_SETTINGS_NAME).is_file():
        joint = read_json(source / JOINT_SETTINGS_NAME)
        if isinstance(section := joint.get("image_processor"), dict):
            _write_json(target / JOINT_SETTINGS_NAME, joint | {"image_processor": section | scaled})


def _sizes(preprocessor: ImagePreprocessor, factor: float) -> dict[str, Any]:
    """The sizes of an image processor's settings, whole, since they may be single numbers or left to defaults."""
    height, width = (
        round(side * factor) for side in (preprocessor.resize_height_pixels, preprocessor.resize_width_pixels)
    )
    sizes: dict[str, Any] = {}
    if preprocessor.resize_rule == "shortest":
        sizes["size"] = {"shortest_edge": height}
    elif preprocessor.resize_rule is not None:
        sizes["size"] = {"height": height, "width": width}
    if preprocessor.crop_height_pixels is not None and preprocessor.crop_width_pixels is not None:
        sizes["crop_size"] = {
            "height": round(preprocessor.crop_height_pixels * factor),
            "width": round(preprocessor.crop_width_pixels * factor),
        }
    return sizes


def _interpolated(positions: np.ndarray[Any, Any], before: int, after: int) -> np.ndarray[Any, Any]:
    """Embeddings of the places of before x before patches, and perhaps of tokens ahead of them, for after x after."""
    ahead = len(positions) - before**2
    width = positions.shape[1]
    places = jnp.asarray(positions[ahead:], jnp.float32).reshape(before, before, width)
    resized = jax.image.resize(places, (after, after, width), "cubic")
    rows = np.asarray(resized).reshape(after**2, width).astype(positions.dtype)
    return np.concatenate([positions[:ahead], rows])


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
