"""Is a library sound, and what can be saved of one that is not?

`examine` looks at everything and changes nothing. `recover` reads what can be read of a damaged catalog
into a new library; the damaged one is left exactly as it is.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sqlite3
import tempfile
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.approximate_index import APPROXIMATE_SETTING, ApproximateIndex, wants_approximate
from indexer.catalog import (
    HELD_GONE_IMAGES,
    IMAGES_WITHOUT_VECTOR,
    UNHELD_IMAGES,
    Catalog,
    let_sql_know_what_is_away,
    read_known_vector_file,
    read_model,
    read_setting,
    unpack_vectors,
)
from indexer.catalog_file import connect_for_reading, disk_full, is_full, translated
from indexer.derived_file import VectorFileError
from indexer.errors import LibraryDamagedError, LibraryNotFoundError, LibraryNotWritableError
from indexer.lock import writer_lock
from indexer.paths import (
    APPROXIMATE_NAME,
    CATALOG_NAME,
    VECTORS_NAME,
    catalog_time,
    display_path,
    from_catalog,
    join_root,
)
from indexer.reader import LibraryReader
from indexer.upkeep import renew_vector_file
from indexer.vector_index import Segment, read_info, verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

_SAMPLE_FILES = 2_000
_CHUNK_ROWS = 4_096
_QUERIES = 20
_NEIGHBOURS = 10
_LEAST_RECALL = 0.98
_NORM_TOLERANCE = 0.01  # half precision leaves a unit vector within a thousandth of length 1
_FINGERPRINTS_SINCE = 2  # the schema that brought their table
_MAX_PADDING = 1_000  # a header that states more than this is damaged itself
_REINDEX = "Run `imago index` without folders: it looks at all that the library knows and mends this."
_START_ANEW = "Move the library away and index again, or use a backup."


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What was looked at, in a few words.
        is_problem: Whether something is wrong with it.
        message: What was found.
        remedy: What to do about a problem, as a command where there is one.
    """

    name: str
    is_problem: bool
    message: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Recovery:
    """What `recover` saved.

    Attributes:
        library_path: The new library.
        roots: Folders saved.
        files: Files saved.
        images: Images saved.
        vectors: Vectors saved; images without one are embedded by the next run.
        lost: Sentences about what could not be read.
    """

    library_path: Path
    roots: int
    files: int
    images: int
    vectors: int
    lost: list[str]


def examine(library_path: Path | str, queries: NDArray[np.float32] | None = None) -> list[Finding]:
    """Looks whether catalog, vectors, index and files agree.

    Args:
        library_path: The library's folder.
        queries: Vectors to measure recall and latency with, float32 (n, dimension): embedded texts tell
            most, because texts and images lie apart. Without them, images of the library are used.

    Returns:
        One finding for each thing looked at, problems and all-clears.

    Raises:
        LibraryNotFoundError: There is no library.
        LibraryTooNewError: It was made by a newer version.
    """
    library = Path(library_path).expanduser().absolute()
    try:
        connection, notice = connect_for_reading(library)
    except LibraryDamagedError as error:
        return [Finding("catalog", True, str(error), _recover_command(library))]
    findings = [Finding("access", True, notice, "Make the library writable.")] if notice else []
    with closing(connection):
        try:
            findings += _examine_catalog(library, connection)
            if any(finding.is_problem for finding in findings):
                return findings
            findings += _examine_rows(connection)
            findings += _examine_vectors(connection)
            findings += _examine_vector_file(library, connection)
            findings += _examine_approximate_file(library, connection)
            findings += _examine_files(connection)
        except sqlite3.DatabaseError as error:
            message = f"{CATALOG_NAME} cannot be read throughout ({error})."
            return [*findings, Finding("catalog", True, message, _recover_command(library))]
    try:
        findings += _measure(library, queries)
    except LibraryDamagedError as error:  # what is said already need not be unsaid
        findings.append(Finding("search", True, str(error), _START_ANEW))
    return findings


def recover(library_path: Path | str, new_library_path: Path | str) -> Recovery:
    """Reads what can be read of a catalog into a new library.

    Args:
        library_path: The damaged library; it is not changed.
        new_library_path: A folder that is not there yet, or empty.

    Raises:
        LibraryNotFoundError: There is no catalog.
        LibraryNotWritableError: The new folder holds something, or cannot be made.
        LibraryLockedError: Another process writes the damaged library.
        LibraryDamagedError: Nothing at all can be read.
        DiskFullError: No room for the new library.
    """
    old, new = Path(library_path).expanduser().absolute(), Path(new_library_path).expanduser().absolute()
    if not (old / CATALOG_NAME).exists():
        raise LibraryNotFoundError(f"There is no library at {display_path(old)}.")
    if new.exists() and any(new.iterdir()):
        raise LibraryNotWritableError(
            f"{display_path(new)} is not empty. Name a folder that is not there yet."
        )
    with ExitStack() as stack:
        with translated(new):
            new.parent.mkdir(parents=True, exist_ok=True)
            # Where there must be room for the new library, and not in memory, as the system's own place may be.
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix=".imago-", dir=new.parent))
        copy = _padded_copy(old, Path(scratch), new)
        with closing(sqlite3.connect(copy, isolation_level=None)) as source:
            try:
                source.execute("SELECT count(*) FROM sqlite_master").fetchone()
            except sqlite3.DatabaseError as error:
                raise LibraryDamagedError(
                    f"Nothing can be read of {display_path(old / CATALOG_NAME)} ({error}). Index the folders again"
                    " into a new library."
                ) from error
            new.mkdir(mode=0o700, parents=True, exist_ok=True)
            with writer_lock(new), Catalog.open(new) as catalog:
                return _copy_all(source, catalog)


def _padded_copy(library: Path, scratch: Path, new: Path) -> Path:
    """Copies a catalog for a new library, log included, and gives it the length that its header states.

    SQLite refuses a file that was cut off; with zeros for the lost pages it reads all others.
    """
    copy = scratch / CATALOG_NAME
    log = library / (CATALOG_NAME + "-wal")
    with ExitStack() as stack:
        with suppress(LibraryNotWritableError):  # then nobody else writes it either
            stack.enter_context(writer_lock(library))
        try:
            shutil.copyfile(library / CATALOG_NAME, copy)
            if log.exists():
                shutil.copyfile(log, copy.with_name(log.name))
        except OSError as error:
            if is_full(error):
                raise disk_full(new) from error
            raise
    with copy.open("r+b") as file:
        header = file.read(32)
        page_bytes = int.from_bytes(header[16:18], "big")
        pages = int.from_bytes(header[28:32], "big")
        length = pages * (65_536 if page_bytes == 1 else page_bytes)
        if copy.stat().st_size < length <= _MAX_PADDING * copy.stat().st_size:
            file.truncate(length)
    return copy


def _examine_catalog(library: Path, connection: sqlite3.Connection) -> list[Finding]:
    wrong = [row[0] for row in connection.execute("PRAGMA integrity_check(5)")]
    if wrong != ["ok"]:
        message = f"{CATALOG_NAME} is damaged: {'; '.join(wrong)}."
        return [Finding("catalog", True, message, _recover_command(library))]
    broken = connection.execute("PRAGMA foreign_key_check").fetchall()
    if broken:
        message = f"{len(broken)} rows of {CATALOG_NAME} refer to rows that are not there."
        return [Finding("catalog", True, message, _recover_command(library))]
    size = (library / CATALOG_NAME).stat().st_size
    return [Finding("catalog", False, f"{CATALOG_NAME} is sound ({size / 2**20:.1f} MiB).")]


def _examine_rows(connection: sqlite3.Connection) -> list[Finding]:
    findings = []
    model = read_model(connection, "active")
    for what, message, remedy in (
        (UNHELD_IMAGES, "{} images count as present, but no file holds them.", _REINDEX),
        (HELD_GONE_IMAGES, "{} files hold images that count as gone.", _REINDEX),
        (
            IMAGES_WITHOUT_VECTOR,
            "{} images have no vector yet and cannot be found.",
            "Run `imago index` without folders once their disk is there.",
        ),
        (
            "vectors WHERE model_id NOT IN (SELECT id FROM models)",
            "{} vectors of a former model are left.",
            "The next `imago index` deletes them.",
        ),
    ):
        (count,) = connection.execute(
            f"SELECT count(*) FROM {what}",  # noqa: S608
            {"model_id": None if model is None else model.id},
        ).fetchone()
        if count:
            findings.append(Finding("rows", True, message.format(count), remedy))
    if not findings:
        (images,) = connection.execute("SELECT count(*) FROM images WHERE gone_at IS NULL").fetchone()
        findings.append(Finding("rows", False, f"{images} images, files and vectors agree."))
    failed = connection.execute("SELECT count(*) FROM files WHERE status = 'failed'").fetchone()[0]
    if failed:
        message = f"{failed} files could not be indexed."
        findings.append(
            Finding("failures", False, message, "`imago status` lists them; `imago index --retry-failed`")
        )
    return findings


def _examine_vectors(connection: sqlite3.Connection) -> list[Finding]:
    model = read_model(connection, "active")
    if model is None:
        return [Finding("vectors", False, "Nothing is indexed yet.")]
    dimension = model.identity.dimension
    cursor = connection.execute("SELECT image_id, vector FROM vectors WHERE model_id = ?", (model.id,))
    bad = count = 0
    while rows := cursor.fetchmany(_CHUNK_ROWS):
        whole = [row for row in rows if len(row[1]) == 2 * dimension]
        bad += len(rows) - len(whole)
        _, codes = unpack_vectors(whole, dimension)
        norms = np.linalg.norm(codes.astype(np.float32), axis=1)
        bad += int(np.count_nonzero(~(np.abs(norms - 1) < _NORM_TOLERANCE)))
        count += len(rows)
    if bad:
        message = f"{bad} of {count} vectors are no unit vectors of {dimension} numbers."
        return [Finding("vectors", True, message, _START_ANEW)]
    return [Finding("vectors", False, f"{count} vectors of {model.identity.name}, {dimension} numbers each.")]


def _examine_vector_file(library: Path, connection: sqlite3.Connection) -> list[Finding]:
    model = read_model(connection, "active")
    if model is None:
        return []
    path = library / VECTORS_NAME
    try:
        info = read_info(path)
        wrong = info.mismatch(read_known_vector_file(connection), model.id)
        if wrong is None:
            verify(path, info)
            wrong = _compare_vectors(connection, Segment.from_file(path, info), model.id)
    except VectorFileError as error:
        wrong = str(error)
    if wrong is not None:
        message = f"{VECTORS_NAME} is not usable: {wrong}. Searching works without it, more slowly."
        return [Finding("index", True, message, _REINDEX)]
    (added,) = connection.execute(
        "SELECT count(*) FROM vectors WHERE sequence > ? AND model_id = ?", (info.sequence, model.id)
    ).fetchone()
    (departed,) = connection.execute("SELECT count(*) FROM departed").fetchone()
    return [
        Finding(
            "index",
            False,
            f"{VECTORS_NAME} holds {info.count} vectors ({path.stat().st_size / 2**20:.1f} MiB), byte for byte those"
            f" of the catalog; {added} were added since, {departed} have gone.",
        )
    ]


def _examine_approximate_file(library: Path, connection: sqlite3.Connection) -> list[Finding]:
    """Whether vectors.ann is there where it should be, whole, and holds each vector of vectors.faiss once."""
    path = library / APPROXIMATE_NAME
    try:
        base = read_info(library / VECTORS_NAME)
    except VectorFileError:
        return []  # said already
    if not wants_approximate(read_setting(connection, APPROXIMATE_SETTING), base.count, base.dimension):
        return []
    try:
        index = ApproximateIndex.from_file(path, base)
        wrong = "" if index.is_complete() else "it does not hold each vector once"
    except VectorFileError as error:
        wrong = str(error)
    if wrong:
        message = f"{APPROXIMATE_NAME} is not usable: {wrong}. Searching works without it, more slowly."
        return [Finding("approximate index", True, message, _REINDEX)]
    size = path.stat().st_size / 2**20
    message = f"{APPROXIMATE_NAME} holds {index.describe()} ({size:.1f} MiB)."
    return [Finding("approximate index", False, message)]


def _compare_vectors(connection: sqlite3.Connection, segment: Segment, model_id: int) -> str | None:
    """Every vector of the file against its row; None if they agree."""
    cursor = connection.execute("SELECT image_id, vector FROM vectors WHERE model_id = ?", (model_id,))
    while rows := cursor.fetchmany(_CHUNK_ROWS):
        dimension = segment.codes.shape[1]
        # Those of another length are told by the look at the vectors themselves.
        ids, codes = unpack_vectors([row for row in rows if len(row[1]) == 2 * dimension], dimension)
        at, valid = segment.positions(ids)
        # Bytes are compared, because a number that is none differs from itself.
        if not np.array_equal(segment.codes[at[valid]].view(np.uint16), codes[valid].view(np.uint16)):
            return "it holds other vectors than the catalog"
    return None


def _examine_files(connection: sqlite3.Connection) -> list[Finding]:
    let_sql_know_what_is_away(connection)
    rows = connection.execute(
        "SELECT roots.path, files.path, size_bytes, modified_ns FROM files JOIN roots ON roots.id = root_id"
        " WHERE status = 'indexed' AND is_online AND NOT imago_away(root_id, files.path)"
        " ORDER BY random() LIMIT ?",
        (_SAMPLE_FILES,),
    ).fetchall()
    missing = changed = 0
    for root, path, size_bytes, modified_ns in rows:
        try:
            found = os.stat(join_root(from_catalog(root), from_catalog(path)))  # noqa: PTH116  (any bytes)
        except OSError:
            missing += 1
            continue
        changed += (found.st_size, catalog_time(found.st_mtime_ns)) != (size_bytes, modified_ns)
    if missing or changed:
        message = f"Of {len(rows)} files looked at, {missing} are not there and {changed} have changed since."
        return [Finding("files", True, message, _REINDEX)]
    return [Finding("files", False, f"All of {len(rows)} files looked at are as they were indexed.")]


def _measure(library: Path, queries: NDArray[np.float32] | None) -> list[Finding]:
    """Recall of the index against all scores computed in double precision, and latency."""
    with LibraryReader.open(library) as reader:
        ids = reader.ids()
        if not len(ids):
            return []
        are_texts = queries is not None
        if queries is None:
            queries = reader.vectors(
                np.random.default_rng(0).choice(ids, min(_QUERIES, len(ids)), replace=False)
            )
        kind = "the approximate index" if reader.is_approximate else "the exact index"
        hits = wanted = 0
        times = []
        exact = _exact_neighbours(reader, ids, queries[:_QUERIES])
        for query, expected in zip(queries[:_QUERIES], exact, strict=True):
            started = time.perf_counter()
            _, found = reader.nearest(query[None], _NEIGHBOURS)
            times.append(time.perf_counter() - started)
            hits += len(set(found[0].tolist()) & set(expected))
            wanted += len(expected)
    recall = hits / max(1, wanted)
    asked_with = "texts" if are_texts else "images of the library"
    message = (
        f"recall@{_NEIGHBOURS} of {kind} against all scores {recall:.4f} over {len(times)} {asked_with} as"
        f" queries; median {np.median(times) * 1e3:.1f} ms a query."
    )
    if recall >= _LEAST_RECALL:
        return [Finding("search", False, message)]
    remedy = _REINDEX
    if kind == "the approximate index":
        remedy = "Search exactly, `imago index --no-ann`; then `imago index --ann` makes the index anew."
    return [Finding("search", True, message, remedy)]


def _exact_neighbours(
    reader: LibraryReader, ids: NDArray[np.int64], queries: NDArray[np.float32]
) -> list[list[int]]:
    best: list[tuple[NDArray[np.float64], NDArray[np.int64]]] = [(np.empty(0), np.empty(0, np.int64))] * len(
        queries
    )
    for start in range(0, len(ids), 65_536):
        part = ids[start : start + 65_536]
        scores = reader.vectors(part).astype(np.float64) @ queries.astype(np.float64).T
        for number in range(len(queries)):
            all_scores = np.concatenate([best[number][0], scores[:, number]])
            all_ids = np.concatenate([best[number][1], part])
            order = np.lexsort((all_ids, -all_scores))[:_NEIGHBOURS]
            best[number] = all_scores[order], all_ids[order]
    return [found.tolist() for _, found in best]


def _copy_all(source: sqlite3.Connection, catalog: Catalog) -> Recovery:
    lost: list[str] = []
    tables = ["settings", "models", "roots", "images", "files", "vectors"]
    (version,) = source.execute("PRAGMA user_version").fetchone()
    if version >= _FINGERPRINTS_SINCE:
        tables.append("fingerprints")
    with catalog.salvaging():
        for table in tables:
            lost += _copy_table(source, catalog, table)
        with catalog.transaction():
            dropped = catalog.tidy_after_salvage()
    lost += [
        f"{what}: {number} rows were left without what they belong to."
        for what, number in dropped.items()
        if number
    ]
    active = catalog.model("active")
    if active is None:
        lost.append("The model's identity is lost: the vectors are of no use and will be made again.")
    else:
        renew_vector_file(catalog, active, None)
    roots, files, images, vectors = (
        catalog.count(table) for table in ("roots", "files", "images", "vectors")
    )
    return Recovery(catalog.library_path, roots, files, images, vectors, lost)


def _copy_table(source: sqlite3.Connection, catalog: Catalog, table: str) -> list[str]:
    """Copies what can be read of a table; returns a sentence about what cannot."""
    columns = catalog.columns_of(table)
    missing = 0

    def count_missing(rows: int) -> None:
        nonlocal missing
        missing += rows

    for chunk in _in_groups(_readable_rows(source, table, columns, count_missing)):
        with catalog.transaction():
            catalog.salvage(table, columns, chunk)
    return [f"{table}: about {missing} rows could not be read."] if missing else []


def _readable_rows(
    source: sqlite3.Connection, table: str, columns: list[str], count_missing: Callable[[int], None]
) -> Iterator[tuple[Any, ...]]:
    """All rows of a table that SQLite can still reach, by halving the ranges that it cannot."""
    listed = ", ".join(columns)
    if table == "settings":
        try:
            yield from source.execute("SELECT key, value FROM settings").fetchall()
        except sqlite3.DatabaseError:
            count_missing(1)
        return
    ranges = [(1, _last_row(source, table))]
    while ranges:
        low, high = ranges.pop()
        if high < low:
            continue
        if high - low >= _CHUNK_ROWS:
            middle = (low + high) // 2
            ranges += [(middle + 1, high), (low, middle)]
            continue
        try:
            rows = source.execute(
                f"SELECT {listed} FROM {table} WHERE rowid BETWEEN ? AND ? ORDER BY rowid",  # noqa: S608
                (low, high),
            ).fetchall()
        except sqlite3.DatabaseError:
            if low == high:
                count_missing(1)
            else:
                middle = (low + high) // 2
                ranges += [(middle + 1, high), (low, middle)]
            continue
        yield from rows


def _last_row(source: sqlite3.Connection, table: str) -> int:
    """The highest row that there can be, from whatever can still be read."""
    guesses = [0]
    for question in (
        f"SELECT max(rowid) FROM {table}",  # noqa: S608
        f"SELECT seq FROM sqlite_sequence WHERE name = '{table}'",  # noqa: S608
        "SELECT 4 * seq FROM sqlite_sequence WHERE name = 'images'",
    ):
        try:
            row = source.execute(question).fetchone()
        except sqlite3.DatabaseError:
            continue
        if row and row[0]:
            guesses.append(int(row[0]))
            if "sqlite_sequence" not in question:
                break
    return max(guesses) or 10_000


def _in_groups(rows: Iterator[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    group = []
    for row in rows:
        group.append(row)
        if len(group) == _CHUNK_ROWS:
            yield group
            group = []
    if group:
        yield group


def _recover_command(library: Path) -> str:
    path = display_path(library)
    return shlex.join(["imago", "doctor", "--recover", f"{path}-recovered", "--library", path])
