"""Products of 8-bit integers: near the exact ones, and only where a model bears them."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from model import CLIPModel, cpu_layout, int8, replay, towers
from model.clip import CLIPVisionModelWithProjection
from model.encoder import Encoder
from model.int8_weights import quantized, steps_of
from model.layers import Build, Linear, PatchEmbedding
from model.mixed_product import mixed_product
from model.text_inputs import TextInputs
from model.tokenizer import clip_tokenizer

BUILD = Build.of(nnx.Rngs(0), jnp.float32, jnp.float32)
BLOCKS = {"hidden_size": 512, "intermediate_size": 1024, "num_attention_heads": 8, "num_hidden_layers": 2}
SETTINGS = {
    "model_type": "clip",
    "projection_dim": 64,
    "text_config": {"model_type": "clip_text_model"} | BLOCKS,
    "vision_config": {"model_type": "clip_vision_model", "image_size": 64, "patch_size": 16} | BLOCKS,
}
NORMALIZATION = (np.array([0.01, 0.02, 0.015], np.float32), np.array([-1.5, -2.0, -1.0], np.float32))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose towers are wide enough for integers."""
    folder = tmp_path_factory.mktemp("wide")
    CLIPModel(CLIPModel.configuration_class.from_dict(SETTINGS), rngs=nnx.Rngs(0)).save_pretrained(folder)
    clip_tokenizer(lower_case=True).save(str(folder / "tokenizer.json"))
    (folder / "preprocessor_config.json").write_text(
        '{"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 64}, '
        '"crop_size": {"height": 64, "width": 64}}'
    )
    return folder


def test_a_matrix_is_rounded_to_half_a_step_of_each_output() -> None:
    kernel = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    kernel *= [1e-3, 1, 1, 50, 1, 0]
    integers, steps = quantized(kernel), steps_of(kernel)
    assert (integers.dtype, integers.shape, steps.dtype, steps.shape) == (np.int8, (6, 40), np.float32, (6,))
    assert np.abs(integers).max(axis=1).tolist() == [127] * 5 + [0]
    assert (np.abs(integers.T * steps - kernel) <= 0.5001 * steps).all()


def test_a_linear_of_integers_is_near_its_own() -> None:
    linear = Linear(256, 64, BUILD, deviation=0.1)
    inputs = jnp.asarray(np.random.default_rng(0).standard_normal((2, 9, 256)).astype(np.float32))
    # A row of large values must cost the others nothing.
    inputs = inputs.at[0, 3].multiply(1e4)
    exact, rounded = np.asarray(linear(inputs)), np.asarray(int8.Int8Linear(linear)(inputs))
    error = np.linalg.norm(rounded - exact, axis=-1) / np.linalg.norm(exact, axis=-1)
    assert 1e-4 < error.min() <= error.max() < 0.02


def test_a_row_of_zeros_gives_the_bias() -> None:
    linear = Linear(16, 8, BUILD)
    linear.bias = nnx.Param(jnp.arange(8, dtype=jnp.float32))
    np.testing.assert_array_equal(int8.Int8Linear(linear)(jnp.zeros((1, 16)))[0], np.arange(8))


def test_where_the_least_input_is_known_the_largest_decides_the_steps() -> None:
    linear = Linear(64, 16, BUILD, deviation=0.1)
    inputs = np.random.default_rng(0).uniform(-0.17, 1.0, (4, 64)).astype(np.float32)
    inputs[3] *= 0.001
    exact, known = linear(jnp.asarray(inputs)), int8.Int8Linear(linear, least=-0.17)(jnp.asarray(inputs))
    np.testing.assert_array_equal(known[:3], int8.Int8Linear(linear)(jnp.asarray(inputs))[:3])
    # What is far smaller than it might be is rounded more coarsely, by its own measure only.
    assert 0 < np.abs(known[3] - exact[3]).max() < 64 * 0.5 * 0.17 / 127 * np.abs(linear.kernel[...]).max()


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("head_width", [8, 6, 5])
def test_heads_are_rounded_as_they_are_once_joined(head_width: int, unsigned: bool) -> None:
    linear = int8.Int8Linear(Linear(3 * head_width, 16, BUILD, deviation=0.1), unsigned=unsigned)
    heads = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 7, head_width)).astype(np.float32))
    joined = heads.transpose(0, 2, 1, 3).reshape(2, 7, 3 * head_width)
    np.testing.assert_array_equal(linear.of_heads(heads), linear(joined))


def test_unsigned_bytes_are_multiplied_exactly_over_their_whole_range() -> None:
    random = np.random.default_rng(0)
    left, right = random.integers(0, 256, (2, 9, 64)), random.integers(-128, 128, (32, 64))
    left[0, 0], right[0], right[1] = 255, -128, 127
    product = mixed_product(jnp.asarray(left, jnp.uint8), jnp.asarray(right, jnp.int8))
    assert product.dtype == jnp.int32
    np.testing.assert_array_equal(product, left @ right.T)


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("leading", [(1,), (1, 1)])
def test_a_single_row_gives_what_it_gives_among_others(leading: tuple[int, ...], unsigned: bool) -> None:
    linear = int8.Int8Linear(Linear(64, 32, BUILD, deviation=0.1), unsigned=unsigned)
    inputs = jnp.asarray(np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32))
    alone = linear(inputs[:1].reshape(*leading, 64))
    assert alone.shape == (*leading, 32)
    np.testing.assert_allclose(alone.reshape(1, 32), linear(inputs)[:1], rtol=1e-6)


@pytest.mark.parametrize("shape", [(5, 64), (2, 9, 64)])
def test_unsigned_inputs_give_the_same(shape: tuple[int, ...]) -> None:
    linear = Linear(64, 32, BUILD, deviation=0.1)
    inputs = jnp.asarray(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    unsigned = int8.Int8Linear(linear, unsigned=True)
    np.testing.assert_array_equal(unsigned(inputs), int8.Int8Linear(linear)(inputs))


def test_unsigned_pixels_give_the_same() -> None:
    embedding = PatchEmbedding((4, 4), 3, 32, BUILD)
    pixels = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 9, 13, 3)).astype(np.float32))
    signed, unsigned = (
        int8.Int8PatchEmbedding(embedding, NORMALIZATION, unsigned=unsigned)(pixels)
        for unsigned in (False, True)
    )
    np.testing.assert_array_equal(unsigned, signed)


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("patch", [(4, 4), (4, 2), (2, 3)])
def test_patches_of_raw_pixels_equal_those_of_normalised_ones(use_bias: bool, patch: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    embedding = PatchEmbedding(patch, 3, 32, BUILD, use_bias=use_bias)
    if embedding.bias is not None:
        embedding.bias = nnx.Param(jnp.asarray(random.standard_normal(32).astype(np.float32)))
    # Of weights that are integers times a step nothing is lost, so that what is left is arithmetic.
    integers = random.integers(-127, 128, (*patch, 3, 32))
    integers[0, 0, 0] = 127
    scale, offset = NORMALIZATION
    embedding.kernel = nnx.Param(jnp.asarray((1e-3 * integers / scale[:, None]).astype(np.float32)))
    pixels = random.integers(0, 256, (2, 9, 13, 3)).astype(np.float32)
    exact = embedding(jnp.asarray(pixels * scale + offset))
    np.testing.assert_allclose(
        int8.Int8PatchEmbedding(embedding, NORMALIZATION)(jnp.asarray(pixels)), exact, atol=2e-3, rtol=1e-4
    )


def losses(**of: float) -> Callable[[Collection[str]], float]:
    return lambda names: 1 - sum(of[name] for name in names)


def test_all_products_are_chosen_where_all_together_do_no_harm() -> None:
    assert int8.choose([["a"], ["b"]], losses(a=0.1, b=0.2), 0.65) == {"a", "b"}


def test_what_costs_most_stays_exact() -> None:
    assert int8.choose([["a", "b", "c"]], losses(a=0.1, b=0.5, c=0.2), 0.65) == {"a", "c"}


def test_a_kind_that_costs_little_is_measured_as_one() -> None:
    measured = []

    def worst(names: Collection[str]) -> float:
        measured.append("".join(sorted(names)))
        return losses(a=0.01, b=0.02, c=0.5, d=0.1)(names)

    assert int8.choose([["a", "b"], ["c", "d"]], worst, 0.8) == {"a", "b", "d"}
    assert measured == ["abcd", "ab", "cd", "c", "d", "abd"]


def test_what_costs_more_together_than_alone_is_tried_again_with_less() -> None:
    def worst(names: Collection[str]) -> float:
        return 1 - 0.1 * len(names) ** 2

    assert int8.choose([["a", "b", "c", "d"]], worst, 0.7) == {"a"}


def test_each_trial_is_of_fewer_products() -> None:
    def worst(names: Collection[str]) -> float:
        # Together far worse than what each says alone.
        return 1 - (0.0001 * len(names) if len(names) < 3 else 0.5)

    assert int8.choose([["a", "b", "c", "d"]], worst, 0.7) == {"a", "b"}


def test_nothing_is_chosen_where_each_alone_does_harm() -> None:
    assert int8.choose([["a", "b"]], losses(a=0.5, b=0.6), 0.9) == frozenset()


def test_what_gives_no_number_stays_exact() -> None:
    assert int8.choose([["a", "b"]], losses(a=float("nan"), b=0.01), 0.9) == {"b"}


def test_a_tower_keeps_exact_what_its_weights_make_lopsided(wide: Path) -> None:
    pixels = int8.pictures_to_measure_with(64, 64).transpose(0, 3, 1, 2).astype(np.float32) / 128 - 1

    def chosen(tower: CLIPVisionModelWithProjection) -> frozenset[str]:
        return int8.choose_products(tower, lambda model: model(pixels).image_embeds, NORMALIZATION)

    tower = CLIPVisionModelWithProjection.from_pretrained(wide)
    names = frozenset(int8.products(tower))
    assert len(names) == 2 * 4 + 1
    assert chosen(tower) == names
    lopsided = CLIPVisionModelWithProjection.from_pretrained(wide)
    norm = lopsided.vision_model.blocks[1].mlp_norm
    # One channel a thousand times the others, which the weights then ignore: the others are left no steps.
    norm.scale.set_value(norm.scale[...].at[5].set(1000.0))
    up = lopsided.vision_model.blocks[1].mlp.up
    up.kernel.set_value(up.kernel[...].at[5].set(0.0))
    assert chosen(lopsided) == names - {"vision_model.blocks.1.mlp.up"}


def test_narrow_towers_have_no_such_products() -> None:
    tower = CLIPVisionModelWithProjection.from_pretrained(Path(int8.__file__).parent / "starter")
    assert int8.products(tower) == {}


def test_pictures_to_measure_with_are_always_the_same_and_all_different() -> None:
    pictures = int8.pictures_to_measure_with(48, 80)
    assert (pictures.shape, pictures.dtype) == ((12, 48, 80, 3), np.uint8)
    np.testing.assert_array_equal(pictures, int8.pictures_to_measure_with(48, 80))
    assert len({picture.tobytes() for picture in pictures}) == 12


START = """
import sys
import numpy as np
from model import Encoder
encoder = Encoder.load(sys.argv[1], precision="int8")
np.save(sys.argv[3], np.concatenate([encoder.encode_pixels(np.load(sys.argv[2])), encoder.encode_texts(["a dog"])]))
print("jax" in sys.modules)
"""


def test_vectors_are_near_the_exact_ones_and_a_second_start_computes_the_same(
    wide: Path, tmp_path: Path, draw_picture: Callable[[int], Image.Image]
) -> None:
    exact = Encoder.load(wide, precision="float32")
    pixels = np.stack([exact.preprocessor(draw_picture(seed)) for seed in range(19)])
    np.save(tmp_path / "pixels.npy", pixels)
    environment = {**os.environ, "IMAGO_CACHE": str(tmp_path / "cache"), "JAX_PLATFORMS": "cpu"}
    said = []
    for name in ("first.npy", "second.npy"):
        command = [sys.executable, "-c", START, wide, tmp_path / "pixels.npy", tmp_path / name]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        said.append(done.stdout.strip())
    assert said == ["True", "False"]
    assert len(list((tmp_path / "cache" / "parameters").iterdir())) == 2  # one for each tower
    first, second = (np.load(tmp_path / name) for name in ("first.npy", "second.npy"))
    np.testing.assert_array_equal(first, second)
    cosines = np.sum(first[:-1] * exact.encode_pixels(pixels), axis=1)
    assert 0.999 < cosines.min() < 1 - 1e-7


def test_a_tower_of_unsigned_inputs_gives_the_same_and_is_found_again(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    monkeypatch.setenv("IMAGO_CACHE", str(tmp_path / "signed"))
    monkeypatch.setattr(towers, "multiplies_unsigned", lambda: False)
    signed = Encoder.load(wide, precision="int8").encode_pixels(pixels)
    monkeypatch.setenv("IMAGO_CACHE", str(tmp_path / "unsigned"))
    monkeypatch.setattr(towers, "multiplies_unsigned", lambda: True)
    unsigned = Encoder.load(wide, precision="int8").encode_pixels(pixels)
    # The sums are the same; what XLA makes of the rest is rounded elsewhere.
    np.testing.assert_allclose(unsigned, signed, atol=1e-6)
    replayed = Encoder.load(wide, precision="int8")
    np.testing.assert_array_equal(replayed.encode_pixels(pixels), unsigned)
    assert replayed._get_vision_tower()._through_jax is None


def test_what_was_found_out_is_kept_and_not_measured_again(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGO_CACHE", str(tmp_path))
    pixels = np.zeros((1, 64, 64, 3), np.uint8)
    Encoder.load(wide, precision="int8").encode_pixels(pixels)
    assert len(list((tmp_path / "int8").iterdir())) == 1

    def measure(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(int8, "choose_products", measure)
    for program in (tmp_path / "programs").iterdir():
        program.unlink()
    Encoder.load(wide, precision="int8").encode_pixels(pixels)


def test_vectors_of_texts_are_near_the_exact_ones(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGO_CACHE", str(tmp_path))
    texts = ["a dog", "two red cars", "", "rain on a window at night, seen from inside a train"]
    vectors = Encoder.load(wide, precision="int8").encode_texts(texts)
    cosines = np.sum(vectors * Encoder.load(wide, precision="float32").encode_texts(texts), axis=1)
    assert 0.999 < cosines.min() < 1 - 1e-7
    (note,) = (tmp_path / "int8").iterdir()
    assert len(json.loads(note.read_bytes())) == 2 * 4


def test_a_tokenizer_with_more_tokens_than_the_tower_is_measured_with_those_it_knows(
    wide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder.load(wide, precision="int8")
    smaller = dataclasses.replace(encoder._description, vocabulary_size=1000)
    monkeypatch.setattr(type(encoder.tokenizer), "ids", lambda *_: [[1, 999], [1, 1000], [2]])
    (ids, _mask) = TextInputs(smaller, encoder.tokenizer).of_known_tokens(["a", "b", "c"])
    assert ids[:, 0].tolist() == [1, 2]


@pytest.mark.parametrize("entry", [b"", b"[", b"{}", b"[1]", b"\xff"])
def test_a_damaged_note_of_it_is_measured_again(
    wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: bytes
) -> None:
    monkeypatch.setenv("IMAGO_CACHE", str(tmp_path))
    monkeypatch.setattr(int8, "choose_products", lambda *_: frozenset({"patch_embedding"}))
    pixels = np.zeros((1, 64, 64, 3), np.uint8)
    expected = Encoder.load(wide, precision="int8").encode_pixels(pixels)
    (note,) = (tmp_path / "int8").iterdir()
    assert note.read_bytes() == b'["patch_embedding"]'
    note.write_bytes(entry)
    for program in (tmp_path / "programs").iterdir():
        program.unlink()
    np.testing.assert_array_equal(Encoder.load(wide, precision="int8").encode_pixels(pixels), expected)
    assert note.read_bytes() == b'["patch_embedding"]'


@pytest.mark.parametrize("name", ["open-clip-scaled", "siglip", "clip-first-rules"])
def test_of_every_family_the_integers_are_found_again_in_the_checkpoint(
    golden: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Towers keep queries, keys and values apart or stacked, and have a bias where others have none."""
    monkeypatch.setattr(int8, "_LEAST_WIDTH", 1)
    monkeypatch.setattr(cpu_layout, "_LEAST_WIDTH", 1)
    monkeypatch.setattr(
        cpu_layout, "_count", lambda _, inner: next(n for n in range(2, 99) if inner % n == 0)
    )
    find, pieces = replay.find_origin, []

    def find_origin(*arguments: Any) -> replay.Origin | None:
        origin = find(*arguments)
        if arguments[-1] is not None:
            pieces.append(origin)
        return origin

    monkeypatch.setattr(replay, "find_origin", find_origin)
    monkeypatch.setattr(int8, "choose_products", lambda model, *_: frozenset(int8.products(model)))
    monkeypatch.setenv("IMAGO_CACHE", str(tmp_path))
    folder = tmp_path / name
    shutil.copytree(golden(name).folder, folder)
    if not (folder / "open_clip_config.json").exists():
        size = json.loads((folder / "config.json").read_text())["vision_config"]["image_size"]
        settings = {"image_processor_type": "SiglipImageProcessor", "size": {"height": size, "width": size}}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    # The tokenizers of these checkpoints were not kept.
    monkeypatch.setattr(Encoder, "tokenizer", None)
    monkeypatch.setattr(TextInputs, "of_known_tokens", lambda *_: ())
    exact = Encoder.load(folder, precision="float32")
    random, description = np.random.default_rng(0), exact._description
    shape = (3, exact.preprocessor.input_height_pixels, exact.preprocessor.input_width_pixels, 3)
    pixels = random.integers(0, 256, shape, dtype=np.uint8)
    ids = random.integers(1, description.vocabulary_size, (2, description.text_length), dtype=np.int32)

    def vectors_of(encoder: Encoder) -> np.ndarray:
        tokens = encoder._text_inputs.token_rows(ids) if description.embedding_table else ids
        mask = [np.ones_like(ids)] if description.reads_attention_mask else []
        return np.concatenate([encoder.encode_pixels(pixels), encoder._get_text_tower()(tokens, *mask)])

    through_jax = vectors_of(Encoder.load(folder, precision="int8"))
    replayed = Encoder.load(folder, precision="int8")
    np.testing.assert_array_equal(vectors_of(replayed), through_jax)
    assert replayed._get_vision_tower()._through_jax is None
    assert replayed._get_text_tower()._through_jax is None
    assert pieces
    assert None not in pieces
    monkeypatch.setattr(cpu_layout, "_LEAST_WIDTH", 1 << 20)
    monkeypatch.setenv("IMAGO_CACHE", str(tmp_path / "whole"))
    cosines = np.sum(through_jax * vectors_of(exact), axis=1)
    assert 0.99 < cosines.min() <= cosines.max() < 1 - 1e-7
