"""The files of an OpenCLIP checkpoint, and whether its towers are ones that are read here. Needs no JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from model.checkpoint import SafetensorsSource
from model.errors import CheckpointError, ConfigurationError, UnsupportedCheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from model.checkpoint import WeightSource

OPEN_CLIP_CONFIG_NAME = "open_clip_config.json"
OPEN_CLIP_WEIGHTS_NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")


def split_open_clip_settings(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Takes an open_clip_config.json, or its `model_cfg` alone, apart.

    Returns:
        The model's settings, whose `vision_cfg` and `text_cfg` are objects, and those of the preprocessing.

    Raises:
        UnsupportedCheckpointError: If it asks for towers that are not read here; all of them are named.
        ConfigurationError: If a section is no object.
    """
    outer = dict(settings)
    preprocess = outer.pop("preprocess_cfg", None) or {}
    model = outer.get("model_cfg", outer)
    sections = {"model_cfg": model, "preprocess_cfg": preprocess}
    if isinstance(model, dict):
        model = {"vision_cfg": {}, "text_cfg": {}} | model
        sections |= {key: model[key] for key in ("vision_cfg", "text_cfg")}
    for name, section in sections.items():
        if not isinstance(section, dict):
            raise ConfigurationError(f"{name} should be an object, it is {section!r:.80}")
    foreign = _foreign_towers(model)
    if foreign:
        raise UnsupportedCheckpointError(
            f"this OpenCLIP checkpoint has {' and '.join(foreign)}, which is not read here: read are vision "
            "transformers with OpenCLIP's own text transformer"
        )
    return model, preprocess


def _foreign_towers(model: Mapping[str, Any]) -> list[str]:
    """What a model has of towers that are not OpenCLIP's own transformers."""
    vision, text = model.get("vision_cfg", {}), model.get("text_cfg", {})
    found = []
    if model.get("multimodal_cfg"):
        found.append("a caption decoder (CoCa: multimodal_cfg)")
    if vision.get("timm_model_name"):
        found.append(f"a vision tower of timm (timm_model_name {vision['timm_model_name']!r})")
    if isinstance(vision.get("layers"), (list, tuple)):
        found.append(f"a ResNet as vision tower (layers {vision['layers']})")
    if vision.get("attentional_pool"):
        found.append(f"a vision tower pooled by attention (attentional_pool {vision['attentional_pool']!r})")
    if text.get("hf_model_name"):
        found.append(f"a text tower of Hugging Face (hf_model_name {text['hf_model_name']!r})")
    if text.get("embed_cls"):
        found.append("a text tower with a class token (embed_cls)")
    return found


def open_clip_weights(folder: Path) -> WeightSource:
    """Open the weights in an OpenCLIP folder.

    Raises:
        UnsupportedCheckpointError: they are there only as a pickle.
        CheckpointError: there are none, or they are cut short.
    """
    for name in OPEN_CLIP_WEIGHTS_NAMES:
        if (folder / name).is_file():
            return SafetensorsSource(folder / name)
    if (folder / "open_clip_pytorch_model.bin").exists():
        raise UnsupportedCheckpointError(
            f"{folder} holds its weights only as open_clip_pytorch_model.bin, a Python pickle, which can run any "
            "code when it is read. Use a revision that has open_clip_model.safetensors"
        )
    raise CheckpointError(f"{folder} holds no weights: expected {' or '.join(OPEN_CLIP_WEIGHTS_NAMES)}")
