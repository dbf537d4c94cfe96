"""Dual encoders against PyTorch Transformers: every tower in full, every pair in what it answers."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from model import (
    BertModel,
    CLIPModel,
    CLIPTextModel,
    CLIPVisionModel,
    ConfigurationError,
    Dinov2Model,
    ModelInputError,
    RobertaModel,
    UntrainedWeightsWarning,
    VisionTextDualEncoderModel,
    ViTModel,
)
from model.dual_encoder import DualEncoderTextModelWithProjection, DualEncoderVisionModelWithProjection

pytestmark = pytest.mark.usefixtures("quick_compilation")

HIDDEN = 2e-5
WHOLE = ("dual-clip-bert", "dual-vit-roberta", "dual-dinov2-xlm-roberta", "dual-swiglu-clip")
PAIRS = [
    f"{vision}-{text}"
    for vision in ("clip", "vit", "dinov2")
    for text in ("bert", "roberta", "xlm-roberta", "clip")
]


@pytest.fixture(scope="module", params=WHOLE)
def known(request: pytest.FixtureRequest, golden: Callable[[str], Any]) -> Any:
    return golden(request.param)


@pytest.fixture(scope="module")
def dual(known: Any) -> VisionTextDualEncoderModel:
    return VisionTextDualEncoderModel.from_pretrained(known.folder)


def test_towers_and_joint_call(dual: VisionTextDualEncoderModel, known: Any) -> None:
    output = dual(
        known["input_ids"],
        known["pixel_values"],
        known["attention_mask"],
        return_loss=True,
        output_attentions=True,
        output_hidden_states=True,
    )
    for tower in ("text", "vision"):
        of_tower = output[f"{tower}_model_output"]
        np.testing.assert_allclose(
            of_tower.hidden_states[0], known[f"{tower}_hidden_states"][0], rtol=0, atol=3e-6
        )
        known.check(of_tower.hidden_states, f"{tower}_hidden_states", HIDDEN)
        known.check(of_tower.attentions, f"{tower}_attentions")
        known.check(of_tower.last_hidden_state, f"{tower}_last_hidden_state", HIDDEN)
        known.check(of_tower.pooler_output, f"{tower}_pooler_output")
    for name in ("loss", "logits_per_image", "logits_per_text", "text_embeds", "image_embeds"):
        known.check(output[name], f"joint_{name}")


def test_features(dual: VisionTextDualEncoderModel, known: Any) -> None:
    ids, mask = known["input_ids"], known["attention_mask"]
    known.check(dual.get_text_features(ids, mask), "text_features")
    known.check(dual.get_image_features(known["pixel_values"]), "image_features")
    moved = dual.get_text_features(ids, mask, known["position_ids"], known.arrays.get("token_type_ids"))
    known.check(moved, "moved_text_features")
    for size in ("larger", "smaller"):
        if f"{size}_pixel_values" in known.arrays:
            features = dual.get_image_features(known[f"{size}_pixel_values"])
            known.check(features, f"{size}_image_features")


def test_each_half_is_read_alone(known: Any) -> None:
    text = DualEncoderTextModelWithProjection.from_pretrained(known.folder)
    known.check(text(known["input_ids"], known["attention_mask"]).text_embeds, "text_features")
    vision = DualEncoderVisionModelWithProjection.from_pretrained(known.folder)
    known.check(vision(known["pixel_values"]).image_embeds, "image_features")


@pytest.mark.parametrize("pair", PAIRS)
def test_every_pair(golden: Callable[[str], Any], pair: str) -> None:
    known = golden(f"dual-pairs/{pair}")
    model = VisionTextDualEncoderModel.from_pretrained(known.folder)
    output = model(known["input_ids"], known["pixel_values"], known["attention_mask"], return_loss=True)
    for name in ("loss", "logits_per_image", "logits_per_text", "text_embeds", "image_embeds"):
        known.check(output[name], f"joint_{name}")


@pytest.mark.parametrize("pair", PAIRS)
def test_saving_gives_the_names_of_transformers_4_and_reading_takes_those_of_4_and_5(
    golden: Callable[[str], Any], tmp_path: Path, pair: str
) -> None:
    """The goldens were saved by 5; of the two, 5 reads both and 4 only its own."""
    folder = golden(f"dual-pairs/{pair}").folder
    before = VisionTextDualEncoderModel.from_pretrained(folder)
    before.save_pretrained(tmp_path)
    given, saved = load_file(folder / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    for part in ("vision_model.", "text_model."):
        clip = pair.startswith("clip-") if part == "vision_model." else pair.endswith("-clip")
        given = {name.replace(part, part * 2) if clip else name: array for name, array in given.items()}
    assert saved.keys() == given.keys()
    for name, array in given.items():
        np.testing.assert_array_equal(saved[name], array, err_msg=name)
    after = VisionTextDualEncoderModel.from_pretrained(tmp_path)
    assert after.config == before.config
    jax.tree.map(np.testing.assert_array_equal, nnx.state(after), nnx.state(before))
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["model_type"] == "vision-text-dual-encoder"
    assert settings["architectures"] == ["VisionTextDualEncoderModel"]


@pytest.mark.parametrize(
    ("name", "tower", "half"),
    [
        ("dual-clip-bert", BertModel, "text"),
        ("dual-clip-bert", CLIPVisionModel, "vision"),
        ("dual-vit-roberta", RobertaModel, "text"),
        ("dual-vit-roberta", ViTModel, "vision"),
        ("dual-dinov2-xlm-roberta", Dinov2Model, "vision"),
        ("dual-swiglu-clip", CLIPTextModel, "text"),
    ],
)
def test_towers_alone(golden: Callable[[str], Any], tmp_path: Path, name: str, tower: Any, half: str) -> None:
    """Saved alone and under the prefix that a checkpoint with heads has, they answer as in the pair."""
    known = golden(name)
    dual = VisionTextDualEncoderModel.from_pretrained(known.folder)
    (dual.text_model if half == "text" else dual.vision_model).save_pretrained(tmp_path)
    prefix = {BertModel: "bert.", RobertaModel: "roberta.", ViTModel: "vit.", Dinov2Model: "dinov2."}.get(
        tower, ""
    )
    arrays = load_file(tmp_path / "model.safetensors")
    heads = {"classifier.weight": np.zeros((2, 3), np.float32)} if prefix else {}
    save_file({prefix + key: array for key, array in arrays.items()} | heads, tmp_path / "model.safetensors")
    model = tower.from_pretrained(tmp_path)
    inputs = (known["input_ids"], known["attention_mask"]) if half == "text" else (known["pixel_values"],)
    known.check(model(*inputs).pooler_output, f"{half}_pooler_output")


@pytest.fixture(scope="module")
def towers(golden: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of a ViT and a BERT alone."""
    folder = tmp_path_factory.mktemp("towers")
    pair = VisionTextDualEncoderModel.from_pretrained(golden("dual-pairs/vit-bert").folder)
    pair.vision_model.save_pretrained(folder / "vit")
    pair.text_model.save_pretrained(folder / "bert")
    return folder


def test_two_checkpoints_put_together(golden: Callable[[str], Any], towers: Path, tmp_path: Path) -> None:
    known = golden("dual-pairs/vit-bert")
    with pytest.warns(
        UntrainedWeightsWarning, match="visual_projection, text_projection and logit_scale are new"
    ):
        model = VisionTextDualEncoderModel.from_vision_text_pretrained(
            towers / "vit", str(towers / "bert"), projection_dim=6, logit_scale_init_value=1.5
        )
    whole = VisionTextDualEncoderModel.from_pretrained(known.folder)
    ids, pixels = known["input_ids"], known["pixel_values"]
    np.testing.assert_array_equal(model.text_model(ids).pooler_output, whole.text_model(ids).pooler_output)
    np.testing.assert_array_equal(
        model.vision_model(pixels).pooler_output, whole.vision_model(pixels).pooler_output
    )
    assert model.get_text_features(ids).shape == (3, 6)
    assert float(model.logit_scale[...]) == 1.5
    assert np.std(model.visual_projection.kernel[...]) > 0.005
    model.save_pretrained(tmp_path)
    again = VisionTextDualEncoderModel.from_pretrained(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(again), nnx.state(model))


def test_towers_of_whole_clips_and_towers_in_memory(golden: Callable[[str], Any]) -> None:
    folder = golden("clip-first-rules").folder
    whole = CLIPModel.from_pretrained(folder)
    with pytest.warns(UntrainedWeightsWarning):
        model = VisionTextDualEncoderModel.from_vision_text_pretrained(folder, whole.text_model)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(model.vision_model), nnx.state(whole.vision_model))
    assert model.text_model is whole.text_model
    assert model.config.projection_dim == 512


def test_a_tower_that_was_trained_without_pooler_gets_a_new_one_and_says_so(
    golden: Callable[[str], Any], towers: Path, tmp_path: Path
) -> None:
    shutil.copytree(towers / "vit", tmp_path / "vit")
    arrays = load_file(tmp_path / "vit" / "model.safetensors")
    without = {name: array for name, array in arrays.items() if not name.startswith("pooler.")}
    assert len(without) == len(arrays) - 2
    save_file(without, tmp_path / "vit" / "model.safetensors")
    with pytest.warns(UntrainedWeightsWarning, match="no pooler for ViTModel"):
        model = ViTModel.from_pretrained(tmp_path / "vit")
    assert np.std(model.pooler.dense.kernel[...]) > 0.005
    known = golden("dual-pairs/vit-bert")
    assert np.isfinite(model(known["pixel_values"]).pooler_output).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ViTModel.from_pretrained(towers / "vit")


def test_first_berts_name_their_norms_by_greek_letters(towers: Path, tmp_path: Path) -> None:
    shutil.copytree(towers / "bert", tmp_path / "bert")
    arrays = load_file(tmp_path / "bert" / "model.safetensors")
    greek = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): array
        for name, array in arrays.items()
    }
    assert sum("gamma" in name for name in greek) == 3
    save_file(
        {f"bert.{name}": array for name, array in greek.items()}, tmp_path / "bert" / "model.safetensors"
    )
    jax.tree.map(
        np.testing.assert_array_equal,
        nnx.state(BertModel.from_pretrained(tmp_path / "bert")),
        nnx.state(BertModel.from_pretrained(towers / "bert")),
    )


def test_wrong_inputs_and_configurations(golden: Callable[[str], Any], towers: Path) -> None:
    model = VisionTextDualEncoderModel.from_pretrained(golden("dual-pairs/dinov2-clip").folder)
    ids = np.ones((2, 5), int)
    with pytest.raises(ModelInputError, match="CLIPTextModel has no token types"):
        model.get_text_features(ids, token_type_ids=np.zeros_like(ids))
    with pytest.raises(ModelInputError, match=r"at least 2, at least 2\), got \(1, 3, 1, 5\)"):
        model.get_image_features(np.zeros((1, 3, 1, 5), np.float32))
    with pytest.raises(ModelInputError, match="both input_ids and pixel_values"):
        model(ids)
    roberta = VisionTextDualEncoderModel.from_pretrained(golden("dual-pairs/vit-roberta").folder)
    with pytest.raises(ModelInputError, match="at most 12 tokens a text, got 13"):
        roberta.get_text_features(np.ones((1, 13), int))
    bert = BertModel.from_pretrained(towers / "bert")
    with pytest.raises(ModelInputError, match="token_type_ids: expected 0 to 1"):
        bert(ids, token_type_ids=np.full_like(ids, 2))
    with pytest.raises(ConfigurationError, match="model_type 'bert' is not supported; known: clip, "):
        VisionTextDualEncoderModel.from_vision_text_pretrained(towers / "bert", towers / "bert")
    settings = {"vision_config": {"model_type": "swin"}, "text_config": {"model_type": "bert"}}
    with pytest.raises(ConfigurationError, match="vision_config: model_type 'swin' is not supported"):
        VisionTextDualEncoderModel.configuration_class.from_dict(settings)


@pytest.mark.parametrize("pair", ["clip-bert", "vit-roberta", "dinov2-xlm-roberta"])
def test_what_the_removed_flax_models_saved(golden: Callable[[str], Any], pair: str) -> None:
    known = golden(f"dual-pairs/{pair}")
    model = VisionTextDualEncoderModel.from_pretrained(known.folder.parent.parent / f"flax-{pair}")
    same = VisionTextDualEncoderModel.from_pretrained(known.folder)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(model), nnx.state(same))
