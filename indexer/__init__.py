"""What is in these folders, and is the library up to date?

`index_folders` brings a library up to date, `LibraryReader` reads one. See `indexer.catalog` for what is
stored and `indexer.vector_index` for how it is searched. Heavy parts are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from indexer.decode import DecodeLimits
    from indexer.doctor import Finding, Recovery, examine, recover
    from indexer.errors import (
        DiskFullError,
        ImageGoneError,
        LibraryDamagedError,
        LibraryError,
        LibraryLockedError,
        LibraryNotFoundError,
        LibraryNotWritableError,
        LibraryTooNewError,
        ModelMismatchError,
        NothingToIndexError,
        NotInLibraryError,
    )
    from indexer.paths import default_library_path, display_path
    from indexer.pipeline import index_folders, read_pixels
    from indexer.prediction import ChangePrediction, predict_model_change
    from indexer.reader import LibraryReader
    from indexer.records import (
        FileFailure,
        ImageRecord,
        IndexProgress,
        IndexSummary,
        LibraryStatus,
        RootStatus,
    )
    from indexer.roots import ForgetSummary, forget
    from indexer.watch import watch_folders

__all__ = [
    "ChangePrediction",
    "DecodeLimits",
    "DiskFullError",
    "FileFailure",
    "Finding",
    "ForgetSummary",
    "ImageGoneError",
    "ImageRecord",
    "IndexProgress",
    "IndexSummary",
    "LibraryDamagedError",
    "LibraryError",
    "LibraryLockedError",
    "LibraryNotFoundError",
    "LibraryNotWritableError",
    "LibraryReader",
    "LibraryStatus",
    "LibraryTooNewError",
    "ModelMismatchError",
    "NotInLibraryError",
    "NothingToIndexError",
    "Recovery",
    "RootStatus",
    "default_library_path",
    "display_path",
    "examine",
    "forget",
    "index_folders",
    "predict_model_change",
    "read_pixels",
    "recover",
    "watch_folders",
]

_HOMES = {
    "indexer.decode": ("DecodeLimits",),
    "indexer.doctor": (
        "Finding",
        "Recovery",
        "examine",
        "recover",
    ),
    "indexer.errors": (
        "DiskFullError",
        "ImageGoneError",
        "LibraryDamagedError",
        "LibraryError",
        "LibraryLockedError",
        "LibraryNotFoundError",
        "LibraryNotWritableError",
        "LibraryTooNewError",
        "ModelMismatchError",
        "NotInLibraryError",
        "NothingToIndexError",
    ),
    "indexer.paths": (
        "default_library_path",
        "display_path",
    ),
    "indexer.pipeline": (
        "index_folders",
        "read_pixels",
    ),
    "indexer.prediction": (
        "ChangePrediction",
        "predict_model_change",
    ),
    "indexer.reader": ("LibraryReader",),
    "indexer.records": (
        "FileFailure",
        "ImageRecord",
        "IndexProgress",
        "IndexSummary",
        "LibraryStatus",
        "RootStatus",
    ),
    "indexer.roots": (
        "ForgetSummary",
        "forget",
    ),
    "indexer.watch": ("watch_folders",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
