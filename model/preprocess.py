"""From a picture to the numbers a vision tower reads, in Pillow and NumPy alone.

The pipeline, in this order:

1.  Orientation: the picture is turned and mirrored as its EXIF tag says.
2.  Mode: any Pillow mode becomes RGB, 8 bits a channel. Transparency is composited on white. Pixels of
    16 or 32 bits and floats are scaled into 0..255 (Pillow would clip them). Of an animation the frame it
    stands at is taken: the first one when freshly opened.
3.  Resize, on 8 bits, with Pillow's antialiasing filter, by one of three rules:
    `shortest`: the shorter side gets the target length, the longer one is `int(target * long / short)`;
    `longest`:  the longer side gets the target length, so that the picture fits inside;
    `exact`:    both sides get the target length, whatever becomes of the proportions.
4.  Centre crop; where the picture is smaller than the crop, black is added around it.
    -> `ImagePreprocessor.__call__`: uint8 (height, width, 3), RGB, channels last.
5.  Scale to 0..1 (times `rescale_factor`), subtract the channel's mean, divide by its deviation.
    -> `ImagePreprocessor.normalize`: float32 (batch, height, width, 3), channels last.
    -> `ImagePreprocessor.pixel_values`: float32 (batch, 3, height, width), channels first, as the
       processors of Transformers make.

Steps 1 to 4 run in worker processes; step 5 is cheap and is compiled into the tower's program.
The settings come from a checkpoint's `preprocessor_config.json` (or the section of
`processor_config.json` or `open_clip_config.json` that stands for it); a setting that this module does
not know is refused, never ignored.
"""

from __future__ import annotations

import math
import sys
import warnings
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps

from model.errors import CheckpointError, ConfigurationError, ModelInputError
from model.json_file import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypeAlias

    import numpy.typing as npt

    Normalization: TypeAlias = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]

ResizeRule = Literal["shortest", "longest", "exact"]
CropRounding = Literal["floor", "nearest"]

SETTINGS_NAME, JOINT_SETTINGS_NAME = "preprocessor_config.json", "processor_config.json"

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STANDARD_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
_HALF = (0.5, 0.5, 0.5)

# A strip such as 1x5000 would be resized to over a million columns only to keep 224 of them. Up to this
# size the whole picture is resized, which is exact; beyond it only the part that the crop keeps, which
# differs in the last bit.
_LARGEST_RESIZE_PIXELS = 16_000_000

_SMALL_INPUT_PIXELS = 128

_FILTERS = {int(resampling): resampling.name.lower() for resampling in Image.Resampling}

# Keys that say nothing about the pixels, or only what is always done here (RGB, channels first at the end).
_SILENT_KEYS = frozenset(
    {
        "_processor_class",
        "_valid_processor_keys",
        "auto_map",
        "data_format",
        "default_to_square",
        "device",
        "disable_grouping",
        "do_convert_rgb",
        "feature_extractor_type",
        "image_processor_type",
        "image_seq_length",
        "input_data_format",
        "processor_class",
        "return_tensors",
    }
)
_READ_KEYS = frozenset(
    {
        "crop_size",
        "do_center_crop",
        "do_normalize",
        "do_rescale",
        "do_resize",
        "image_mean",
        "image_std",
        "resample",
        "rescale_factor",
        "size",
    }
)

_CLIP_DEFAULTS: dict[str, Any] = {
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": CLIP_MEAN,
    "image_std": CLIP_STANDARD_DEVIATION,
}
_SIGLIP_DEFAULTS: dict[str, Any] = {
    **_CLIP_DEFAULTS,
    "size": {"height": 224, "width": 224},
    "do_center_crop": False,
    "image_mean": _HALF,
    "image_std": _HALF,
}
# What each processor does where its file is silent. A size that is one number means the shorter edge, but
# a square to `_SQUARE_TYPES`.
_DEFAULTS_BY_TYPE: dict[str, dict[str, Any]] = {
    "CLIPImageProcessor": _CLIP_DEFAULTS,
    "CLIPFeatureExtractor": _CLIP_DEFAULTS,
    "BitImageProcessor": _CLIP_DEFAULTS,
    "SiglipImageProcessor": _SIGLIP_DEFAULTS,
    "ViTImageProcessor": {**_SIGLIP_DEFAULTS, "resample": 2},
    "ViTFeatureExtractor": {**_SIGLIP_DEFAULTS, "resample": 2},
}
_SQUARE_TYPES = frozenset({"ViTImageProcessor", "ViTFeatureExtractor"})


@dataclass(frozen=True)
class ImagePreprocessor:
    """Turns pictures into arrays, by settings fixed once. Can be pickled; holds no state and needs no JAX.

    Attributes:
        resize_rule: How step 3 finds the new size; None leaves the size as it is.
        resize_height_pixels: Target of step 3; for `shortest` both targets are equal.
        resize_width_pixels: Target of step 3.
        resample: Pillow's number of the filter: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box,
            5 Hamming.
        crop_height_pixels: Height of step 4; None for no crop.
        crop_width_pixels: Width of step 4; None for no crop.
        crop_rounding: Where half a pixel goes when the margin is odd: `floor` as in Transformers' Pillow
            processors, `nearest` (half to even) as in torchvision, which OpenCLIP uses.
        rescale_factor: What step 5 multiplies by; None for no scaling.
        mean: Subtracted per channel; None for no normalisation.
        standard_deviation: Divided by per channel; None for no normalisation.
    """

    resize_rule: ResizeRule | None
    resize_height_pixels: int
    resize_width_pixels: int
    resample: int
    crop_height_pixels: int | None
    crop_width_pixels: int | None
    crop_rounding: CropRounding
    rescale_factor: float | None
    mean: tuple[float, float, float] | None
    standard_deviation: tuple[float, float, float] | None

    def __post_init__(self) -> None:
        sizes = (
            self.resize_height_pixels,
            self.resize_width_pixels,
            self.crop_height_pixels,
            self.crop_width_pixels,
        )
        if any(size is not None and size < 1 for size in sizes):
            raise ConfigurationError(f"Image sizes must be at least 1 pixel; these came: {sizes}.")
        if self.resample not in _FILTERS:
            known = ", ".join(f"{number} ({name})" for number, name in sorted(_FILTERS.items()))
            raise ConfigurationError(f"resample is {self.resample!r}; known are {known}.")
        if self.standard_deviation is not None and not all(self.standard_deviation):
            raise ConfigurationError(f"image_std has a zero: {self.standard_deviation}.")
        if (self.crop_height_pixels is None) != (self.crop_width_pixels is None):
            raise ConfigurationError("The crop needs a height and a width.")
        if self.crop_height_pixels is None and self.resize_rule != "exact":
            raise ConfigurationError(
                "Without a crop, and without a resize to an exact height and width, pictures would come out in "
                "different sizes, which no tower here takes. Set do_center_crop, or give size a height and a width."
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ImagePreprocessor:
        """Reads the settings of a Transformers image processor (`preprocessor_config.json`).

        Raises:
            ConfigurationError: If a key is unknown, or a value is not what its key takes.
        """
        config = dict(config)
        kind = (
            config.get("image_processor_type") or config.get("feature_extractor_type") or "CLIPImageProcessor"
        )
        kind = str(kind).removesuffix("Fast").removesuffix("Pil")
        if kind not in _DEFAULTS_BY_TYPE:
            raise ConfigurationError(
                f"The image processor {kind!r} is not supported; supported are "
                f"{', '.join(sorted(_DEFAULTS_BY_TYPE))}."
            )
        unknown = [
            key
            for key, value in config.items()
            if key not in _READ_KEYS and key not in _SILENT_KEYS and value is not None and value is not False
        ]
        if unknown:
            listing = ", ".join(f"{key}={config[key]!r}" for key in sorted(unknown))
            raise ConfigurationError(f"The image processor has settings that are not known here: {listing}.")
        settings = _DEFAULTS_BY_TYPE[kind] | {
            key: config[key] for key in _READ_KEYS if key in config and config[key] is not None
        }
        rule: ResizeRule | None = None
        height = width = 1
        if _flag(settings, "do_resize"):
            square = config.get("default_to_square")
            square = kind in _SQUARE_TYPES if square is None else bool(square)
            rule, height, width = _resize_target(settings["size"], square=square)
        crop_height, crop_width = (
            _height_and_width("crop_size", settings["crop_size"])
            if _flag(settings, "do_center_crop")
            else (None, None)
        )
        normalizes = _flag(settings, "do_normalize")
        return cls(
            resize_rule=rule,
            resize_height_pixels=height,
            resize_width_pixels=width,
            resample=_integer("resample", settings["resample"], smallest=0),
            crop_height_pixels=crop_height,
            crop_width_pixels=crop_width,
            crop_rounding="floor",
            rescale_factor=(
                _number("rescale_factor", settings["rescale_factor"])
                if _flag(settings, "do_rescale")
                else None
            ),
            mean=_three("image_mean", settings["image_mean"]) if normalizes else None,
            standard_deviation=_three("image_std", settings["image_std"]) if normalizes else None,
        )

    @classmethod
    def from_open_clip_config(
        cls, config: Mapping[str, Any], *, image_height_pixels: int, image_width_pixels: int
    ) -> ImagePreprocessor:
        """Reads the `preprocess_cfg` section of an `open_clip_config.json`.

        Args:
            config: The section; may be empty.
            image_height_pixels: The tower's own size, which holds where the section has no `size`.
            image_width_pixels: The same for the width.

        Raises:
            ConfigurationError: If a key is unknown, or a value is not what its key takes.
        """
        known = {"size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color"}
        unknown = sorted(set(config) - known)
        if unknown:
            raise ConfigurationError(
                f"preprocess_cfg has settings that are not known here: {', '.join(unknown)}."
            )
        values = {key: value for key, value in config.items() if value is not None}
        if values.get("mode", "RGB") != "RGB":
            raise ConfigurationError(f"preprocess_cfg.mode is {values['mode']!r}; only 'RGB' is supported.")
        if values.get("fill_color", 0) != 0:
            raise ConfigurationError(
                f"preprocess_cfg.fill_color is {values['fill_color']!r}; only 0 is supported."
            )
        filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
        interpolation = values.get("interpolation", "bicubic")
        if interpolation not in filters:
            raise ConfigurationError(
                f"preprocess_cfg.interpolation is {interpolation!r}; known are {', '.join(sorted(filters))}."
            )
        rules: dict[str, ResizeRule] = {"shortest": "shortest", "longest": "longest", "squash": "exact"}
        mode = values.get("resize_mode", "shortest")
        if mode not in rules:
            raise ConfigurationError(
                f"preprocess_cfg.resize_mode is {mode!r}; known are {', '.join(sorted(rules))}."
            )
        height, width = image_height_pixels, image_width_pixels
        if "size" in values:
            height, width = _height_and_width("preprocess_cfg.size", values["size"])
        if mode == "shortest" and height != width:
            raise ConfigurationError(
                f"preprocess_cfg asks for {height}x{width} pixels with resize_mode 'shortest'; only squares are "
                "supported."
            )
        return cls(
            resize_rule=rules[mode],
            resize_height_pixels=height,
            resize_width_pixels=width,
            resample=int(filters[interpolation]),
            crop_height_pixels=None if mode == "squash" else height,
            crop_width_pixels=None if mode == "squash" else width,
            crop_rounding="nearest",
            rescale_factor=1 / 255,
            mean=_three("preprocess_cfg.mean", values.get("mean", CLIP_MEAN)),
            standard_deviation=_three("preprocess_cfg.std", values.get("std", CLIP_STANDARD_DEVIATION)),
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> ImagePreprocessor:
        """Reads `preprocessor_config.json`, or the `image_processor` section of `processor_config.json`.

        Raises:
            CheckpointError: If the folder has neither, or the file is not JSON.
            ConfigurationError: As `from_config`.
        """
        folder = Path(folder)
        whole = folder / SETTINGS_NAME
        if whole.is_file():
            return cls.from_config(read_json(whole))
        joint = folder / JOINT_SETTINGS_NAME
        if joint.is_file() and isinstance(section := read_json(joint).get("image_processor"), dict):
            return cls.from_config(section)
        raise CheckpointError(
            f"{folder} has no {SETTINGS_NAME}, so it is not known how its pictures were prepared. Take the "
            "file from where the checkpoint came from."
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns all settings, ready for JSON and for a fingerprint."""
        return asdict(self)

    @property
    def input_height_pixels(self) -> int:
        """Height of what `__call__` returns."""
        return self.resize_height_pixels if self.crop_height_pixels is None else self.crop_height_pixels

    @property
    def input_width_pixels(self) -> int:
        """Width of what `__call__` returns."""
        return self.resize_width_pixels if self.crop_width_pixels is None else self.crop_width_pixels

    @property
    def minimum_side_pixels(self) -> int:
        """The smallest shorter edge that a decoder may deliver instead of the full picture.

        A JPEG decoder shrinks with a coarse filter, so ours must have something left to do. Worst cosine to the
        full decode with the starter (64 pixels) over 200 photographs, as they are and enlarged 1.4 to 4.4 times, by
        benchmarks/draft_decoding.py: 0.982 at the target size itself, 0.992 at twice that, 0.996 at three times,
        0.997 at four, 0.998 at five. Small inputs, where a pixel says much and decoding costs little, get five
        times; larger ones three times. Where pictures are not resized at all, no fraction will do, and this is a
        number that no picture reaches.
        """
        if self.resize_rule is None:
            return sys.maxsize
        target = max(self.resize_height_pixels, self.resize_width_pixels)
        return target * (5 if target <= _SMALL_INPUT_PIXELS else 3)

    def __call__(self, image: Image.Image, full_size: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
        """Does steps 1 to 4.

        Args:
            image: Any Pillow image; it is not changed.
            full_size: Upright width and height of the whole picture, if a decoder delivered it smaller. What is kept
                of it then is what would be kept of the whole: rounded from a fraction, the resized picture can be
                one pixel shorter and its crop one pixel off, which moves vectors more than the decoder does.

        Returns:
            uint8 (height, width, 3), RGB.

        Raises:
            ModelInputError: If the image has no pixels, or a mode that cannot become RGB.
            OSError: If the image was opened lazily and its file turns out to be damaged.
        """
        rgb = to_rgb(image)
        rgb = self._crop(self._resize(rgb, full_size or rgb.size))
        return np.array(rgb, dtype=np.uint8)

    def normalize(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Does step 5: uint8 (batch, height, width, 3) to float32 of the same shape."""
        channels = [self.normalization_table[:, channel][pixels[..., channel]] for channel in range(3)]
        return np.stack(channels, axis=-1)

    def pixel_values(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        """Does all steps: images to float32 (batch, 3, height, width)."""
        shape = (len(images), self.input_height_pixels, self.input_width_pixels, 3)
        pixels = np.empty(shape, dtype=np.uint8)
        for row, image in enumerate(images):
            pixels[row] = self(image)
        return np.ascontiguousarray(self.normalize(pixels).transpose(0, 3, 1, 2))

    @cached_property
    def normalization_table(self) -> npt.NDArray[np.float32]:
        """What step 5 makes of each of the 256 values, per channel: float32 (256, 3).

        The product is taken in double precision and rounded once, the rest in single precision, as the
        processors of Transformers do; so the values are theirs to the last bit.
        """
        values = np.arange(256, dtype=np.float64)
        if self.rescale_factor is not None:
            values *= self.rescale_factor
        table = np.repeat(values.astype(np.float32)[:, None], 3, axis=1)
        if self.mean is not None and self.standard_deviation is not None:
            mean, deviation = np.array([self.mean, self.standard_deviation], dtype=np.float32)
            table = (table - mean) / deviation
        return table

    @property
    def normalization(self) -> Normalization:
        """Step 5 as a product and a sum, folded from the table's two ends in double precision: float32 (3,) each."""
        table = self.normalization_table.astype(np.float64)
        return ((table[255] - table[0]) / 255).astype(np.float32), table[0].astype(np.float32)

    def _resize(self, image: Image.Image, full_size: tuple[int, int]) -> Image.Image:
        width, height = full_size
        if self.resize_rule is None:
            return image
        if self.resize_rule == "shortest":
            target = self.resize_height_pixels
            if width <= height:
                new_width, new_height = target, int(target * height / width)
            else:
                new_width, new_height = int(target * width / height), target
        elif self.resize_rule == "longest":
            ratio = max(height / self.resize_height_pixels, width / self.resize_width_pixels)
            new_width, new_height = max(1, round(width / ratio)), max(1, round(height / ratio))
        else:
            new_width, new_height = self.resize_width_pixels, self.resize_height_pixels
        if (new_width, new_height) == image.size:
            return image
        resampling = Image.Resampling(self.resample)
        if new_width * new_height > _LARGEST_RESIZE_PIXELS or full_size != image.size:
            return self._resize_middle(image, new_width, new_height, resampling)
        # All of it, as the processors of Transformers do: the same to the last bit.
        return image.resize((new_width, new_height), resampling)

    def _resize_middle(
        self, image: Image.Image, new_width: int, new_height: int, resampling: Image.Resampling
    ) -> Image.Image:
        """Makes only the part of the resized picture that the centre crop will keep."""
        kept_width = min(new_width, self.input_width_pixels)
        kept_height = min(new_height, self.input_height_pixels)
        left, top = self._offset(new_width, kept_width), self._offset(new_height, kept_height)
        scale_x, scale_y = image.width / new_width, image.height / new_height
        box = (
            left * scale_x,
            top * scale_y,
            min((left + kept_width) * scale_x, image.width),
            min((top + kept_height) * scale_y, image.height),
        )
        return image.resize((kept_width, kept_height), resampling, box=box)

    def _offset(self, length: int, kept: int) -> int:
        margin = length - kept
        return margin // 2 if self.crop_rounding == "floor" else round(margin / 2)

    def _crop(self, image: Image.Image) -> Image.Image:
        if self.crop_height_pixels is None or self.crop_width_pixels is None:
            return image
        missing_width = max(0, self.crop_width_pixels - image.width)
        missing_height = max(0, self.crop_height_pixels - image.height)
        if missing_width or missing_height:
            # The odd pixel goes before the picture in Transformers and behind it in torchvision.
            extra = 1 if self.crop_rounding == "floor" else 0
            canvas = Image.new("RGB", (image.width + missing_width, image.height + missing_height))
            canvas.paste(image, ((missing_width + extra) // 2, (missing_height + extra) // 2))
            image = canvas
        left = self._offset(image.width, self.crop_width_pixels)
        top = self._offset(image.height, self.crop_height_pixels)
        return image.crop((left, top, left + self.crop_width_pixels, top + self.crop_height_pixels))


def to_rgb(image: Image.Image) -> Image.Image:
    """Applies the EXIF orientation and converts any mode to RGB (steps 1 and 2).

    Args:
        image: Any Pillow image; it is not changed, only loaded.

    Returns:
        A picture in mode RGB; the very same object if there was nothing to do.

    Raises:
        ModelInputError: If it is no Pillow image, has no pixels, or a mode that cannot become RGB.
    """
    if not isinstance(image, Image.Image):
        raise ModelInputError(f"Expected a PIL.Image.Image, got {type(image).__name__}.")
    if image.width < 1 or image.height < 1:
        raise ModelInputError(f"The image has no pixels: it is {image.width}x{image.height}.")
    image.load()  # before the orientation: TIFF applies its own while loading
    image = _upright(image)
    if image.mode.startswith("I;16") or image.mode in {"I", "F"}:
        return Image.fromarray(_scale_to_8_bits(_gray_values(image))).convert("RGB")
    if image.mode == "LAB":
        return _lab_to_rgb(image)
    try:
        if "A" in image.getbands() or "a" in image.getbands() or image.info.get("transparency") is not None:
            image = _with_straight_alpha(image)
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, image).convert("RGB")
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError as error:
        raise ModelInputError(
            f"An image of mode {image.mode!r} cannot be converted to RGB: {error}."
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        with warnings.catch_warnings(action="ignore"):  # of Pillow, on metadata that is cut short
            if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
                return image  # of which Pillow would make a copy
            return ImageOps.exif_transpose(image)
    except (ArithmeticError, AttributeError, LookupError, OSError, SyntaxError, TypeError, ValueError):
        # Metadata written by careless programs raises almost anything; the pixels are good all the same.
        return image


def _with_straight_alpha(image: Image.Image) -> Image.Image:
    # Pillow converts premultiplied modes to their straight siblings only, and PA to RGBA through them.
    sibling = {"La": "LA", "RGBa": "RGBA"}.get(image.mode)
    return (image.convert(sibling) if sibling else image).convert("RGBA")


def _gray_values(image: Image.Image) -> npt.NDArray[np.generic]:
    values: npt.NDArray[np.generic] = np.asarray(image)
    return values


def _scale_to_8_bits(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Maps grey values of any type to 0..255 by the smallest usual range that holds them all.

    Unsigned 16-bit values always count as 0..65535. Others count as 0..1 (floats only), 0..255 or
    0..65535; values beyond these are stretched between their smallest and largest. NaN becomes the
    smallest finite value, infinities the nearest one.
    """
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    numbers = values.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    numbers = np.nan_to_num(numbers, nan=low, posinf=high, neginf=low)
    if low >= 0 and high <= 1 and values.dtype.kind == "f":
        start, end = 0.0, 1.0
    elif low >= 0 and high <= 255:
        start, end = 0.0, 255.0
    elif low >= 0 and high <= 65535:
        start, end = 0.0, 65535.0
    else:
        start, end = low, max(high, low + 1)
    return np.rint((numbers - start) * (255 / (end - start))).astype(np.uint8)


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    transform = ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )
    converted = ImageCms.applyTransform(image, transform)
    if converted is None:  # only with inPlace
        raise ModelInputError("An image of mode 'LAB' cannot be converted to RGB.")
    return converted


def _flag(settings: Mapping[str, Any], key: str) -> bool:
    value = settings[key]
    if not isinstance(value, bool):
        raise ConfigurationError(f"{key} is {value!r}; it must be true or false.")
    return value


def _integer(key: str, value: object, *, smallest: int = 1) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
        raise ConfigurationError(f"{key} is {value!r}; it must be a whole number of at least {smallest}.")
    return value


def _number(key: str, value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ConfigurationError(f"{key} is {value!r}; it must be a number.")
    return float(value)


def _three(key: str, value: object) -> tuple[float, float, float]:
    if isinstance(value, (int, float)):
        value = (value,) * 3
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise ConfigurationError(f"{key} is {value!r}; it must be three numbers, for red, green and blue.")
    red, green, blue = (_number(key, item) for item in value)
    return red, green, blue


def _height_and_width(key: str, value: object) -> tuple[int, int]:
    if isinstance(value, dict) and {name for name, item in value.items() if item is not None} == {
        "height",
        "width",
    }:
        return _integer(f"{key}.height", value["height"]), _integer(f"{key}.width", value["width"])
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return _integer(key, value[0]), _integer(key, value[1])
    if isinstance(value, dict):
        raise ConfigurationError(f"{key} is {value!r}; it must be a number, or have a height and a width.")
    side = _integer(key, value)
    return side, side


def _resize_target(size: object, *, square: bool) -> tuple[ResizeRule, int, int]:
    if isinstance(size, dict):
        given = {name for name, item in size.items() if item is not None}
        if given == {"shortest_edge"}:
            edge = _integer("size.shortest_edge", size["shortest_edge"])
            return "shortest", edge, edge
        if given != {"height", "width"}:
            raise ConfigurationError(
                f"size is {size!r}; it must have a shortest_edge, or a height and a width."
            )
    elif not isinstance(size, (list, tuple)) and not square:
        edge = _integer("size", size)
        return "shortest", edge, edge
    height, width = _height_and_width("size", size)
    return "exact", height, width
