"""What a run tells while it trains, and at its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from model.training.result import Figure


@dataclass(frozen=True)
class TrainingProgress:
    """How far a run is.

    Attributes:
        step: steps done.
        steps: of how many.
        loss: mean since the last report; None before the first step.
        learning_rate: of the last step.
        images_per_second: trained on since the last report.
        seconds_left: at that pace; None where it cannot be told yet.
        scores: test set to figures, where a validation has just been made.
        notice: a line for people, where something happened that they should know.
    """

    step: int
    steps: int
    loss: float | None = None
    learning_rate: float | None = None
    images_per_second: float | None = None
    seconds_left: float | None = None
    scores: dict[str, dict[str, float]] | None = None
    notice: str | None = None


@dataclass(frozen=True)
class TrainingSummary:
    """How a run ended.

    Attributes:
        folder: the output folder, which `Encoder.load` reads if `finished`.
        finished: False if it was asked to stop; start it again to go on.
        step: steps done.
        steps: of how many.
        resumed_from: the step that it went on from; None if it started at the beginning.
        seconds: that this process spent.
        images_per_second: over all of this process's steps.
        loss: the last one logged.
        best_step: of the state that was kept.
        best_score: mean over validation sets; None without validation.
        validation: figures of the kept state on held-out examples, and before training.
        report: the same on the data of `[[report]]`.
        broken_images: how many different images could not be decoded; other examples took their places.
        cut_texts: how many of the texts shown had more tokens than the model has positions.
        without_text: rows of the data with no text, left out.
        notices: everything that people were told.
    """

    folder: Path
    finished: bool
    step: int
    steps: int
    resumed_from: int | None
    seconds: float
    images_per_second: float | None
    loss: float | None
    best_step: int | None
    best_score: float | None
    validation: tuple[Figure, ...]
    report: tuple[Figure, ...]
    broken_images: int
    cut_texts: int
    without_text: int
    notices: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        values = dict(vars(self))
        values["folder"] = str(self.folder)
        values["validation"] = [figure.to_dict() for figure in self.validation]
        values["report"] = [figure.to_dict() for figure in self.report]
        values["notices"] = list(self.notices)
        return values
