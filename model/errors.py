"""The errors that `model/` raises. Each message says what is wrong, with which value, and what to do."""


class ModelError(Exception):
    """Anything that `model/` can tell its caller about; catch this to catch all of them."""


class ModelNotFoundError(ModelError):
    """There is no model of that name: no such alias or folder, or the hub has none or cannot be reached."""


class CheckpointError(ModelError):
    """The checkpoint's files are damaged, incomplete, or do not fit the configuration beside them."""


class UnsupportedCheckpointError(CheckpointError):
    """The checkpoint is whole, but in a format or of an architecture that is not read here."""


class ConfigurationError(ModelError):
    """A model's configuration holds a setting that is unknown or contradicts another one."""


class ModelInputError(ModelError):
    """A model was called with arrays that it cannot take: wrong shape or dtype, ids out of range, no rows."""


class UntrainedWeightsWarning(UserWarning):
    """Part of a model was drawn at random, because no checkpoint had it: it must be trained before it is of use."""
