"""Brings a library up to date with its folders: scan, compare, decode, embed, commit; the last three at once.

Three parties work side by side: processes decode (`indexer.decode_pool`), one thread runs the tower, and
the main thread compares, decides and commits. Whoever is slowest sets the pace; the others wait, with
little in hand, so memory does not depend on the number of images.

Everything that a commit holds is complete: an image, its vector and the file that holds it are written in
the same transaction. Killing the process therefore loses at most what was done since the last commit
(`_COMMIT_SECONDS`), and the next run finds it missing and does it again.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import defaultdict, deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from indexer.catalog import Catalog, KnownFile, KnownRoot, now, translated
from indexer.decode import DecodeLimits, Metadata, Preprocessor, decode, read_file
from indexer.decode_pool import Decoded, DecodePool, available_cores
from indexer.errors import (
    LibraryNotWritableError,
    ModelMismatchError,
    NothingToIndexError,
)
from indexer.lock import writer_lock
from indexer.paths import (
    CATALOG_NAME,
    THUMBNAILS_NAME,
    VECTORS_NAME,
    display_path,
    join_root,
    relative_to_root,
)
from indexer.records import FileFailure, IndexProgress, IndexSummary
from indexer.scan import Scan, scan_folder
from indexer.upkeep import renew_vector_file, switch_model, usable_vector_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from indexer.catalog import StoredModel
    from indexer.vector_index import VectorFileInfo
    from model.identity import ModelIdentity

_COMMIT_SECONDS = 2.0  # with a batch that waits to fill up, what a kill can cost stays below five seconds
_PARTIAL_BATCH_SECONDS = 2.0
_PROGRESS_SECONDS = 0.1
_SPEED_WINDOW_SECONDS = 10.0
_BATCHES_AHEAD = 2  # for the tower: one in work, one waiting
_RACY_NS = 2_000_000_000  # the coarsest clock of a file system (FAT): two seconds
_INODE_WRAP = 1 << 64  # SQLite's integers have a sign, inodes have none
# Vectors of images that are gone are kept so long: a disk that was away, a folder moved in two steps, a
# trash emptied too early cost no second embedding. Like the trash of most photo programs; `imago forget`
# does it at once.
KEEP_GONE_DAYS = 30


class ImageEncoder(Protocol):
    """What indexing needs of a model; `model.Encoder` is one."""

    @property
    def identity(self) -> ModelIdentity:
        """Names the model."""

    @property
    def preprocessor(self) -> Preprocessor:
        """Makes the tower's pixels; picklable."""

    @property
    def batch_size(self) -> int:
        """Images that one call of the tower likes to take."""

    def encode_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeds uint8 (n, height, width, 3): float32 (n, dimension) of unit norm."""


@dataclass(frozen=True)
class _Scope:
    """A part of a root that this run looks at."""

    root: KnownRoot
    prefix: str  # below the root; "" for all of it

    @property
    def folder(self) -> str:
        return join_root(self.root.path, self.prefix) if self.prefix else self.root.path


@dataclass(eq=False)
class _Task:
    """A file that is new or changed."""

    root: KnownRoot
    path: str
    stat: tuple[int, int, int]
    known: KnownFile | None
    hash_only: bool
    answer: Decoded | None = None
    read_ns: int = 0

    @property
    def absolute(self) -> str:
        return join_root(self.root.path, self.path)

    @property
    def content(self) -> tuple[bytes, int]:
        assert self.answer is not None  # noqa: S101
        return bytes.fromhex(self.answer.fields["hash"]), int(self.answer.fields["size_bytes"])


@dataclass
class _Counts:
    done: int = 0
    total: int = 0
    scanned: int = 0
    indexed: int = 0
    embedded: int = 0
    unchanged: int = 0
    moved: int = 0
    restored: int = 0
    removed: int = 0
    skipped: int = 0
    failed: list[FileFailure] = field(default_factory=list)


def index_folders(
    library_path: Path | str,
    folders: Sequence[Path | str],
    encoder: ImageEncoder,
    *,
    progress: Callable[[IndexProgress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    limits: DecodeLimits | None = None,
    workers: int | None = None,
    retry_failed: bool = False,
    change_model: bool = False,
) -> IndexSummary:
    """Brings a library up to date with folders; makes it where there is none.

    Args:
        library_path: The library's folder.
        folders: What to look at. Folders that are new to the library are added to it; none means all that
        it knows.
        encoder: Makes the vectors.
        progress: Called a few times a second, in this thread.
        should_stop: Asked a few times a second; once it says True, what is done is committed and the run
        ends.
        limits: What one file may cost.
        workers: Decoding processes; the number of cores if None.
        retry_failed: Tries files again that failed before and have not changed.
        change_model: Moves the library to the encoder's model if it holds another's vectors: all its
            folders are embedded again, beside the old vectors, which go on answering until all is done;
            then the library switches at once. Stopped in between, any later run with that encoder goes on.
            A run with the old encoder works as ever, and gives the change up if it says `change_model` too.

    Returns:
        How it went. Ctrl-C during the run ends it like `should_stop`: `interrupted` is True.

    Raises:
        NothingToIndexError: No folder is there and readable, or none holds an image.
        ModelMismatchError: The library was made with another model.
        LibraryLockedError: Another process writes it.
        LibraryDamagedError: Its catalog cannot be read.
        LibraryTooNewError: It was made by a newer version.
        LibraryNotWritableError: It cannot be written.
        DiskFullError: No room; what was committed is safe.
    """
    started = time.monotonic()
    library = Path(library_path).expanduser().absolute()
    given = [os.path.realpath(Path(folder).expanduser()) for folder in folders]
    check_folders(library, given)
    with ExitStack() as stack:
        _make_private_folder(library)
        stack.enter_context(writer_lock(library))
        catalog = stack.enter_context(Catalog.open(library))
        run = _Run(
            library,
            catalog,
            encoder,
            progress=progress,
            should_stop=should_stop,
            limits=limits or DecodeLimits(),
            workers=workers or available_cores(),
            retry_failed=retry_failed,
            change_model=change_model,
        )
        with translated(library, system_errors=False):
            return run.index(given, started)


def read_pixels(
    path: Path | str, preprocessor: Preprocessor, limits: DecodeLimits | None = None
) -> NDArray[np.uint8]:
    """Decodes a file exactly as indexing does, so that a picture used as a query gets the vector of its twin.

    Args:
        path: An image file.
        preprocessor: The encoder's.
        limits: What the file may cost.

    Returns:
        uint8 (height, width, 3), for `Encoder.encode_pixels`.

    Raises:
        SkipError: The file is no image.
        RefusedError: The image cannot be used; the text says why.
        OSError: The file cannot be read.
    """
    limits = limits or DecodeLimits()
    return decode(read_file(os.fspath(path), limits), preprocessor, limits)[0]


class _Run:
    def __init__(
        self,
        library: Path,
        catalog: Catalog,
        encoder: ImageEncoder,
        *,
        progress: Callable[[IndexProgress], None] | None,
        should_stop: Callable[[], bool] | None,
        limits: DecodeLimits,
        workers: int,
        retry_failed: bool,
        change_model: bool,
    ) -> None:
        self.library = library
        self.catalog = catalog
        self.encoder = encoder
        self.limits = limits
        self.workers = workers
        self.retry_failed = retry_failed
        self.change_model = change_model
        self.counts = _Counts()
        self.notices: list[str] = []
        self.offline: list[Path] = []
        self.unreadable: list[FileFailure] = []
        self.is_interrupted = False
        self._progress = progress
        self._should_stop = should_stop
        self._last_progress = 0.0
        self._speed: deque[tuple[float, int]] = deque()
        # Rows of files that the scan did not find, by their image: where a moved file came from.
        self._vanished: dict[int, list[int]] = defaultdict(list)
        self._vanished_rows: dict[int, bool] = {}
        self._vanished_stats: set[tuple[int, int]] = set()
        self._uncommitted: list[tuple[_Task, NDArray[np.float32] | None]] = []
        self._last_commit = time.monotonic()
        self._base: VectorFileInfo | None = None
        # Images whose vector of this run's model is still to be made although the catalog knows them.
        self._lacking: set[int] = set()
        self.new_roots: list[KnownRoot] = []

    # the run from above

    def index(self, folders: list[str], started: float) -> IndexSummary:
        catalog = self.catalog
        catalog.delete_orphaned_vectors()
        self.active, self.model = self._agree_on_models()
        is_changing = self.active.id != self.model.id
        scopes = self._agree_on_scopes(folders, everything=is_changing)
        self._base, wrong = usable_vector_file(catalog, self.active)
        if wrong is not None:
            self.notices.append(f"{VECTORS_NAME} was not usable: {wrong}. It was made anew from the catalog.")
        if is_changing or catalog.setting("lacks_vectors"):
            self._lacking = catalog.images_without_vector(self.model.id)
        tasks: list[_Task] = []
        scanned: list[_Scope] = []
        try:
            scanned.extend(scope for scope in scopes if self._compare(scope, tasks))
            self._guess_moves(tasks)
            self.counts.total = len(tasks)
            if not self.is_interrupted and tasks:
                self._work(tasks)
        except KeyboardInterrupt:
            self.is_interrupted = True
        finally:
            self._commit()  # whatever went wrong, complete work is kept
        try:
            self._report("finishing", force=True)
            if not self.is_interrupted:
                self._finish(scanned)
            if is_changing and not self.is_interrupted:
                self._base = switch_model(catalog, self.active, self.model, self._base)
            else:
                self._base = renew_vector_file(catalog, self.active, self._base)
            self._report("finishing", force=True)
        except KeyboardInterrupt:  # each step is whole or not done at all
            self.is_interrupted = True
        counts = self.counts
        found = (
            counts.indexed,
            counts.unchanged,
            counts.moved,
            counts.restored,
            counts.removed,
            counts.failed,
        )
        if not any(found) and not self.is_interrupted and not self.offline:
            self._drop_new_roots()
            raise NothingToIndexError(self._say_nothing_found(scopes))
        return IndexSummary(
            library_path=self.library,
            indexed=counts.indexed,
            embedded=counts.embedded,
            unchanged=counts.unchanged,
            moved=counts.moved,
            restored=counts.restored,
            removed=counts.removed,
            skipped=counts.skipped,
            failed=counts.failed,
            offline_roots=self.offline,
            unreadable_folders=self.unreadable,
            notices=self.notices,
            interrupted=self.is_interrupted,
            seconds=time.monotonic() - started,
        )

    def _say_nothing_found(self, scopes: list[_Scope]) -> str:
        places = ", ".join(display_path(scope.folder) for scope in scopes)
        if self.unreadable:
            first = self.unreadable[0]
            return (
                f"Nothing to index: {display_path(first.path)} cannot be read ({first.reason})."
                " Check its permissions."
            )
        seen = f" ({self.counts.skipped} other files)" if self.counts.skipped else ""
        return (
            f"Nothing to index: no image in {places}{seen}."
            " Imago reads JPEG, PNG, WebP, GIF, TIFF, BMP, HEIC and AVIF."
        )

    def _drop_new_roots(self) -> None:
        """A folder without any image, named for the first time, was a mistake: it is not looked after."""
        with self.catalog.transaction():
            for root in self.new_roots:
                self.catalog.remove_files(self.catalog.files_below(root.id, ""))
                self.catalog.remove_root(root.id)

    def _agree_on_models(self) -> tuple[StoredModel, StoredModel]:
        """Whose vectors the library holds, and whose this run makes; two only during a change of model."""
        catalog, given = self.catalog, self.encoder.identity
        with catalog.transaction():
            active = catalog.model("active")
            building = catalog.model("building")
            if active is not None and not catalog.has_vectors(active.id):
                catalog.remove_model(active.id)
                active = None
            if active is None:
                active = catalog.add_model(given, "active")
            if active.identity.is_same_model(given):
                if building is not None and self.change_model:
                    catalog.remove_model(building.id)
                    self.notices.append(
                        f"The change to the model {building.identity.name} was given up; its vectors are deleted."
                    )
                return active, active
            if building is not None and building.identity.is_same_model(given):
                return active, building
            if not self.change_model:
                raise ModelMismatchError(self.library, active.identity, given)
            if building is not None:
                catalog.remove_model(building.id)
            return active, catalog.add_model(given, "building")

    def _agree_on_scopes(self, folders: list[str], *, everything: bool) -> list[_Scope]:
        """Turns folders into parts of roots: none twice, none inside another, new ones added."""
        roots = self.catalog.roots()
        if everything:
            folders = [*(root.path for root in roots), *folders]
        if not folders:
            if not roots:
                raise NothingToIndexError("The library has no folders yet. Name one: `imago index FOLDER`.")
            return [_Scope(root, "") for root in roots]
        scopes: list[_Scope] = []
        distinct = list(dict.fromkeys(folders))
        for folder in distinct:
            if any(other != folder and relative_to_root(folder, other) is not None for other in distinct):
                continue
            home = next((root for root in roots if relative_to_root(folder, root.path) is not None), None)
            if home is not None:
                scopes.append(_Scope(home, relative_to_root(folder, home.path) or ""))
                continue
            if not os.path.isdir(folder):  # noqa: PTH112
                self.notices.append(f"There is no folder {display_path(folder)}; it was left out.")
                continue
            with self.catalog.transaction():
                new = self.catalog.add_root(folder)
                self.new_roots.append(new)
                for inner in roots:
                    prefix = relative_to_root(inner.path, folder)
                    if prefix is not None:
                        self.catalog.merge_root(inner, new, prefix)
            roots = self.catalog.roots()
            scopes.append(_Scope(new, ""))
        return scopes

    # scan and compare

    def _compare(self, scope: _Scope, tasks: list[_Task]) -> bool:
        """Scans a part of a root and sorts its files into unchanged, to do, and vanished.

        Returns:
            Whether the folder was there and seen to its end.
        """
        folder = scope.folder
        if self._is_offline(scope):
            self.offline.append(Path(folder))
            with self.catalog.transaction():
                self.catalog.mark_root(scope.root.id, is_online=False)
            return False
        before = self.counts.scanned

        def on_folder(files: int) -> None:
            self.counts.scanned = before + files
            self._report("scanning")

        own = {os.path.realpath(self.library / THUMBNAILS_NAME)}
        if os.path.realpath(self.library) != folder:
            own.add(os.path.realpath(self.library))
        scan = scan_folder(folder, skip=own, on_folder=on_folder, should_stop=self._is_stopping)
        self.counts.scanned = before + len(scan.files)
        prefix = f"{scope.prefix}/" if scope.prefix else ""
        known = self.catalog.files_of(scope.root.id)
        if scan.is_empty and known and self._is_unused_mount_point(scope):
            self.offline.append(Path(folder))
            with self.catalog.transaction():
                self.catalog.mark_root(scope.root.id, is_online=False)
            return False
        self.unreadable.extend(
            FileFailure(Path(join_root(folder, relative)), reason) for relative, reason in scan.unreadable
        )
        if scan.stopped:
            self.is_interrupted = True
            return False
        with self.catalog.transaction():
            self.catalog.mark_root(scope.root.id, is_online=True, device=_device(scope.root.path))
        tasks.extend(self._sort_files(scope.root, prefix, scan, known))
        self._note_vanished(prefix, scan, known)
        return True

    def _is_offline(self, scope: _Scope) -> bool:
        return not os.path.isdir(scope.folder)  # noqa: PTH112

    def _is_unused_mount_point(self, scope: _Scope) -> bool:
        """An empty folder on another device than the root was on: its disk is not mounted now."""
        return scope.root.device is not None and scope.root.device != _device(scope.folder)

    def _sort_files(
        self, root: KnownRoot, prefix: str, scan: Scan, known: dict[str, tuple[Any, ...]]
    ) -> list[_Task]:
        """Removes from `known` what the scan found; returns what is to be read.

        The loop runs once for every file of a library, so it unpacks tuples and calls nothing for those
        that are unchanged.
        """
        tasks = []
        unchanged = 0
        lacking = self._lacking
        for name, size_bytes, modified_ns, inode in scan.files:
            path = prefix + name if prefix else name
            row = known.pop(path, None)
            if row is None:
                tasks.append(_Task(root, path, (size_bytes, modified_ns, inode), None, False))
                continue
            _, known_size, known_modified, known_inode, read_ns, status, image_id, reason = row
            is_same = known_size == size_bytes and known_modified == modified_ns
            if lacking and image_id in lacking:
                tasks.append(_Task(root, path, (size_bytes, modified_ns, inode), KnownFile(*row), False))
            elif is_same and status == "indexed":
                # Another inode, or a file written so shortly before it was read that a later change may
                # carry the same time: the content decides, and usually it is the same.
                is_sure = known_inode == inode or known_inode == inode - _INODE_WRAP
                if is_sure and not -_RACY_NS < read_ns - known_modified < _RACY_NS:
                    unchanged += 1
                else:
                    tasks.append(_Task(root, path, (size_bytes, modified_ns, inode), KnownFile(*row), True))
            elif is_same and status == "skipped":
                self.counts.skipped += 1
            elif is_same and not self.retry_failed:
                self.counts.failed.append(
                    FileFailure(Path(join_root(root.path, path)), reason or "", is_new=False)
                )
            else:
                tasks.append(_Task(root, path, (size_bytes, modified_ns, inode), KnownFile(*row), False))
        self.counts.unchanged += unchanged
        return tasks

    def _note_vanished(self, prefix: str, scan: Scan, known: dict[str, tuple[Any, ...]]) -> None:
        """Notes what is left in `known`: gone, unless it lies where nobody could look."""
        hidden = tuple(f"{prefix}{relative}/" if relative else prefix for relative, _ in scan.unreadable)
        exact = {prefix + relative for relative, _ in scan.unreadable}
        for path, fields in known.items():
            if not path.startswith(prefix) or path in exact or (hidden and path.startswith(hidden)):
                continue
            row = KnownFile(*fields)
            self._vanished_rows[row.id] = row.status == "indexed"
            self._vanished_stats.add((row.size_bytes, row.modified_ns))
            if row.image_id is not None:
                self._vanished[row.image_id].append(row.id)

    def _guess_moves(self, tasks: list[_Task]) -> None:
        """Has files hashed before they are decoded that are as large and as old as one that vanished."""
        for task in tasks:
            if task.known is None and task.stat[:2] in self._vanished_stats:
                task.hash_only = True

    # decode, embed, commit

    def _work(self, tasks: list[_Task]) -> None:
        wake = threading.Event()
        with ExitStack() as stack:
            pool = stack.enter_context(
                DecodePool(
                    self.encoder.preprocessor,
                    self.limits,
                    min(self.workers, len(tasks)),
                    on_answer=wake.set,
                )
            )
            tower = stack.enter_context(_Tower(self.encoder, wake))
            self._last_commit = time.monotonic()
            self._loop(tasks, pool, tower, wake)

    def _loop(self, tasks: list[_Task], pool: DecodePool, tower: _Tower, wake: threading.Event) -> None:
        batch_size = self.encoder.batch_size
        following = 0
        again: deque[int] = deque()  # hashed and found to be new: to be decoded after all
        heavy: deque[int] = deque()  # so large that they are decoded one at a time
        heavy_now: int | None = None
        ready: list[_Task] = []
        ready_since = 0.0
        # Contents on their way through the tower: a copy that turns up meanwhile waits for the same vector.
        in_flight: dict[tuple[bytes, int], list[_Task]] = {}
        while True:
            if self._is_stopping():
                self.is_interrupted = True
            elif len(ready) < 2 * batch_size:
                if heavy and heavy_now is None:
                    heavy_now = heavy.popleft()
                    pool.submit(heavy_now, tasks[heavy_now].absolute, may_be_heavy=True)
                for _ in range(pool.room(len(tasks) - following)):
                    if again:
                        number = again.popleft()
                        pool.submit(number, tasks[number].absolute)
                    elif following < len(tasks):
                        task = tasks[following]
                        pool.submit(following, task.absolute, hash_only=task.hash_only)
                        following += 1
                    else:
                        break
            for answer in pool.collect(0):
                task = tasks[answer.task]
                if answer.task == heavy_now:
                    heavy_now = None
                if answer.status == "heavy":
                    heavy.append(answer.task)
                    continue
                if self._take(task, answer, in_flight):
                    ready_since = ready_since if ready else time.monotonic()
                    ready.append(task)
                elif answer.status == "hash" and task.answer is None:
                    task.hash_only = False
                    again.append(answer.task)
            for batch, vectors in tower.collect():
                self._take_vectors(batch, vectors, in_flight)
            now = time.monotonic()
            is_drained = following == len(tasks) and not again and not heavy and pool.open_tasks == 0
            while ready and tower.has_room:
                is_due = len(ready) >= batch_size or is_drained or now - ready_since > _PARTIAL_BATCH_SECONDS
                if not is_due:
                    break
                tower.submit(ready[:batch_size])
                del ready[:batch_size]
                ready_since = now
            if now - self._last_commit > _COMMIT_SECONDS:
                self._commit()
            self._report("indexing")
            if self.is_interrupted or (is_drained and not ready and tower.is_idle):
                return
            wake.wait(_PROGRESS_SECONDS)
            wake.clear()

    def _take(self, task: _Task, answer: Decoded, in_flight: dict[tuple[bytes, int], list[_Task]]) -> bool:
        """Decides what an answer means; returns whether the task's pixels go to the tower."""
        task.read_ns = time.time_ns()
        if answer.status not in {"image", "hash"}:
            task.answer = answer
            self._settle_unusable(task, answer)
            return False
        fields = answer.fields
        content = (bytes.fromhex(fields["hash"]), int(fields["size_bytes"]))
        known = self.catalog.find_image(*content, self.model.id)
        if (known is not None and known.has_vector) or content in in_flight:
            task.answer = answer
            task.stat = (fields["size_bytes"], fields["modified_ns"], fields["inode"])
            if content in in_flight:
                in_flight[content].append(task)
            else:
                self._uncommitted.append((task, None))
            return False
        if answer.status == "hash":
            return False
        task.answer = answer
        task.stat = (fields["size_bytes"], fields["modified_ns"], fields["inode"])
        in_flight[content] = []
        return True

    def _settle_unusable(self, task: _Task, answer: Decoded) -> None:
        if answer.status == "skipped":
            self.counts.skipped += 1
        elif answer.status == "vanished":
            self.counts.done += 1
            if task.known is not None:
                self._vanished_rows[task.known.id] = task.known.status == "indexed"
            return
        else:
            self.counts.failed.append(FileFailure(Path(task.absolute), answer.reason or "unknown"))
            if answer.status == "changed":
                task.stat = (
                    task.stat[0],
                    -1,
                    task.stat[2],
                )  # no file has this time: the next run tries again
        self.counts.done += 1
        self._uncommitted.append((task, None))

    def _take_vectors(
        self,
        batch: list[_Task],
        vectors: NDArray[np.float32],
        in_flight: dict[tuple[bytes, int], list[_Task]],
    ) -> None:
        valid = np.isfinite(vectors).all(axis=-1).reshape(-1)
        for task, vector, is_valid in zip(batch, vectors, valid, strict=True):
            copies = in_flight.pop(task.content)
            assert task.answer is not None  # noqa: S101
            if is_valid:
                self._uncommitted.append((task, vector))
                self._uncommitted.extend((copy, None) for copy in copies)
                continue
            for broken in (task, *copies):
                broken.answer = Decoded(
                    task.answer.task, "failed", "the model makes no valid vector of the image", {}, None
                )
                self._settle_unusable(broken, broken.answer)

    def _commit(self) -> None:
        """Writes all that is complete in one transaction."""
        self._last_commit = time.monotonic()
        if not self._uncommitted:
            return
        catalog = self.catalog
        touched: set[int] = set()
        linked: list[tuple[_Task, int, bool, bool]] = []
        with catalog.transaction():
            for task, vector in self._uncommitted:
                answer = task.answer
                assert answer is not None  # noqa: S101
                if task.known is not None and task.known.image_id is not None:
                    touched.add(task.known.image_id)
                if answer.status not in {"image", "hash"}:
                    status = "skipped" if answer.status == "skipped" else "failed"
                    catalog.put_file(
                        task.root.id,
                        task.path,
                        task.stat,
                        status,
                        reason=answer.reason or "unknown",
                        read_ns=task.read_ns,
                    )
                    continue
                content_hash, size_bytes = task.content
                known = catalog.find_image(content_hash, size_bytes, self.model.id)
                if known is None:
                    metadata = Metadata(**answer.fields["metadata"])
                    image_id = catalog.add_image(content_hash, size_bytes, answer.fields["format"], metadata)
                else:
                    image_id = known.id
                if vector is not None and (known is None or not known.has_vector):
                    catalog.add_vector(image_id, self.model.id, vector)
                catalog.put_file(
                    task.root.id, task.path, task.stat, "indexed", image_id=image_id, read_ns=task.read_ns
                )
                touched.add(image_id)
                linked.append((task, image_id, vector is not None, known is not None and known.is_gone))
            catalog.settle(touched)
        self._uncommitted.clear()
        for task, image_id, is_embedded, was_gone in linked:
            self._count_linked(task, image_id, is_embedded=is_embedded, was_gone=was_gone)

    def _count_linked(self, task: _Task, image_id: int, *, is_embedded: bool, was_gone: bool) -> None:
        counts = self.counts
        counts.done += 1
        counts.embedded += is_embedded
        if task.known is not None and task.known.image_id == image_id and not is_embedded:
            counts.unchanged += 1
        elif self._vanished.get(image_id):
            row = self._vanished[image_id].pop()
            self._vanished_rows[row] = False  # removed, but not as a loss
            counts.moved += 1
        elif was_gone:
            counts.restored += 1
        else:
            counts.indexed += 1

    # the end

    def _finish(self, scanned: list[_Scope]) -> None:
        """Takes away what has vanished, and notes the end of the run."""
        catalog = self.catalog
        with catalog.transaction():
            affected = catalog.images_of(self._vanished_rows)
            catalog.remove_files(self._vanished_rows)
            catalog.settle(affected)
            self.counts.removed = sum(self._vanished_rows.values())
            for scope in scanned:
                if not scope.prefix:
                    catalog.mark_root(scope.root.id, is_online=True, is_scanned=True)
            catalog.purge_gone((datetime.now(UTC) - timedelta(days=KEEP_GONE_DAYS)).isoformat())
            catalog.set_setting("last_run_at", now())
            lacking = bool(self._lacking) and bool(catalog.images_without_vector(self.model.id))
            catalog.set_setting("lacks_vectors", lacking)
            if lacking:
                self.notices.append(
                    "Some images have no vector of this model yet, because their folder is not there or their file"
                    " cannot be read now; a later run makes them."
                )

    # progress

    def _is_stopping(self) -> bool:
        return self.is_interrupted or (self._should_stop is not None and self._should_stop())

    def _report(self, phase: str, *, force: bool = False) -> None:
        if self._progress is None:
            return
        now = time.monotonic()
        if not force and now - self._last_progress < _PROGRESS_SECONDS:
            return
        self._last_progress = now
        counts = self.counts
        waiting = len(self._uncommitted)
        done = min(counts.done + waiting, counts.total)
        self._speed.append((now, done))
        while len(self._speed) > 2 and now - self._speed[0][0] > _SPEED_WINDOW_SECONDS:
            self._speed.popleft()
        (then, done_then) = self._speed[0]
        speed = (done - done_then) / (now - then) if now > then else 0.0
        left = counts.total - done
        self._progress(
            IndexProgress(
                phase=phase,
                done=done,
                total=counts.total,
                scanned=counts.scanned,
                indexed=counts.indexed + counts.moved + counts.restored,
                unchanged=counts.unchanged,
                failed=len(counts.failed),
                skipped=counts.skipped,
                images_per_second=speed,
                seconds_left=left / speed if speed > 0 else (0.0 if left == 0 else None),
            )
        )


class _Tower:
    """Runs the encoder in a thread of its own, a batch at a time."""

    def __init__(self, encoder: ImageEncoder, wake: threading.Event) -> None:
        self._encoder = encoder
        self._wake = wake
        self._batches: queue.SimpleQueue[list[_Task] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[list[_Task], Any]] = queue.SimpleQueue()
        self._open = 0
        self._stop = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="tower", daemon=True)
        self._thread.start()

    def __enter__(self) -> _Tower:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._batches.put(None)
        self._thread.join()

    @property
    def has_room(self) -> bool:
        return self._open < _BATCHES_AHEAD and self._error is None

    @property
    def is_idle(self) -> bool:
        return self._open == 0 and self._error is None

    def submit(self, batch: list[_Task]) -> None:
        self._open += 1
        self._batches.put(batch)

    def collect(self) -> list[tuple[list[_Task], NDArray[np.float32]]]:
        """Batches that are done; raises what the encoder raised."""
        done: list[tuple[list[_Task], NDArray[np.float32]]] = []
        while True:
            try:
                batch, result = self._results.get_nowait()
            except queue.Empty:
                if self._error is not None and not done:
                    raise self._error from None
                return done
            self._open -= 1
            if isinstance(result, BaseException):
                self._error = result
            else:
                done.append((batch, result))

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None and not self._stop:
            result: Any
            try:
                result = self._encoder.encode_pixels(np.stack([_pixels(task) for task in batch]))
            except BaseException as error:  # noqa: BLE001  (raised again in the main thread)
                result = error
            for task in batch:
                _drop_pixels(task)
            self._results.put((batch, result))
            self._wake.set()
            if isinstance(result, BaseException):
                return


def _pixels(task: _Task) -> NDArray[np.uint8]:
    assert task.answer is not None  # noqa: S101
    assert task.answer.pixels is not None  # noqa: S101
    return task.answer.pixels


def _drop_pixels(task: _Task) -> None:
    answer = task.answer
    assert answer is not None  # noqa: S101
    task.answer = Decoded(answer.task, answer.status, answer.reason, answer.fields, None)


def _device(path: str) -> str | None:
    try:
        return str(os.stat(path).st_dev)  # noqa: PTH116
    except OSError:
        return None


def _make_private_folder(library: Path) -> None:
    with translated(library):
        try:
            library.mkdir(mode=0o700, parents=True, exist_ok=True)
        except FileExistsError:
            raise LibraryNotWritableError(
                f"{display_path(library)} is a file, not a folder for a library. Name another with"
                f" `--library`."
            ) from None


def check_folders(library: Path, folders: list[str]) -> None:
    """Raises `NothingToIndexError` before anything is made, if no folder can be used."""
    own = os.path.realpath(library)
    for folder in folders:
        if (library / CATALOG_NAME).exists() and relative_to_root(folder, own) not in {None, ""}:
            raise NothingToIndexError(f"{display_path(folder)} belongs to the library itself.")
    if (library / CATALOG_NAME).exists():
        return
    if folders and not any(os.path.isdir(folder) for folder in folders):  # noqa: PTH112
        reasons = [
            f"{display_path(folder)} is a file, not a folder"
            if os.path.exists(folder)  # noqa: PTH110
            else f"there is no folder {display_path(folder)}"
            for folder in folders
        ]
        raise NothingToIndexError(f"Nothing to index: {'; '.join(reasons)}. Check the spelling.")
