"""Rows of a job as Parquet: a folder of shards that only grows, each put in place whole.

    FOLDER/
      imago.json             whose vectors these are
      rows-*.parquet         one row for each file; of two rows about a path, the later `written_at` counts

A shard is written beside its place and renamed, so a reader never meets half of one, and a killed job leaves at most
a file that nobody reads, which the next job deletes. Vectors are lists of fixed size of 32-bit floats.
"""

from __future__ import annotations

import json
import os
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from indexer.cluster.errors import ClusterPackagesMissingError, JobError
from indexer.errors import LibraryLockedError, ModelMismatchError
from indexer.paths import display_path, from_catalog, to_catalog
from model.identity import ModelIdentity

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from indexer.cluster.job import EmbeddedFile
    from indexer.cluster.sources import Source

ROWS_IN_SHARD: Final = 20_000
"""With 512 numbers in a vector 40 MB, which reads fast and is soon written."""
_PAGE: Final = "imago.json"
_UNFINISHED: Final = ".unfinished"
_SCHEMA_VERSION: Final = 1


class ParquetSink:
    """A folder of shards.

    Args:
        folder: Made where it is not there.
        identity: Whose vectors come.
        rows_in_shard: Rows after which a shard is written.
    """

    def __init__(
        self, folder: Path | str, identity: ModelIdentity, rows_in_shard: int = ROWS_IN_SHARD
    ) -> None:
        self._folder = Path(folder).expanduser().absolute()
        self._identity = identity
        self._rows_in_shard = rows_in_shard
        self._waiting: list[dict[str, Any]] = []
        self._known: dict[bytes, tuple[int, int]] = {}
        self._lock: Any = None

    @property
    def place(self) -> str:
        """The folder."""
        return display_path(self._folder)

    def __enter__(self) -> Self:
        """Takes the right to write, and looks what is there.

        Raises:
            LibraryLockedError: Another job writes there.
            ModelMismatchError: The rows are another model's.
            JobError: The folder holds something else, or cannot be written.
        """
        from filelock import FileLock, Timeout

        _pyarrow()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self._folder / "writer.lock", timeout=0)
            self._lock.acquire()
        except Timeout:
            raise LibraryLockedError(
                f"Another job writes into {self.place}. Wait for it to end, or stop it, and try again."
            ) from None
        except OSError as error:
            raise JobError(f"{self.place} cannot be written: {error.strerror or error}.") from error
        try:
            self._agree()
            for leftover in self._folder.glob(f"*{_UNFINISHED}"):
                leftover.unlink()
            self._read_known()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lock.release()

    def has(self, source: Source) -> bool:
        """Whether there is a row about the file as it is now."""
        return self._known.get(_key(source.path)) == (source.size_bytes, source.modified_ns)

    def add(self, file: EmbeddedFile) -> None:
        """Takes a row."""
        metadata = file.metadata
        self._waiting.append(
            {
                "path": _key(file.source.path),
                "size_bytes": file.source.size_bytes,
                "modified_ns": file.source.modified_ns,
                "status": file.status,
                "reason": file.reason,
                "content_hash": file.content_hash,
                "format": file.format,
                **{name: metadata.get(name) for name in _METADATA},
                "vector": None if file.vector is None else file.vector.tolist(),
                "written_at": datetime.now(UTC),
            }
        )
        if len(self._waiting) >= self._rows_in_shard:
            self.flush()

    def flush(self) -> None:
        """Writes a shard of all that waits."""
        if not self._waiting:
            return
        pyarrow, parquet = _pyarrow()
        table = pyarrow.Table.from_pylist(self._waiting, schema=_schema(pyarrow, self._identity.dimension))
        target = self._folder / f"rows-{uuid.uuid4().hex}.parquet"
        unfinished = target.with_suffix(_UNFINISHED)
        try:
            with unfinished.open("wb") as file:
                parquet.write_table(table, file, compression="zstd")
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(target)
        except OSError as error:
            with suppress(OSError):
                unfinished.unlink()
            raise JobError(
                f"{self.place} cannot be written: {error.strerror or error}. What is done is kept; make room and say"
                f" the same again."
            ) from error
        self._waiting.clear()

    def finish(self) -> None:
        """Shards say all there is to say."""

    def _agree(self) -> None:
        page = self._folder / _PAGE
        try:
            found = json.loads(page.read_text(encoding="utf-8"))
            identity = ModelIdentity.from_dict(found["identity"])
            schema = found["schema"]
        except FileNotFoundError:
            if any(self._folder.glob("*.parquet")):
                raise JobError(
                    f"{self.place} holds Parquet files and no {_PAGE}: they are none of ours. Name another folder."
                ) from None
            text = json.dumps({"schema": _SCHEMA_VERSION, "identity": self._identity.to_dict()}, indent=2)
            unfinished = page.with_suffix(_UNFINISHED)
            unfinished.write_text(text + "\n", encoding="utf-8")
            unfinished.replace(page)
            return
        except Exception as error:
            raise JobError(f"{self.place}/{_PAGE} cannot be read ({error}). Name another folder.") from error
        if schema != _SCHEMA_VERSION:
            raise JobError(f"{self.place} was written by another version of Imago. Name another folder.")
        if not identity.is_same_model(self._identity):
            raise ModelMismatchError(f"file://{self.place}", identity, self._identity)

    def _read_known(self) -> None:
        _, parquet = _pyarrow()
        newest: dict[bytes, Any] = {}
        for shard in sorted(self._folder.glob("rows-*.parquet")):
            try:
                table = parquet.read_table(
                    shard, columns=["path", "size_bytes", "modified_ns", "status", "written_at"]
                )
            except Exception as error:
                raise JobError(
                    f"{display_path(shard)} cannot be read ({' '.join(str(error).split())[:200]}). Move it away; the"
                    f" next job makes its rows anew."
                ) from error
            for row in table.to_pylist():
                if row["path"] in newest and newest[row["path"]] > row["written_at"]:
                    continue
                newest[row["path"]] = row["written_at"]
                if row["status"] in {"indexed", "skipped"}:
                    self._known[row["path"]] = (row["size_bytes"], row["modified_ns"])
                else:
                    self._known.pop(row["path"], None)


_METADATA: Final = (
    "width_pixels", "height_pixels", "taken_at", "camera_make", "camera_model", "latitude", "longitude",
)  # fmt: skip


def path_of(stored: bytes) -> str:
    """A row's path as the system knows it."""
    return from_catalog(stored)


def _key(path: str) -> bytes:
    stored = to_catalog(path)
    return stored.encode() if isinstance(stored, str) else stored


def _schema(pyarrow: Any, dimension: int) -> Any:
    return pyarrow.schema(
        [
            ("path", pyarrow.binary()),  # as bytes, because names need not be Unicode
            ("size_bytes", pyarrow.int64()),
            ("modified_ns", pyarrow.int64()),
            ("status", pyarrow.string()),
            ("reason", pyarrow.string()),
            ("content_hash", pyarrow.string()),
            ("format", pyarrow.string()),
            ("width_pixels", pyarrow.int32()),
            ("height_pixels", pyarrow.int32()),
            ("taken_at", pyarrow.string()),
            ("camera_make", pyarrow.string()),
            ("camera_model", pyarrow.string()),
            ("latitude", pyarrow.float64()),
            ("longitude", pyarrow.float64()),
            ("vector", pyarrow.list_(pyarrow.float32(), dimension)),
            ("written_at", pyarrow.timestamp("us", tz="UTC")),
        ]
    )


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa  # type: ignore[import-untyped]
        from pyarrow import parquet
    except ImportError as error:
        raise ClusterPackagesMissingError("pyarrow") from error
    return pa, parquet
