"""config.json in, dataclass, config.json out; nothing that matters is passed over in silence."""

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from model import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, ConfigurationError

# What the hub's openai/clip-vit-large-patch14 holds, as far as it is of interest: settings twice, of which the
# older place wins; the bookkeeping of Transformers 4.
FIRST_HUB_FILE = {
    "_name_or_path": "clip-vit-large-patch14/",
    "architectures": ["CLIPModel"],
    "initializer_factor": 1.0,
    "logit_scale_init_value": 2.6592,
    "model_type": "clip",
    "projection_dim": 768,
    "text_config": {
        "_name_or_path": "",
        "add_cross_attention": False,
        "architectures": None,
        "attention_dropout": 0.0,
        "bad_words_ids": None,
        "bos_token_id": 0,
        "chunk_size_feed_forward": 0,
        "cross_attention_hidden_size": None,
        "decoder_start_token_id": None,
        "diversity_penalty": 0.0,
        "do_sample": False,
        "dropout": 0.0,
        "early_stopping": False,
        "eos_token_id": 2,
        "finetuning_task": None,
        "hidden_act": "quick_gelu",
        "hidden_size": 768,
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "is_decoder": False,
        "is_encoder_decoder": False,
        "label2id": {"LABEL_0": 0, "LABEL_1": 1},
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 77,
        "model_type": "clip_text_model",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "output_attentions": False,
        "pad_token_id": 1,
        "projection_dim": 768,
        "pruned_heads": {},
        "return_dict": True,
        "tie_word_embeddings": True,
        "top_k": 50,
        "top_p": 1.0,
        "torch_dtype": None,
        "torchscript": False,
        "transformers_version": "4.16.0.dev0",
        "typical_p": 1.0,
        "use_bfloat16": False,
        "vocab_size": 49408,
    },
    "text_config_dict": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "projection_dim": 768,
    },
    "torch_dtype": "float32",
    "transformers_version": None,
    "vision_config": {
        "dropout": 0.0,
        "hidden_size": 1152,
        "model_type": "clip_vision_model",
        "patch_size": 32,
    },
    "vision_config_dict": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
    },
}


def test_first_hub_files_with_their_settings_held_twice() -> None:
    config = CLIPConfig.from_dict(FIRST_HUB_FILE)
    assert config.projection_dim == 768
    assert config.text_config == CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_attention_heads=12, projection_dim=768
    )
    assert (
        config.text_config.eos_token_id == 49407
    )  # the default of the older place, not the 2 of the newer one
    assert config.vision_config.patch_size == 14
    assert config.vision_config.num_hidden_layers == 24


def test_without_the_older_place_the_newer_one_counts() -> None:
    settings = FIRST_HUB_FILE | {"text_config_dict": None, "vision_config_dict": None}
    config = CLIPConfig.from_dict(settings)
    assert config.text_config.eos_token_id == 2
    assert config.vision_config.patch_size == 32


@pytest.mark.parametrize(
    "settings", [{}, {"text_config": None, "vision_config": None}, {"model_type": "clip"}]
)
def test_what_is_left_out_has_transformers_defaults(settings: dict[str, Any]) -> None:
    config = CLIPConfig.from_dict(settings)
    assert config == CLIPConfig()
    assert (config.text_config.hidden_size, config.vision_config.hidden_size, config.projection_dim) == (
        512,
        768,
        512,
    )


def test_a_tower_takes_the_width_of_the_projection_from_the_whole() -> None:
    settings = {"model_type": "clip", "projection_dim": 640, "text_config": {"projection_dim": 512}}
    assert CLIPTextConfig.from_dict(settings).projection_dim == 640
    assert CLIPVisionConfig.from_dict(settings).projection_dim == 640
    unnamed = {key: value for key, value in settings.items() if key != "model_type"}
    assert CLIPTextConfig.from_dict(unnamed).projection_dim == 640
    assert (
        CLIPTextConfig.from_dict({"model_type": "clip_text_model", "projection_dim": 7}).projection_dim == 7
    )


def test_round_trip_through_json(golden: Callable[[str], Any]) -> None:
    for name in ("clip-first-rules", "clip-later-rules"):
        given = json.loads((golden(name).folder / "config.json").read_text())
        config = CLIPConfig.from_dict(given)
        written = json.loads(json.dumps(config.to_dict()))
        assert CLIPConfig.from_dict(written) == config
        for part in ("text_config", "vision_config"):
            bookkeeping = {"dtype", "transformers_version", "architectures"}
            assert written[part] == {
                key: value for key, value in given[part].items() if key not in bookkeeping
            }
    pair = CLIPVisionConfig.from_dict({"image_size": [32, 64]})
    assert pair.image_size == (32, 64)
    assert CLIPVisionConfig.from_dict(json.loads(json.dumps(pair.to_dict()))) == pair


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (CLIPTextConfig, {"hidden_act": "snake"}, "unknown activation 'snake': known are gelu, "),
        (CLIPTextConfig, {"rope_theta": 1, "window": 2}, r"unknown: rope_theta = 1, window = 2 \(known: "),
        (CLIPConfig, {"text_config": {"rope_theta": 1}}, "settings of CLIPTextConfig: unknown: rope_theta"),
        (CLIPConfig, {"logit_bias": 1}, "settings of CLIPConfig: unknown: logit_bias = 1"),
        (CLIPTextConfig, {"is_decoder": True}, "is_decoder = True is not supported"),
        (CLIPTextConfig, {"pruned_heads": {"0": [1]}}, "pruned_heads"),
        (CLIPConfig, {"quantization_config": {"bits": 4}}, "quantization_config"),
        (
            CLIPTextConfig,
            {"hidden_size": 100},
            "hidden_size 100 cannot be divided among num_attention_heads 8",
        ),
        (CLIPTextConfig, {"eos_token_id": [1, 2]}, r"eos_token_id = \(1, 2\) should be int"),
        (CLIPTextConfig, {"hidden_size": "512"}, "hidden_size = '512' should be int"),
        (CLIPTextConfig, {"layer_norm_eps": None}, "layer_norm_eps = None should be float"),
        (CLIPVisionConfig, {"patch_size": 300}, "image_size 224 holds no patch of patch_size 300"),
        (CLIPVisionConfig, {"image_size": [1, 2, 3]}, "image_size"),
        (CLIPVisionConfig, {"model_type": "clip_text_model"}, "expects model_type 'clip_vision_model'"),
    ],
)
def test_settings_that_matter_are_not_passed_over(
    config: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        config.from_dict(settings)


def test_configurations_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        CLIPTextConfig().hidden_size = 3  # type: ignore[misc]
