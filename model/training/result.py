"""What a run leaves behind: the model as a checkpoint, a model card, a picture of the learning curve."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from model.checkpoint import CONFIG_NAME, SAFETENSORS_NAME
from model.training.config import ZERO_SHOT_TEMPLATES
from model.training.errors import TrainingError
from model.training.evaluation import ZERO_SHOT
from model.training.parameters import Blueprint
from model.training.start import copy_side_files
from model.whole_file import put_in_place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import jax

    from model.training.config import TrainingConfig
    from model.training.evaluation import TestSet
    from model.training.journal import Journal
    from model.training.start import Start

CARD_NAME = "README.md"
CURVE_NAME = "curve.png"


@dataclass(frozen=True)
class Figure:
    """What a model reached on one test set.

    Attributes:
        title: of the test set.
        kind: ZERO_SHOT or RETRIEVAL.
        images: how many.
        choices: classes, or images to find among.
        scores: as `model.training.evaluation.score` gives them.
        before: the same of the model that training started from; None where that was new.
    """

    title: str
    kind: str
    images: int
    choices: int
    scores: Mapping[str, float]
    before: Mapping[str, float] | None = None

    @classmethod
    def of(cls, test: TestSet, scores: Mapping[str, float], before: Mapping[str, float] | None) -> Figure:
        """Put a test set and its scores together."""
        choices = int(test.groups.max()) + 1 if test.kind == ZERO_SHOT else len(test.pixels)
        return cls(test.title, test.kind, len(test.pixels), choices, scores, before)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "title": self.title,
            "kind": self.kind,
            "images": self.images,
            "choices": self.choices,
            "scores": dict(self.scores),
            "before": None if self.before is None else dict(self.before),
        }


def write_model(folder: Path, start: Start, parameters: Mapping[str, jax.Array], dtype: str) -> None:
    """Write a model as a checkpoint that `Encoder.load` and Transformers read.

    Args:
        folder: appears when all is in it; one of that name must not be there.
        start: what training started from: its class, configuration, tokenizer and image settings.
        parameters: all of the model's.
        dtype: of the weights in the file.

    Raises:
        TrainingError: a weight is too large for the dtype.
    """
    settings = start.description.settings
    cast = {name: jnp.asarray(value).astype(dtype) for name, value in parameters.items()}
    unfit = [name for name, value in cast.items() if not np.isfinite(np.asarray(value, np.float32)).all()]
    if unfit:
        raise TrainingError(
            f"weights do not fit into {dtype}: {', '.join(unfit[:5])}. Set weights_dtype = 'float32'"
        )
    shape_only = start.model_class.from_settings(settings, dtype=jnp.float32, param_dtype=jnp.dtype(dtype))
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    Blueprint(shape_only).build(cast).save_pretrained(unfinished)
    copy_side_files(start.folder, unfinished)
    put_in_place(unfinished, folder)


def is_whole_model(folder: Path) -> bool:
    """Whether a model that `write_model` wrote is there, as far as can be told without reading its weights."""
    try:
        with safe_open(folder / SAFETENSORS_NAME, framework="np") as file:
            return bool(file.keys()) and (folder / CONFIG_NAME).is_file()
    except (OSError, SafetensorError):
        return False


def publish(source: Path, target: Path) -> None:
    """Copy a written model's files to where the user wants them, each in one move, the weights last."""
    files = [file for file in source.iterdir() if file.is_file()]
    files.sort(key=lambda file: file.name == SAFETENSORS_NAME)
    for file in files:
        unfinished = target / f"{file.name}.unfinished"
        shutil.copyfile(file, unfinished)
        put_in_place(unfinished, target / file.name)


def write_card(
    path: Path,
    config: TrainingConfig,
    figures: Sequence[Figure],
    validation: Sequence[Figure],
    facts: Mapping[str, str],
) -> None:
    """Write a model card, with the front matter that the Hugging Face hub reads.

    Args:
        path: of the file.
        config: the run's settings.
        figures: measured on the data of `[[report]]`.
        validation: measured on what was held out, by which the state was chosen.
        facts: lines of the table of how it was trained.
    """
    card = config.card
    base = config.model.base
    front = {
        "license": card.licence,
        "library_name": "transformers",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", "image-search"],
    }
    if base is not None and "/" in base and not base.startswith((".", "/")):
        front["base_model"] = base
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in front.items()),
        "---",
        "",
        f"# {card.name}",
        "",
    ]
    lines += [
        "A dual encoder of images and texts in Transformers' layout, made by `imago train`"
        + (f" from `{base}`." if base is not None else " from nothing."),
        "",
    ]
    if card.notes:
        lines += [card.notes.strip(), ""]
    learnt = _titles_of_training_data(config)
    for heading, some in (
        ("that it was not trained on", [figure for figure in figures if figure.title not in learnt]),
        ("that it was trained on", [figure for figure in figures if figure.title in learnt]),
    ):
        if some:
            lines += [f"## Figures on data {heading}", "", *_figure_table(some), ""]
    if validation:
        lines += [
            "## Figures on examples held out of the training data",
            "",
            "The state that is kept was chosen by these, so they flatter a little.",
            "",
            *_figure_table(validation),
            "",
        ]
    if any(figure.kind == ZERO_SHOT for figure in [*figures, *validation]):
        lines += [
            f"Zero-shot: a class is the mean over its names in {', '.join(map(json.dumps, ZERO_SHOT_TEMPLATES))}.",
            "",
        ]
    lines += ["## Data", ""]
    lines += [card.data.strip() or "The author of this model has not said where its data comes from.", ""]
    lines += [f"- {some.path.name}" + (f" ({some.split})" if some.split else "") for some in config.data]
    lines += ["", "## Training", "", "| | |", "| --- | --- |"]
    lines += [f"| {key} | {value} |" for key, value in facts.items()]
    lines += ["", f"Licence of the weights: {card.licence}.", ""]
    path.write_text("\n".join(lines), encoding="utf-8")


def _titles_of_training_data(config: TrainingConfig) -> set[str]:
    """What of `[[report]]` is in `[[data]]`, too."""
    return {
        report.title or report.path.name
        for report in config.report
        for data in config.data
        if report.path == data.path and (None in {report.split, data.split} or report.split == data.split)
    }


def _figure_table(figures: Sequence[Figure]) -> list[str]:
    rows = ["| Test | Measure | This model | Before training | Chance |", "| --- | --- | --- | --- | --- |"]
    for figure in figures:
        among = "classes" if figure.kind == ZERO_SHOT else "images"
        for name, value in figure.scores.items():
            before = "" if figure.before is None else _number(name, figure.before[name])
            rows.append(
                f"| {figure.title}, {figure.images} images | {name.replace('_', ' ')} among {figure.choices} {among} | "
                f"{_number(name, value)} | {before} | {_number(name, _chance(name, figure.choices))} |"
            )
    return rows


def _number(name: str, value: float) -> str:
    return f"{value:.0f}" if name == "median_rank" else f"{value:.3f}"


def _chance(name: str, choices: int) -> float:
    """What guessing reaches."""
    if name == "median_rank":
        return choices / 2
    return min(1.0, (int(name.rpartition("_")[2]) if name.startswith("recall") else 1) / choices)


def draw_curve(path: Path, journal: Journal) -> bool:
    """Draw loss and scores over steps; returns False where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    # Its own figure and no pyplot: nothing global, no window system.
    figure_class: Any = importlib.import_module("matplotlib.figure").Figure
    figure = figure_class(figsize=(8, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    steps = journal.of("step")
    top.plot([event["step"] for event in steps], [event["loss"] for event in steps], linewidth=1)
    top.set_ylabel("loss")
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for event in journal.of("validation"):
        for title, scores in event["scores"].items():
            for name, value in scores.items():
                if name in {"accuracy", "recall_at_10"}:
                    xs, ys = curves.setdefault(f"{title}: {name.replace('_', ' ')}", ([], []))
                    xs.append(event["step"])
                    ys.append(value)
    for label, (xs, ys) in curves.items():
        bottom.plot(xs, ys, marker="o", markersize=3, label=label)
    bottom.set_xlabel("step")
    bottom.set_ylabel("score on held-out examples")
    bottom.set_ylim(0, 1)
    if curves:
        bottom.legend(fontsize="small")
    for axes in (top, bottom):
        axes.grid(visible=True, alpha=0.3)
    figure.savefig(path, dpi=120)
    return True


def package_version() -> str | None:
    """Imago's version; None where it is run from a source tree that was never installed."""
    try:
        return importlib.metadata.version("imago-search")
    except importlib.metadata.PackageNotFoundError:
        return None
