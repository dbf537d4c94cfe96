"""What a library is to those who read it, wherever it lies: a folder on this machine, or a served collection.

`open_reader` decides by the place's form; what it returns behaves the same, so nothing outside this package knows
which it is.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from indexer.facets import Facet, Facets
    from indexer.filters import Filter
    from indexer.records import FileFailure, ImageRecord, LibraryStatus, RootStatus
    from model.identity import ModelIdentity

Place = Path | str
"""A folder, or the address of a served library; text that is no address is a folder."""


class Selection(Protocol):
    """The images that `Reader.select` chose. An array of ids is one; a served library lists them when asked."""

    def __len__(self) -> int:
        """How many."""

    def __array__(self, *arguments: Any, **options: Any) -> NDArray[Any]:
        """Their ids, ascending, int64 (n,)."""


class Reader(Protocol):
    """A snapshot of a library. See `indexer.reader.LibraryReader` for what each of these promises."""

    @property
    def place(self) -> Place:
        """Where the library is."""

    @property
    def model(self) -> ModelIdentity | None:
        """Whose vectors it holds."""

    @property
    def dimension(self) -> int:
        """Length of a vector, 0 if nothing was indexed yet."""

    @property
    def notices(self) -> list[str]:
        """Sentences that people should read."""

    def __len__(self) -> int: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def close(self) -> None:
        """Releases the library."""

    def refresh(self) -> bool:
        """Takes a new snapshot if the library changed since the last; whether it did."""

    def ids(self) -> NDArray[np.int64]:
        """The ids of all images that `nearest` can find, ascending, int64 (n,)."""

    def sample_ids(self, count: int) -> NDArray[np.int64]:
        """At most so many ids, evenly spread, ascending, int64 (n,)."""

    def nearest(
        self,
        vectors: NDArray[np.float32],
        k: int,
        *,
        among: Selection | None = None,
        exact: bool = False,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores float32 (q, k') and ids int64 (q, k') of the images nearest to vectors."""

    def select(self, filters: Sequence[Filter]) -> Selection:
        """The images that fit all filters."""

    def facets(self, ids: NDArray[np.int64] | None = None, which: Collection[Facet] | None = None) -> Facets:
        """Counts images, int64 (n,), None for all; empty where there are too many to count."""

    def vectors(self, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """The stored vectors of images, float32 (n, dimension)."""

    def images(self, ids: Sequence[int] | NDArray[np.int64]) -> list[ImageRecord]:
        """What is known of images, in the order asked."""

    def paths(self, ids: Sequence[int] | NDArray[np.int64]) -> list[list[Path]]:
        """All files that hold each image, in the order asked."""

    def difference_hashes(self, ids: Sequence[int] | NDArray[np.int64]) -> dict[int, int]:
        """What tells copies, of those images that it is known of."""

    def find(self, path: Path | str) -> int | None:
        """The id of the image at a path."""

    def find_content(self, path: Path | str) -> int | None:
        """The id of the image with the very bytes of a file."""

    def status(self) -> LibraryStatus:
        """How the library stands."""

    def roots(self) -> list[RootStatus]:
        """The folders that it looks after."""

    def failures(self) -> list[FileFailure]:
        """The files that could not be indexed."""


def is_address(place: object) -> bool:
    """Whether a place is an address, `SCHEME://...`, rather than a folder."""
    return isinstance(place, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", place) is not None


def open_reader(place: Place) -> Reader:
    """Opens a library for reading, wherever it lies.

    Args:
        place: Its folder, or `milvus://HOST:PORT/COLLECTION`.

    Raises:
        LibraryNotFoundError: There is none.
        LibraryError: It cannot be read; the types are in `indexer.errors` and `indexer.cluster.errors`.
    """
    if isinstance(place, str) and is_address(place):
        from indexer.cluster.milvus_reader import MilvusReader

        return MilvusReader.open(place)
    from indexer.reader import LibraryReader

    return LibraryReader.open(place)


def state_folder(place: Place) -> Path:
    """A folder of this machine for what is derived from a library, such as thumbnails: its own, or one beside.

    For a served library it is in the user's cache and need not be there yet.
    """
    if isinstance(place, str) and is_address(place):
        import hashlib

        import platformdirs

        name = hashlib.sha256(place.partition("?")[0].encode()).hexdigest()[:16]
        return Path(platformdirs.user_cache_dir("imago", appauthor=False)) / "served" / name
    return Path(place)
