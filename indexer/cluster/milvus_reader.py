"""`LibraryReader` for a library that a Milvus server holds: the same questions, the same answers.

The server's index proposes images; their scores are computed again from the vectors that come with them, and equal
scores are ordered by id, so an answer differs from the local library's only where the index missed an image.
Few candidates are compared one by one, without the index.

Every row carries the number of its publication. A collection that was dropped and filled anew under an open reader
has another number: its rows are refused, never mixed with what the reader knows of the old ones.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from indexer.cluster.address import MilvusAddress, token
from indexer.cluster.collection import MOST_HITS, PublishedCollection, search_parameters
from indexer.cluster.connection import ROWS_AT_ONCE, MilvusConnection
from indexer.cluster.encoding import SEPARATOR, decode_all, encode
from indexer.cluster.errors import (
    CollectionReplacedError,
    CollectionTooLargeError,
    CollectionUnfinishedError,
)
from indexer.cluster.expressions import EVERYTHING, Condition, condition_of
from indexer.cluster.lease import Lease
from indexer.cluster.rows import RECORD_COLUMNS, SPREAD, record_of
from indexer.errors import ImageGoneError, LibraryError
from indexer.facets import Facets
from indexer.paths import spellings_of
from indexer.records import FileFailure, ImageRecord, LibraryStatus, RootStatus
from indexer.vector_index import best

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

    from indexer.cluster.collection import Manifest
    from indexer.facets import Facet
    from indexer.filters import Filter
    from indexer.reading import Selection
    from model.identity import ModelIdentity

_COMPARED_ONE_BY_ONE: Final = 2_000
"""Fewer candidates are fetched and compared: as fast as a search, and no index loses them behind a filter."""
_MOST_LISTED: Final = 1_000_000
"""What is looked through row by row on demand: some tens of seconds."""
_MOST_COUNTED: Final = 100_000  # a few seconds, in the background
_MARGIN: Final = 16  # more hits than asked for: equal scores at the end of the list are ordered by id
_FLOATS_AT_ONCE: Final = 4_000_000
_REFRESH_SECONDS: Final = 1.0


class MilvusSelection:
    """The images of a served library that fit filters; counted and listed when asked."""

    def __init__(self, reader: MilvusReader, condition: Condition) -> None:
        self.condition = condition
        self._reader = reader
        self._count: int | None = None
        self._ids: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        if self._count is None:
            self._count = self._reader.count(self.condition) if self.condition.is_exact else len(self.ids)
        return self._count

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.ids, dtype=dtype) if copy or dtype is not None else self.ids

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ascending, int64 (n,)."""
        if self._ids is None:
            self._ids = self._reader.list_ids(self.condition)
        return self._ids


class MilvusReader:
    """A served library. Safe to use from several threads; use as a context manager."""

    def __init__(self, address_text: str, collection: PublishedCollection, manifest: Manifest) -> None:
        """Use `MilvusReader.open`."""
        self._place = address_text
        self._collection = collection
        self._connection = collection.connection
        self._lock = threading.RLock()
        self._looked_at = time.monotonic()
        self._manifest = manifest
        self._identity = manifest.model
        self._count: int | None = None
        self._ids: NDArray[np.int64] | None = None

    @classmethod
    def open(cls, address_text: str, *, token_file: Path | None = None) -> MilvusReader:
        """Opens a served library.

        Args:
            address_text: See `indexer.cluster.address`.
            token_file: Holds the token; the environment is asked where it is None.

        Raises:
            AddressError: The address cannot be understood.
            CollectionNotFoundError: There is no such collection.
            CollectionForeignError: It was not made by `imago publish`.
            CollectionUnfinishedError: It never was complete.
            ServerUnreachableError, ServerTooOldError, CredentialsRefusedError: As their names say.
        """
        address = MilvusAddress.parse(address_text)
        connection = MilvusConnection.open(address, token(token_file))
        try:
            collection = PublishedCollection(connection)
            manifest = _usable(collection)
            collection.check_columns(manifest.model.dimension)
            return cls(address_text, collection, manifest)
        except BaseException:
            connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the server."""
        self._connection.close()

    def refresh(self) -> bool:
        """Looks whether something was published since; whether it was. Asks the server once a second at most."""
        with self._lock:
            if time.monotonic() - self._looked_at < _REFRESH_SECONDS:
                return False
            manifest = _usable(self._collection)
            self._looked_at = time.monotonic()
            if manifest == self._manifest:
                return False
            self._adopt(manifest)
            return True

    @property
    def place(self) -> Path | str:
        """The address."""
        return self._place

    @property
    def manifest(self) -> Manifest:
        """What the collection says of itself."""
        return self._manifest

    @property
    def server_version(self) -> str:
        """What the server says of itself."""
        return self._connection.version

    @property
    def model(self) -> ModelIdentity | None:
        """Whose vectors it holds."""
        return self._identity

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._identity.dimension

    @property
    def notices(self) -> list[str]:
        """Sentences that people should read."""
        if self._manifest.state == "complete":
            return []
        lease = Lease.read(self._collection)
        if lease is not None and not lease.is_over:
            return [
                f"{self._place} is being updated ({lease.holder}): images show their new or their old state."
            ]
        unfinished = (
            f"The last update of {self._place}, of {self._manifest.changed_at}, did not come to its end: images show"
            f" their new or their old state. `imago publish --to {self._place}` finishes it."
        )
        return [unfinished]

    def __len__(self) -> int:
        with self._lock:
            if self._count is None:
                self._count = self._connection.count(self._collection.name, EVERYTHING)
            return self._count

    def count(self, condition: Condition) -> int:
        """How many rows an expression chooses."""
        return self._connection.count(self._collection.name, condition.expression)

    def list_ids(self, condition: Condition) -> NDArray[np.int64]:
        """The ids of the images that fit, ascending, int64 (n,).

        Raises:
            CollectionTooLargeError: The expression chooses too many to look through.
        """
        count = self.count(condition)
        if count > _MOST_LISTED:
            raise CollectionTooLargeError(
                f"This looks through {count:,} images of {self._place} one by one; {_MOST_LISTED:,} is the most."
                f" Narrow it: add words, or a filter such as in:, after: or format:."
            )
        found = [
            int(row["id"])
            for page in self._pages(condition.expression, ["id", *condition.columns])
            for row in page
            if condition.fits(row)
        ]
        return np.sort(np.fromiter(found, np.int64, len(found)))

    def ids(self) -> NDArray[np.int64]:
        """The ids of all images, ascending, int64 (n,).

        Raises:
            CollectionTooLargeError: There are too many to list.
        """
        with self._lock:
            if self._ids is None:
                self._ids = self.list_ids(Condition(EVERYTHING))
            return self._ids

    def sample_ids(self, count: int) -> NDArray[np.int64]:
        """At most so many of them, evenly spread, ascending, int64 (n,)."""
        total = len(self)
        if total <= _MOST_LISTED // 10:
            ids = self.ids()
            return ids if len(ids) <= count else ids[np.linspace(0, len(ids) - 1, count).astype(np.int64)]
        # The contents' hashes spread images evenly; a fifth more than wanted, so that chance leaves enough.
        below = int(SPREAD * min(1.0, 1.2 * count / total)) + 1
        return self.list_ids(Condition(f"spread < {below}"))[:count]

    def nearest(
        self,
        vectors: NDArray[np.float32],
        k: int,
        *,
        among: Selection | None = None,
        exact: bool = False,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The images nearest to vectors; see `LibraryReader.nearest`.

        Of a library too large to look through (a million candidates), no more than 16,368 come back.
        """
        queries = np.ascontiguousarray(vectors, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise LibraryError(
                f"Queries have the shape {queries.shape}; this library's vectors have {self.dimension} numbers."
            )
        if not len(queries):
            return np.empty((0, 0), np.float32), np.empty((0, 0), np.int64)
        chosen = None if among is None else self._selection(among)
        candidates = len(self) if chosen is None else len(chosen)
        want = min(k, candidates)
        if exact and want > 0:
            found = self._compared_all(list(queries), want, chosen)
        else:
            found = [self._nearest_one(query, want, candidates, chosen) for query in queries]
        shortest = min(len(ids) for _, ids in found)
        return (
            np.stack([scores[:shortest] for scores, _ in found]),
            np.stack([ids[:shortest] for _, ids in found]),
        )

    def vectors_below(
        self, spread: int
    ) -> Iterable[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]]:
        """Ids, vectors and spread of the images whose spread lies below a number, page by page.

        Images are spread evenly over `indexer.cluster.rows.SPREAD` numbers by their content.
        """
        for page in self._pages(f"spread < {int(spread)}", ["id", "publication", "vector", "spread"]):
            self._check(page)
            yield (
                np.asarray([row["id"] for row in page], np.int64),
                np.asarray([row["vector"] for row in page], np.float32).reshape(len(page), self.dimension),
                np.asarray([row["spread"] for row in page], np.int64),
            )

    def select(self, filters: Sequence[Filter]) -> Selection:
        """The images that fit all filters."""
        return MilvusSelection(self, condition_of(filters))

    def facets(self, ids: NDArray[np.int64] | None = None, which: Collection[Facet] | None = None) -> Facets:
        """Counts images, int64 (n,), None for all, by month, folder, camera, format and shape.

        Every row is looked at, so nothing is counted where there are too many.
        """
        from indexer.cluster.facets import FACET_COLUMNS, count_rows

        if (len(self) if ids is None else len(ids)) > _MOST_COUNTED:
            return Facets()
        if ids is None:
            pages = self._pages(EVERYTHING, FACET_COLUMNS)
        else:
            pages = (
                self._by_ids(ids[start : start + ROWS_AT_ONCE].tolist(), FACET_COLUMNS)
                for start in range(0, len(ids), ROWS_AT_ONCE)
            )
        return count_rows(pages, [root[0] for root in self._manifest.roots], which)

    def vectors(self, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """The stored vectors of images, float32 (n, dimension), in the order asked.

        Raises:
            ImageGoneError: An id is not there.
        """
        wanted = [int(image_id) for image_id in ids]
        found = {
            int(row["id"]): row["vector"] for row in self._by_ids(wanted, ["id", "publication", "vector"])
        }
        if missing := [image_id for image_id in wanted if image_id not in found]:
            raise ImageGoneError(missing)
        return np.asarray([found[image_id] for image_id in wanted], np.float32).reshape(
            len(wanted), self.dimension
        )

    def images(self, ids: Sequence[int] | NDArray[np.int64]) -> list[ImageRecord]:
        """What is known of images, in the order asked.

        Raises:
            ImageGoneError: An id is not there (any more).
        """
        wanted = [int(image_id) for image_id in ids]
        found = {int(row["id"]): record_of(row) for row in self._by_ids(wanted, RECORD_COLUMNS)}
        if missing := [image_id for image_id in wanted if image_id not in found]:
            raise ImageGoneError(missing)
        return [found[image_id] for image_id in wanted]

    def paths(self, ids: Sequence[int] | NDArray[np.int64]) -> list[list[Path]]:
        """All files that hold each image, in the order asked, as far as its row has room for them.

        Raises:
            ImageGoneError: An id is not there (any more).
        """
        wanted = [int(image_id) for image_id in ids]
        found = {
            int(row["id"]): [Path(path) for path in decode_all(row["paths"])]
            for row in self._by_ids(wanted, ["id", "publication", "paths"])
        }
        if missing := [image_id for image_id in wanted if image_id not in found]:
            raise ImageGoneError(missing)
        return [found[image_id] for image_id in wanted]

    def difference_hashes(self, ids: Sequence[int] | NDArray[np.int64]) -> dict[int, int]:  # noqa: ARG002
        """None: a row does not hold them, so the pictures are looked at where they can be reached."""
        return {}

    def find(self, path: Path | str) -> int | None:
        """The id of the image at a path, as of its publication; None if there is none."""
        for spelling in [str(path)] if "://" in str(path) else spellings_of(path):
            code = encode(os.path.normcase(spelling))
            found = self._connection.rows(
                self._collection.name, f'paths like "%{SEPARATOR}{code}{SEPARATOR}%"', ["id"]
            )
            if found:
                return min(int(row["id"]) for row in found)
        return None

    def find_content(self, path: Path | str) -> int | None:
        """The id of the image with the very bytes of a file; None if there is none.

        Raises:
            OSError: The file cannot be read.
        """
        with Path(path).expanduser().open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        found = self._connection.rows(self._collection.name, f'content_hash == "{content}"', ["id"])
        return min((int(row["id"]) for row in found), default=None)

    def status(self) -> LibraryStatus:
        """How the library stands: the images as of now, all else as of its publication."""
        manifest = self._manifest
        return LibraryStatus(
            library_path=self._place,
            images=len(self),
            files=manifest.files,
            failed=manifest.failed,
            skipped=manifest.skipped,
            offline_images=manifest.offline_images,
            roots=self.roots(),
            model=self._identity,
            next_model=None,
            schema_version=manifest.schema,
            library_bytes=0,
            created_at=manifest.library_created_at or manifest.created_at,
            last_run_at=manifest.last_run_at or manifest.completed_at,
            notices=self.notices,
            index=f"{manifest.index}, on the server",
        )

    def roots(self) -> list[RootStatus]:
        """The folders of the library that was published."""
        return [
            RootStatus(Path(path), bool(is_online), int(files), last_scanned_at)
            for path, is_online, files, last_scanned_at in self._manifest.roots
        ]

    def failures(self) -> list[FileFailure]:
        """None: which files failed is told where the library is indexed."""
        return []

    # how it is done

    def _adopt(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._identity = manifest.model
        self._count = None
        self._ids = None

    def _selection(self, among: Selection) -> MilvusSelection:
        if isinstance(among, MilvusSelection):
            return among
        wanted = np.unique(np.asarray(among, np.int64))
        return _ListedSelection(self, wanted)

    def _nearest_one(
        self,
        query: NDArray[np.float32],
        want: int,
        candidates: int,
        chosen: MilvusSelection | None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        if want <= 0:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        if candidates <= _COMPARED_ONE_BY_ONE or want > MOST_HITS - _MARGIN:
            if candidates <= _MOST_LISTED:
                return self._compared(query, want, chosen)
            want = MOST_HITS - _MARGIN
        if isinstance(chosen, _ListedSelection):
            return self._compared(query, want, chosen)
        limit = min(want + _MARGIN, MOST_HITS)
        allowed = None if chosen is None or chosen.condition.is_exact else chosen.ids
        while True:
            ids, codes = self.proposed(query, limit, chosen)
            if allowed is not None:
                kept = np.isin(ids, allowed)
                ids, codes = ids[kept], codes[kept]
            if len(ids) >= want:
                return best(scores_of(codes, query), ids, want)
            if allowed is None or limit == MOST_HITS:
                break  # the index found fewer than there are: it lost its way behind the filter
            limit = min(4 * limit, MOST_HITS)
        if candidates <= _MOST_LISTED:
            return self._compared(query, want, chosen)
        return best(scores_of(codes, query), ids, want)

    def proposed(
        self, query: NDArray[np.float32], limit: int, chosen: MilvusSelection | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """What the index says: ids int64 (n,) and their vectors float32 (n, dimension)."""
        with_vectors = limit * self.dimension <= _FLOATS_AT_ONCE
        columns = ["publication", "vector"] if with_vectors else ["publication"]
        (hits,) = self._connection.call(
            "search",
            self._collection.name,
            data=[query.tolist()],
            anns_field="vector",
            filter="" if chosen is None else chosen.condition.expression,
            limit=limit,
            output_fields=columns,
            search_params={"params": search_parameters(self._manifest.index, len(self), limit)},
            consistency_level=self._connection.address.consistency,
        )
        rows = [{"id": hit["id"], **hit["entity"]} for hit in hits]
        self._check(rows)
        ids = np.fromiter((int(row["id"]) for row in rows), np.int64, len(rows))
        if with_vectors:
            codes = np.asarray([row["vector"] for row in rows], np.float32)
            return ids, codes.reshape(len(rows), self.dimension)
        return ids, self.vectors(ids)

    def _compared(
        self, query: NDArray[np.float32], want: int, chosen: MilvusSelection | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return self._compared_all([query], want, chosen)[0]

    def _compared_all(
        self, queries: Sequence[NDArray[np.float32]], want: int, chosen: MilvusSelection | None
    ) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """The best of all candidates for each query, compared one by one.

        The rows travel once for all queries, and no more than a page of vectors lies in memory.
        """
        found = [(np.empty(0, np.float32), np.empty(0, np.int64)) for _ in queries]
        for rows in self._candidates(chosen):
            self._check(rows)
            if not rows:
                continue
            codes = np.asarray([row["vector"] for row in rows], np.float32)
            new = np.fromiter((int(row["id"]) for row in rows), np.int64, len(rows))
            found = [
                best(np.concatenate([scores, scores_of(codes, query)]), np.concatenate([ids, new]), want)
                for query, (scores, ids) in zip(queries, found, strict=True)
            ]
        return found

    def _candidates(self, chosen: MilvusSelection | None) -> Iterable[list[dict[str, Any]]]:
        columns = ["id", "publication", "vector"]
        if isinstance(chosen, _ListedSelection):
            ids = chosen.ids
            return (
                self._by_ids(ids[start : start + ROWS_AT_ONCE].tolist(), columns)
                for start in range(0, len(ids), ROWS_AT_ONCE)
            )
        condition = Condition(EVERYTHING) if chosen is None else chosen.condition
        return (
            [row for row in page if condition.fits(row)]
            for page in self._pages(condition.expression, [*columns, *condition.columns])
        )

    def _pages(self, expression: str, columns: Sequence[str]) -> Iterable[list[dict[str, Any]]]:
        return self._connection.all_rows(self._collection.name, expression, list(dict.fromkeys(columns)))

    def _by_ids(self, ids: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for start in range(0, len(ids), ROWS_AT_ONCE):
            listed = ", ".join(str(image_id) for image_id in ids[start : start + ROWS_AT_ONCE])
            found += self._connection.rows(self._collection.name, f"id in [{listed}]", columns)
        self._check(found)
        return found

    def _check(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Refuses rows of another publication than the one that was opened."""
        expected = self._manifest.publication
        if any(int(row["publication"]) != expected for row in rows):
            raise CollectionReplacedError(
                f"The collection {self._place} was dropped and filled anew since it was opened. Open it again: its"
                f" images, and perhaps its model, are others now."
            )


class _ListedSelection(MilvusSelection):
    """Images that are named one by one; those that the library does not hold are ignored."""

    def __init__(self, reader: MilvusReader, ids: NDArray[np.int64]) -> None:
        super().__init__(reader, Condition(EVERYTHING))
        self._ids = ids
        self._count = len(ids)


def _usable(collection: PublishedCollection) -> Manifest:
    manifest = collection.manifest()
    if manifest.completed_at is None:
        lease = Lease.read(collection)
        address = collection.connection.address
        if lease is not None and not lease.is_over:
            raise CollectionUnfinishedError(
                f"The collection {address.collection} on {address.server} is being filled for the first time"
                f" ({lease.holder}). Wait for it to be complete."
            )
        raise CollectionUnfinishedError(
            f"The collection {address.collection} on {address.server} was never filled to its end. Say"
            f" `imago publish --to {address}` again: it goes on where it stopped."
        )
    return manifest


def scores_of(codes: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inner products in double precision, rounded once, as `indexer.vector_index` computes them: float32 (n,)."""
    wide = codes.reshape(-1, len(query)).astype(np.float64)
    return np.asarray((wide * query.astype(np.float64)).sum(axis=1), np.float32)
