"""The real published configurations, in shapes alone: parameters counted, calls traced, nothing allocated."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from model import CLIPConfig, CLIPModel

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
