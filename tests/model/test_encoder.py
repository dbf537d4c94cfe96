"""`Encoder` on the checkpoint that ships with the package."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.encoder import Encoder
from model.errors import CheckpointError, ConfigurationError, ModelInputError, UnsupportedCheckpointError
from model.registry import STARTER_FOLDER


@pytest.fixture(scope="module")
def starter() -> Encoder:
    return Encoder.load("starter")


def copy_of_starter(folder: Path) -> Path:
    shutil.copytree(STARTER_FOLDER, folder)
    return folder


def rewrite(path: Path, change: Callable[[dict], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_texts_become_unit_vectors_in_their_order(starter: Encoder) -> None:
    texts = ["a photo of a dog", "", "car", "word " * 100]
    vectors = starter.encode_texts(texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (4, starter.dimension) == (4, 192)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    alone = np.concatenate([starter.encode_texts([text]) for text in texts])
    np.testing.assert_allclose(vectors, alone, atol=2e-6)
    assert abs(vectors[0] @ vectors[2]) < 0.99


@pytest.mark.parametrize("count", [3, 7, 12, 15, 33])
def test_texts_keep_their_order_whatever_batches_they_make(starter: Encoder, count: int) -> None:
    texts = [f"picture {number}" for number in range(count)]
    alone = np.concatenate([starter.encode_texts([text]) for text in texts])
    np.testing.assert_allclose(starter.encode_texts(texts), alone, atol=2e-6)


def test_pictures_become_unit_vectors_in_their_order(
    starter: Encoder, draw_picture: Callable[[int], Image.Image]
) -> None:
    pictures = [draw_picture(seed) for seed in range(18)]  # more than one batch
    vectors = starter.encode_images(pictures)
    assert vectors.dtype == np.float32
    assert vectors.shape == (18, 192)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    for row in (0, 15, 16, 17):
        np.testing.assert_allclose(vectors[row], starter.encode_images([pictures[row]])[0], atol=2e-6)
    pixels = np.stack([starter.preprocessor(picture) for picture in pictures])
    np.testing.assert_array_equal(starter.encode_pixels(pixels), vectors)


def test_pixels_are_normalised_in_the_tower_as_the_preprocessor_does(
    starter: Encoder, draw_picture: Callable[[int], Image.Image]
) -> None:
    from model.clip import CLIPVisionModelWithProjection

    picture = draw_picture(1)
    tower = CLIPVisionModelWithProjection.from_pretrained(STARTER_FOLDER)
    features = np.asarray(tower(starter.preprocessor.pixel_values([picture])).image_embeds)
    expected = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(starter.encode_images([picture]), expected, atol=2e-6)


def test_texts_are_read_as_the_text_tower_reads_them_padded_to_the_end(starter: Encoder) -> None:
    from model.clip import CLIPTextModelWithProjection

    tower = CLIPTextModelWithProjection.from_pretrained(STARTER_FOLDER)
    texts = ["dog", "a " * 13, "a " * 14, "a " * 15, "a " * 40]
    tokens = starter.tokenizer(texts, length=24)
    features = np.asarray(tower(tokens.input_ids, tokens.attention_mask).text_embeds)
    expected = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(starter.encode_texts(texts), expected, atol=2e-6)


def test_nothing_in_gives_nothing_out(starter: Encoder) -> None:
    assert starter.encode_texts([]).shape == (0, 192)
    assert starter.encode_images([]).shape == (0, 192)
    assert starter.encode_pixels(np.zeros((0, 70, 70, 3), np.uint8)).shape == (0, 192)


def test_a_word_is_nearest_to_the_picture_of_its_colour(starter: Encoder) -> None:
    sky, grass = Image.new("RGB", (64, 64), (60, 130, 230)), Image.new("RGB", (64, 64), (40, 120, 30))
    vectors = starter.encode_images([sky, grass])
    scores = starter.encode_texts(["blue sky", "green grass"]) @ vectors.T
    assert scores[0, 0] - scores[0, 1] > scores[1, 0] - scores[1, 1]


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((1, 70, 70, 3), np.float32), "got float32 (1, 70, 70, 3)"),
        (np.zeros((1, 32, 70, 3), np.uint8), "Expected uint8 pixels of shape (batch, 70, 70, 3)"),
        (np.zeros((70, 70, 3), np.uint8), "got uint8 (70, 70, 3)"),
        ([1, 2], "got list"),
    ],
)
def test_pixels_of_another_kind_are_refused(starter: Encoder, pixels: object, message: str) -> None:
    with pytest.raises(ModelInputError) as caught:
        starter.encode_pixels(pixels)
    assert message in str(caught.value)


def test_a_single_text_is_refused_rather_than_read_letter_by_letter(starter: Encoder) -> None:
    with pytest.raises(ModelInputError, match="put it in a list"):
        starter.encode_texts("dog")
    with pytest.raises(ModelInputError, match="Text 1 is no text but a int: 3"):
        starter.encode_texts(["dog", 3])


def test_threads_share_an_encoder(draw_picture: Callable[[int], Image.Image]) -> None:
    encoder = Encoder.load("starter")
    with ThreadPoolExecutor(8) as pool:
        words = list(pool.map(lambda _: encoder.encode_texts(["dog"]), range(16)))
        pictures = list(pool.map(lambda _: encoder.encode_images([draw_picture(3)]), range(16)))
    assert all((word == words[0]).all() for word in words)
    assert all((picture == pictures[0]).all() for picture in pictures)


def test_identity_pins_weights_and_preprocessing_but_not_labels(tmp_path: Path) -> None:
    starter = Encoder.load("starter").identity
    assert starter.name == "starter"
    assert starter.dimension == 192
    folder = copy_of_starter(tmp_path / "copy")
    rewrite(folder / "config.json", lambda config: config.update(transformers_version="4.0", dtype="float32"))
    copy = Encoder.load(folder).identity
    assert copy.is_same_model(starter)
    assert copy.name == str(folder.resolve())
    assert copy.revision is None
    rewrite(folder / "preprocessor_config.json", lambda config: config.update(resample=2))
    other = Encoder.load(folder).identity
    assert other.weights_fingerprint == starter.weights_fingerprint
    assert not other.is_same_model(starter)
    rewrite(folder / "preprocessor_config.json", lambda config: config.update(resample=3))
    assert Encoder.load(folder).identity.is_same_model(starter)
    rewrite(folder / "tokenizer_config.json", lambda config: config.update(model_max_length=9))
    assert not Encoder.load(folder).identity.is_same_model(starter)


def test_identity_follows_the_weights(tmp_path: Path) -> None:
    folder = copy_of_starter(tmp_path / "copy")
    before = Encoder.load(folder).identity
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert not Encoder.load(folder).identity.is_same_model(before)


def test_a_half_downloaded_checkpoint_is_named(tmp_path: Path) -> None:
    folder = copy_of_starter(tmp_path / "half")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match="cut short"):
        Encoder.load(folder).encode_texts(["dog"])


def test_a_tokenizer_of_another_model_is_named(tmp_path: Path) -> None:
    folder = copy_of_starter(tmp_path / "mixed")

    rewrite(folder / "tokenizer.json", lambda tokenizer: tokenizer["model"]["vocab"].update({"Ġdog": 9000}))
    encoder = Encoder.load(folder)
    assert encoder.encode_texts(["cat"]).shape == (1, 192)
    with pytest.raises(CheckpointError, match="gives the id 9000, but the text tower knows only 4000"):
        encoder.encode_texts(["cat", "dog"])


def test_weights_that_are_not_numbers_are_found_out(tmp_path: Path) -> None:
    folder = copy_of_starter(tmp_path / "nan")
    weights = bytearray((folder / "model.safetensors").read_bytes())
    start = 8 + int.from_bytes(weights[:8], "little")
    weights[start:] = b"\xff\x7f" * ((len(weights) - start) // 2)  # NaN in float16
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointError, match="not numbers"):
        Encoder.load(folder).encode_texts(["dog"])
    encoder = Encoder.load(folder)
    side = encoder.preprocessor.input_height_pixels
    for pictures in (1, 2):
        with pytest.raises(CheckpointError, match="not numbers"):
            encoder.encode_pixels(np.zeros((pictures, side, side, 3), np.uint8))


def test_a_picture_that_weights_make_no_numbers_of_spoils_no_other() -> None:
    """A weight may be so large that only what is bright overflows."""
    encoder = Encoder.load("starter")
    sound = encoder._get_vision_tower()

    class OverflowsWhereBright:
        def __call__(self, pixels: np.ndarray) -> np.ndarray:
            vectors = np.array(sound(pixels))
            vectors[pixels.mean(axis=(1, 2, 3)) > 250] = np.nan
            return vectors

        def map(self, calls: list[tuple[np.ndarray]]) -> list[np.ndarray]:
            return [self(pixels) for (pixels,) in calls]

    encoder._vision_tower = OverflowsWhereBright()
    side = encoder.preprocessor.input_height_pixels
    dark, bright = (np.full((side, side, 3), value, np.uint8) for value in (60, 255))
    vectors = encoder.encode_pixels(np.stack([dark, bright, dark]))
    assert np.isfinite(vectors).all(axis=1).tolist() == [True, False, True]
    np.testing.assert_allclose(vectors[0], encoder.encode_pixels(dark[None])[0], atol=1e-6)
    assert not np.isfinite(encoder.encode_pixels(bright[None])).any()
    with pytest.raises(CheckpointError, match="not numbers"):
        encoder.encode_images([Image.fromarray(bright)])


def test_files_that_contradict_each_other_are_named(tmp_path: Path) -> None:
    folder = copy_of_starter(tmp_path / "sizes")
    rewrite(folder / "preprocessor_config.json", lambda config: config.update(crop_size=32))
    with pytest.raises(
        CheckpointError, match="takes pictures of 70x70 pixels, its preprocessing makes 32x32"
    ):
        Encoder.load(folder)


def test_other_architectures_are_named(tmp_path: Path) -> None:
    folder = copy_of_starter(tmp_path / "bert")
    rewrite(folder / "config.json", lambda config: config.update(model_type="gpt2"))
    with pytest.raises(UnsupportedCheckpointError, match="is of type 'gpt2'"):
        Encoder.load(folder)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match="There is no precision 'int3', and it was asked for; known are"
    ):
        Encoder.load("starter", precision="int3")


@pytest.mark.parametrize(("precision", "cosine"), [("bfloat16", 0.9999), ("float16", 0.99999)])
def test_narrow_products_keep_the_promised_cosine(
    starter: Encoder, draw_picture: Callable[[int], Image.Image], precision: str, cosine: float
) -> None:
    pictures = [draw_picture(seed) for seed in range(16)]
    narrow = Encoder.load("starter", precision=precision)
    cosines = np.sum(narrow.encode_images(pictures) * starter.encode_images(pictures), axis=1)
    assert cosine < cosines.min() < 1 - 1e-9
    texts = [
        f"{count} {thing}" for count in ("one", "two", "a photo of some") for thing in ("dogs", "red cars")
    ]
    cosines = np.sum(narrow.encode_texts(texts) * starter.encode_texts(texts), axis=1)
    assert cosine < cosines.min() < 1 - 1e-9


TWO_DEVICES = """
import sys
import jax
import numpy as np
from model import Encoder
pixels = np.load(sys.argv[1])
encoder = Encoder.load("starter")
np.save(sys.argv[2], np.concatenate([encoder.encode_pixels(pixels), encoder.encode_texts(["dog"])]))
print(sorted({device.id for array in jax.live_arrays() for device in array.devices()}))
"""


def test_several_devices_share_the_work_and_change_no_vector(
    starter: Encoder, draw_picture: Callable[[int], Image.Image], tmp_path: Path
) -> None:
    pictures = [draw_picture(seed) for seed in range(starter.batch_size + 1)]
    pixels = np.stack([starter.preprocessor(picture) for picture in pictures])
    np.save(tmp_path / "pixels.npy", pixels)
    command = [sys.executable, "-c", TWO_DEVICES, tmp_path / "pixels.npy", tmp_path / "vectors.npy"]
    flags = "--xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[0, 1]")
    expected = np.concatenate([starter.encode_pixels(pixels), starter.encode_texts(["dog"])])
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), expected, atol=2e-6)


COLD_START = """
import sys
import numpy as np
from PIL import Image
from model import Encoder
encoder = Encoder.load("starter")
texts, pictures = encoder.encode_texts(["dog"]), encoder.encode_images([Image.new("RGB", (9, 9), "red")])
np.save(sys.argv[1], np.concatenate([texts, pictures]))
print("jax" in sys.modules)
"""


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_second_start_runs_what_the_first_compiled_and_imports_no_jax(
    tmp_path: Path, precision: str
) -> None:
    environment = {
        **os.environ,
        "IMAGO_CACHE": str(tmp_path / "cache"),
        "IMAGO_PRECISION": precision,
        "JAX_PLATFORMS": "cpu",
    }

    def start(name: str) -> str:
        command = [sys.executable, "-c", COLD_START, str(tmp_path / name)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout.strip()

    assert start("first.npy") == "True"
    assert start("second.npy") == "False"
    np.testing.assert_array_equal(np.load(tmp_path / "first.npy"), np.load(tmp_path / "second.npy"))


def test_a_damaged_cache_costs_time_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGO_CACHE", str(tmp_path / "cache"))
    expected = Encoder.load("starter").encode_texts(["dog"])
    programs = list((tmp_path / "cache" / "programs").iterdir())
    assert len(programs) == 1
    content = programs[0].read_bytes()
    hole = content[:-9000] + bytes(5000) + content[-4000:]
    for damaged in (b"", b"short", content[:-2000], content[:8] + b"x" * 100, hole):
        programs[0].write_bytes(damaged)
        np.testing.assert_array_equal(Encoder.load("starter").encode_texts(["dog"]), expected)
        assert programs[0].read_bytes() != damaged  # a good one is there for the next start


def test_a_cache_folder_that_cannot_be_written_is_no_hindrance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("IMAGO_CACHE", str(tmp_path / "file" / "cache"))
    encoder = Encoder.load("starter")
    assert encoder.encode_texts(["dog"]).shape == (1, 192)
    assert len(encoder.identity.weights_fingerprint) == 64


def test_a_kept_program_is_not_used_for_other_weights_of_the_same_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each parameter lies is found by comparing values; with symmetrical ones that is ambiguous."""
    from safetensors.numpy import load_file, save_file

    monkeypatch.setenv("IMAGO_CACHE", str(tmp_path / "cache"))
    symmetrical, trained = copy_of_starter(tmp_path / "symmetrical"), STARTER_FOLDER
    arrays = load_file(symmetrical / "model.safetensors")
    name = "text_model.encoder.layers.0.self_attn.out_proj.weight"
    arrays[name] = np.zeros_like(arrays[name])
    save_file(arrays, symmetrical / "model.safetensors", metadata={"format": "pt"})
    Encoder.load(symmetrical).encode_texts(["dog"])
    after = Encoder.load(trained).encode_texts(["dog"])
    monkeypatch.setenv("IMAGO_CACHE", str(tmp_path / "fresh"))
    np.testing.assert_array_equal(after, Encoder.load(trained).encode_texts(["dog"]))
    assert len(list((tmp_path / "cache" / "programs").iterdir())) == 2
