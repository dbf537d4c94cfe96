"""Everything that must be known before the first step: data opened and checked, model and texts made ready."""

from __future__ import annotations

import itertools
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import jax
import numpy as np

from model.errors import ConfigurationError
from model.machine import available_cores
from model.text_inputs import TextInputs
from model.tokenizer import TextTokenizer, load_tokenizer
from model.training.batches import BatchMaker, LengthCounter
from model.training.errors import TrainingDataError
from model.training.evaluation import TestSet, prepare, score
from model.training.parameters import LOGIT_BIAS, Blueprint, Plan
from model.training.resolution import check_image_size
from model.training.sources import held_out, open_source, spread
from model.training.start import find_base, load_start, make_new
from model.training.step import Embedder, Trainer
from model.training.texts import TextMaker
from model.training.vocabulary import Vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from model.families import CheckpointDescription
    from model.training.config import ReportConfig, TrainingConfig
    from model.training.evaluation import Tokenize
    from model.training.parameters import Parameters
    from model.training.sources import Source
    from model.training.start import Start

# The longest of so many texts tells how long texts are; they are taken evenly from the first so many.
_TEXTS_MEASURED, _TEXTS_LOOKED_AT = 5_000, 200_000
# Lengths are rounded up to this, to leave some room for longer texts.
_LENGTH_STEP_TOKENS = 8

_MOST_WORKERS = 16

RUN_NAME = "run.json"
"""The file in the run's own folder that says what run it is; written when all is ready for the first step."""


@dataclass(frozen=True)
class Data:
    """The opened sources.

    Attributes:
        training: what is learnt from.
        held_out: what is validated on; sources that hold nothing out are missing.
        whole: the sources before anything was held out.
        weights: share of each training source in the mixture.
        examples: how many an epoch has, weights counted in.
    """

    training: tuple[Source, ...]
    held_out: tuple[tuple[Source, Source], ...]
    weights: tuple[float, ...]
    examples: float

    @property
    def without_text(self) -> int:
        """Rows that were left out because nothing is said about their image."""
        return sum(source.without_text for source in self.training)


def open_data(config: TrainingConfig) -> Data:
    """Open all sources and hold out what is validated on.

    Raises:
        TrainingDataError: a source cannot be read, or all sources together name only one thing.
    """
    training, validation, weights = [], [], []
    for number, settings in enumerate(config.data):
        source = open_source(settings)
        away = held_out(source, config.validation.share)
        training.append(source.keep(~away))
        weights.append(settings.weight * len(training[number].entries))
        if away.any():
            some = source.keep(away)
            wanted = np.zeros(len(some.entries), bool)
            wanted[list(spread(len(some.entries), config.validation.limit))] = True
            validation.append((some.keep(wanted), source))
    said = {entry.captions or entry.names for source in training for entry in source.entries}
    if len(said) < 2:
        only = ", ".join(next(iter(said)))
        raise TrainingDataError(
            f"all images are called the same: {only!r}. Training compares different things: add at least one more "
            "class folder, or images with other captions"
        )
    return Data(tuple(training), tuple(validation), tuple(weights), sum(weights))


def texts_of(data: Data, maker: TextMaker, templates: Sequence[str]) -> Iterator[str]:
    """What training shows, captions once and every name of a class in every template."""
    named: set[str] = set()
    for source in data.training:
        for entry in source.entries:
            yield from entry.captions
            if not entry.captions:
                meaning = maker.meaning(entry)
                named.update(meaning.names, meaning.broader)
    for term in sorted(named):
        for template in templates:
            yield maker.fill(template, term)


def starting_folder(config: TrainingConfig, data: Data, maker: TextMaker, work: Path) -> Path:
    """The folder of the checkpoint to start from; of a new model it is made in the run's own folder, once."""
    if config.model.new is None:
        return find_base(config.model)
    folder = work / "start"
    if not (work / RUN_NAME).is_file():
        # Left by a start that failed later on, perhaps with other settings or data: no run vouches for it yet.
        shutil.rmtree(folder, ignore_errors=True)
    if not folder.is_dir():
        make_new(config.model.new, folder, texts_of(data, maker, config.text.templates), config.seed)
    return folder


def make_tokenizer(config: TrainingConfig, start: Start, data: Data, maker: TextMaker) -> LengthCounter:
    """The checkpoint's tokenizer, padding to the length that the texts need."""
    description = start.description
    limit = description.text_length
    if config.text.length is not None and config.text.length > limit:
        raise ConfigurationError(
            f"text.length = {config.text.length} is more than the {limit} positions of the text tower: lower it"
        )

    length = config.text.length
    if description.pads_to_full_length:
        if length not in (None, limit):
            raise ConfigurationError(
                f"text.length = {length}: this text tower looks at the padding, too, and needs all of its {limit} "
                "positions; leave it out"
            )
        length = limit
    elif length is None:
        every = texts_of(data, maker, config.text.templates)
        some = list(itertools.islice(every, _TEXTS_LOOKED_AT))
        ids = _tokenizer(description, limit).ids(some[:: max(1, len(some) // _TEXTS_MEASURED)])
        longest = max(map(len, ids))
        if config.augmentation.compose:
            longest *= 2  # two texts become one
        length = min(limit, math.ceil(longest / _LENGTH_STEP_TOKENS) * _LENGTH_STEP_TOKENS)
    # A tokenizer's own limit, where it is smaller, is the text tower's.
    fitting = _tokenizer(description, length)
    if description.vocabulary_size < fitting.vocabulary_size:
        raise ConfigurationError(
            f"the tokenizer has {fitting.vocabulary_size} tokens, the text tower knows {description.vocabulary_size}: "
            "they do not belong together"
        )
    length = min(length, fitting.max_length)
    # Made by hand: from_pretrained would cut at the tokenizer's own limit, and what is lost there be counted nowhere.
    longer = TextTokenizer(
        load_tokenizer(description.folder),
        max_length=length + 1,
        pad_id=fitting.pad_id,
        cleaning=fitting.cleaning,
        pads_left=fitting.pads_left,
    )
    return LengthCounter(fitting, longer, length=length)


def _tokenizer(description: CheckpointDescription, length: int) -> TextTokenizer:
    return TextTokenizer.from_pretrained(
        description.folder, max_length=length, pad_id=description.pad_id, cleaning=description.cleaning
    )


def _tokenize_as_search(description: CheckpointDescription) -> Tokenize:
    """What makes ids of the texts that a model is measured with."""
    tokenizer = _tokenizer(description, description.text_length)
    inputs = TextInputs(description, tokenizer)

    def tokenize(texts: Sequence[str]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        ids = tokenizer.ids(texts)
        batch = tokenizer.pad(ids, length=inputs.padded_length(max(map(len, ids))))
        return batch.input_ids, batch.attention_mask

    return tokenize


def worker_count(config: TrainingConfig) -> int:
    """Decoding threads."""
    return config.workers or min(_MOST_WORKERS, available_cores())


def choose_devices(config: TrainingConfig) -> list[jax.Device]:
    """The devices that share each batch; ConfigurationError where there are not so many, or it cannot be divided."""
    devices = jax.devices()
    if config.devices is not None:
        if config.devices > len(devices):
            raise ConfigurationError(f"devices = {config.devices}, but there are only {len(devices)}")
        devices = devices[: config.devices]
    batch, parts = config.schedule.batch_size, config.schedule.accumulate
    if batch % (parts * len(devices)):
        raise ConfigurationError(
            f"schedule.batch_size = {batch} cannot be divided into {parts} parts on each of {len(devices)} devices: "
            f"use a multiple of {parts * len(devices)}"
        )
    return devices


def make_trainer(
    config: TrainingConfig, start: Start, blueprint: Blueprint, parameters: Parameters
) -> Trainer:
    """The compiled functions of a run.

    Raises:
        ConfigurationError: a pattern matches nothing, or the loss does not suit the model.
    """
    loss = start.loss if config.loss == "auto" else config.loss
    if loss == "sigmoid" and LOGIT_BIAS not in parameters:
        raise ConfigurationError(
            f"loss = 'sigmoid' needs a model with a logit bias, which {type(start.model).__name__} has not: "
            "use loss = 'softmax'"
        )
    plan = Plan.of(config.model, {name: value.shape for name, value in parameters.items()})
    return Trainer(
        blueprint,
        plan,
        parameters,
        loss="sigmoid" if loss == "sigmoid" else "softmax",
        lora=config.model.lora,
        optimizer_config=config.optimizer,
        preprocessor=start.description.preprocessor,
        reads_attention_mask=start.description.reads_attention_mask,
        accumulate=config.schedule.accumulate,
        devices=choose_devices(config),
        seed=config.seed,
    )


@dataclass(frozen=True)
class Prepared:
    """All that a run needs and that does not change during it.

    Attributes:
        config: the settings, with those that the model decides.
        data: the opened sources.
        start: the checkpoint that training starts from.
        blueprint: of its model.
        parameters: all of its parameters, at the beginning.
        tokenizer: makes ids of texts.
        trainer: the compiled functions.
        batches: makes batches of the data; to be closed.
        tests: what is validated on.
        reports: what is measured at the end, beside its settings.
        embedder: its towers alone.
    """

    config: TrainingConfig
    data: Data
    start: Start
    blueprint: Blueprint
    parameters: Parameters
    tokenizer: LengthCounter
    trainer: Trainer
    batches: BatchMaker
    tests: tuple[TestSet, ...]
    reports: tuple[tuple[ReportConfig, Source], ...]
    embedder: Embedder

    @cached_property
    def _tokenize(self) -> Tokenize:
        return _tokenize_as_search(self.start.description)

    def test_set(self, source: Source, title: str, classes: Source | None = None) -> TestSet | None:
        """Make a test set of a source; None if there is nothing to score."""
        with ThreadPoolExecutor(worker_count(self.config)) as pool:
            return prepare(
                source,
                title,
                preprocessor=self.start.description.preprocessor,
                tokenize=self._tokenize,
                pool=pool,
                classes=classes,
            )

    def validation_sets(self) -> tuple[TestSet, ...]:
        """Make a test set of what each source holds out."""
        titles: dict[str, int] = {}
        tests = []
        for source, whole in self.data.held_out:
            count = titles[source.title] = titles.get(source.title, 0) + 1
            # Two sources of the same name are two tests all the same.
            title = source.title if count == 1 else f"{source.title} ({count})"
            tests.append(self.test_set(source, title, whole))
        return tuple(test for test in tests if test is not None)

    def score(self, parameters: Parameters) -> dict[str, dict[str, float]]:
        """Score a state on what is held out: title of a test set to its figures."""
        return {test.title: score(test, self.embedder, parameters) for test in self.tests}

    def with_model(self, start: Start) -> Prepared:
        """The same for another checkpoint of the same kind, to be scored."""
        blueprint = Blueprint(start.model)
        embedder = Embedder(
            blueprint,
            start.description.preprocessor,
            reads_attention_mask=start.description.reads_attention_mask,
            devices=choose_devices(self.config),
        )
        parameters = blueprint.take(start.model)
        other = replace(self, start=start, blueprint=blueprint, parameters=parameters, embedder=embedder)
        return replace(other, tests=other.validation_sets())


def prepare_run(config: TrainingConfig, work: Path) -> Prepared:
    """Open and check everything.

    Args:
        config: the settings.
        work: the run's own folder.
    """
    devices = choose_devices(config)
    maker = TextMaker(config.text, Vocabulary.load(config.text.vocabulary))
    data = open_data(config)
    # Read after the last step only, but what is not there shall be known before the first.
    reports = tuple((settings, open_source(settings)) for settings in config.report)
    start = load_start(starting_folder(config, data, maker, work), config.model.dtype)
    if config.model.finished_image_size is not None:
        check_image_size(dict(start.description.settings), config.model.finished_image_size)
    config = replace(config, optimizer=config.optimizer.for_width(start.vision_width))
    tokenizer = make_tokenizer(config, start, data, maker)
    preprocessor = start.description.preprocessor
    blueprint = Blueprint(start.model)
    parameters = blueprint.take(start.model)
    trainer = make_trainer(config, start, blueprint, parameters)
    batches = BatchMaker(
        data.training,
        data.weights,
        groups=[settings.together for settings in config.data],
        batch_size=config.schedule.batch_size,
        seed=config.seed,
        preprocessor=preprocessor,
        augmentation=config.augmentation,
        crop_areas=[settings.crop_area for settings in config.data],
        texts=maker,
        tokenizer=tokenizer,
        workers=worker_count(config),
        window_examples=config.shuffle_examples,
        window_bytes=config.shuffle_bytes,
    )
    prepared = Prepared(
        config,
        data,
        start,
        blueprint,
        parameters,
        tokenizer,
        trainer,
        batches,
        (),
        reports,
        Embedder(
            blueprint,
            preprocessor,
            reads_attention_mask=start.description.reads_attention_mask,
            devices=devices,
        ),
    )
    return replace(prepared, tests=prepared.validation_sets())
