"""The errors of training. They are `ModelError`s, so that one `except` catches all that `model/` can say."""

from model.errors import ModelError


class TrainingError(ModelError):
    """Training cannot start, go on or end as asked."""


class TrainingDataError(TrainingError):
    """The data cannot be read, holds nothing to learn from, or lacks what its kind of source must have."""


class TrainingDivergedError(TrainingError):
    """The loss is no longer a number. The last good checkpoint is kept; the message says what to lower."""


class ResumeError(TrainingError):
    """The output folder holds a training run that is not this one, or a state that cannot be read."""
