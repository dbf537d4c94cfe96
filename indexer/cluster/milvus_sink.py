"""Rows of a job straight into a collection, without a library in between.

An image is its content here, too: its id is the first 63 bits of its SHA-256, so writing it twice is writing it once,
on whichever machine. Two contents with the same 63 bits would be refused, not mixed: among 100 million images the
chance of one such pair is one in two thousand.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from indexer.cluster.collection import Manifest, PublishedCollection
from indexer.cluster.connection import MilvusConnection
from indexer.cluster.encoding import SEPARATOR, decode_all, encode
from indexer.cluster.errors import CollectionForeignError, CollectionNotFoundError
from indexer.cluster.expressions import EVERYTHING
from indexer.cluster.lease import HeldLease
from indexer.cluster.rows import SCHEMA_VERSION, Copy, PublishedImage, publication_number, row_of
from indexer.errors import ModelMismatchError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from indexer.cluster.address import MilvusAddress
    from indexer.cluster.job import EmbeddedFile
    from indexer.cluster.sources import Source
    from model.identity import ModelIdentity

_ROWS_AT_ONCE: Final = 500
_JOB: Final = "job"
"""In the place of a library's id: a collection is filled by jobs or by a library, never by both."""


class MilvusSink:
    """A collection that jobs fill.

    Args:
        address: Where.
        token: For the server.
        identity: Whose vectors come.
        places: Where they come from; what is there from elsewhere is not read, so that a job costs what its own
            part of a large collection costs.
        index: Of the collection, when it is made.
    """

    def __init__(
        self,
        address: MilvusAddress,
        token: str,
        identity: ModelIdentity,
        places: Sequence[str],
        *,
        index: str = "hnsw",
    ) -> None:
        self._address = address
        self._token = token
        self._identity = identity
        self._places = places
        self._index = index
        self._new_files = 0
        self._waiting: list[EmbeddedFile] = []
        self._known: dict[str, tuple[int, int, int]] = {}
        self._failed = 0
        self._skipped = 0

    @property
    def place(self) -> str:
        """The address."""
        return str(self._address)

    def __enter__(self) -> Self:
        """Takes the right to write, and looks what is there.

        Raises:
            PublisherBusyError: Another publisher or job writes there.
            ModelMismatchError: The rows are another model's.
            CollectionForeignError: It was filled by something else.
        """
        self._connection = MilvusConnection.open(self._address, self._token)
        self._collection = PublishedCollection(self._connection)
        try:
            existing = self._agree()
            self._collection.create_pages()
            self._lease = HeldLease(self._collection)
            self._lease.__enter__()
        except BaseException:
            self._connection.close()
            raise
        try:
            self._begin(existing)
            self._read_known()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lease.__exit__()
        self._connection.close()

    def has(self, source: Source) -> bool:
        """Whether there is a row about the file as it is now."""
        known = self._known.get(source.path)
        return known is not None and known[:2] == (source.size_bytes, source.modified_ns)

    def add(self, file: EmbeddedFile) -> None:
        """Takes a row. Failures are counted, not kept: a collection holds images."""
        if file.vector is None:
            self._failed += file.status != "skipped"
            self._skipped += file.status == "skipped"
            return
        self._waiting.append(file)
        if len(self._waiting) >= _ROWS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Writes all that waits."""
        self._lease.keep()
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        images: dict[int, dict[str, Copy]] = {}
        files: dict[int, EmbeddedFile] = {}
        left: dict[int, set[str]] = {}
        for file in waiting:
            number = int(file.content_hash[:16], 16) >> 1
            known = self._known.get(file.source.path)
            if known is not None and known[2] != number:
                left.setdefault(known[2], set()).add(file.source.path)  # the file held another image before
            files[number] = file
            images.setdefault(number, {})[file.source.path] = Copy(
                file.source.path, True, file.source.modified_ns
            )
        there = self._stored([*images, *left])
        rows: list[dict[str, Any]] = []
        gone: list[int] = []
        for number, copies in images.items():
            file, old = files[number], there.get(number)
            if old is not None and old["content_hash"] != file.content_hash:
                self._failed += 1
                continue
            merged = {copy.path: copy for copy in _copies(old)} | copies if old is not None else copies
            for path in left.get(number, ()):
                merged.pop(path, None)
            rows.append(self._row(file, number, list(merged.values())))
        for number, paths in left.items():
            if number in images or number not in there:
                continue
            old = there[number]
            staying = [copy for copy in _copies(old) if copy.path not in paths]
            if staying:
                rows.append(_with_copies(old, staying))
            else:
                gone.append(number)
        self._connection.upsert(self._address.collection, rows)
        self._connection.delete(self._address.collection, gone)
        for number, copies in images.items():
            for copy in copies.values():
                size = files[number].source.size_bytes
                self._new_files += copy.path not in self._known
                self._known[copy.path] = (size, copy.modified_ns, number)

    def finish(self) -> None:
        """Says that everything is there."""
        moment = _now()
        self._connection.call("flush", self._address.collection)  # only rows that are sealed get an index
        manifest = self._collection.manifest()
        self._collection.write_manifest(
            replace(
                manifest,
                state="complete",
                images=self._connection.count(self._address.collection, EVERYTHING),
                changed_at=moment,
                completed_at=moment,
                last_run_at=moment,
                files=manifest.files + self._new_files,
                failed=self._failed,
                skipped=self._skipped,
            )
        )

    def _agree(self) -> Manifest | None:
        try:
            manifest = self._collection.manifest()
        except CollectionNotFoundError:
            return None
        except CollectionForeignError:
            if self._connection.has(self._address.collection) or self._collection.pages(["manifest"]):
                raise
            return None
        if manifest.library_id != _JOB:
            raise CollectionForeignError(
                f"The collection {self._address} is published from the library {manifest.library}; a job needs one of"
                f" its own. Name another."
            )
        if not manifest.model.is_same_model(self._identity):
            raise ModelMismatchError(str(self._address), manifest.model, self._identity)
        return manifest

    def _begin(self, existing: Manifest | None) -> None:
        if existing is not None and not self._connection.has(self._address.collection):
            existing = None
        moment, identity = _now(), self._identity.to_dict()
        if existing is None:
            self._publication = publication_number(identity, _JOB, f"{moment} {time.monotonic_ns()}")
            manifest = Manifest(
                schema=SCHEMA_VERSION,
                publication=self._publication,
                library_id=_JOB,
                library="",
                identity=identity,
                index=self._index,
                state="publishing",
                images=0,
                created_at=moment,
                changed_at=moment,
            )
        else:
            self._publication = existing.publication
            manifest = replace(existing, state="publishing", changed_at=moment)
        self._collection.write_manifest(manifest)
        self._collection.create_rows(self._identity.dimension, manifest.index, 1_000_000, 1, 1)

    def _read_known(self) -> None:
        starts = [
            place.rstrip("/") + "/" if "://" in place else os.path.realpath(Path(place).expanduser()) + os.sep
            for place in self._places
        ]
        below = " or ".join(
            f'paths like "%{SEPARATOR}{encode(os.path.normcase(start))}%"' for start in starts
        )
        for page in self._connection.all_rows(
            self._address.collection, below or EVERYTHING, ["id", "size_bytes", "paths", "record"]
        ):
            for row in page:
                for copy in _copies(row):
                    self._known[copy.path] = (int(row["size_bytes"]), copy.modified_ns, int(row["id"]))

    def _stored(self, ids: list[int]) -> dict[int, dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        for start in range(0, len(ids), _ROWS_AT_ONCE):
            listed = ", ".join(map(str, ids[start : start + _ROWS_AT_ONCE]))
            for row in self._connection.rows(self._address.collection, f"id in [{listed}]", ["*"]):
                found[int(row["id"])] = row
        return found

    def _row(self, file: EmbeddedFile, number: int, copies: list[Copy]) -> dict[str, Any]:
        metadata = dict(file.metadata)
        oldest = min(copy.modified_ns for copy in copies)
        taken = metadata["taken_at"]
        image = PublishedImage(
            id=number,
            content_hash=file.content_hash,
            size_bytes=file.source.size_bytes,
            format=file.format,
            **metadata,
            moment=taken[:19] if taken else _local_moment(oldest),
            copies=tuple(copies),
        )
        assert file.vector is not None  # noqa: S101
        # Halves, as a library keeps them, so that a picture scores the same wherever it is asked for.
        vector = file.vector.astype(np.float16).astype(np.float32)
        return {**row_of(image), "publication": self._publication, "vector": vector.tolist()}


def _copies(row: dict[str, Any]) -> list[Copy]:
    moments = json.loads(row["record"])["modified"]
    return [Copy(path, True, moment) for path, moment in zip(decode_all(row["paths"]), moments, strict=False)]


def _with_copies(row: dict[str, Any], copies: list[Copy]) -> dict[str, Any]:
    """The row of an image that has lost some of its files."""
    more = json.loads(row["record"])
    image = PublishedImage(
        id=int(row["id"]),
        content_hash=row["content_hash"],
        size_bytes=int(row["size_bytes"]),
        width_pixels=int(row["width"]),
        height_pixels=int(row["height"]),
        format=row["format"],
        taken_at=more["taken_at"],
        camera_make=more["make"],
        camera_model=more["model"],
        latitude=float(row["latitude"]) if row["has_place"] else None,
        longitude=float(row["longitude"]) if row["has_place"] else None,
        moment=more["taken_at"][:19]
        if more["taken_at"]
        else _local_moment(min(c.modified_ns for c in copies)),
        copies=tuple(copies),
    )
    return {
        **row_of(image),
        "publication": int(row["publication"]),
        "vector": list(map(float, row["vector"])),
    }


def _local_moment(modified_ns: int) -> str:
    try:
        return datetime.fromtimestamp(modified_ns // 10**9).isoformat()[:19]
    except (ValueError, OSError, OverflowError):  # a clock that was far off
        return ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
