"""CLIP against PyTorch Transformers, number by number, and the ways in which people call it."""

import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model import (
    CLIPConfig,
    CLIPModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    ModelInputError,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

HIDDEN = 2e-5  # raw hidden states are larger than what norms and projections leave of them


@pytest.fixture(scope="module", params=["clip-first-rules", "clip-later-rules"])
def known(request: pytest.FixtureRequest, golden: Callable[[str], Any]) -> Any:
    return golden(request.param)


@pytest.fixture(scope="module")
def clip(known: Any) -> CLIPModel:
    return CLIPModel.from_pretrained(known.folder)


@pytest.fixture(scope="module")
def first_clip(golden: Callable[[str], Any]) -> CLIPModel:
    return CLIPModel.from_pretrained(golden("clip-first-rules").folder)


def test_text_embeddings_then_one_layer_then_the_tower(clip: CLIPModel, known: Any) -> None:
    output = clip.text_model(
        known["input_ids"], known["attention_mask"], output_hidden_states=True, output_attentions=True
    )
    np.testing.assert_allclose(output.hidden_states[0], known["text_hidden_states"][0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(output.hidden_states[1], known["text_hidden_states"][1], rtol=0, atol=1e-5)
    known.check(output.hidden_states, "text_hidden_states", HIDDEN)
    known.check(output.attentions, "text_attentions")
    known.check(output.last_hidden_state, "text_last_hidden_state", HIDDEN)
    known.check(output.pooler_output, "text_pooler_output")


def test_vision_embeddings_then_one_layer_then_the_tower(clip: CLIPModel, known: Any) -> None:
    output = clip.vision_model(known["pixel_values"], output_hidden_states=True, output_attentions=True)
    np.testing.assert_allclose(output.hidden_states[0], known["vision_hidden_states"][0], rtol=0, atol=3e-6)
    np.testing.assert_allclose(output.hidden_states[1], known["vision_hidden_states"][1], rtol=0, atol=1e-5)
    known.check(output.hidden_states, "vision_hidden_states", HIDDEN)
    known.check(output.attentions, "vision_attentions")
    known.check(output.last_hidden_state, "vision_last_hidden_state", HIDDEN)
    known.check(output.pooler_output, "vision_pooler_output")


def test_features(clip: CLIPModel, known: Any) -> None:
    ids, mask = known["input_ids"], known["attention_mask"]
    known.check(clip.get_text_features(ids, mask), "text_features")
    known.check(clip.get_text_features(ids), "unmasked_text_features")
    known.check(clip.get_text_features(ids, mask, known["position_ids"]), "moved_text_features")
    known.check(clip.get_image_features(known["pixel_values"]), "image_features")


def test_joint_call(clip: CLIPModel, known: Any) -> None:
    pixels = known["pixel_values"][[0, 1, 0]]
    output = clip(known["input_ids"], pixels, attention_mask=known["attention_mask"], return_loss=True)
    for name in ("loss", "logits_per_image", "logits_per_text", "text_embeds", "image_embeds"):
        known.check(output[name], f"joint_{name}")
    known.check(output.text_model_output.pooler_output, "joint_text_pooler_output")
    known.check(output.vision_model_output.pooler_output, "joint_vision_pooler_output")
    known.check(output.text_model_output.last_hidden_state, "joint_text_last_hidden_state", HIDDEN)
    known.check(output.vision_model_output.last_hidden_state, "joint_vision_last_hidden_state", HIDDEN)
    assert output.text_model_output.hidden_states is None
    assert output.vision_model_output.attentions is None


def test_joint_call_returns_hidden_states_and_attentions_of_both_towers(clip: CLIPModel, known: Any) -> None:
    output = clip(
        known["input_ids"],
        known["pixel_values"],
        known["attention_mask"],
        output_attentions=True,
        output_hidden_states=True,
    )
    assert output.loss is None
    known.check(output.text_model_output.hidden_states, "text_hidden_states", HIDDEN)
    known.check(output.vision_model_output.attentions, "vision_attentions")


def test_tokens_that_may_look_at_none_give_numbers(clip: CLIPModel, known: Any) -> None:
    output = clip.text_model(known["input_ids"], known["left_attention_mask"])
    known.check(output.last_hidden_state, "left_last_hidden_state", HIDDEN)


def test_each_part_alone_reads_its_share_of_the_whole(known: Any) -> None:
    ids, mask, pixels = known["input_ids"], known["attention_mask"], known["pixel_values"]
    text = CLIPTextModelWithProjection.from_pretrained(known.folder)(ids, mask, output_hidden_states=True)
    known.check(text.text_embeds, "text_features")
    known.check(text.hidden_states, "text_hidden_states", HIDDEN)
    vision = CLIPVisionModelWithProjection.from_pretrained(known.folder)(pixels, output_attentions=True)
    known.check(vision.image_embeds, "image_features")
    known.check(vision.attentions, "vision_attentions")
    tower = CLIPTextModel.from_pretrained(known.folder)(ids, mask)
    known.check(tower.pooler_output, "text_pooler_output")
    tower = CLIPVisionModel.from_pretrained(known.folder)(pixels)
    known.check(tower.pooler_output, "vision_pooler_output")


@pytest.mark.usefixtures("full_compilation")
def test_compiled_calls_give_the_same_and_return_whole_outputs(clip: CLIPModel, known: Any) -> None:
    call = jax.jit(lambda model, ids, pixels, mask: model(ids, pixels, mask, output_hidden_states=True))
    output = call(clip, known["input_ids"], known["pixel_values"], known["attention_mask"])
    known.check(output.text_model_output.hidden_states, "text_hidden_states", HIDDEN)
    known.check(output.text_embeds, "joint_text_embeds")


def test_outputs_are_reached_by_name_and_by_place(clip: CLIPModel, known: Any) -> None:
    output = clip.vision_model(known["pixel_values"])
    last, pooled = output
    assert output["last_hidden_state"] is last is output[0] is output.last_hidden_state
    assert pooled is output[1] is output.to_tuple()[-1]
    assert output["attentions"] is None
    with pytest.raises(KeyError):
        output["logits"]


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_ids_and_masks_of_any_integer_type(clip: CLIPModel, known: Any, dtype: type) -> None:
    ids, mask = known["input_ids"].astype(dtype), known["attention_mask"].astype(bool)
    known.check(clip.get_text_features(ids, mask), "text_features")
    known.check(clip.get_text_features(ids.tolist(), mask.astype(np.float32)), "text_features")


def test_pooling_rule_follows_eos_token_id(clip: CLIPModel, known: Any) -> None:
    """With the other rule the checkpoint answers otherwise, so the goldens see which one is used."""
    other = 5 if clip.config.text_config.eos_token_id == 2 else 2
    settings = json.loads((known.folder / "config.json").read_text())
    settings["text_config"]["eos_token_id"] = other
    ids = known["input_ids"]
    changed = CLIPTextModel(CLIPConfig.from_dict(settings).text_config, rngs=nnx.Rngs(0))
    nnx.update(changed, nnx.state(clip.text_model))
    pooled = np.asarray(changed(ids).pooler_output)
    last = np.asarray(changed(ids).last_hidden_state)
    where = ids.argmax(axis=1) if other == 2 else (ids == other).argmax(axis=1)
    np.testing.assert_allclose(pooled, last[np.arange(len(ids)), where], rtol=0, atol=1e-5)
    assert not np.allclose(pooled, clip.text_model(ids).pooler_output)


def test_missing_eos_token_id_means_49407() -> None:
    assert CLIPConfig.from_dict({"text_config": {"hidden_size": 64}}).text_config.eos_token_id == 49407


def test_half_precision_stays_close_and_gives_float32(known: Any) -> None:
    """The promise for bfloat16 and float16 products: cosine to float32 of at least 0.999 and 0.99999."""
    for dtype, promised in ((jnp.bfloat16, 0.999), (jnp.float16, 0.99999)):
        model = CLIPVisionModelWithProjection.from_pretrained(known.folder, dtype=dtype, param_dtype=dtype)
        assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype(dtype)}
        actual, expected = np.asarray(model(known["pixel_values"]).image_embeds), known["image_features"]
        assert actual.dtype == np.float32
        cosines = (
            (actual * expected).sum(1) / np.linalg.norm(actual, axis=1) / np.linalg.norm(expected, axis=1)
        )
        assert cosines.min() >= promised
        assert cosines.max() < 1 - 1e-9  # the dtype reached the products


def test_fresh_model_is_deterministic_and_starts_where_configured() -> None:
    config = CLIPConfig.from_dict(
        {
            "text_config": {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 0},
            "vision_config": {"hidden_size": 8, "num_hidden_layers": 0, "image_size": [6, 9], "patch_size": 3}
            | {"num_attention_heads": 2},
            "projection_dim": 8,
            "logit_scale_init_value": 1.5,
        }
    )
    one, two = (CLIPModel(config, rngs=nnx.Rngs(3)) for _ in range(2))
    for left, right in zip(jax.tree.leaves(nnx.state(one)), jax.tree.leaves(nnx.state(two)), strict=True):
        np.testing.assert_array_equal(left, right)
    pixels = np.ones((1, 3, 6, 9), np.float32)
    assert one.vision_model(pixels).last_hidden_state.shape == (1, 2 * 3 + 1, 8)
    assert float(one.logit_scale[...]) == 1.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: m.get_image_features(np.zeros((1, 3, 5, 22), np.float32)),
            r"3, 22, 22\).*got \(1, 3, 5, 22\)",
        ),
        (lambda m: m.get_image_features(np.zeros((3, 22, 22), np.float32)), r"got \(3, 22, 22\)"),
        (lambda m: m.get_image_features(np.zeros((0, 3, 22, 22), np.float32)), "at least one image"),
        (lambda m: m.get_image_features(np.zeros((1, 3, 22, 22), np.uint8)), "normalised, got uint8"),
        (lambda m: m.get_text_features(np.array([[0, 40]])), "0 to 39 .*got 0 to 40"),
        (lambda m: m.get_text_features(np.array([[0, 2**32]])), "got 0 to 4294967296"),
        (lambda m: m.get_text_features(np.array([[-1, 3]])), "got -1 to 3"),
        (lambda m: m.get_text_features(np.zeros((1, 13), int)), "at most 12 tokens a text, got 13"),
        (lambda m: m.get_text_features(np.zeros((0, 5), int)), "at least one text"),
        (lambda m: m.get_text_features(np.zeros((5,), int)), r"expected \(batch, length\), got \(5,\)"),
        (lambda m: m.get_text_features(np.zeros((1, 5))), "expected integers, got float64"),
        (
            lambda m: m.get_text_features(np.zeros((2, 5), int), np.ones((2, 4))),
            r"attention_mask: .*\(2, 4\)",
        ),
        (lambda m: m.get_text_features(np.zeros((2, 5), int), None, np.zeros((3, 5), int)), "position_ids"),
        (lambda m: m.get_text_features(np.zeros((1, 2), int), None, np.array([[0, 12]])), "0 to 11"),
        (lambda m: m(np.zeros((1, 5), int)), "both input_ids and pixel_values"),
        (
            lambda m: m(np.zeros((2, 5), int), np.zeros((1, 3, 22, 22), np.float32), return_loss=True),
            "2 texts and 1 images",
        ),
    ],
)
def test_wrong_inputs_are_told_what_was_expected(
    first_clip: CLIPModel, call: Callable[[CLIPModel], object], message: str
) -> None:
    with pytest.raises(ModelInputError, match=message):
        call(first_clip)
