"""What is made of the state that was kept: the model that is handed out, and its figures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from model.training.evaluation import overall, score
from model.training.resolution import with_image_size
from model.training.result import Figure
from model.training.start import load_start

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from model.training.evaluation import TestSet
    from model.training.setup import Prepared

Scores = dict[str, dict[str, float]]


@dataclass(frozen=True)
class FinishedModel:
    """What is handed out.

    Attributes:
        folder: of the checkpoint.
        prepared: the means to score it.
        scores: on what was held out.
    """

    folder: Path
    prepared: Prepared
    scores: Scores


def finish_model(
    began: Prepared, best: Path, scores: Scores, work: Path, notice: Callable[[str], None]
) -> FinishedModel:
    """Make what is handed out of the best state: for larger images, if that was asked for and scores no worse.

    Args:
        began: the run.
        best: folder of the best state.
        scores: of the best state.
        work: the run's own folder.
        notice: told where the images stay as they were.
    """
    kept_model = load_start(best, began.config.model.dtype).model
    kept = FinishedModel(best, replace(began, parameters=began.blueprint.take(kept_model)), scores)
    size = began.config.model.finished_image_size
    if size is None:
        return kept
    folder = work / "resized"
    with_image_size(best, folder, size)
    resized = began.with_model(load_start(folder, began.config.model.dtype))
    resized_scores = resized.score(resized.parameters)
    if resized_scores and _pooled(resized_scores, resized.tests) < _pooled(scores, resized.tests):
        notice(f"images of {size} pixels score worse than those of the training: the latter are kept")
        return kept
    return FinishedModel(folder, resized, resized_scores)


def measure_report(finished: Prepared, began: Prepared, notice: Callable[[str], None]) -> tuple[Figure, ...]:
    """Score the data of `[[report]]`, before training as well where it began with a model that knows something.

    Args:
        finished: the means to score what is handed out.
        began: the run.
        notice: told what cannot be scored.
    """
    figures = []
    for settings, source in finished.reports:
        test = finished.test_set(source, settings.title or settings.path.name)
        if test is None:
            notice(f"{settings.path} cannot be scored: it has one class only, or too few images")
            continue
        before = None
        if began.config.model.base is not None:
            is_same_size = finished.start.description.preprocessor == began.start.description.preprocessor
            shown = test if is_same_size else began.test_set(source, test.title)
            before = score(shown or test, began.embedder, began.parameters)
        figures.append(Figure.of(test, score(test, finished.embedder, finished.parameters), before))
    return tuple(figures)


def _pooled(scores: Mapping[str, dict[str, float]], tests: Sequence[TestSet]) -> float:
    """One figure of several test sets, each counting by its images: small ones say little about a small difference."""
    images = [len(test.pixels) for test in tests]
    figures = [overall([scores[test.title]]) for test in tests]
    return float(np.average(figures, weights=images))
