"""Brings a library up to date with its folders: compare, decode, embed, commit; the last three at once.

This is a run seen from above. Its rooms: `indexer.comparison` finds what is new, changed or gone,
`indexer.embedding` decodes and embeds it, `indexer.ledger` writes it, `indexer.upkeep` renews what is derived.

Everything that a commit holds is complete: an image, its vector and the file that holds it are written in
the same transaction. Killing the process therefore loses at most what was done since the last commit, and
the next run finds it missing and does it again.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from indexer.approximate_index import APPROXIMATE_SETTING, MINIMUM_VECTORS, BuildStoppedError
from indexer.catalog import Catalog, now
from indexer.catalog_file import translated
from indexer.comparison import Comparison, device_of
from indexer.decode import DecodeLimits, Preprocessor, decode, read_file
from indexer.derived_file import FileInUseError
from indexer.embedding import Embedding
from indexer.errors import (
    LibraryNotWritableError,
    ModelMismatchError,
    NothingToIndexError,
)
from indexer.ledger import Ledger
from indexer.lock import writer_lock
from indexer.paths import CATALOG_NAME, VECTORS_NAME, display_path, relative_to_root
from indexer.progress import ProgressReport
from indexer.records import IndexProgress, IndexSummary
from indexer.scan import below, comes_to, is_left_out
from indexer.stopwatch import Stopwatch
from indexer.tasks import Counts, Scope
from indexer.upkeep import (
    NOT_RENEWED,
    choose_approximate,
    delete_stale_thumbnails,
    renew_approximate_index,
    renew_vector_file,
    switch_model,
    usable_vector_file,
)
from model.machine import available_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from indexer.catalog import KnownRoot, StoredModel
    from indexer.cluster.embedding import RayEmbedding
    from indexer.tasks import Task
    from indexer.tower import ImageEncoder

# Vectors of images that are gone are kept so long: a disk that was away, a folder moved in two steps, a
# trash emptied too early cost no second embedding. Like the trash of most photo programs; `imago forget`
# does it at once.
KEEP_GONE_DAYS = 30


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
    approximate: bool | None = None,
    text_vectors: Callable[[], NDArray[np.float32]] | None = None,
    elsewhere: RayEmbedding | None = None,
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
            Files that are new get the vectors of the encoder in hand only, for two towers at once would take
            the memory and the time of both: until the switch, the old model finds them after a run of its own.
        approximate: True has the library answer through an approximate index from now on, False exactly;
            None leaves it as it is, which is exactly as long as that is fast enough.
        text_vectors: Gives embedded texts, float32 (n, dimension), with which an approximate index is
            measured while it is built. Pictures lie apart from texts, so without them it suits pictures only.
        elsewhere: Reads and embeds on other machines, which see the folders under the same paths.

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
            text_vectors=text_vectors,
            elsewhere=elsewhere,
        )
        if approximate is not None:
            choose_approximate(catalog, approximate)
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
        text_vectors: Callable[[], NDArray[np.float32]] | None,
        elsewhere: RayEmbedding | None,
    ) -> None:
        self.library = library
        self.catalog = catalog
        self.encoder = encoder
        self.limits = limits
        self.workers = workers
        self.retry_failed = retry_failed
        self.change_model = change_model
        self.text_vectors = text_vectors
        self.elsewhere = elsewhere
        self.counts = Counts()
        self.stopwatch = Stopwatch()
        self.notices: list[str] = []
        self.unusable: list[str] = []
        self.new_roots: list[KnownRoot] = []
        self.is_interrupted = False
        self._should_stop = should_stop
        self._progress = ProgressReport(self.counts, progress)

    def index(self, folders: list[str], started: float) -> IndexSummary:
        catalog, counts = self.catalog, self.counts
        was_changing = catalog.model("building") is not None
        self.active, self.model = self._agree_on_models()
        catalog.delete_orphaned_vectors()
        is_changing = self.active.id != self.model.id
        scopes = self._agree_on_scopes(folders, everything=is_changing)
        base, wrong = usable_vector_file(catalog, self.active)
        if wrong is not None:
            self.notices.append(f"{VECTORS_NAME} was not usable: {wrong}. It was made anew from the catalog.")
        lacking: set[int] = set()
        if not folders:  # such a run is what mends a library
            catalog.delete_orphaned_fingerprints()
            delete_stale_thumbnails(catalog)
            if unsettled := catalog.unsettled_images():
                with catalog.transaction():
                    catalog.settle(unsettled)
        # What an unfinished change of model found new has only its vectors, and no run with the active model yet.
        if not folders or is_changing or was_changing or catalog.setting("lacks_vectors"):
            lacking = catalog.images_without_vector(self.model.id)
        comparison = Comparison(
            self.library,
            catalog,
            counts,
            lacking=lacking,
            retry_failed=self.retry_failed,
            report=lambda: self._progress.tell("scanning"),
            should_stop=self._is_stopping,
        )
        ledger = Ledger(catalog, self.model, counts, comparison.vanished)
        scanned: list[Scope] = []
        try:
            with self.stopwatch.time("scan"):
                scanned.extend(scope for scope in scopes if comparison.look(scope))
                comparison.guess_moves()
            counts.total = len(comparison.tasks)
            if not self.is_interrupted and comparison.tasks:
                self._embed(comparison.tasks, ledger)
        except KeyboardInterrupt:
            self.is_interrupted = True
        finally:
            with self.stopwatch.time("catalog"):
                ledger.commit()  # whatever went wrong, complete work is kept
        try:
            self._progress.tell("finishing", force=True)
            if not self.is_interrupted:
                with self.stopwatch.time("catalog"):
                    self._finish(scanned, comparison, lacking)
            with self.stopwatch.time("vector index"):
                is_switching = is_changing and not self.is_interrupted
                try:
                    if is_switching:
                        base = switch_model(catalog, self.active, self.model)
                    else:
                        base = renew_vector_file(catalog, self.active, base)
                except FileInUseError:
                    self.notices.append(NOT_RENEWED)
                    base = None if is_switching else base
                if base is not None and not self.is_interrupted:
                    renew_approximate_index(catalog, base, self._watch_building, self.text_vectors)
                if base is not None and catalog.setting(APPROXIMATE_SETTING) and base.count < MINIMUM_VECTORS:
                    self.notices.append(
                        f"With fewer than {MINIMUM_VECTORS:,} images every search is exact and fast; the approximate"
                        " index is made once there are more."
                    )
            self._progress.tell("finishing", force=True)
        except (KeyboardInterrupt, BuildStoppedError):  # each step is whole or not done at all
            self.is_interrupted = True
        found = (
            counts.indexed,
            counts.unchanged,
            counts.moved,
            counts.restored,
            counts.removed,
            counts.failed,
        )
        if not any(found) and not self.is_interrupted and not comparison.offline:
            self._drop_new_roots()
            raise NothingToIndexError(self._say_nothing_found(scopes, comparison))
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
            offline_roots=comparison.offline,
            unreadable_folders=comparison.unreadable,
            notices=self.notices,
            interrupted=self.is_interrupted,
            seconds=time.monotonic() - started,
            stage_seconds=self.stopwatch.seconds,
        )

    def _embed(self, tasks: list[Task], ledger: Ledger) -> None:
        def report() -> None:
            self._progress.tell("indexing", waiting=len(ledger))

        if self.elsewhere is not None:
            self.elsewhere.run(
                tasks,
                self.encoder,
                ledger,
                self.stopwatch,
                limits=self.limits,
                report=report,
                should_stop=self._is_stopping,
            )
            return
        Embedding(
            self.encoder,
            ledger,
            self.stopwatch,
            limits=self.limits,
            workers=self.workers,
            report=report,
            should_stop=self._is_stopping,
        ).run(tasks)

    def _say_nothing_found(self, scopes: list[Scope], comparison: Comparison) -> str:
        if not scopes:
            return f"Nothing to index: {'; '.join(self.unusable)}. Check the spelling."
        places = ", ".join(display_path(scope.folder) for scope in scopes)
        if comparison.unreadable:
            first = comparison.unreadable[0]
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
                rows = self.catalog.files_below(root.id, "")
                affected = self.catalog.images_of(rows)
                self.catalog.remove_files(rows)
                self.catalog.settle(affected)
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
                    # What only that model has seen must be known even if this run is killed.
                    catalog.set_setting("lacks_vectors", True)
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

    def _agree_on_scopes(self, folders: list[str], *, everything: bool) -> list[Scope]:
        """Turns folders into parts of roots: none twice, none inside another, new ones added."""
        roots = self.catalog.roots()
        if everything:
            folders = [*(root.path for root in roots), *folders]
        if not folders:
            if not roots:
                raise NothingToIndexError("The library has no folders yet. Name one: `imago index FOLDER`.")
            return [Scope(root, "") for root in roots]
        scopes: list[Scope] = []
        distinct: list[str] = []
        for folder in folders:
            if not any(below(folder, other) == "" for other in distinct):
                distinct.append(folder)
        for folder in distinct:
            if any(other != folder and comes_to(other, folder) for other in distinct):
                continue
            alike = sorted(roots, key=lambda root: relative_to_root(folder, root.path) is None)
            home = next((root for root in alike if comes_to(root.path, folder)), None)
            inside = "" if home is None else below(folder, home.path) or ""
            # A folder of a root whose disk is away, or of which pictures are known, may come again.
            may_come = home is not None and (
                not os.path.isdir(home.path)  # noqa: PTH112
                or (not os.path.exists(folder) and self.catalog.files_below(home.id, inside))  # noqa: PTH110
            )
            if not os.path.isdir(folder) and not may_come:  # noqa: PTH112
                self.unusable.append(_why_unusable(folder))
                self.notices.append(f"{_capitalized(self.unusable[-1])}; it was left out.")
                continue
            if home is not None:
                scopes.append(Scope(home, inside))
                continue
            with self.catalog.transaction():
                new = self.catalog.add_root(folder)
                swallowed = [
                    (root, prefix)
                    for root in roots
                    if (prefix := below(root.path, folder)) and not is_left_out(folder, prefix)
                ]
                for inner, prefix in swallowed:
                    self.catalog.merge_root(inner, new, prefix, outer_device=device_of(folder))
            if not swallowed:  # one that holds what was known before is no mistake
                self.new_roots.append(new)
            roots = self.catalog.roots()
            scopes.append(Scope(new, ""))
        return scopes

    def _finish(self, scanned: list[Scope], comparison: Comparison, lacking: set[int]) -> None:
        """Takes away what has vanished, and notes the end of the run."""
        catalog = self.catalog
        with catalog.transaction():
            scanned = comparison.look_again(scanned)
            rows = comparison.vanished.rows
            affected = catalog.images_of(rows)
            catalog.remove_files(rows)
            catalog.settle(affected)
            self.counts.removed = sum(rows.values())
            for scope in scanned:
                if not scope.prefix:
                    catalog.mark_root(scope.root.id, is_online=True, is_scanned=True)
            purged = catalog.purge_gone((datetime.now(UTC) - timedelta(days=KEEP_GONE_DAYS)).isoformat())
            catalog.set_setting("last_run_at", now())
            still_lacking = bool(lacking) and bool(catalog.images_without_vector(self.model.id))
            catalog.set_setting("lacks_vectors", still_lacking)
            if still_lacking:
                self.notices.append(
                    "Some images have no vector of this model yet, because their folder is not there or their file"
                    " cannot be read now; a later run makes them."
                )
        if purged:
            delete_stale_thumbnails(catalog)

    def _watch_building(self, done: int, total: int) -> bool:
        self._progress.tell("building index", step=(done, total))
        return self._is_stopping()

    def _is_stopping(self) -> bool:
        if self._should_stop is not None and self._should_stop():
            self.is_interrupted = True
        return self.is_interrupted


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
        reasons = map(_why_unusable, folders)
        raise NothingToIndexError(f"Nothing to index: {'; '.join(reasons)}. Check the spelling.")


def _why_unusable(folder: str) -> str:
    if os.path.exists(folder):  # noqa: PTH110
        return f"{display_path(folder)} is a file, not a folder"
    return f"there is no folder {display_path(folder)}"


def _capitalized(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
