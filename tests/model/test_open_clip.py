"""OpenCLIP's dress against OpenCLIP itself, and what is refused of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from model.checkpoint import SafetensorsSource
from model.errors import CheckpointError, ConfigurationError, ModelInputError, UnsupportedCheckpointError
from model.open_clip import (
    OpenCLIPConfig,
    OpenCLIPModel,
    OpenCLIPTextModelWithProjection,
    OpenCLIPVisionModelWithProjection,
)
from model.preprocess import ImagePreprocessor
from model.tokenizer import TextCleaning, TextTokenizer, clip_tokenizer

REFERENCE = Path(__file__).parent.parent / "reference"
INPUTS = np.load(REFERENCE / "open_clip.npz")
ABOUT = json.loads(str(INPUTS["about"]))


@pytest.fixture(scope="module", params=["open-clip-plain", "open-clip-averaged", "open-clip-scaled"])
def known(request: pytest.FixtureRequest, golden: Callable[[str], Any]) -> Any:
    return golden(request.param)


@pytest.fixture(scope="module")
def open_clip(known: Any) -> OpenCLIPModel:
    return OpenCLIPModel.from_pretrained(known.folder)


def test_features_and_logits(open_clip: OpenCLIPModel, known: Any) -> None:
    ids, pixels = known["input_ids"], known["pixel_values"]
    known.check(open_clip.get_text_features(ids), "text_features")
    known.check(open_clip.get_image_features(pixels), "image_features")
    output = open_clip(ids, pixels)
    known.check(output.logits_per_image, "logits_per_image")
    np.testing.assert_array_equal(output.logits_per_text, output.logits_per_image.T)
    known.check(output.text_model_output.pooler_output, "text_features")
    with pytest.raises(ModelInputError, match="expected both"):
        open_clip(ids)


def test_each_tower_alone_reads_its_share_of_the_whole(known: Any) -> None:
    asked = {"output_hidden_states": True, "output_attentions": True}
    text = OpenCLIPTextModelWithProjection.from_pretrained(known.folder)(known["input_ids"], **asked)
    known.check(text.text_embeds, "text_features")
    assert len(text.hidden_states) == 3
    vision = OpenCLIPVisionModelWithProjection.from_pretrained(known.folder)(known["pixel_values"], **asked)
    known.check(vision.image_embeds, "image_features")
    np.testing.assert_allclose(vision.attentions[0].sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(vision.hidden_states[-1], vision.last_hidden_state)


def test_what_was_saved_is_read_back_and_by_open_clips_names(known: Any, tmp_path: Path) -> None:
    model = OpenCLIPModel.from_pretrained(known.folder)
    model.save_pretrained(tmp_path)
    (original,) = known.folder.glob("open_clip_*.safetensors")
    before, after = SafetensorsSource(original), SafetensorsSource(tmp_path / "open_clip_model.safetensors")
    assert {name.removeprefix("text."): shape for name, shape in before.shapes.items()} == after.shapes
    again = OpenCLIPModel.from_pretrained(tmp_path)
    assert again.config == model.config
    known.check(again.get_text_features(known["input_ids"]), "text_features")
    known.check(again.get_image_features(known["pixel_values"]), "image_features")


def test_layers_are_those_of_clip(golden: Callable[[str], Any]) -> None:
    """Hidden states and attentions, which OpenCLIP does not return, against CLIP's with the same weights."""
    from model.clip import CLIPConfig, CLIPModel

    known = golden("open-clip-plain")
    ours = OpenCLIPModel.from_pretrained(known.folder)
    tower = {"hidden_act": "gelu", "num_hidden_layers": 2}
    config = CLIPConfig.from_dict(
        {
            "text_config": tower
            | {"vocab_size": 40, "hidden_size": 20, "intermediate_size": 80, "num_attention_heads": 4}
            | {"max_position_embeddings": 9, "eos_token_id": 2},
            "vision_config": tower
            | {
                "hidden_size": 24,
                "intermediate_size": 96,
                "num_attention_heads": 3,
                "image_size": 22,
                "patch_size": 5,
            },
            "projection_dim": 16,
        }
    )
    clip = CLIPModel(config, rngs=nnx.Rngs(0))
    for mine, theirs in ((ours.text, clip.text_model), (ours.visual, clip.vision_model)):
        theirs.blocks, theirs.final_norm = mine.blocks, mine.final_norm
        theirs.position_embedding.embedding = mine.position_embedding
    clip.text_model.token_embedding = ours.text.token_embedding
    clip.vision_model.patch_embedding = ours.visual.patch_embedding
    clip.vision_model.class_embedding, clip.vision_model.first_norm = (
        ours.visual.class_embedding,
        ours.visual.first_norm,
    )
    asked = {"output_hidden_states": True, "output_attentions": True}
    pairs = [
        (ours.text(known["input_ids"], **asked), clip.text_model(known["input_ids"], **asked)),
        (ours.visual(known["pixel_values"], **asked), clip.vision_model(known["pixel_values"], **asked)),
    ]
    for mine, theirs in pairs:
        np.testing.assert_array_equal(mine.last_hidden_state, theirs.last_hidden_state)
        np.testing.assert_array_equal(np.stack(mine.hidden_states), np.stack(theirs.hidden_states))
        np.testing.assert_array_equal(np.stack(mine.attentions), np.stack(theirs.attentions))


@pytest.mark.parametrize("name", ["wide", "tall", "small"])
@pytest.mark.parametrize("case", ABOUT["preprocess"])
def test_pictures_are_prepared_as_by_open_clip(case: str, name: str) -> None:
    settings = ABOUT["preprocess"][case]
    side = settings["size"]
    preprocessor = ImagePreprocessor.from_open_clip_config(
        settings, image_height_pixels=side, image_width_pixels=side
    )
    values = preprocessor.pixel_values([Image.fromarray(INPUTS[f"image/{name}"])])
    np.testing.assert_allclose(values[0], INPUTS[f"{case}/{name}"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("clean", "cleaning"),
    [
        ("lower", TextCleaning.WEB),
        ("whitespace", TextCleaning.WEB_CASED),
        ("canonicalize", TextCleaning.WEB_BARE),
    ],
)
def test_texts_are_tokenised_as_by_open_clip(clean: str, cleaning: TextCleaning) -> None:
    vocabulary = clip_tokenizer(lower_case=cleaning is not TextCleaning.WEB_CASED)
    tokenizer = TextTokenizer(vocabulary, max_length=77, pad_id=0, cleaning=cleaning)
    assert tokenizer.vocabulary_size == 49408
    np.testing.assert_array_equal(tokenizer(ABOUT["texts"], length=77).input_ids, INPUTS[f"ids/{clean}"])


def test_one_step_of_training_moves_every_parameter(golden: Callable[[str], Any]) -> None:
    known = golden("open-clip-averaged")
    model = OpenCLIPModel.from_pretrained(known.folder)

    def loss(model: OpenCLIPModel) -> jax.Array:
        output = model(known["input_ids"], known["pixel_values"], return_loss=True)
        return output.loss + jax.nn.softplus(output.logits_per_image).mean()

    gradients = nnx.to_flat_state(nnx.state(nnx.grad(loss)(model)))
    still = [
        ".".join(map(str, path)) for path, value in gradients if not np.abs(np.asarray(value[...])).max() > 0
    ]
    # A key's bias shifts all scores of a query alike, which a softmax does not see.
    assert [name for name in still if not name.endswith("key.bias")] == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vision_cfg": {"timm_model_name": "vit_x"}}, "a vision tower of timm (timm_model_name 'vit_x')"),
        ({"vision_cfg": {"layers": [3, 4, 6, 3]}}, "a ResNet as vision tower (layers [3, 4, 6, 3])"),
        ({"multimodal_cfg": {"width": 8}}, "a caption decoder (CoCa: multimodal_cfg)"),
        ({"text_cfg": {"hf_model_name": "roberta-base"}}, "a text tower of Hugging Face"),
        (
            {"vision_cfg": {"attentional_pool": True}, "text_cfg": {"embed_cls": True}},
            "attention (attentional_pool True) and",
        ),
    ],
)
def test_towers_from_elsewhere_are_named(settings: dict, message: str) -> None:
    with pytest.raises(UnsupportedCheckpointError) as caught:
        OpenCLIPConfig.from_dict({"model_cfg": settings})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"vision_cfg": {"pool_type": "none"}},
            "vision_cfg.pool_type = 'none' is not supported: known are tok, avg",
        ),
        ({"text_cfg": {"pool_type": "mean"}}, "text_cfg.pool_type = 'mean'"),
        ({"vision_cfg": {"act_kwargs": {"beta": 1}}}, "act_kwargs = {'beta': 1} is not supported"),
        ({"text_cfg": {"norm_kwargs": {"eps": "small"}}}, "norm_kwargs = {'eps': 'small'} is not supported"),
        ({"vision_cfg": {"width": 100}}, "vision_cfg.width 100 is no multiple of vision_cfg.head_width 64"),
        ({"vision_cfg": {"qk_norm": True}}, "qk_norm = True is not supported"),
        (
            {"text_cfg": {"proj_type": "none"}, "embed_dim": 3},
            "leaves texts with 512 dimensions, embed_dim is 3",
        ),
        ({"colour": "red"}, "unknown: colour = 'red'"),
        ({"text_cfg": []}, "text_cfg should be an object"),
    ],
)
def test_settings_that_cannot_be_met_are_named(settings: dict, message: str) -> None:
    for whole in (settings, {"model_cfg": settings}):
        with pytest.raises(ConfigurationError) as caught:
            OpenCLIPConfig.from_dict(whole)
        assert message in str(caught.value)


def test_a_folder_without_its_weights_is_named(golden: Callable[[str], Any], tmp_path: Path) -> None:
    config = golden("open-clip-plain").folder / "open_clip_config.json"
    (tmp_path / "open_clip_config.json").write_bytes(config.read_bytes())
    with pytest.raises(CheckpointError, match=r"expected open_clip_model\.safetensors or"):
        OpenCLIPModel.from_pretrained(tmp_path)
    (tmp_path / "open_clip_pytorch_model.bin").touch()
    with pytest.raises(UnsupportedCheckpointError, match="pickle"):
        OpenCLIPModel.from_pretrained(tmp_path)


B32 = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32}
TEXT_LARGE = {"context_length": 77, "vocab_size": 49408, "width": 1024, "heads": 16, "layers": 24}
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K": (
        {"embed_dim": 512, "vision_cfg": B32 | {"image_size": 256}},
        151_288_833,
    ),
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": (
        {
            "embed_dim": 1024,
            "vision_cfg": {"layers": 32, "width": 1280, "head_width": 80, "patch_size": 14},
            "text_cfg": TEXT_LARGE,
        },
        986_109_441,
    ),
    "laion/CLIP-ViT-g-14-laion2B-s12B-b42K": (
        {
            "embed_dim": 1024,
            "vision_cfg": {
                "layers": 40,
                "width": 1408,
                "head_width": 88,
                "mlp_ratio": 4.3637,
                "patch_size": 14,
            },
            "text_cfg": TEXT_LARGE,
        },
        1_366_678_273,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    settings, count = PUBLISHED[name]
    config = OpenCLIPConfig.from_dict({"model_cfg": settings, "preprocess_cfg": {}})
    model = OpenCLIPModel(config, rngs=None)
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == count
    side = config.vision_cfg.image_size
    texts = jax.ShapeDtypeStruct((2, 77), jnp.int32)
    images = jax.ShapeDtypeStruct((3, 3, side, side), jnp.float32)
    output = jax.eval_shape(lambda model, ids, pixels: model(ids, pixels), model, texts, images)
    assert output.logits_per_image.shape == (3, 2)
    assert output.image_embeds.shape == (3, settings["embed_dim"])
