"""The only door through which anything outside this package reads a library.

What a search needs (which vectors exist) is read once, in one transaction, when the library is opened or
refreshed: a consistent snapshot that no writer can disturb. What people see of an image (its path) is read
when asked for, so it is as fresh as the catalog. No transaction stays open between calls: a reader that
lives for days does not keep the write-ahead log from being folded into the catalog.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from indexer.approximate_index import APPROXIMATE_SETTING, ApproximateIndex, wants_approximate
from indexer.catalog import (
    let_sql_know_what_is_away,
    read_copies,
    read_known_vector_file,
    read_model,
    read_setting,
    unpack_vectors,
)
from indexer.catalog_file import check_version, connect_for_reading, translated
from indexer.decode import open_at_once
from indexer.derived_file import VectorFileError
from indexer.errors import ImageGoneError, LibraryError
from indexer.fingerprint import to_unsigned
from indexer.paths import (
    APPROXIMATE_NAME,
    VECTORS_NAME,
    from_catalog,
    join_root,
    relative_to_root,
    spellings_of,
    to_catalog,
)
from indexer.records import FileFailure, ImageRecord, LibraryStatus, RootStatus
from indexer.selection import select
from indexer.vector_index import Segment, VectorFileInfo, best, read_info, verify

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterator, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from indexer.catalog import StoredModel
    from indexer.facets import Facet, Facets
    from indexer.filters import Filter
    from indexer.reading import Selection
    from model.identity import ModelIdentity

_HASH_BLOCK_BYTES = 1 << 20
_ATTEMPTS = 3  # a file is replaced once in a run, so a second look finds it at rest
_IDS_IN_QUERY = 500  # below the smallest limit of host parameters that SQLite was ever built with
_IMAGE_COLUMNS = (
    "images.id, images.size_bytes, images.width_pixels, images.height_pixels, images.format, images.taken_at,"
    " images.camera_make, images.camera_model, images.latitude, images.longitude, hex(images.content_hash)"
)


class LibraryReader:
    """A snapshot of a library. Safe to use from several threads; use as a context manager."""

    def __init__(self, path: Path, connection: sqlite3.Connection, notice: str | None) -> None:
        """Use `LibraryReader.open`."""
        self.path = path
        self._db = connection
        self._open_notice = notice
        self._lock = threading.RLock()
        self._snapshot = _Snapshot(path, self._db)

    @classmethod
    def open(cls, path: Path | str) -> LibraryReader:
        """Opens a library for reading. Never waits for a writer.

        Raises:
            LibraryNotFoundError: There is none.
            LibraryDamagedError: Its catalog cannot be read.
            LibraryTooNewError: It was made by a newer version.
        """
        folder = Path(path).expanduser().absolute()
        connection, notice = connect_for_reading(folder)
        try:
            with translated(folder):
                return cls(folder, connection, notice)
        except BaseException:
            connection.close()
            raise

    def __enter__(self) -> LibraryReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Releases the library."""
        with self._lock:
            self._snapshot.close()
            self._db.close()

    def refresh(self) -> bool:
        """Takes a new snapshot if the library changed since the last; cheap if it did not.

        Returns:
            Whether it changed.
        """
        with self._reading():
            if self._snapshot.is_current(self._db):
                return False
            self._snapshot.close()
            self._snapshot = _Snapshot(self.path, self._db)
            return True

    @property
    def place(self) -> Path | str:
        """The library's folder."""
        return self.path

    @property
    def model(self) -> ModelIdentity | None:
        """Whose vectors the library holds; None if nothing was indexed yet."""
        model = self._snapshot.model
        return None if model is None else model.identity

    @property
    def dimension(self) -> int:
        """Length of a vector, 0 if nothing was indexed yet."""
        return 0 if self.model is None else self.model.dimension

    @property
    def is_approximate(self) -> bool:
        """Whether `nearest` may miss a few of the nearest, because it goes through an approximate index."""
        with self._reading():
            return any(segment.approximate is not None for segment, _ in self._snapshot.segments(self._db))

    @property
    def notices(self) -> list[str]:
        """Sentences that people should read: what is not as it should be, and the way out."""
        notices = [self._open_notice] if self._open_notice else []
        with self._reading():
            self._snapshot.segments(self._db)
        return notices + self._snapshot.notices

    def __len__(self) -> int:
        """Number of images that `nearest` can find."""
        with self._reading():
            return self._snapshot.count(self._db)

    def ids(self) -> NDArray[np.int64]:
        """The ids of all images that `nearest` can find, ascending, int64 (n,)."""
        with self._reading():
            parts = [
                segment.ids if alive is None else segment.ids[alive]
                for segment, alive in self._snapshot.segments(self._db)
            ]
        return np.sort(np.concatenate(parts)) if parts else np.empty(0, np.int64)

    def sample_ids(self, count: int) -> NDArray[np.int64]:
        """At most so many of them, evenly spread, ascending, int64 (n,)."""
        ids = self.ids()
        return ids if len(ids) <= count else ids[np.linspace(0, len(ids) - 1, count).astype(np.int64)]

    def nearest(
        self,
        vectors: NDArray[np.float32],
        k: int,
        *,
        among: Selection | None = None,
        exact: bool = False,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The images nearest to vectors.

        Args:
            vectors: float32 (q, dimension), of unit norm if scores shall be cosines.
            k: How many for each; fewer come back if there are not so many.
            among: Ids that may be found, int64 (m,), in any order; those that the library does not hold are
                ignored. None: all.
            exact: Whether to compare with every candidate also where the library has an approximate index;
                without one, the answer is exact anyway.

        Returns:
            Scores float32 (q, k') and ids int64 (q, k'): best first, equal scores by id, k' = min(k,
            candidates). The score of an image does not depend on k or `among`.

        Raises:
            LibraryError: `vectors` has not the library's dimension.
        """
        queries = np.ascontiguousarray(vectors, np.float32)
        if queries.ndim != 2 or (self.dimension and queries.shape[1] != self.dimension):
            raise LibraryError(
                f"Queries have the shape {queries.shape}; this library's vectors have {self.dimension}"
                f" numbers."
            )
        with self._reading():
            segments = self._snapshot.segments(self._db)
        allowed: list[NDArray[np.bool_] | None] = []
        for segment, alive in segments:
            if among is None:
                allowed.append(alive)
            else:
                chosen = segment.mask(np.asarray(among, np.int64))
                allowed.append(chosen if alive is None else chosen & alive)
        scores, ids = [], []
        for query in queries:
            found = [
                segment.nearest(query, k, mask, exact=exact)
                for (segment, _), mask in zip(segments, allowed, strict=True)
            ]
            if len(found) == 1:
                joined = found[0]
            elif found:
                joined = best(
                    np.concatenate([part[0] for part in found]),
                    np.concatenate([part[1] for part in found]),
                    max(k, 0),
                )
            else:
                joined = np.empty(0, np.float32), np.empty(0, np.int64)
            scores.append(joined[0])
            ids.append(joined[1])
        if not scores:
            return np.empty((0, 0), np.float32), np.empty((0, 0), np.int64)
        return np.stack(scores), np.stack(ids)

    def select(self, filters: Sequence[Filter]) -> NDArray[np.int64]:
        """The ids of all images that `nearest` can find and that fit all filters, ascending, int64 (n,)."""
        with self._reading():
            found = select(self._db, filters)
        return found[np.isin(found, self.ids(), assume_unique=True)]

    def facets(self, ids: NDArray[np.int64] | None = None, which: Collection[Facet] | None = None) -> Facets:
        """Counts images, int64 (n,), None for all, by month, folder, camera, format and shape.

        Nobody waits for it who reads through this reader meanwhile.
        """
        from indexer.facets import FACETS, count_facets

        return count_facets(self.path, ids, FACETS if which is None else which)

    def vectors(self, ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """The stored vectors of images, float32 (n, dimension), in the order asked.

        Raises:
            ImageGoneError: An id is not there.
        """
        wanted = np.asarray(ids, np.int64)
        result = np.empty((len(wanted), self.dimension), np.float32)
        missing = np.ones(len(wanted), np.bool_)
        with self._reading():
            segments = self._snapshot.segments(self._db)
        for segment, alive in segments:
            at, valid = segment.positions(wanted)
            if alive is not None and len(alive):
                valid &= alive[at]
            result[valid] = segment.codes[at[valid]]
            missing &= ~valid
        if missing.any():
            raise ImageGoneError([int(image_id) for image_id in wanted[missing]])
        return result

    def images(self, ids: Sequence[int] | NDArray[np.int64]) -> list[ImageRecord]:
        """What the catalog knows of images, in the order asked.

        Raises:
            ImageGoneError: An id is not there (any more).
        """
        wanted = [int(image_id) for image_id in ids]
        found: dict[int, ImageRecord] = {}
        with self._reading():
            for start in range(0, len(wanted), _IDS_IN_QUERY):
                self._load_records(wanted[start : start + _IDS_IN_QUERY], found)
        missing = [image_id for image_id in wanted if image_id not in found]
        if missing:
            raise ImageGoneError(missing)
        return [found[image_id] for image_id in wanted]

    def paths(self, ids: Sequence[int] | NDArray[np.int64]) -> list[list[Path]]:
        """All files that hold each image, in the order asked; those that the library knew first come first.

        Raises:
            ImageGoneError: An id is not there (any more).
        """
        wanted = [int(image_id) for image_id in ids]
        found: dict[int, list[Path]] = {}
        with self._reading():
            for start in range(0, len(wanted), _IDS_IN_QUERY):
                some = wanted[start : start + _IDS_IN_QUERY]
                for image_id, root, path in self._db.execute(
                    "SELECT image_id, roots.path, files.path FROM files JOIN roots ON roots.id = root_id"  # noqa: S608
                    f" WHERE image_id IN ({','.join('?' * len(some))}) ORDER BY files.id",
                    some,
                ):
                    found.setdefault(image_id, []).append(_absolute(root, path))
        if missing := [image_id for image_id in wanted if image_id not in found]:
            raise ImageGoneError(missing)
        return [found[image_id] for image_id in wanted]

    def difference_hashes(self, ids: Sequence[int] | NDArray[np.int64]) -> dict[int, int]:
        """What tells re-encoded and resized copies (`indexer.fingerprint`), by id.

        Images that were indexed by a version that did not compute it are left out.
        """
        wanted = [int(image_id) for image_id in ids]
        found: dict[int, int] = {}
        with self._reading():
            if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'fingerprints'").fetchone():
                return {}  # a library that no newer version has written yet
            for start in range(0, len(wanted), _IDS_IN_QUERY):
                some = wanted[start : start + _IDS_IN_QUERY]
                found |= {
                    image_id: to_unsigned(number)
                    for image_id, number in self._db.execute(
                        "SELECT image_id, difference_hash FROM fingerprints"  # noqa: S608
                        f" WHERE image_id IN ({','.join('?' * len(some))})",
                        some,
                    )
                }
        return found

    def find(self, path: Path | str) -> int | None:
        """The id of the image at a path, as of the last run; None if the catalog has none there."""
        with self._reading():
            roots = self._db.execute("SELECT id, path FROM roots").fetchall()
            for spelling in spellings_of(path):
                for root_id, root in roots:
                    relative = relative_to_root(spelling, from_catalog(root))
                    if not relative:
                        continue
                    row = self._db.execute(
                        "SELECT image_id FROM files WHERE root_id = ? AND path = ?",
                        (root_id, to_catalog(relative)),
                    ).fetchone()
                    if row is not None and row[0] is not None:
                        return int(row[0])
        return None

    def find_content(self, path: Path | str) -> int | None:
        """The id of the image with the very bytes of a file, wherever the file lies; None if there is none.

        Raises:
            OSError: The file cannot be read.
        """
        digest = hashlib.sha256()
        size = 0
        with open(Path(path).expanduser(), "rb", opener=open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            while block := file.read(_HASH_BLOCK_BYTES):
                digest.update(block)
                size += len(block)
        with self._reading():
            row = self._db.execute(
                "SELECT id FROM images WHERE content_hash = ? AND size_bytes = ? AND gone_at IS NULL",
                (digest.digest(), size),
            ).fetchone()
        return None if row is None else int(row[0])

    def status(self) -> LibraryStatus:
        """How the library stands."""
        notices = self.notices
        with self._reading():
            self._db.execute("BEGIN")
            try:
                files = dict(self._db.execute("SELECT status, count(*) FROM files GROUP BY status"))
                (images,) = self._db.execute("SELECT count(*) FROM images WHERE gone_at IS NULL").fetchone()
                is_any_away = let_sql_know_what_is_away(self._db)
                (offline,) = self._db.execute(
                    "SELECT count(*) FROM images WHERE gone_at IS NULL AND NOT EXISTS (SELECT 1 FROM files"
                    " JOIN roots ON roots.id = root_id WHERE image_id = images.id AND is_online"
                    " AND NOT imago_away(root_id, files.path))"
                    if is_any_away
                    or self._db.execute("SELECT 1 FROM roots WHERE NOT is_online LIMIT 1").fetchone()
                    else "SELECT 0"
                ).fetchone()
                active, building = read_model(self._db, "active"), read_model(self._db, "building")
                return LibraryStatus(
                    library_path=self.path,
                    images=images,
                    files=files.get("indexed", 0),
                    failed=files.get("failed", 0),
                    skipped=files.get("skipped", 0),
                    offline_images=offline,
                    roots=self._roots(),
                    model=None if active is None else active.identity,
                    next_model=None if building is None else building.identity,
                    schema_version=check_version(self.path, self._db),
                    library_bytes=_folder_bytes(self.path),
                    created_at=read_setting(self._db, "created_at"),
                    last_run_at=read_setting(self._db, "last_run_at"),
                    notices=notices,
                    index=self._describe_index(),
                )
            finally:
                self._db.execute("COMMIT")

    def roots(self) -> list[RootStatus]:
        """The folders that the library looks after."""
        with self._reading():
            return self._roots()

    def failures(self) -> list[FileFailure]:
        """All files that could not be indexed, by path."""
        with self._reading():
            rows = self._db.execute(
                "SELECT roots.path, files.path, reason, checked_at FROM files JOIN roots ON roots.id ="
                " root_id"
                " WHERE status = 'failed'"
            ).fetchall()
        return sorted(
            (
                FileFailure(_absolute(root, path), reason, is_new=False, failed_at=checked_at)
                for root, path, reason, checked_at in rows
            ),
            key=lambda failure: os.fsencode(failure.path),
        )

    def _describe_index(self) -> str:
        """How the library is searched now, in a line."""
        segments = self._snapshot.segments(self._db)
        counts = [len(segment) for segment, _ in segments]
        approximate = segments[0][0].approximate if segments else None
        if approximate is None:
            return f"exact, {sum(counts):,} vectors"
        since = f"; {counts[1]:,} newer ones exactly" if len(counts) > 1 else ""
        return f"approximate, {approximate.describe()}{since}"

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock, translated(self.path):
            yield

    def _roots(self) -> list[RootStatus]:
        return [
            RootStatus(Path(from_catalog(path)), bool(is_online), files, last_scanned_at)
            for path, is_online, last_scanned_at, files in self._db.execute(
                "SELECT path, is_online, last_scanned_at, (SELECT count(*) FROM files WHERE root_id ="
                " roots.id"
                " AND status = 'indexed') FROM roots ORDER BY roots.id"
            )
        ]

    def _load_records(self, ids: list[int], found: dict[int, ImageRecord]) -> None:
        marks = ",".join("?" * len(ids))
        copies: dict[int, int] = {}
        places: dict[int, tuple[Path, bool, int]] = {}
        found_copies = read_copies(self._db, f"image_id IN ({marks})", ids)
        for image_id, root, below, is_there, modified_ns in found_copies:
            copies[image_id] = copies.get(image_id, 0) + 1
            if image_id not in places:
                places[image_id] = (_absolute(root, below), is_there, modified_ns)
        for image_id, size, width, height, image_format, *rest, content_hash in self._db.execute(
            f"SELECT {_IMAGE_COLUMNS} FROM images WHERE id IN ({marks})",  # noqa: S608
            ids,
        ):
            if image_id not in places:
                continue
            path, is_online, modified_ns = places[image_id]
            taken_at, make, model, latitude, longitude = rest
            found[image_id] = ImageRecord(
                id=image_id,
                path=path,
                size_bytes=size,
                width_pixels=width,
                height_pixels=height,
                format=image_format,
                taken_at=taken_at,
                camera_make=make,
                camera_model=model,
                latitude=latitude,
                longitude=longitude,
                modified_seconds=modified_ns / 1e9,
                copies=copies[image_id],
                is_offline=not is_online,
                content_hash=content_hash.lower(),
            )


class _Snapshot:
    """Which vectors exist, at one moment.

    The mapped file is checked in a thread of its own from the moment of opening: while the checksum of a
    gigabyte is computed, the caller loads its text tower.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.notices: list[str] = []
        self._file = path / VECTORS_NAME
        self._approximate_file = path / APPROXIMATE_NAME
        self._load(connection)

    def _load(self, connection: sqlite3.Connection) -> None:
        self._error: VectorFileError | None = None
        self._late_error: VectorFileError | None = None
        self._was_replaced = False
        self._base: Segment | None = None
        self._info: VectorFileInfo | None = None
        self._approximate_error: VectorFileError | None = None
        self._tail: tuple[NDArray[np.int64], NDArray[np.float16]] | None = None
        self._segments: list[tuple[Segment, NDArray[np.bool_] | None]] | None = None
        self._thread: threading.Thread | None = None
        self._is_ready = threading.Event()
        self._is_closing = threading.Event()
        # The file is looked at before the catalog: then the catalog is never older than the file, and
        # whatever the file lacks or holds too much is in `vectors` and `departed`. Only if the file was
        # replaced in between can it be too old, and then the new one is already there.
        for _ in range(_ATTEMPTS):
            info = self._read_info()
            self._data_version = _data_version(connection)
            connection.execute("BEGIN")
            try:
                self.model: StoredModel | None = read_model(connection, "active")
                self._approximate_setting: bool | None = read_setting(connection, APPROXIMATE_SETTING)
                self._departed = np.fromiter(
                    (row[0] for row in connection.execute("SELECT image_id FROM departed ORDER BY image_id")),
                    np.int64,
                )
                if info is None or self.model is None:
                    break
                if wrong := info.mismatch(read_known_vector_file(connection), self.model.id):
                    self._error = VectorFileError(wrong)
                    continue
                self._info = info
                self._tail = self._read_tail(connection, info.sequence)
                break
            finally:
                connection.execute("COMMIT")
        if self._info is not None:
            self._thread = threading.Thread(target=self._open_base, args=(self._info,), name="vectors-check")
            self._thread.start()
        else:
            self._is_ready.set()

    def close(self) -> None:
        """Ends the check of the file, if it is still going on."""
        self._is_closing.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def is_current(self, connection: sqlite3.Connection) -> bool:
        """Whether nobody has committed since."""
        return self._data_version == _data_version(connection)

    def count(self, connection: sqlite3.Connection) -> int:
        """Number of vectors that can be found."""
        return sum(
            len(segment) if alive is None else int(np.count_nonzero(alive))
            for segment, alive in self.segments(connection)
        )

    def segments(self, connection: sqlite3.Connection) -> list[tuple[Segment, NDArray[np.bool_] | None]]:
        """The sets of vectors to search, each with the mask of those that may be found (None: all)."""
        if self._late_error is not None:
            self._error, self._late_error = self._late_error, None
            self._base = self._segments = None
        if self._segments is not None:
            return self._segments
        self._is_ready.wait()
        for _ in range(_ATTEMPTS):
            if not self._was_replaced:
                break
            self._load(connection)
            self._is_ready.wait()
        if self.model is None:
            self._segments = []
            return self._segments
        if self._base is None:
            reason = self._error or VectorFileError("it is damaged")
            self._tail = self._read_tail(connection, 0)
            if len(self._tail[0]):
                self.notices.append(
                    f"{VECTORS_NAME} is not usable: {reason}. Searching goes on with the vectors in the"
                    f" catalog, more"
                    " slowly and with more memory; the next `imago index` makes the file anew."
                )
        elif self._approximate_error is not None:
            self.notices.append(
                f"{APPROXIMATE_NAME} is not usable: {self._approximate_error}. Searching goes on exactly, more"
                " slowly; the next `imago index` makes the file anew."
            )
        assert self._tail is not None  # noqa: S101
        tail_ids, tail_codes = self._tail
        segments = []
        if self._base is not None:
            out = self._base.mask(self._departed) | self._base.mask(tail_ids)
            segments.append((self._base, ~out if out.any() else None))
        if len(tail_ids):
            tail = Segment.from_codes(tail_ids, tail_codes)
            out = tail.mask(self._departed)
            segments.append((tail, ~out if out.any() else None))
        self._tail = None
        self._segments = segments
        return segments

    def _read_info(self) -> VectorFileInfo | None:
        try:
            return read_info(self._file)
        except VectorFileError as error:
            self._error = error
            return None

    def _read_tail(
        self, connection: sqlite3.Connection, sequence: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
        assert self.model is not None  # noqa: S101
        dimension = self.model.identity.dimension
        rows = connection.execute(
            "SELECT image_id, vector FROM vectors JOIN images ON images.id = image_id"
            " WHERE sequence > ? AND model_id = ? AND gone_at IS NULL",
            (sequence, self.model.id),
        ).fetchall()
        ids, codes = unpack_vectors(rows, dimension)
        order = np.argsort(ids)
        return ids[order], codes[order]

    def _open_base(self, info: VectorFileInfo) -> None:
        """Checks and maps the file.

        Where there is an approximate index, there are gigabytes of vectors, which take seconds to check. The
        index is checked first, and then answers while they are.
        """
        try:
            approximate = self._open_approximate(info)
            if approximate is None:
                verify(self._file, info, self._is_closing.is_set)
            base = Segment.from_file(self._file, info)
            base.approximate = approximate
            self._was_replaced = read_info(self._file) != info
            self._base = None if self._was_replaced else base
        except VectorFileError as error:
            self._error = error
            self._was_replaced = self._is_replaced(info)
        finally:
            self._is_ready.set()
        if self._base is None or self._base.approximate is None:
            return
        try:
            verify(self._file, info, self._is_closing.is_set)
        except VectorFileError as error:
            if not self._is_replaced(info):
                self._late_error = error

    def _is_replaced(self, info: VectorFileInfo) -> bool:
        """Whether a writer has put a new file in place: then these were not the bytes that were described."""
        with suppress(VectorFileError):
            return read_info(self._file) != info
        return False

    def _open_approximate(self, info: VectorFileInfo) -> ApproximateIndex | None:
        if not wants_approximate(self._approximate_setting, info.count, info.dimension):
            return None
        try:
            return ApproximateIndex.from_file(self._approximate_file, info)
        except VectorFileError as error:
            self._approximate_error = error
            return None


def _data_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def _absolute(root: str | bytes, path: str | bytes) -> Path:
    return Path(join_root(from_catalog(root), from_catalog(path)))


def _folder_bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size  # noqa: PTH118
            except OSError:
                continue
    return total
