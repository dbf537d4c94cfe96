"""All settings of a training run: frozen dataclasses, read from one TOML file.

Every table of the file is one dataclass below, every key one field. Unknown keys and values of the wrong type are
gathered and told in one error. Paths are relative to the file, or to `data_root` where one is given.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from model.errors import ConfigurationError
from model.training.vocabulary import EVERYDAY_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

SourceKind = Literal["captions", "coco", "folders", "parquet", "webdataset"]

DEFAULT_TEMPLATES = ("a photo of a {}", "a {}", "{}", "a picture of a {}", "photos of {plural}", "{plural}")
ZERO_SHOT_TEMPLATES = ("a photo of a {}", "a {}", "{}", "a picture of a {}")

# A few hundred pictures are too few steps in so many epochs to learn anything; the best state is kept in any case.
_EPOCHS, _FEW_STEPS, _MOST_EPOCHS = 10.0, 300, 100.0


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigurationError(message)


def _require_share(name: str, value: float) -> None:
    _require(0 <= value <= 1, f"{name} = {value} must be between 0 and 1")


def _require_crop_area(name: str, area: tuple[float, float]) -> None:
    _require(
        0 < area[0] <= area[1] <= 1,
        f"{name} = {list(area)}: expected two shares, the smaller first, above 0",
    )


@dataclass(frozen=True)
class SourceConfig:
    """Where examples lie. What each kind expects is told in `model.training.sources`.

    Attributes:
        path: a file or folder; a pattern such as `shards/*.tar` for WebDataset.
        kind: None: told from the path and what lies there.
        images: captions and COCO: the folder that the file names are relative to; None: the captions file's own.
        split: keep only rows whose split column says this; None keeps all.
        split_column: where TSV, JSON lines and Parquet say what split a row belongs to.
        image_column: where they hold the image or its file name.
        text_column: where they hold captions or names; None tries the usual ones.
        rename: a label's first name to the names to use in its place.
        limit: keep at most this many examples, evenly chosen; for trying things out.
    """

    path: Path
    kind: SourceKind | None = None
    images: Path | None = None
    split: str | None = None
    split_column: str = "split"
    image_column: str | None = None
    text_column: str | None = None
    rename: dict[str, tuple[str, ...]] = field(default_factory=dict)
    limit: int | None = None

    def __post_init__(self) -> None:
        _require(self.limit is None or self.limit > 0, f"limit = {self.limit} must be above 0")


@dataclass(frozen=True)
class DataConfig(SourceConfig):
    """One source of examples to learn from.

    Attributes:
        weight: how often each of its examples is seen, relative to the other sources' examples.
        crop_area: in place of `augmentation.crop_area`; a few pictures that are seen often bear smaller crops.
        together: its examples come in groups of this many, each in one batch, and not one by one in every batch. The
            loss compares within a batch: a few captions among many names would hardly ever meet their like.
    """

    weight: float = 1.0
    crop_area: tuple[float, float] | None = None
    together: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.weight > 0, f"data.weight = {self.weight} must be above 0")
        _require(
            self.together is None or self.together > 1, f"data.together = {self.together} must be above 1"
        )
        if self.crop_area is not None:
            _require_crop_area("data.crop_area", self.crop_area)


@dataclass(frozen=True)
class NewModelConfig:
    """A model from nothing.

    Attributes:
        configuration: what its config.json will say (model_type "clip"); `vocab_size` and the special ids of the text
            part are filled in from the tokenizer.
        tokenizer: folder with a `tokenizer.json`; None trains one on the texts of the data.
        vocabulary_size: of the tokenizer that is trained.
        image_mean: subtracted from pixels scaled to 0..1, per channel.
        image_std: divided by, per channel.
    """

    configuration: dict[str, Any]
    tokenizer: Path | None = None
    vocabulary_size: int = 4000
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adaptation (Hu et al. 2021): the matrices that match learn a product of two thin ones.

    All other parameters stand still, but those that `also_train` matches.

    Attributes:
        rank: width of the thin matrices.
        alpha: the product is scaled by alpha / rank.
        targets: patterns of parameter names, as for `ModelConfig.frozen`.
        also_train: patterns of parameters that are trained in full.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("*.attention.*.kernel", "*.mlp.*.kernel")
    also_train: tuple[str, ...] = ("logit_scale", "logit_bias")

    def __post_init__(self) -> None:
        _require(self.rank > 0, f"model.lora.rank = {self.rank} must be above 0")


@dataclass(frozen=True)
class ModelConfig:
    """What is trained.

    Patterns are shell-like (`*` matches dots too) over names such as `vision_model.blocks.3.attention.query.kernel`.

    Attributes:
        base: a folder, alias or hub id to start from; or:
        new: a model from nothing. Exactly one of the two.
        lock: a tower that stands still, its projection excepted ("LiT", Zhai et al. 2022).
        frozen: patterns of further parameters that stand still.
        learning_rate_scales: pattern to factor on the learning rate; the last one that matches counts.
        lora: None trains the parameters themselves.
        dtype: of the operands of matrix products; parameters are float32 in any case.
        finished_image_size: in pixels, what the finished vision tower takes instead of the size that it was trained
            at; kept only where what was held out scores no worse, pooled by images. See `model.training.resolution`.
    """

    base: str | None = None
    new: NewModelConfig | None = None
    lock: Literal["vision", "text"] | None = None
    frozen: tuple[str, ...] = ()
    learning_rate_scales: dict[str, float] = field(default_factory=dict)
    lora: LoraConfig | None = None
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    finished_image_size: int | None = None

    def __post_init__(self) -> None:
        _require(
            (self.base is None) != (self.new is None),
            "model needs either a base or the table model.new, not both",
        )
        _require(
            all(scale > 0 for scale in self.learning_rate_scales.values()),
            f"model.learning_rate_scales = {self.learning_rate_scales}: factors must be above 0; "
            "list what should stand still in model.frozen",
        )


@dataclass(frozen=True)
class TextConfig:
    """How names become texts. Captions are taken as they are, except for `word_dropout`.

    Attributes:
        templates: `{}` is the name, `{plural}` its plural; an "a" before a vowel becomes "an" half of the time.
        broader_share: how often a name is replaced by a broader one ("dog" for "chihuahua") where there is one.
        vocabulary: TOML file of synonyms, broader terms and plurals; "everyday" is the one in the package, "" none.
        name_captions: how often an image with captions is given a prompt with a known thing that its captions name.
        word_dropout: share of a caption's words that are left out, others each time; against learning few captions by
            heart (Wei and Zou 2019, "EDA").
        length: tokens that texts are cut or padded to; None: what the data needs, at most the model's positions.
    """

    templates: tuple[str, ...] = DEFAULT_TEMPLATES
    broader_share: float = 0.2
    vocabulary: str = EVERYDAY_NAME
    name_captions: float = 0.1
    word_dropout: float = 0.0
    length: int | None = None

    def __post_init__(self) -> None:
        _require(
            bool(self.templates), "text.templates is empty: give at least one, such as 'a photo of a {}'"
        )
        for template in self.templates:
            _require(
                template.count("{") == 1 and ("{}" in template or "{plural}" in template),
                f"text.templates: {template!r} must hold exactly one {{}} or {{plural}}",
            )
        for name in ("broader_share", "name_captions", "word_dropout"):
            _require_share(f"text.{name}", getattr(self, name))


@dataclass(frozen=True)
class AugmentationConfig:
    """What is done to training images.

    Attributes:
        crop_area: smallest and largest share of the area that a random crop keeps; (1, 1) switches crops off.
        crop_aspect: largest factor by which a crop's proportions are bent, either way.
        flip: how often an image is mirrored.
        brightness: largest change, as a share of full brightness; either way.
        contrast: largest change of contrast; 0.4 means factors 0.6 to 1.4.
        saturation: the same for colourfulness.
        sharpness: largest share of the fine detail that is taken away or added; 1 blurs fully, or doubles it. Pictures
            come resized by many programs, and a model that has seen one sharpness alone errs on others.
        compose: how often an image's right half is another example's, the text naming both ("a dog and a car").
        patch_dropout: share of each image's patches that the vision tower is not shown (Li et al. 2023, "FLIP"): a
            step costs less, so more images are learnt from in the same time.
        patch_dropout_until: share of the run's steps after which it is shown them all, as it will be when it is used.
    """

    crop_area: tuple[float, float] = (0.5, 1.0)
    crop_aspect: float = 1.33
    flip: float = 0.5
    brightness: float = 0.1
    contrast: float = 0.1
    saturation: float = 0.1
    sharpness: float = 0.0
    compose: float = 0.0
    patch_dropout: float = 0.0
    patch_dropout_until: float = 0.85

    def __post_init__(self) -> None:
        _require_crop_area("augmentation.crop_area", self.crop_area)
        _require(self.crop_aspect >= 1, f"augmentation.crop_aspect = {self.crop_aspect} must be at least 1")
        shares = (
            "flip",
            "brightness",
            "contrast",
            "saturation",
            "sharpness",
            "compose",
            "patch_dropout_until",
        )
        for name in shares:
            _require_share(f"augmentation.{name}", getattr(self, name))
        _require(
            0 <= self.patch_dropout < 1,
            f"augmentation.patch_dropout = {self.patch_dropout} must be at least 0 and below 1",
        )


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, or Muon for the matrices within blocks and AdamW for the rest, with warm-up and cosine decay.

    Attributes:
        kind: "adamw" (Loshchilov and Hutter 2019), or "muon" (Jordan 2024), which learns more from each step of a model
            that starts from nothing. Its updates are scaled to the size of AdamW's (Liu et al. 2025), so a rate fits
            both.
        learning_rate: at its highest; None: 1e-4 for a vision tower that is 768 wide, and in inverse proportion to the
            width for others, as Adam's best rates are (Yang et al. 2022, "Tensor Programs V").
        final_learning_rate: share of the highest that is left at the end.
        warmup: share of all steps in which the rate grows from 0.
        weight_decay: on matrices only; scales, biases and the logit scale have none.
        beta1: decay of the mean of gradients.
        beta2: of the mean of their squares.
        epsilon: added to the root of the latter.
        clip_norm: gradients of a larger norm, all parameters together, are shortened to it; None for no limit.
        ema: decay of the moving average of the parameters, which is then what is validated and exported; None: none.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    learning_rate: float | None = None
    final_learning_rate: float = 0.0
    warmup: float = 0.05
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-6
    clip_norm: float | None = 1.0
    ema: float | None = None

    def __post_init__(self) -> None:
        _require(
            self.learning_rate is None or self.learning_rate > 0,
            f"optimizer.learning_rate = {self.learning_rate} must be above 0",
        )
        _require(self.weight_decay >= 0, f"optimizer.weight_decay = {self.weight_decay} must not be negative")
        _require(self.epsilon > 0, f"optimizer.epsilon = {self.epsilon} must be above 0")
        for name in ("final_learning_rate", "warmup"):
            _require_share(f"optimizer.{name}", getattr(self, name))
        for name in ("beta1", "beta2", "ema"):
            value = getattr(self, name)
            _require(
                value is None or 0 <= value < 1, f"optimizer.{name} = {value} must be at least 0 and below 1"
            )
        _require(
            self.clip_norm is None or self.clip_norm > 0,
            f"optimizer.clip_norm = {self.clip_norm} must be above 0",
        )

    def for_width(self, width: int) -> OptimizerConfig:
        """The same with a learning rate, chosen for a vision tower that is `width` wide where there is none."""
        return self if self.learning_rate is not None else replace(self, learning_rate=1e-4 * 768 / width)

    @property
    def peak_learning_rate(self) -> float:
        """The highest learning rate; `ConfigurationError` where `for_width` has not chosen it yet."""
        if self.learning_rate is None:
            raise ConfigurationError("optimizer.learning_rate is not chosen yet")
        return self.learning_rate


@dataclass(frozen=True)
class ScheduleConfig:
    """How long, and in what portions.

    Attributes:
        batch_size: pairs that are compared with each other in one step.
        accumulate: parts that a batch is computed in, to save memory. The result is that of the whole batch.
        steps: how many; None: `epochs` decides.
        epochs: how often each example of a source of weight 1 is seen; None: 10 times, and where that makes few
            steps more often: as it takes for 300 of them, but at most 100 times.
        max_minutes: fewer steps where these would not suffice, from a measurement at the start. The schedule is
            then made for the fewer steps, so the learning rate still comes down to its end.
        validate_every: steps between validations; None: ten in all.
        checkpoint_every: steps between checkpoints; None: twenty in all.
        log_every: steps between lines of the log.
    """

    batch_size: int = 128
    accumulate: int = 1
    steps: int | None = None
    epochs: float | None = None
    max_minutes: float | None = None
    validate_every: int | None = None
    checkpoint_every: int | None = None
    log_every: int = 10

    def __post_init__(self) -> None:
        for name in (
            "batch_size",
            "accumulate",
            "steps",
            "epochs",
            "max_minutes",
            "validate_every",
            "checkpoint_every",
            "log_every",
        ):
            value = getattr(self, name)
            _require(value is None or value > 0, f"schedule.{name} = {value} must be above 0")
        _require(
            self.batch_size >= 2,
            "schedule.batch_size must be at least 2: pairs are compared with others",
        )
        _require(
            self.batch_size % self.accumulate == 0,
            f"schedule.batch_size = {self.batch_size} is not divisible by accumulate = {self.accumulate}",
        )

    def steps_for(self, examples: float) -> int:
        """How many steps a run has, unless its time is limited; at least 1.

        Args:
            examples: that an epoch has.
        """
        if self.steps is not None:
            return self.steps
        epochs = self.epochs
        if epochs is None:
            epochs = min(max(_EPOCHS, _FEW_STEPS * self.batch_size / examples), _MOST_EPOCHS)
        return max(1, math.ceil(epochs * examples / self.batch_size))


@dataclass(frozen=True)
class ValidationConfig:
    """What the best state is chosen by: examples held out of the training data.

    Attributes:
        share: of each source's examples that is held out; 0 validates on nothing, and the last state is exported.
        limit: at most this many held-out examples of a source are used.
    """

    share: float = 0.05
    limit: int = 1000

    def __post_init__(self) -> None:
        _require(0 <= self.share <= 0.5, f"validation.share = {self.share} must be between 0 and 0.5")
        _require(self.limit > 0, f"validation.limit = {self.limit} must be above 0")


@dataclass(frozen=True)
class ReportConfig(SourceConfig):
    """Data that is measured once, at the end, for the model card, and never learnt from. Test splits belong here.

    The card says so where the same is in `[[data]]`, too.

    Attributes:
        title: what the card calls it; "" for the path's name.
    """

    title: str = ""


@dataclass(frozen=True)
class CardConfig:
    """What the model card says besides the figures.

    Attributes:
        name: of the model.
        licence: of the weights.
        data: where the data comes from and on what terms.
        notes: anything else, such as what it does not know.
    """

    name: str = "A fine-tuned image search model"
    licence: str = "other"
    data: str = ""
    notes: str = ""


@dataclass(frozen=True)
class TrainingConfig:
    """A whole run.

    Attributes:
        data: the mixture.
        model: what is trained.
        text: how names become texts.
        augmentation: what is done to images.
        loss: "softmax" (CLIP) or "sigmoid" (SigLIP); "auto" takes what the base was trained with.
        optimizer: AdamW and its schedule.
        schedule: batches and steps.
        validation: what the best is chosen by.
        report: what the model card measures.
        card: what the model card says.
        seed: of everything that is drawn at random.
        shuffle_examples: about how many examples are shuffled with each other at a time.
        shuffle_bytes: at most this much of a Parquet source is held in memory for that.
        workers: threads that decode; None: one per core, at most 16.
        devices: that share a batch; None: all there are.
        weights_dtype: in which the result is written.
    """

    data: tuple[DataConfig, ...]
    model: ModelConfig
    text: TextConfig = TextConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    loss: Literal["auto", "softmax", "sigmoid"] = "auto"
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    validation: ValidationConfig = ValidationConfig()
    report: tuple[ReportConfig, ...] = ()
    card: CardConfig = CardConfig()
    seed: int = 0
    shuffle_examples: int = 100_000
    shuffle_bytes: int = 1 << 29
    workers: int | None = None
    devices: int | None = None
    weights_dtype: Literal["float32", "float16"] = "float32"

    def __post_init__(self) -> None:
        _require(bool(self.data), "there is no [[data]]: name at least one source to learn from")
        _require(
            any(settings.together is None for settings in self.data),
            "data.together: at least one source without it must fill what the groups leave of a batch",
        )
        _require(self.seed >= 0, f"seed = {self.seed} must not be negative")
        for name in ("shuffle_examples", "shuffle_bytes", "workers", "devices"):
            value = getattr(self, name)
            _require(value is None or value > 0, f"{name} = {value} must be above 0")

    def to_dict(self) -> dict[str, Any]:
        """All settings, ready for JSON; equal settings give equal dictionaries."""
        return typing.cast("dict[str, Any]", _plain(self))


def load_config(path: str | Path, *, data_root: str | Path | None = None) -> TrainingConfig:
    """Read a training run's TOML file.

    Args:
        path: the file.
        data_root: what relative paths in it are relative to; None: the file's folder.

    Raises:
        ConfigurationError: the file is missing or no TOML, or holds unknown keys or impossible values: all are listed.
    """
    path = Path(path)
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(f"there is no training configuration {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigurationError(f"{path} cannot be read as TOML: {error}") from error
    # Absolute: a run that goes on from another folder, or by another spelling, is the same run.
    root = (path.parent if data_root is None else Path(data_root)).absolute()
    try:
        return config_from_dict(settings, root=root)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def config_from_dict(settings: Mapping[str, Any], *, root: Path = Path()) -> TrainingConfig:
    """Make a configuration of nested dictionaries, as TOML and JSON give them; arguments as for `load_config`."""
    problems: list[str] = []
    config = _read(TrainingConfig, settings, "", root, problems)
    if problems:
        raise ConfigurationError("; ".join(problems))
    return _with_paths(typing.cast("TrainingConfig", config), root)


def _with_paths(config: TrainingConfig, root: Path) -> TrainingConfig:
    """The same with what is a path only where it is no name: of a vocabulary, of a model."""
    if root == Path():
        return config
    text, model = config.text, config.model
    if text.vocabulary not in {"", EVERYDAY_NAME}:
        text = replace(text, vocabulary=str(root / Path(text.vocabulary).expanduser()))
    if model.base is not None:
        # Absolute, so that nobody takes a folder for a repository on the hub, which has a slash in its name, too.
        folder = (root / Path(model.base).expanduser()).absolute()
        model = replace(model, base=str(folder)) if folder.is_dir() else model
    return replace(config, text=text, model=model)


class _Unfit(Exception):  # noqa: N818 (never leaves this module)
    """A value is not of its field's type."""


def _read(cls: type[Any], settings: Mapping[str, Any], where: str, root: Path, problems: list[str]) -> Any:
    """Build a dataclass of a table, adding to `problems` what is wrong; returns None where it could not be built."""
    known = {entry.name: entry for entry in fields(cls)}
    hints = typing.get_type_hints(cls)
    count = len(problems)
    values: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{where}{key}"
        if key not in known:
            problems.append(f"{name} is unknown (known here: {', '.join(known)})")
            continue
        try:
            values[key] = _convert(hints[key], value, name, root, problems)
        except _Unfit as error:
            problems.append(str(error))
    problems += [
        f"{where}{name} is missing"
        for name, entry in known.items()
        if name not in settings
        and entry.default is dataclasses.MISSING
        and entry.default_factory is dataclasses.MISSING
    ]
    if len(problems) > count:
        return None
    try:
        return cls(**values)
    except ConfigurationError as error:
        problems.append(str(error))
        return None


def _convert(hint: Any, value: Any, name: str, root: Path, problems: list[str]) -> Any:
    """A TOML value as its field's type wants it."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType or origin is typing.Union:
        if value is None and type(None) in options:
            return None
        (option,) = (option for option in options if option is not type(None))
        return _convert(option, value, name, root, problems)
    if hint is Any:
        return value
    if origin is Literal:
        if value not in options:
            raise _Unfit(f"{name} = {value!r} must be one of {', '.join(map(str, options))}")
        return value
    if dataclasses.is_dataclass(hint):
        _fit(isinstance(value, dict), name, value, "a table")
        return _read(typing.cast("type[Any]", hint), value, f"{name}.", root, problems)
    if origin is tuple:
        value = [value] if isinstance(value, str) else value
        _fit(isinstance(value, list | tuple), name, value, "a list")
        if options[-1] is Ellipsis:
            return tuple(_convert(options[0], item, name, root, problems) for item in value)
        _fit(len(value) == len(options), name, value, f"a list of {len(options)}")
        return tuple(
            _convert(option, item, name, root, problems) for option, item in zip(options, value, strict=True)
        )
    if origin is dict:
        _fit(isinstance(value, dict), name, value, "a table")
        return {
            key: _convert(options[1], item, f"{name}.{key}", root, problems) for key, item in value.items()
        }
    if hint is Path:
        _fit(isinstance(value, str | Path), name, value, "a path")
        return root / Path(value).expanduser()
    if hint is float:
        _fit(isinstance(value, int | float) and not isinstance(value, bool), name, value, "a number")
        return float(value)
    if hint is int:
        _fit(isinstance(value, int) and not isinstance(value, bool), name, value, "a whole number")
        return value
    _fit(isinstance(value, hint), name, value, f"a {hint.__name__}")
    return value


def _fit(fits: bool, name: str, value: Any, wanted: str) -> None:
    if not fits:
        raise _Unfit(f"{name} = {value!r} must be {wanted}")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value
