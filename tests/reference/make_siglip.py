"""Make the SigLIP golden: a small random checkpoint and what PyTorch Transformers answers for it.

Needs PyTorch and Transformers, see make_clip.py. It overwrites siglip/ beside it. Head sizes are no power
of two, the image is no whole number of patches, and texts are projected to another width.
"""

import torch
from goldens import golden, numbers, randomise
from transformers import SiglipConfig, SiglipModel

SETTINGS = {
    "text_config": {
        "vocab_size": 40,
        "hidden_size": 30,
        "intermediate_size": 42,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": 9,
        "projection_size": 28,
    },
    "vision_config": {
        "hidden_size": 28,
        "intermediate_size": 34,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 23,
        "patch_size": 5,
        "layer_norm_eps": 1e-4,
    },
}


def main() -> None:
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(**SETTINGS)).eval()
    randomise(model)
    with torch.no_grad():
        model.logit_scale.fill_(1.5)
        model.logit_bias.fill_(-2.5)
    ids = torch.randint(2, 40, (3, 9))
    ids[0, 5:] = 1
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    given = {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.randn(3, 3, 23, 23)}
    with torch.no_grad():
        expected = {"masked_text_features": model.get_text_features(ids, mask).pooler_output}
        moved = torch.arange(9).flip(0)[None]
        expected["moved_text_features"] = model.get_text_features(ids, position_ids=moved).pooler_output
        expected["short_text_features"] = model.get_text_features(ids[:, :4]).pooler_output
        model.set_attn_implementation("eager")
        asked = {"output_hidden_states": True, "output_attentions": True}
        expected |= numbers("text", model.text_model(ids, **asked))
        expected |= numbers("vision", model.vision_model(given["pixel_values"], **asked))
        joint = model(ids, given["pixel_values"], return_loss=True)
        expected |= numbers("joint", joint)
        expected["probabilities"] = torch.sigmoid(joint.logits_per_image)
        expected["text_features"] = model.get_text_features(ids).pooler_output
        expected["image_features"] = model.get_image_features(given["pixel_values"]).pooler_output
    golden("siglip", model, given | expected)


if __name__ == "__main__":
    main()
