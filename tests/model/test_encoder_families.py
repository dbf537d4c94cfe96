"""`Encoder` on every family: the right tower, the right padding and cleaning, from a folder as people have it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from model.encoder import Encoder
from model.errors import CheckpointError, UnsupportedCheckpointError

WORDS = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"w{number}" for number in range(4, 38)), "Dog", "dog"]
BEGIN, END = 2, 1


def write_tokenizer(folder: Path, *, begin: bool = True, **settings: object) -> None:
    """A vocabulary of forty words, split at spaces; texts end with <eos>, and begin with <bos> where asked for."""
    special = [
        {"id": id_, "content": WORDS[id_], "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False, "special": True}
        for id_ in range(4)
    ]
    opening = [{"SpecialToken": {"id": "<bos>", "type_id": 0}}] if begin else []
    template = [
        *opening,
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "<eos>", "type_id": 0}},
    ]
    content = {
        "version": "1.0",
        "added_tokens": special,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": template,
            "pair": [*template, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {
                token: {"id": token, "ids": [WORDS.index(token)], "tokens": [token]}
                for token in ("<bos>", "<eos>")
            },
        },
        "model": {
            "type": "WordLevel",
            "vocab": {word: id_ for id_, word in enumerate(WORDS)},
            "unk_token": "<unk>",
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"pad_token": "<pad>"} | settings), encoding="utf-8"
    )


def write_preprocessor(folder: Path, height: int, width: int) -> None:
    settings = {"image_processor_type": "SiglipImageProcessor", "size": {"height": height, "width": width}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")


def unit(vectors: Any) -> np.ndarray:
    array = np.asarray(vectors)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


@pytest.fixture
def copy(tmp_path: Path, golden: Callable[[str], Any]) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        shutil.copytree(golden(name).folder, tmp_path / name)
        return tmp_path / name

    return make


def pixels_of(encoder: Encoder, count: int) -> np.ndarray:
    shape = (count, encoder.preprocessor.input_height_pixels, encoder.preprocessor.input_width_pixels, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def values_of(encoder: Encoder, pixels: np.ndarray) -> np.ndarray:
    return encoder.preprocessor.normalize(pixels).transpose(0, 3, 1, 2)


def test_siglip_2(copy: Callable[[str], Path]) -> None:
    from model.siglip import SiglipModel

    folder = copy("siglip")
    write_tokenizer(folder, begin=False, tokenizer_class="GemmaTokenizer")
    write_preprocessor(folder, 23, 23)
    encoder, model = Encoder.load(folder), SiglipModel.from_pretrained(folder)
    dog = WORDS.index("dog")
    ids = np.array([[dog, 5, END, 0, 0, 0, 0, 0, 0], [dog] * 8 + [END], [END] + [0] * 8], dtype=np.int32)
    vectors = encoder.encode_texts(
        ["Dog w5", "DOG " * 20, ""]
    )  # lower-cased, padded to the end, cut before it
    np.testing.assert_allclose(vectors, unit(jax.jit(model.get_text_features)(ids)), atol=2e-6)
    pixels = pixels_of(encoder, 3)
    expected = unit(jax.jit(model.get_image_features)(values_of(encoder, pixels)))
    np.testing.assert_allclose(encoder.encode_pixels(pixels), expected, atol=2e-6)
    assert encoder.dimension == vectors.shape[1] == 28


def test_siglip_says_how_probable_a_pair_is(copy: Callable[[str], Path]) -> None:
    from model.siglip import SiglipModel, match_probabilities

    folder = copy("siglip")
    write_tokenizer(folder, begin=False)
    write_preprocessor(folder, 23, 23)
    encoder, model = Encoder.load(folder), SiglipModel.from_pretrained(folder)
    assert encoder.logit_scale is not None
    assert encoder.logit_bias is not None
    ids = np.array([[WORDS.index("dog"), END] + [0] * 7], dtype=np.int32)
    pixels = pixels_of(encoder, 3)
    expected = match_probabilities(jax.jit(model)(ids, values_of(encoder, pixels)).logits_per_text)
    cosines = encoder.encode_texts(["dog"]) @ encoder.encode_pixels(pixels).T
    found = 1 / (1 + np.exp(-(encoder.logit_scale * cosines + encoder.logit_bias)))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_clip_only_compares() -> None:
    encoder = Encoder.load("starter")
    assert encoder.logit_scale is not None
    assert encoder.logit_scale > 1
    assert encoder.logit_bias is None


def test_siglip_reads_texts_without_punctuation(copy: Callable[[str], Path]) -> None:
    folder = copy("siglip")
    write_tokenizer(folder, begin=False, tokenizer_class="SiglipTokenizer")
    write_preprocessor(folder, 23, 23)
    encoder = Encoder.load(folder)
    expected = encoder.encode_texts(["dog w5"])
    np.testing.assert_array_equal(encoder.encode_texts([" DOG, (w5)! "]), expected)
    write_tokenizer(folder, begin=False, tokenizer_class="PreTrainedTokenizerFast")
    assert not np.allclose(Encoder.load(folder).encode_texts(["Dog w5"]), expected)


def test_the_token_table_of_siglip_stays_in_the_file(copy: Callable[[str], Path]) -> None:
    folder = copy("siglip")
    write_tokenizer(folder, begin=False)
    write_preprocessor(folder, 23, 23)
    encoder = Encoder.load(folder)
    encoder.encode_texts(["dog"])
    base = encoder._text_inputs.embedding_table
    while not isinstance(base, np.memmap):
        assert base.base is not None, "the table was copied into memory"
        base = base.base
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["vocab_size"] = 50
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="has 40 rows, its configuration says 50"):
        Encoder.load(folder).encode_texts(["dog"])


@pytest.mark.parametrize(
    ("name", "height", "width", "longest"),
    [("dual-vit-roberta", 13, 17, 12), ("dual-clip-bert", None, None, 14)],
)
def test_dual_encoders(
    copy: Callable[[str], Path], name: str, height: int | None, width: int | None, longest: int
) -> None:
    from model.dual_encoder import VisionTextDualEncoderModel

    folder = copy(name)
    config = json.loads((folder / "config.json").read_text())
    side = config["vision_config"]["image_size"]
    write_preprocessor(folder, height or side, width or side)
    # RoBERTa's positions are counted from its padding id, which is 1.
    pads_with = config["text_config"]["pad_token_id"]
    write_tokenizer(folder, pad_token=WORDS[pads_with])
    encoder, model = Encoder.load(folder), VisionTextDualEncoderModel.from_pretrained(folder)
    dog = WORDS.index("dog")
    assert encoder.tokenizer.max_length == longest
    ids = np.full((3, longest), pads_with, dtype=np.int32)
    ids[0, :4] = [BEGIN, dog, 5, 2]
    ids[1] = [BEGIN, *[dog] * (longest - 2), 2]
    ids[2, :2] = [BEGIN, 2]
    ids[ids == END] = pads_with
    mask = (np.arange(longest) < np.array([[4], [longest], [2]])).astype(np.int32)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    # The text ends with <bos>'s id here, because <eos> is what RoBERTa pads with.
    tokenizer["post_processor"]["special_tokens"]["<eos>"]["ids"] = [2]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    vectors = Encoder.load(folder).encode_texts(["dog w5", "dog " * 40, ""])
    np.testing.assert_allclose(vectors, unit(jax.jit(model.get_text_features)(ids, mask)), atol=2e-6)
    if config["vision_config"].get("num_channels", 3) == 3:
        pixels = pixels_of(encoder, 2)
        expected = unit(jax.jit(model.get_image_features)(values_of(encoder, pixels)))
        np.testing.assert_allclose(encoder.encode_pixels(pixels), expected, atol=2e-6)


@pytest.mark.parametrize("name", ["open-clip-plain", "open-clip-averaged", "open-clip-scaled"])
def test_open_clip(copy: Callable[[str], Path], name: str) -> None:
    from model.open_clip import OpenCLIPModel

    folder = copy(name)
    write_tokenizer(folder)
    encoder, model = Encoder.load(folder), OpenCLIPModel.from_pretrained(folder)
    assert encoder.preprocessor.mean == (0.5, 0.5, 0.5)
    assert encoder.preprocessor.resize_rule == "exact"
    pixels = pixels_of(encoder, 2)
    expected = unit(jax.jit(model.get_image_features)(values_of(encoder, pixels)))
    np.testing.assert_allclose(encoder.encode_pixels(pixels), expected, atol=2e-6)
    dog = WORDS.index("dog")
    ids = np.array([[BEGIN, dog, 5, END, 0, 0, 0, 0, 0]], dtype=np.int32)
    vectors = encoder.encode_texts(["  &#100;og\n W5 "])  # entities resolved, lower case
    np.testing.assert_allclose(vectors, unit(jax.jit(model.get_text_features)(ids)), atol=2e-6)
    picture = Image.new("RGB", (40, 60), "red")
    assert encoder.encode_images([picture]).shape == (1, encoder.dimension)
    assert len(encoder.identity.weights_fingerprint) == 64


def test_open_clip_without_a_tokenizer_has_clips(copy: Callable[[str], Path]) -> None:
    folder = copy("open-clip-plain")
    encoder = Encoder.load(folder)
    assert encoder.tokenizer.ids(["a photo of a dog"]) == [[49406, 320, 1125, 539, 320, 1929, 49407]]
    with pytest.raises(CheckpointError, match="gives the id 49407, but the text tower knows only 40"):
        encoder.encode_texts(["dog"])


def test_dinov2_takes_smaller_pictures_than_it_was_trained_with(copy: Callable[[str], Path]) -> None:
    from model.dual_encoder import VisionTextDualEncoderModel

    folder = copy("dual-dinov2-xlm-roberta")
    vision = json.loads((folder / "config.json").read_text())["vision_config"]
    write_tokenizer(folder, pad_token=WORDS[1])
    smaller = vision["image_size"] - vision["patch_size"]
    write_preprocessor(folder, smaller, smaller)
    encoder, model = Encoder.load(folder), VisionTextDualEncoderModel.from_pretrained(folder)
    pixels = pixels_of(encoder, 2)
    expected = unit(model.get_image_features(values_of(encoder, pixels)))
    np.testing.assert_allclose(encoder.encode_pixels(pixels), expected, atol=2e-3)
    write_preprocessor(folder, vision["patch_size"] - 1, vision["patch_size"] - 1)
    with pytest.raises(CheckpointError, match="does not agree with itself"):
        Encoder.load(folder)


@pytest.mark.parametrize("weight_map", [None, ["a"], {"a": 1, "b": "x"}, {"a": [1]}, {"a": "../x"}])
def test_a_damaged_index_of_shards_is_named(copy: Callable[[str], Path], weight_map: object) -> None:
    folder = copy("siglip")
    write_preprocessor(folder, 23, 23)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=r"names no shards|outside its folder"):
        Encoder.load(folder)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer_config.json"])
def test_endless_brackets_are_no_json(copy: Callable[[str], Path], name: str) -> None:
    folder = copy("siglip")
    write_preprocessor(folder, 23, 23)
    write_tokenizer(folder)
    (folder / name).write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match=f"{name} cannot be read as JSON"):
        Encoder.load(folder)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("siglip", ("vision_config",)),
        ("dual-vit-roberta", ("vision_config",)),
        ("dual-dinov2-xlm-roberta", ("vision_config",)),
        ("open-clip-plain", ("model_cfg", "vision_cfg")),
    ],
)
def test_a_call_takes_fewer_pictures_the_more_patches_they_have(
    copy: Callable[[str], Path], name: str, parts: tuple[str, ...]
) -> None:
    folder = copy(name)
    file = folder / ("open_clip_config.json" if "model_cfg" in parts else "config.json")
    settings = json.loads(file.read_text())
    vision = settings
    for part in parts:
        vision = vision[part]
    vision |= {"image_size": 64, "patch_size": [8, 16]}
    file.write_text(json.dumps(settings))
    write_preprocessor(folder, 64, 64)
    assert Encoder.load(folder)._images_per_call == 800 // 32
    del vision["patch_size"]
    file.write_text(json.dumps(settings))
    assert Encoder.load(folder)._images_per_call == 800 // 16


def test_a_folder_in_both_dresses_is_read_as_transformers(copy: Callable[[str], Path]) -> None:
    folder = copy("open-clip-plain")
    other = copy("siglip")
    shutil.copy(other / "config.json", folder)
    write_preprocessor(folder, 23, 23)
    assert Encoder.load(folder).dimension == 16
    shutil.copy(other / "model.safetensors", folder)
    assert Encoder.load(folder).dimension == 28


def test_open_clip_towers_from_elsewhere_are_named_at_once(copy: Callable[[str], Path]) -> None:
    folder = copy("open-clip-plain")
    config = {"model_cfg": {"embed_dim": 8, "vision_cfg": {"timm_model_name": "vit_base_patch16_siglip_224"}}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedCheckpointError, match="timm_model_name 'vit_base_patch16_siglip_224'"):
        Encoder.load(folder)


def test_flax_weights_are_read_in_place(copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """CLIP as OpenAI published it: `flax_model.msgpack`, and no safetensors beside it."""
    from flax.serialization import msgpack_serialize
    from safetensors.numpy import load_file

    from model import checkpoint
    from model.clip import CLIPModel

    folder = copy("clip-first-rules")
    write_tokenizer(folder)
    write_preprocessor(folder, 22, 22)
    expected = Encoder.load(folder).encode_texts(["dog w5"])
    tree: dict[str, Any] = {}
    leaves = {"weight": "kernel"}
    for name, array in load_file(folder / "model.safetensors").items():
        *path, leaf = name.split(".")
        if leaf == "weight" and "embedding" in path[-1] and path[-1] != "patch_embedding":
            leaf = "embedding"
        elif leaf == "weight" and array.ndim == 1:
            leaf = "scale"
        turned = array
        if leaf == "weight":
            turned = array.transpose((2, 3, 1, 0) if array.ndim == 4 else (1, 0))
        node = tree
        for step in path:
            node = node.setdefault(step, {})
        node[leaves.get(leaf, leaf)] = np.asarray(turned, order="C")
    (folder / "flax_model.msgpack").write_bytes(msgpack_serialize(tree))
    (folder / "model.safetensors").unlink()
    np.testing.assert_allclose(Encoder.load(folder).encode_texts(["dog w5"]), expected, atol=1e-6)
    CLIPModel.from_pretrained(folder)  # the file is one that the models read, too
    monkeypatch.setattr(checkpoint, "_read_msgpack", None)
    assert Encoder.load(folder).encode_texts(["dog w5"]).shape == (1, 18)
