"""Contrastive training and fine-tuning of dual encoders: from captions or class folders to a checkpoint to search with.

    from model.training import load_config, train
    summary = train(load_config("recipe.toml"), "out", progress=print)

Importing this package costs nothing; JAX and the rest are imported when training starts.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.training.config import TrainingConfig as TrainingConfig
    from model.training.config import config_from_dict as config_from_dict
    from model.training.config import load_config as load_config
    from model.training.errors import ResumeError as ResumeError
    from model.training.errors import TrainingDataError as TrainingDataError
    from model.training.errors import TrainingDivergedError as TrainingDivergedError
    from model.training.errors import TrainingError as TrainingError
    from model.training.progress import TrainingProgress as TrainingProgress
    from model.training.progress import TrainingSummary as TrainingSummary
    from model.training.run import train as train

# Where each public name lives.
_HOME_OF = {
    "ResumeError": "errors",
    "TrainingConfig": "config",
    "TrainingDataError": "errors",
    "TrainingDivergedError": "errors",
    "TrainingError": "errors",
    "TrainingProgress": "progress",
    "TrainingSummary": "progress",
    "config_from_dict": "config",
    "load_config": "config",
    "train": "run",
}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605 (the list is the table's)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value
