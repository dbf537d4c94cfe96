"""Decoding and augmenting."""

import dataclasses
import io

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from model.training.config import AugmentationConfig
from model.training.images import BrokenImageError, augment, compose, crop_box, decode

STILL = AugmentationConfig(
    crop_area=(1.0, 1.0), crop_aspect=1.0, flip=0, brightness=0, contrast=0, saturation=0
)
GRADIENT = Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def test_with_everything_off_an_image_of_the_right_size_stays_as_it_is() -> None:
    np.testing.assert_array_equal(augment(GRADIENT, STILL, (16, 16), np.zeros(8)), np.asarray(GRADIENT))


def test_flip_mirrors() -> None:
    config = AugmentationConfig(
        crop_area=(1.0, 1.0), crop_aspect=1.0, flip=0.5, brightness=0, contrast=0, saturation=0
    )
    draws = np.zeros(8)
    np.testing.assert_array_equal(augment(GRADIENT, config, (16, 16), draws), np.asarray(GRADIENT)[:, ::-1])
    draws[4] = 0.6
    np.testing.assert_array_equal(augment(GRADIENT, config, (16, 16), draws), np.asarray(GRADIENT))


def test_brightness_goes_both_ways_and_stays_within_bytes() -> None:
    config = AugmentationConfig(
        crop_area=(1.0, 1.0), crop_aspect=1.0, flip=0, brightness=0.2, contrast=0, saturation=0
    )
    grey = Image.new("RGB", (16, 16), (100, 100, 220))
    draws = np.full(8, 0.5)
    draws[5] = 1.0
    assert set(augment(grey, config, (16, 16), draws)[0, 0]) == {151, 255}
    draws[5] = 0.0
    assert set(augment(grey, config, (16, 16), draws)[0, 0]) == {49, 169}


def test_sharpness_takes_detail_away_or_adds_it() -> None:
    edge = Image.fromarray(np.repeat(np.uint8([[100] * 8 + [150] * 8]), 16, axis=0)).convert("RGB")
    config = dataclasses.replace(STILL, sharpness=1.0)

    def step(draw: float) -> int:
        row = augment(edge, config, (16, 16), np.array([0.0] * 8 + [draw]))[8, :, 0].astype(int)
        assert (row[0], row[-1]) == (100, 150)
        return int(row[8] - row[7])

    assert step(0.0) < step(0.25) < step(0.5) == 50 < step(0.75) < step(0.999)


@pytest.mark.parametrize("size", [(64, 64), (300, 40), (40, 300), (1, 500)])
def test_crops_stay_within_the_image_and_have_the_area_drawn(size: tuple[int, int]) -> None:
    config = AugmentationConfig(crop_area=(0.3, 0.8), crop_aspect=1.5)
    random = np.random.default_rng(0)
    for _ in range(200):
        draws = random.random(8)
        left, top, right, bottom = crop_box(*size, config, 1.0, draws)
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        area = (right - left) * (bottom - top) / (size[0] * size[1])
        if size[0] == size[1] and right - left < size[0] and bottom - top < size[1]:
            assert area == pytest.approx(0.3 + 0.5 * draws[0])
        assert area <= 0.8 + 1e-9


def test_a_crop_shows_the_part_that_was_drawn() -> None:
    halves = np.zeros((20, 20, 3), np.uint8)
    halves[:, 10:] = 255
    config = AugmentationConfig(
        crop_area=(0.25, 0.25), crop_aspect=1.0, flip=0, brightness=0, contrast=0, saturation=0
    )
    image = Image.fromarray(halves)
    left = augment(image, config, (8, 8), np.array([0, 0, 0, 0, 0, 0, 0, 0.0]))
    right = augment(image, config, (8, 8), np.array([0, 0, 0.999, 0, 0, 0, 0, 0.0]))
    assert left[:, :6].max() == 0
    assert right[:, 2:].min() == 255


def test_composed_images_show_the_middle_of_both() -> None:
    left, right = (np.arange(8, dtype=np.uint8)[None, :, None] + offset for offset in (0, 100))
    np.testing.assert_array_equal(compose(left, right)[0, :, 0], [2, 3, 4, 5, 102, 103, 104, 105])


def test_a_large_jpeg_is_decoded_small_but_not_too_small() -> None:
    image = decode(encoded(Image.new("RGB", (1600, 1200), "red"), "JPEG"), 200)
    assert 200 <= min(image.size) < 1200
    assert image.mode == "RGB"


def test_a_phone_s_heic_is_decoded() -> None:
    heif = pillow_heif.from_pillow(Image.new("RGB", (64, 48), (200, 40, 40)))
    buffer = io.BytesIO()
    heif.save(buffer)
    image = decode(buffer.getvalue(), 16)
    assert (image.mode, image.size) == ("RGB", (64, 48))
    np.testing.assert_allclose(image.getpixel((30, 20)), (200, 40, 40), atol=6)


def test_up_to_200_megapixels_are_decoded() -> None:
    def claiming(width: int, height: int) -> bytes:
        # Of what its few bytes do not tell, a JPEG decoder makes grey.
        content = bytearray(encoded(Image.new("L", (16, 16)), "JPEG"))
        frame = content.index(b"\xff\xc0")
        content[frame + 5 : frame + 9] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
        return bytes(content)

    assert decode(claiming(19_900, 10_000), 16).size == (2488, 1250)
    with pytest.raises(BrokenImageError, match="20100x10000 pixels are more than 200 megapixels"):
        decode(claiming(20_100, 10_000), 16)


@pytest.mark.parametrize("content", [b"", b"no image", encoded(GRADIENT)[:60]])
def test_broken_bytes_are_one_kind_of_error(content: bytes) -> None:
    with pytest.raises(BrokenImageError, match=r"\w"):
        decode(content, 16)
