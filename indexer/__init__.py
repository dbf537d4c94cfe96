"""What is in these folders, and is the library up to date?

`index_folders` brings a library up to date, `LibraryReader` reads one. See `indexer.catalog` for what is
stored and `indexer.vector_index` for how it is searched. Heavy parts are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from indexer.decode import DecodeLimits as DecodeLimits
    from indexer.errors import (
        DiskFullError as DiskFullError,
    )
    from indexer.errors import (
        ImageGoneError as ImageGoneError,
    )
    from indexer.errors import (
        LibraryDamagedError as LibraryDamagedError,
    )
    from indexer.errors import (
        LibraryError as LibraryError,
    )
    from indexer.errors import (
        LibraryLockedError as LibraryLockedError,
    )
    from indexer.errors import (
        LibraryNotFoundError as LibraryNotFoundError,
    )
    from indexer.errors import (
        LibraryNotWritableError as LibraryNotWritableError,
    )
    from indexer.errors import (
        LibraryTooNewError as LibraryTooNewError,
    )
    from indexer.errors import (
        ModelMismatchError as ModelMismatchError,
    )
    from indexer.errors import (
        NothingToIndexError as NothingToIndexError,
    )
    from indexer.paths import default_library_path as default_library_path
    from indexer.paths import display_path as display_path
    from indexer.pipeline import index_folders as index_folders
    from indexer.pipeline import read_pixels as read_pixels
    from indexer.reader import LibraryReader as LibraryReader
    from indexer.records import (
        FileFailure as FileFailure,
    )
    from indexer.records import (
        ImageRecord as ImageRecord,
    )
    from indexer.records import (
        IndexProgress as IndexProgress,
    )
    from indexer.records import (
        IndexSummary as IndexSummary,
    )
    from indexer.records import (
        LibraryStatus as LibraryStatus,
    )
    from indexer.records import (
        RootStatus as RootStatus,
    )

_HOMES = {
    "indexer.decode": ("DecodeLimits",),
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
        "NothingToIndexError",
    ),
    "indexer.paths": ("default_library_path", "display_path"),
    "indexer.pipeline": ("index_folders", "read_pixels"),
    "indexer.reader": ("LibraryReader",),
    "indexer.records": (
        "FileFailure",
        "ImageRecord",
        "IndexProgress",
        "IndexSummary",
        "LibraryStatus",
        "RootStatus",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605  (a list, made from the table above)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
