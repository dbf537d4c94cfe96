"""Make the CLIP goldens: small random checkpoints and what PyTorch Transformers answers for them.

Needs PyTorch and Transformers, which Imago does not: python -m venv, pip install torch==2.13.0
transformers==5.23.0, then run this file. It overwrites clip-*/ beside it.

`clip-first-rules` has what the first checkpoints have: quick GELU, and the end of a text at its highest id.
`clip-later-rules` has the other two GELUs, the end at the first eos_token_id, four channels,
and towers of unequal depth.
Both have head sizes that are no power of two, an image that is no whole number of patches, and a projection
whose width the towers' own settings misstate, as those of real checkpoints do.
"""

import torch
from goldens import golden, gradient_norms, numbers, randomise
from transformers import CLIPConfig, CLIPModel

FIRST = {
    "text_config": {
        "vocab_size": 40,
        "hidden_size": 30,
        "intermediate_size": 42,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": 12,
        "projection_dim": 20,
        "eos_token_id": 2,
        "bos_token_id": 0,
    },
    "vision_config": {
        "hidden_size": 28,
        "intermediate_size": 34,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 22,
        "patch_size": 5,
        "projection_dim": 20,
    },
    "projection_dim": 18,
}
LATER = {
    "text_config": FIRST["text_config"]
    | {"hidden_act": "gelu_pytorch_tanh", "eos_token_id": 5, "layer_norm_eps": 1e-3},
    "vision_config": FIRST["vision_config"]
    | {"hidden_act": "gelu", "image_size": 16, "num_channels": 4, "num_hidden_layers": 3},
    "projection_dim": 24,
}


def inputs(model: CLIPModel, eos: int) -> dict[str, torch.Tensor]:
    """Three texts and two images: padded after the end, ended at the last place, and without an end."""
    vocabulary, longest = (
        model.config.text_config.vocab_size,
        model.config.text_config.max_position_embeddings,
    )
    ids = torch.randint(6, vocabulary - 1, (3, longest - 2))
    ids[0, 4] = vocabulary - 1 if eos == 2 else eos
    ids[0, 5:] = 1 if eos == 2 else eos
    ids[1, -1] = vocabulary - 1 if eos == 2 else eos
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    side, channels = model.config.vision_config.image_size, model.config.vision_config.num_channels
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": torch.arange(ids.shape[1]).flip(0)[None] + 1,
        "pixel_values": torch.randn(2, channels, side, side),
    }


def make(name: str, settings: dict) -> None:
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(**settings)).eval()
    randomise(model)
    given = inputs(model, model.config.text_config.eos_token_id)
    text = {key: given[key] for key in ("input_ids", "attention_mask")}
    pixels = {"pixel_values": given["pixel_values"]}
    with torch.no_grad():
        # Where a token may look at none, PyTorch's fused attention gives 0; the other one an average of all.
        left = torch.ones_like(given["attention_mask"])
        left[0, :3] = 0
        left[1] = 0
        expected = {
            "left_attention_mask": left,
            "left_last_hidden_state": model.text_model(given["input_ids"], left).last_hidden_state,
            "unmasked_text_features": model.get_text_features(given["input_ids"]).pooler_output,
            "moved_text_features": model.get_text_features(
                **text, position_ids=given["position_ids"]
            ).pooler_output,
        }
        model.set_attn_implementation("eager")
        asked = {"output_hidden_states": True, "output_attentions": True}
        expected |= numbers("text", model.text_model(**text, **asked))
        expected |= numbers("vision", model.vision_model(**pixels, **asked))
        joint = model(**text, pixel_values=given["pixel_values"][[0, 1, 0]], return_loss=True)
        expected |= numbers("joint", joint)
        expected |= numbers("joint_text", joint.text_model_output)
        expected |= numbers("joint_vision", joint.vision_model_output)
        expected["text_features"] = model.get_text_features(**text).pooler_output
        expected["image_features"] = model.get_image_features(**pixels).pooler_output
    pixels = given["pixel_values"][[0, 1, 0]]
    loss = model(**text, pixel_values=pixels, return_loss=True).loss
    expected["gradient_norms"] = gradient_norms(model, loss)
    golden(name, model, given | expected)


if __name__ == "__main__":
    make("clip-first-rules", FIRST)
    make("clip-later-rules", LATER)
