"""From image bytes to training pixels: decode, crop at random, mirror, vary the light. Pillow and NumPy only.

Everything random is drawn beforehand (`DRAWS` numbers an image), so that the same example at the same place in the run
becomes the same pixels, whichever thread decodes it.
"""

from __future__ import annotations

import io
import math
import sys
import warnings
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from model.preprocess import to_rgb

if TYPE_CHECKING:
    import numpy.typing as npt

    from model.preprocess import ImagePreprocessor
    from model.training.config import AugmentationConfig

DRAWS = 9
"""Random numbers that `augment` uses for one image."""

# Above this an image is a decompression bomb rather than a photograph.
_LARGEST_IMAGE_PIXELS = 200_000_000

# Finer than this, in the pixels that the tower is given, is what `sharpness` changes.
_DETAIL_RADIUS_PIXELS = 1.0

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class BrokenImageError(Exception):
    """An image's bytes cannot be decoded; the message says why."""


def decode(content: bytes, minimum_side_pixels: int) -> Image.Image:
    """Decode an image, a large JPEG at a fraction of its size.

    Args:
        content: the file's bytes.
        minimum_side_pixels: the shorter edge keeps at least this length, if it has it.

    Returns:
        An RGB image, turned as its EXIF tag says.

    Raises:
        BrokenImageError: no image, damaged, or beyond 200 megapixels.
    """
    _prepare_pillow()
    try:
        with warnings.catch_warnings():
            # Odd metadata is no reason to lose an example, and large images are checked here.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                if image.width * image.height <= _LARGEST_IMAGE_PIXELS:
                    # The draft may round down by a pixel.
                    image.draft("RGB", (minimum_side_pixels + 1, minimum_side_pixels + 1))
                    return to_rgb(image)
                reason = f"{image.width}x{image.height} pixels are more than 200 megapixels"
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise BrokenImageError(f"{type(error).__name__}: {error}") from error
    raise BrokenImageError(reason)


@cache
def _prepare_pillow() -> None:
    """Let Pillow read what phones write (HEIC), and leave it to `decode` how large an image may be."""
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    pillow_heif.options.DECODE_THREADS = 1  # as many threads as cores decode already
    # Pillow itself refuses from twice its limit on. Whoever has allowed more in this process keeps that.
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, _LARGEST_IMAGE_PIXELS)


def augment(
    image: Image.Image, config: AugmentationConfig, size: tuple[int, int], draws: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint8]:
    """Make training pixels of an image.

    Args:
        image: RGB.
        config: what may happen to it.
        size: height and width of the result, in pixels.
        draws: float64 (DRAWS,), uniform in [0, 1).

    Returns:
        uint8 (height, width, 3).
    """
    height, width = size
    box = crop_box(image.width, image.height, config, width / height, draws)
    resized = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    if config.sharpness:
        blurred = resized.filter(ImageFilter.GaussianBlur(_DETAIL_RADIUS_PIXELS))
        resized = Image.blend(blurred, resized, 1 + config.sharpness * (2 * draws[8] - 1))
    pixels = np.asarray(resized)
    if draws[4] < config.flip:
        pixels = pixels[:, ::-1]
    if config.brightness or config.contrast or config.saturation:
        pixels = _relight(pixels, config, draws[5:8])
    return np.ascontiguousarray(pixels)


def crop_box(
    width: int, height: int, config: AugmentationConfig, aspect: float, draws: npt.NDArray[np.float64]
) -> tuple[float, float, float, float]:
    """Choose what part of an image is kept (the random resized crop of Szegedy et al. 2015).

    Args:
        width: of the image, in pixels.
        height: of the image, in pixels.
        config: `crop_area` and `crop_aspect`.
        aspect: width to height of the result; what the crop's own proportions vary around.
        draws: float64 (at least 4,): area, proportions, place across, place down.

    Returns:
        Left, top, right, bottom; always within the image.
    """
    smallest, largest = config.crop_area
    area = (smallest + (largest - smallest) * draws[0]) * width * height
    bend = math.log(config.crop_aspect) * (2 * draws[1] - 1)
    ratio = aspect * math.exp(bend)
    crop_width, crop_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
    # A long strip has no crop of that area: keep the proportions and take the largest that fits.
    shrink = min(1.0, width / crop_width, height / crop_height)
    crop_width, crop_height = crop_width * shrink, crop_height * shrink
    # What does not fit may be a rounding error wide, and Pillow takes no box that begins before 0.
    left = max(0.0, (width - crop_width) * draws[2])
    top = max(0.0, (height - crop_height) * draws[3])
    return left, top, min(left + crop_width, width), min(top + crop_height, height)


def _relight(
    pixels: npt.NDArray[np.uint8], config: AugmentationConfig, draws: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint8]:
    """Change brightness, contrast and saturation a little."""
    strengths = np.array([config.brightness, config.contrast, config.saturation])
    brightness, contrast, saturation = (strengths * (2 * draws - 1)).tolist()
    values: npt.NDArray[np.float32] = pixels.astype(np.float32)
    grey = values @ _LUMA
    mean = grey.mean()
    # Away from grey, then away from the mean, then lighter: three scalings of the same array in one go.
    values = grey[..., None] + (values - grey[..., None]) * (1 + saturation)
    values = (values - mean) * (1 + contrast) + mean + 255 * brightness
    relit: npt.NDArray[np.uint8] = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return relit


def compose(left: npt.NDArray[np.uint8], right: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Put the middle of one image beside the middle of another: uint8 (height, width, 3) each, and the result."""
    width = left.shape[1]
    half, quarter = width // 2, width // 4
    return np.concatenate(
        [left[:, quarter : quarter + half], right[:, quarter : quarter + width - half]], axis=1
    )


def plain(content: bytes, preprocessor: ImagePreprocessor) -> npt.NDArray[np.uint8]:
    """Make the pixels that search would make of an image decoded in full: uint8 (height, width, 3).

    Raises:
        BrokenImageError: the bytes cannot be decoded.
    """
    return preprocessor(decode(content, sys.maxsize))
