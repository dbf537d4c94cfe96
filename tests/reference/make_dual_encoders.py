"""Make the dual encoders' goldens: what PyTorch Transformers answers for small random pairs of towers.

Needs PyTorch and Transformers, see make_clip.py. It overwrites dual-*/ beside it: dual-*-* has every tower once, with
all that comes out of it; dual-pairs has every vision tower with every text tower, tiny, with what the pair answers.
"""

import torch
from goldens import golden, gradient_norms, numbers, randomise
from transformers import (
    BertConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    Dinov2Config,
    PreTrainedConfig,
    RobertaConfig,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTConfig,
    XLMRobertaConfig,
)

VISION = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 13,
    "patch_size": 4,
}
TEXT = {
    "hidden_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 28,
    "vocab_size": 40,
    "max_position_embeddings": 14,
}
PAIRS: dict[str, tuple[PreTrainedConfig, PreTrainedConfig]] = {
    "dual-clip-bert": (
        CLIPVisionConfig(**VISION, intermediate_size=28, projection_dim=5),
        BertConfig(**TEXT, hidden_act="gelu_new"),
    ),
    "dual-vit-roberta": (
        ViTConfig(**(VISION | {"image_size": (13, 17), "patch_size": (4, 5)}), intermediate_size=28),
        RobertaConfig(**TEXT, pad_token_id=1),
    ),
    "dual-dinov2-xlm-roberta": (
        Dinov2Config(**VISION, mlp_ratio=2, qkv_bias=False),
        XLMRobertaConfig(**TEXT, pad_token_id=3, type_vocab_size=1, layer_norm_eps=1e-5),
    ),
    "dual-swiglu-clip": (
        Dinov2Config(**VISION, mlp_ratio=2, use_swiglu_ffn=True),
        CLIPTextConfig(**TEXT, eos_token_id=5, projection_dim=7),
    ),
}


TINY = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
TINY_VISION = TINY | {"image_size": 4, "patch_size": 2}
TINY_TEXT = TINY | {"intermediate_size": 12, "vocab_size": 40, "max_position_embeddings": 14}
TINY_VISIONS = {
    "clip": CLIPVisionConfig(**TINY_VISION, intermediate_size=12),
    "vit": ViTConfig(**TINY_VISION, intermediate_size=12),
    "dinov2": Dinov2Config(**TINY_VISION, mlp_ratio=2),
}
TINY_TEXTS = {
    "bert": BertConfig(**TINY_TEXT),
    "roberta": RobertaConfig(**TINY_TEXT),
    "xlm-roberta": XLMRobertaConfig(**TINY_TEXT),
    "clip": CLIPTextConfig(**TINY_TEXT, eos_token_id=5),
}


def build(
    vision: PreTrainedConfig, text: PreTrainedConfig
) -> tuple[VisionTextDualEncoderModel, dict[str, torch.Tensor]]:
    """A random pair, and texts and images for it; the first text is padded."""
    torch.manual_seed(0)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=16)
    model = VisionTextDualEncoderModel(config=config).eval()
    randomise(model)
    padding = 1 if text.model_type == "clip_text_model" else text.pad_token_id
    ids = torch.randint(6, 40, (3, 9))
    ids[0, 5], ids[0, 6:], ids[1, -1] = 5, padding, 5
    mask = (ids != padding).long()
    side = vision.image_size if isinstance(vision.image_size, (tuple, list)) else (vision.image_size,) * 2
    return model, {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.randn(3, 3, *side)}


def make_pair(name: str, vision: PreTrainedConfig, text: PreTrainedConfig) -> None:
    model, given = build(vision, text)
    with torch.no_grad():
        joint = model(**given, return_loss=True)
        golden(f"dual-pairs/{name}", model, given | numbers("joint", joint))


def make(name: str, vision: PreTrainedConfig, text: PreTrainedConfig) -> None:
    model, given = build(vision, text)
    ids, mask = given["input_ids"], given["attention_mask"]
    positions = torch.arange(9).flip(0)[None] + 2
    extra = {"position_ids": positions}
    if text.model_type == "bert":
        extra["token_type_ids"] = (torch.arange(9) > 3).long()[None].repeat(3, 1)
    model.set_attn_implementation("eager")
    asked = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        joint = model(**given, return_loss=True, **asked)
        expected = numbers("joint", joint)
        expected |= numbers("text", joint.text_model_output)
        expected |= numbers("vision", joint.vision_model_output)
        expected["text_features"] = model.get_text_features(ids, mask).pooler_output
        expected["image_features"] = model.get_image_features(given["pixel_values"]).pooler_output
        expected["moved_text_features"] = model.get_text_features(ids, mask, **extra).pooler_output
        if vision.model_type == "dinov2":
            # Its positions are resampled to images of any size, enlarged and shrunk.
            for other, size in (("larger", (21, 34)), ("smaller", (12, 8))):
                given[f"{other}_pixel_values"] = torch.randn(2, 3, *size)
                features = model.get_image_features(given[f"{other}_pixel_values"]).pooler_output
                expected[f"{other}_image_features"] = features
    inputs = {key: given[key] for key in ("input_ids", "attention_mask", "pixel_values")}
    expected["gradient_norm"] = gradient_norms(model, model(**inputs, return_loss=True).loss).norm()
    golden(name, model, given | extra | expected)


if __name__ == "__main__":
    for pair, (vision_config, text_config) in PAIRS.items():
        make(pair, vision_config, text_config)
    for vision_name, vision_config in TINY_VISIONS.items():
        for text_name, text_config in TINY_TEXTS.items():
            make_pair(f"{vision_name}-{text_name}", vision_config, text_config)
