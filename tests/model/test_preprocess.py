"""Preprocessing against the Pillow processors of Transformers, and on pictures that no model was shown."""

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from model.errors import CheckpointError, ConfigurationError, ModelInputError
from model.preprocess import ImagePreprocessor, to_rgb

GOLDENS = np.load(Path(__file__).parent.parent / "reference" / "preprocess.npz")
ABOUT = json.loads(str(GOLDENS["about"]))


def golden_image(name: str) -> Image.Image:
    mode, array = ABOUT["modes"][name], GOLDENS[f"image/{name}"]
    return Image.frombytes(mode, (array.shape[1], array.shape[0]), array.tobytes())


@pytest.mark.parametrize("name", ABOUT["modes"])
@pytest.mark.parametrize("case", ABOUT["cases"])
def test_equal_to_transformers(case: str, name: str) -> None:
    preprocessor = ImagePreprocessor.from_config(ABOUT["cases"][case])
    values = preprocessor.pixel_values([golden_image(name)])
    assert values.dtype == np.float32
    np.testing.assert_allclose(values[0], GOLDENS[f"{case}/{name}"], rtol=0, atol=1e-6)


def test_pixels_are_the_values_before_normalisation() -> None:
    preprocessor = ImagePreprocessor.from_config({"size": 24, "crop_size": {"height": 19, "width": 23}})
    image = golden_image("wide")
    pixels = preprocessor(image)
    assert pixels.dtype == np.uint8
    assert (
        pixels.shape == (19, 23, 3) == (preprocessor.input_height_pixels, preprocessor.input_width_pixels, 3)
    )
    np.testing.assert_array_equal(
        preprocessor.normalize(pixels[None]).transpose(0, 3, 1, 2), preprocessor.pixel_values([image])
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_first(orientation: int, tmp_path: Path) -> None:
    upright = golden_image("wide")
    # What a camera held that way would have stored: the inverse of what the tag tells a viewer to do.
    stored_as = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(stored_as[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("turned.png", "turned.tiff"):
        stored.save(tmp_path / name, exif=exif)
        with Image.open(tmp_path / name) as image:
            np.testing.assert_array_equal(np.asarray(to_rgb(image)), np.asarray(upright))


def test_a_broken_orientation_does_not_cost_the_picture() -> None:
    image = golden_image("wide")
    image.info["exif"] = b"Exif\0\0II*\0\xff\xff\xff\xff"
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), GOLDENS["image/wide"])


MODES = (
    "1 L LA La P PA RGB RGBX RGBA RGBa CMYK YCbCr HSV LAB I F I;16 I;16L I;16B I;16N"  # all that Pillow has
)


@pytest.mark.parametrize("mode", MODES.split())
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.new(mode, (7, 5))
    rgb = to_rgb(image)
    assert (rgb.mode, rgb.size) == ("RGB", (7, 5))
    assert image.mode == mode


def test_colour_survives_lab() -> None:
    lab = Image.merge("LAB", [Image.new("L", (2, 2), value) for value in (137, 208, 195)])  # pure sRGB red
    red, green, blue = np.asarray(to_rgb(lab))[0, 0]
    assert red > 245
    assert green < 25
    assert blue < 25


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_sixteen_bits_are_scaled_not_clipped(mode: str) -> None:
    values = np.array([[0, 256, 32896, 65535]], dtype="<u2" if mode == "I;16" else ">u2")
    image = Image.frombytes(mode, (4, 1), values.tobytes())
    assert np.asarray(to_rgb(image))[0, :, 1].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 257.0, 65535.0], [0, 1, 255]),
        ([-10.0, 0.0, 10.0], [0, 128, 255]),
        ([np.nan, 0.0, np.inf], [0, 0, 0]),
        ([np.nan, 200.0, np.inf], [200, 200, 200]),
    ],
)
def test_floats_are_scaled_by_the_range_they_use(values: list[float], expected: list[int]) -> None:
    image = Image.fromarray(np.array([values], dtype=np.float32))
    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == expected


def test_long_integers_are_scaled_by_the_range_they_use() -> None:
    image = Image.fromarray(np.array([[0, 257, 65535]], dtype=np.int32))
    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == [0, 1, 255]


def test_transparency_shows_white() -> None:
    clear = Image.new("RGBA", (3, 3), (255, 0, 0, 0))
    palette = Image.new("P", (3, 3), 0)
    palette.putpalette([10, 20, 30])
    palette.info["transparency"] = 0
    keyed = Image.new("RGB", (3, 3), (1, 2, 3))
    keyed.info["transparency"] = (1, 2, 3)
    half = Image.new("LA", (3, 3), (0, 128))
    for image in (clear, palette, keyed):
        assert np.asarray(to_rgb(image)).min() == 255
    assert set(np.asarray(to_rgb(half)).ravel().tolist()) == {127}


def test_of_an_animation_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("moving.gif", "moving.png", "moving.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        with Image.open(tmp_path / name) as image:
            assert image.n_frames == 2
            assert np.asarray(to_rgb(image))[4, 4].tolist() == [255, 0, 0]


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (2, 65000)])
def test_strips_are_not_blown_up(size: tuple[int, int]) -> None:
    values = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(values)
    preprocessor = ImagePreprocessor.from_config({})
    width, height = size
    wide = (int(224 * width / height), 224) if width > height else (224, int(224 * height / width))
    calls = []
    resize = Image.Image.resize

    def watched(self: Image.Image, size: tuple[int, int], *args: object, **kwargs: object) -> Image.Image:
        calls.append(size)
        return resize(self, size, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", watched)
        pixels = preprocessor(image)
    assert calls == [(224, 224)]
    # The same columns as in the full enlargement, which is made here one axis at a time to be affordable.
    long = max(wide)
    thin = image.resize((long, 1) if width > height else (1, long), Image.Resampling.BICUBIC)
    start = (long - 224) // 2
    box = (start, 0, start + 224, 1) if width > height else (0, start, 1, start + 224)
    if min(size) == 1:
        expected = np.asarray(thin.crop(box).resize((224, 224), Image.Resampling.NEAREST)).astype(int)
        assert np.abs(pixels.astype(int) - expected).max() <= 1


def test_every_setting_changes_the_pixels_it_names() -> None:
    image = golden_image("tall")
    plain = {"size": 24, "crop_size": 24}
    base = ImagePreprocessor.from_config(plain).pixel_values([image])
    for change in (
        {"resample": 2},
        {"size": {"height": 24, "width": 24}},
        {"do_rescale": False},
        {"do_normalize": False},
        {"image_mean": [0, 0, 0]},
        {"image_std": [1, 1, 1]},
        {"rescale_factor": 0.01},
        {"do_resize": False},
    ):
        changed = ImagePreprocessor.from_config({**plain, **change})
        assert not np.array_equal(changed.pixel_values([image]), base), change
        assert changed.to_dict() != ImagePreprocessor.from_config(plain).to_dict()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"do_pad": True, "sharpen": 3}, "not known here: do_pad=True, sharpen=3"),
        ({"image_processor_type": "Siglip2ImageProcessor"}, "'Siglip2ImageProcessor' is not supported"),
        ({"resample": 9}, "resample is 9; known are 0 (nearest)"),
        ({"resample": "cubic"}, "resample is 'cubic'"),
        ({"size": {"longest_edge": 5}}, "it must have a shortest_edge, or a height and a width"),
        ({"size": 0}, "size is 0"),
        ({"size": "big"}, "size is 'big'"),
        ({"crop_size": {"height": 5}}, "crop_size is {'height': 5}"),
        ({"image_mean": [1, 2]}, "image_mean is [1, 2]; it must be three numbers"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std has a zero"),
        ({"image_mean": [float("nan")] * 3}, "image_mean is nan"),
        ({"do_resize": "yes"}, "do_resize is 'yes'; it must be true or false"),
        ({"do_center_crop": False}, "different sizes"),
        ({"do_center_crop": False, "do_resize": False}, "different sizes"),
    ],
)
def test_unknown_and_contradictory_settings_are_refused(config: dict, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ImagePreprocessor.from_config(config)
    assert message in str(caught.value)


def test_settings_written_by_other_versions_are_read() -> None:
    newest = {
        "image_processor_type": "CLIPImageProcessorFast",
        "do_pad": None,
        "data_format": "channels_first",
    }
    oldest = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224, "resample": 3}
    assert ImagePreprocessor.from_config(newest) == ImagePreprocessor.from_config(oldest)


@pytest.mark.parametrize(
    ("settings", "size", "expected"),
    [
        # Bounds of what is kept, left to right, of 41 columns that are numbered and not resized:
        # torchvision's crop # rounds half a pixel to the even side, so 16 margin columns are 8, 17 are 8,
        # 19 are 10.
        ({"size": 25}, 41, (8, 32)),
        ({"size": 24}, 41, (8, 31)),
        ({"size": 22}, 41, (10, 31)),
    ],
)
def test_the_open_clip_crop_rounds_as_torchvision(
    settings: dict, size: int, expected: tuple[int, int]
) -> None:
    columns = np.repeat(np.arange(size, dtype=np.uint8)[None], settings["size"], axis=0)
    preprocessor = ImagePreprocessor.from_open_clip_config(
        settings, image_height_pixels=9, image_width_pixels=9
    )
    pixels = preprocessor(Image.fromarray(columns))
    assert (pixels[0, 0, 0], pixels[0, -1, 0]) == expected


def test_the_open_clip_rules_of_resizing() -> None:
    image = Image.new("RGB", (40, 20), "white")

    def pixels(**settings: object) -> np.ndarray:
        return ImagePreprocessor.from_open_clip_config(
            settings, image_height_pixels=10, image_width_pixels=10
        )(image)

    assert pixels().min() == pixels(resize_mode="squash").min() == 255
    longest = pixels(resize_mode="longest")
    assert longest.shape == (10, 10, 3)
    assert longest[:, 0, 0].tolist() == [0, 0, 255, 255, 255, 255, 255, 0, 0, 0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"blur": 1}, "not known here: blur"),
        ({"mode": "L"}, "preprocess_cfg.mode is 'L'"),
        ({"interpolation": "random"}, "preprocess_cfg.interpolation is 'random'"),
        ({"resize_mode": "crop"}, "preprocess_cfg.resize_mode is 'crop'"),
        ({"fill_color": 128}, "preprocess_cfg.fill_color is 128"),
        ({"size": [10, 20]}, "only squares are supported"),
    ],
)
def test_unknown_open_clip_settings_are_refused(config: dict, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ImagePreprocessor.from_open_clip_config(config, image_height_pixels=9, image_width_pixels=9)
    assert message in str(caught.value)


def test_the_file_is_found_where_either_version_of_transformers_puts_it(tmp_path: Path) -> None:
    settings = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 20, "width": 28}}
    with pytest.raises(CheckpointError, match=r"has no preprocessor_config\.json"):
        ImagePreprocessor.from_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    new = ImagePreprocessor.from_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    (tmp_path / "processor_config.json").unlink()
    assert ImagePreprocessor.from_pretrained(str(tmp_path)) == new == ImagePreprocessor.from_config(settings)
    for content in ("{", "[1]"):
        (tmp_path / "preprocessor_config.json").write_text(content)
        with pytest.raises(CheckpointError, match="Fetch the checkpoint again"):
            ImagePreprocessor.from_pretrained(tmp_path)


def test_it_travels_to_worker_processes() -> None:
    preprocessor = ImagePreprocessor.from_config({})
    copy = pickle.loads(pickle.dumps(preprocessor))
    assert copy == preprocessor
    np.testing.assert_array_equal(copy(golden_image("ink")), preprocessor(golden_image("ink")))


def test_the_smallest_side_a_decoder_may_deliver() -> None:
    assert ImagePreprocessor.from_config({"size": 31, "crop_size": 20}).minimum_side_pixels == 5 * 31
    exact = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 20, "width": 28}}
    assert ImagePreprocessor.from_config(exact).minimum_side_pixels == 5 * 28
    assert ImagePreprocessor.from_config({"size": 224}).minimum_side_pixels == 3 * 224
    assert ImagePreprocessor.from_config({"do_resize": False}).minimum_side_pixels == sys.maxsize


@pytest.mark.parametrize("rule", [{"size": 64}, {"size": 64, "crop_size": 48}])
@pytest.mark.parametrize("size", [(1689, 2112), (2112, 1689), (1001, 1999), (700, 701)])
def test_a_picture_that_was_decoded_smaller_is_cropped_where_the_whole_would_be(
    rule: dict[str, object], size: tuple[int, int]
) -> None:
    # Slow waves: half the pixels show them as well, but a crop that is one pixel off does not.
    x, y = (np.linspace(0, 9 * np.pi, length, endpoint=False) for length in size)
    waves = 127 + 63 * np.sin(x)[None, :, None] + 63 * np.cos(y)[:, None, None]
    whole = Image.fromarray(np.repeat(waves, 3, axis=2).astype(np.uint8))
    half = whole.resize(((size[0] + 1) // 2, (size[1] + 1) // 2), Image.Resampling.BOX)
    preprocessor = ImagePreprocessor.from_config(rule)
    expected, found = preprocessor(whole), preprocessor(half, size)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 6


@pytest.mark.parametrize("size", [(300, 225), (225, 300), (263, 350), (224, 224)])
def test_of_a_picture_that_was_decoded_smaller_no_more_is_made_than_is_kept(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture, preprocessor = (
        Image.fromarray(noise),
        ImagePreprocessor.from_config({"size": 90, "crop_size": 90}),
    )
    whole = preprocessor(picture)
    made = []
    resize = Image.Image.resize

    def noted(self: Image.Image, size: tuple[int, int], *others: Any, **more: Any) -> Image.Image:
        made.append(size)
        return resize(self, size, *others, **more)

    monkeypatch.setattr(Image.Image, "resize", noted)
    found = preprocessor(picture, (4 * size[0], 4 * size[1]))
    assert made == [(90, 90)]
    # Where the part begins is a fraction of a pixel, which is rounded elsewhere.
    assert np.abs(found.astype(int) - whole).max() <= 1


@pytest.mark.parametrize("thing", [b"bytes", None, np.zeros((4, 4, 3), np.uint8), Image.new("RGB", (0, 4))])
def test_what_is_no_picture_is_refused(thing: object) -> None:
    with pytest.raises(ModelInputError):
        to_rgb(thing)


def test_the_picture_given_is_left_as_it_was() -> None:
    image = golden_image("alpha")
    before = ImageOps.exif_transpose(image).tobytes()
    ImagePreprocessor.from_config({"size": 24, "crop_size": 24})(image)
    assert (image.mode, image.tobytes()) == ("RGBA", before)
