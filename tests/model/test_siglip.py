"""SigLIP against PyTorch Transformers, number by number, and the ways in which people call it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.checkpoint import SafetensorsSource
from model.errors import CheckpointError, ConfigurationError, ModelInputError
from model.siglip import (
    SiglipConfig,
    SiglipModel,
    SiglipTextModel,
    SiglipTextTrunk,
    SiglipVisionModel,
    match_probabilities,
    sigmoid_loss,
)

HIDDEN = 2e-5  # raw hidden states are larger than what norms and projections leave of them


@pytest.fixture(scope="module")
def known(golden: Callable[[str], Any]) -> Any:
    return golden("siglip")


@pytest.fixture(scope="module")
def siglip(known: Any) -> SiglipModel:
    return SiglipModel.from_pretrained(known.folder)


@pytest.mark.parametrize("tower", ["text", "vision"])
def test_embeddings_then_one_layer_then_the_tower(siglip: SiglipModel, known: Any, tower: str) -> None:
    asked = {"output_hidden_states": True, "output_attentions": True}
    if tower == "text":
        output = siglip.text_model(known["input_ids"], **asked)
    else:
        output = siglip.vision_model(known["pixel_values"], **asked)
    expected = known[f"{tower}_hidden_states"]
    np.testing.assert_allclose(output.hidden_states[0], expected[0], rtol=0, atol=3e-6)
    np.testing.assert_allclose(output.hidden_states[1], expected[1], rtol=0, atol=1e-5)
    known.check(output.hidden_states, f"{tower}_hidden_states", HIDDEN)
    known.check(output.attentions, f"{tower}_attentions")
    known.check(output.last_hidden_state, f"{tower}_last_hidden_state", HIDDEN)
    known.check(output.pooler_output, f"{tower}_pooler_output")


def test_features(siglip: SiglipModel, known: Any) -> None:
    ids, mask = known["input_ids"], known["attention_mask"]
    known.check(siglip.get_text_features(ids), "text_features")
    known.check(siglip.get_text_features(ids, mask), "masked_text_features")
    known.check(siglip.get_text_features(ids, None, np.arange(9)[None, ::-1]), "moved_text_features")
    known.check(siglip.get_text_features(ids[:, :4]), "short_text_features")
    known.check(siglip.get_image_features(known["pixel_values"]), "image_features")


def test_joint_call(siglip: SiglipModel, known: Any) -> None:
    output = siglip(known["input_ids"], known["pixel_values"], return_loss=True, output_attentions=True)
    for name in ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds"):
        known.check(output[name], f"joint_{name}")
    known.check(output.loss, "joint_loss", 2e-5)  # a sum of nine
    known.check(match_probabilities(output.logits_per_image), "probabilities")
    known.check(output.text_model_output.attentions, "text_attentions")
    known.check(output.vision_model_output.pooler_output, "vision_pooler_output")
    assert siglip(known["input_ids"], known["pixel_values"]).loss is None
    with pytest.raises(ModelInputError, match="expected both"):
        siglip(known["input_ids"])


def test_each_tower_alone_reads_its_share_of_the_whole(known: Any) -> None:
    known.check(
        SiglipTextModel.from_pretrained(known.folder)(known["input_ids"]).pooler_output, "text_features"
    )
    vision = SiglipVisionModel.from_pretrained(known.folder)(known["pixel_values"], output_hidden_states=True)
    known.check(vision.pooler_output, "image_features")
    known.check(vision.hidden_states, "vision_hidden_states", HIDDEN)


def test_the_trunk_takes_rows_of_a_table_that_stays_in_the_file(known: Any) -> None:
    trunk = SiglipTextTrunk.from_pretrained(known.folder)
    table = SafetensorsSource(known.folder / "model.safetensors").read(
        "text_model.embeddings.token_embedding.weight"
    )
    known.check(trunk(table[known["input_ids"]]).pooler_output, "text_features")
    assert not hasattr(trunk, "token_embedding")
    for shape in ((3, 9, 29), (3, 10, 30), (0, 9, 30), (9, 30)):
        with pytest.raises(ModelInputError, match=r"expected \(batch, length up to 9, 30\)"):
            trunk(np.zeros(shape, np.float32))


def test_what_was_saved_is_read_back(siglip: SiglipModel, known: Any, tmp_path: Path) -> None:
    siglip.save_pretrained(tmp_path / "whole")
    saved = SafetensorsSource(tmp_path / "whole" / "model.safetensors")
    original = SafetensorsSource(known.folder / "model.safetensors")
    assert saved.shapes == original.shapes
    for name in saved.shapes:
        np.testing.assert_array_equal(saved.read(name), original.read(name))
    again = SiglipModel.from_pretrained(tmp_path / "whole")
    known.check(again.get_image_features(known["pixel_values"]), "image_features")
    siglip.text_model.save_pretrained(tmp_path / "text")
    text = SiglipTextModel.from_pretrained(tmp_path / "text")
    known.check(text(known["input_ids"]).pooler_output, "text_features")


def test_a_tower_saved_alone_by_transformers_5_has_no_prefix(known: Any, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    arrays = load_file(known.folder / "model.safetensors")
    for part, keys in (("text", "text_model."), ("vision", "vision_model.")):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text((known.folder / "config.json").read_text())
        short = {name.removeprefix(keys): array for name, array in arrays.items() if name.startswith(keys)}
        save_file(short, tmp_path / part / "model.safetensors")
    text = SiglipTextModel.from_pretrained(tmp_path / "text")(known["input_ids"])
    known.check(text.pooler_output, "text_features")
    vision = SiglipVisionModel.from_pretrained(tmp_path / "vision")(known["pixel_values"])
    known.check(vision.pooler_output, "image_features")


@pytest.mark.parametrize(
    ("dtype", "param_dtype", "cosine"),
    [
        (jnp.bfloat16, jnp.float32, 0.9995),
        (jnp.bfloat16, jnp.bfloat16, 0.999),
        (jnp.float16, jnp.float32, 0.99999),
        (jnp.float32, jnp.float16, 0.99999),
    ],
)
def test_narrow_numbers_keep_the_promised_cosine(
    known: Any, dtype: Any, param_dtype: Any, cosine: float
) -> None:
    narrow = SiglipModel.from_pretrained(known.folder, dtype=dtype, param_dtype=param_dtype)
    output = narrow(known["input_ids"], known["pixel_values"])
    for name in ("text_embeds", "image_embeds"):
        assert output[name].dtype == jnp.float32
        cosines = np.sum(np.asarray(output[name]) * known[f"joint_{name}"], axis=1)
        assert cosine < cosines.min() < 1 - 1e-9


def test_one_step_of_training_moves_every_parameter(known: Any) -> None:
    model = SiglipModel(SiglipConfig.from_dict({**_tiny(), "model_type": "siglip"}), rngs=nnx.Rngs(0))

    def loss(model: SiglipModel) -> jax.Array:
        ids = jnp.arange(8, dtype=jnp.int32).reshape(2, 4)
        pixels = jax.random.normal(jax.random.key(1), (2, 3, 8, 8))
        return model(ids, pixels, return_loss=True, rngs=nnx.Rngs(2)).loss

    gradients = nnx.to_flat_state(nnx.state(nnx.grad(loss)(model)))
    still = [
        ".".join(map(str, path))
        for path, gradient in gradients
        if not np.abs(np.asarray(gradient[...])).max() > 0
    ]
    # A key's bias shifts all scores of a query alike, which a softmax does not see.
    assert [name for name in still if not name.endswith("key.bias")] == []


def _tiny() -> dict[str, Any]:
    tower = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return {
        "text_config": tower | {"vocab_size": 8, "max_position_embeddings": 4, "attention_dropout": 0.1},
        "vision_config": tower | {"image_size": 8, "patch_size": 4},
    }


def test_the_sigmoid_loss_by_hand() -> None:
    logits = jnp.array([[0.0, -1.0], [2.0, 3.0]])
    terms = [np.log1p(np.exp(-0.0)), np.log1p(np.exp(-1.0)), np.log1p(np.exp(2.0)), np.log1p(np.exp(-3.0))]
    np.testing.assert_allclose(sigmoid_loss(logits), sum(terms) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_config": {"vision_use_head": False}}, "vision_use_head = False is not supported"),
        ({"vision_config": {"hidden_act": "swish2"}}, "unknown activation 'swish2'"),
        ({"text_config": {"projection_size": 7}}, "texts would have 7 dimensions"),
        ({"text_config": {"colour": "red"}}, "unknown: colour = 'red'"),
        ({"model_type": "clip"}, "expects model_type 'siglip'"),
    ],
)
def test_settings_that_cannot_be_met_are_named(change: dict, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        SiglipConfig.from_dict(change)
    assert message in str(caught.value)


def test_weights_of_another_architecture_are_listed(golden: Callable[[str], Any], tmp_path: Path) -> None:
    clip = golden("clip-first-rules").folder
    (tmp_path / "config.json").write_text((golden("siglip").folder / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((clip / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"(?s)missing from the checkpoint.*head\.probe.*have no place"):
        SiglipModel.from_pretrained(tmp_path)


SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16, "num_hidden_layers": 27}
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "google/siglip-base-patch16-224": ({}, 203_155_970),
    "google/siglip2-base-patch32-256": (
        {"text_config": {"vocab_size": 256000}, "vision_config": {"image_size": 256, "patch_size": 32}},
        376_856_066,
    ),
    "google/siglip-so400m-patch14-384": (
        {"text_config": SO400M, "vision_config": SO400M | {"image_size": 384, "patch_size": 14}},
        877_960_498,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    settings, count = PUBLISHED[name]
    config = SiglipConfig.from_dict(settings)
    model = SiglipModel(config, rngs=None)
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == count
    side, width = config.vision_config.image_size, config.vision_config.hidden_size
    texts = jax.ShapeDtypeStruct((2, 64), jnp.int32)
    images = jax.ShapeDtypeStruct((3, 3, side, side), jnp.float32)
    output = jax.eval_shape(lambda model, ids, pixels: model(ids, pixels), model, texts, images)
    assert output.logits_per_image.shape == (3, 2)
    assert output.text_embeds.shape == (2, width)
    assert output.vision_model_output.last_hidden_state.shape == (
        3,
        (side // config.vision_config.patch_size) ** 2,
        width,
    )
