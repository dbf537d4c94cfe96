"""The real published configurations, in shapes alone: parameters counted, calls traced, nothing allocated."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from model import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    RobertaConfig,
    RobertaModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

if TYPE_CHECKING:
    from model.weights import WeightTable

TEXT_LARGE = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
VISION_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
}
CLIP_SIZES: dict[str, tuple[dict[str, Any], int]] = {
    "openai/clip-vit-base-patch32": ({}, 151_277_313),
    "openai/clip-vit-base-patch16": ({"vision_config": {"patch_size": 16}}, 149_620_737),
    "openai/clip-vit-large-patch14": (
        {"text_config": TEXT_LARGE, "vision_config": VISION_LARGE, "projection_dim": 768},
        427_616_513,
    ),
    "openai/clip-vit-large-patch14-336": (
        {
            "text_config": TEXT_LARGE,
            "vision_config": VISION_LARGE | {"image_size": 336},
            "projection_dim": 768,
        },
        427_944_193,
    ),
}


LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
ROBERTA = {"max_position_embeddings": 514, "type_vocab_size": 1}
XLM_ROBERTA = ROBERTA | {"vocab_size": 250_002}
VIT_HUGE = {
    "hidden_size": 1280,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "intermediate_size": 5120,
    "patch_size": 14,
}
VISION_SIZES: dict[str, tuple[Any, Any, dict[str, Any], int]] = {
    "google/vit-base-patch16-224-in21k": (ViTModel, ViTConfig, {}, 86_389_248),
    "google/vit-base-patch32-384": (ViTModel, ViTConfig, {"image_size": 384, "patch_size": 32}, 88_118_784),
    "google/vit-large-patch16-224-in21k": (ViTModel, ViTConfig, LARGE, 304_351_232),
    "google/vit-huge-patch14-224-in21k": (ViTModel, ViTConfig, VIT_HUGE, 632_404_480),
    "facebook/dinov2-small": (
        Dinov2Model,
        Dinov2Config,
        {"hidden_size": 384, "num_attention_heads": 6},
        22_056_576,
    ),
    "facebook/dinov2-base": (Dinov2Model, Dinov2Config, {}, 86_580_480),
    "facebook/dinov2-large": (
        Dinov2Model,
        Dinov2Config,
        {key: value for key, value in LARGE.items() if key != "intermediate_size"},
        304_368_640,
    ),
    "facebook/dinov2-giant": (
        Dinov2Model,
        Dinov2Config,
        {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "use_swiglu_ffn": True},
        1_136_480_768,
    ),
}
TEXT_SIZES: dict[str, tuple[Any, Any, dict[str, Any], int]] = {
    "google-bert/bert-base-uncased": (BertModel, BertConfig, {}, 109_482_240),
    "google-bert/bert-large-uncased": (BertModel, BertConfig, LARGE, 335_141_888),
    "google-bert/bert-base-multilingual-cased": (BertModel, BertConfig, {"vocab_size": 119_547}, 177_853_440),
    "FacebookAI/roberta-base": (RobertaModel, RobertaConfig, ROBERTA, 124_645_632),
    "FacebookAI/roberta-large": (RobertaModel, RobertaConfig, ROBERTA | LARGE, 355_359_744),
    "FacebookAI/xlm-roberta-base": (XLMRobertaModel, XLMRobertaConfig, XLM_ROBERTA, 278_043_648),
    "FacebookAI/xlm-roberta-large": (XLMRobertaModel, XLMRobertaConfig, XLM_ROBERTA | LARGE, 559_890_432),
}


def parameter_count(model: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize("name", CLIP_SIZES)
def test_clip(name: str) -> None:
    settings, count = CLIP_SIZES[name]
    config = CLIPConfig.from_dict(settings)
    model = CLIPModel(config, rngs=None)
    assert parameter_count(model) == count
    side = config.vision_config.image_size
    texts = jax.ShapeDtypeStruct((2, 77), jnp.int32)
    images = jax.ShapeDtypeStruct((3, 3, side, side), jnp.float32)
    output = jax.eval_shape(lambda model, ids, pixels: model(ids, pixels, ids), model, texts, images)
    assert output.logits_per_image.shape == (3, 2)
    assert output.image_embeds.shape == (3, config.projection_dim)
    assert output.text_embeds.dtype == jnp.float32
    patches = (side // config.vision_config.patch_size) ** 2
    width = config.vision_config.hidden_size
    assert output.vision_model_output.last_hidden_state.shape == (3, patches + 1, width)


@pytest.mark.parametrize("name", VISION_SIZES)
def test_vision_towers(name: str) -> None:
    tower, configuration, settings, count = VISION_SIZES[name]
    if tower is Dinov2Model:
        settings = settings | {"image_size": 518}
    config = configuration.from_dict(settings)
    model = tower(config, rngs=None)
    assert parameter_count(model) == count
    side = 224 if tower is Dinov2Model else config.image_size
    images = jax.ShapeDtypeStruct((2, 3, side, side), jnp.float32)
    output = jax.eval_shape(lambda model, pixels: model(pixels), model, images)
    tokens = 1 + (side // config.patch_size) ** 2
    assert output.last_hidden_state.shape == (2, tokens, config.hidden_size)
    assert output.pooler_output.shape == (2, config.hidden_size)


@pytest.mark.parametrize("name", TEXT_SIZES)
def test_text_towers(name: str) -> None:
    tower, configuration, settings, count = TEXT_SIZES[name]
    config = configuration.from_dict(settings)
    model = tower(config, rngs=None)
    assert parameter_count(model) == count
    texts = jax.ShapeDtypeStruct((2, 512), jnp.int32)
    output = jax.eval_shape(lambda model, ids: model(ids, ids), model, texts)
    assert output.last_hidden_state.shape == (2, 512, config.hidden_size)
    assert output.pooler_output.shape == (2, config.hidden_size)


def test_dual_encoder() -> None:
    """clip-italian/clip-italian: CLIP's vision tower and a BERT."""
    settings = {
        "vision_config": {"model_type": "clip_vision_model"},
        "text_config": {"model_type": "bert", "vocab_size": 31_102},
    }
    model = VisionTextDualEncoderModel(VisionTextDualEncoderConfig.from_dict(settings), rngs=None)
    assert parameter_count(model) == 198_170_113
    texts = jax.ShapeDtypeStruct((2, 96), jnp.int32)
    images = jax.ShapeDtypeStruct((3, 3, 224, 224), jnp.float32)
    output = jax.eval_shape(lambda model, ids, pixels: model(ids, pixels), model, texts, images)
    assert output.logits_per_text.shape == (2, 3)
    assert output.image_embeds.shape == (3, 512)


def test_shapes_alone_are_those_of_a_fresh_model() -> None:
    settings = {
        "text_config": {"num_hidden_layers": 1},
        "vision_config": {"num_hidden_layers": 1, "patch_size": 100},
    }
    config = CLIPConfig.from_dict(settings)
    traced = nnx.eval_shape(lambda: CLIPModel(config, rngs=nnx.Rngs(0)))
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), nnx.to_pure_dict(nnx.state(traced)))
    assert shapes == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), nnx.to_pure_dict(nnx.state(CLIPModel(config, rngs=None)))
    )


def test_tables_name_no_parameter_twice() -> None:
    table: WeightTable = CLIPModel.weights
    for names in ([row.source for row in table.rows], [row.target for row in table.rows]):
        assert len(names) == len(set(names))
