"""Fills a collection from a library, or brings it up to date: only what changed since travels.

Ids are looked at in blocks. The collection's page keeps, for every block, a hash over the rows that it held when it
was last written; a block whose hash is still the library's needs no look at the server's rows. Of any other block the
server's fingerprints are read, and what is new, changed or gone is written. Before that its hash is taken out of the
page, and put back when all is acknowledged: whoever is killed in between leaves a block without a hash, which the
next publication looks at again. So publishing twice, or half and then again, ends in the same rows.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from indexer.catalog import read_copies, read_model, read_setting, unpack_vectors
from indexer.catalog_file import connect_for_reading, translated
from indexer.cluster.address import MilvusAddress, token
from indexer.cluster.collection import Manifest, PublishedCollection
from indexer.cluster.connection import MilvusConnection
from indexer.cluster.errors import CollectionForeignError, CollectionNotFoundError
from indexer.cluster.lease import LEASE_SECONDS, HeldLease
from indexer.cluster.rows import (
    SCHEMA_VERSION,
    Copy,
    PublishedImage,
    blocks_hash,
    copies_left_out,
    publication_number,
    row_of,
)
from indexer.errors import LibraryError, ModelMismatchError
from indexer.paths import display_path, from_catalog, join_root
from indexer.reader import LibraryReader
from indexer.selection import MOMENT

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from indexer.records import LibraryStatus
    from model.identity import ModelIdentity

BLOCK_IDS: Final = 16_384
_ROWS_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class PublishSummary:
    """How a publication went.

    Attributes:
        place: The address.
        images: Rows that the collection holds now.
        written: Rows that were new or changed.
        deleted: Rows that were taken out.
        unchanged: Rows that were as they should be.
        blocks_looked_at: Blocks of ids whose rows were compared with the server's.
        notices: Sentences that people should read.
        interrupted: True if it was stopped; the next one goes on from there.
        seconds: Duration.
    """

    place: str
    images: int
    written: int
    deleted: int
    unchanged: int
    blocks_looked_at: int
    notices: list[str]
    interrupted: bool
    seconds: float


def publish(
    library_path: Path | str,
    address_text: str,
    *,
    index: str = "hnsw",
    shards: int = 1,
    replicas: int = 1,
    token_file: Path | None = None,
    lease_seconds: float = LEASE_SECONDS,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> PublishSummary:
    """Brings a collection up to date with a library; makes it where there is none.

    Args:
        library_path: The library's folder.
        address_text: See `indexer.cluster.address`.
        index: `hnsw`, `ivf_sq8` or `flat`; another one than the collection has is built anew.
        shards: Parts that the server may write at once; only when the collection is made.
        replicas: Copies that it may search.
        token_file: Holds the token; the environment is asked where it is None.
        lease_seconds: How long the right to write outlives a publisher that was killed.
        progress: Called after every block with images done and images in all.
        should_stop: Asked between writes; once it says True, the publication ends, and can be gone on with.

    Raises:
        LibraryNotFoundError, LibraryDamagedError, LibraryTooNewError: The library cannot be read.
        ModelMismatchError: The collection holds another model's vectors.
        CollectionForeignError: It belongs to another library, or was not made by this.
        PublisherBusyError: Another publisher writes it.
        LibraryError: The library is empty, or the server says no; see `indexer.cluster.errors`.
    """
    started = time.monotonic()
    address = MilvusAddress.parse(address_text)
    folder = Path(library_path).expanduser().absolute()
    with LibraryReader.open(folder) as reader:
        status = reader.status()
    if status.model is None:
        raise LibraryError(
            f"The library {display_path(folder)} holds no images to publish yet. `imago index FOLDER` adds some."
        )
    connection = MilvusConnection.open(address, token(token_file))
    source: sqlite3.Connection | None = None
    try:
        source, _ = connect_for_reading(folder)
        collection = PublishedCollection(connection)
        with translated(folder, system_errors=False):
            run = _Run(
                folder,
                source,
                collection,
                status=status,
                model=status.model,
                index=index,
                progress=progress,
                should_stop=should_stop,
            )
            return run.publish(started, shards, replicas, lease_seconds)
    finally:
        if source is not None:
            source.close()
        connection.close()


class _Run:
    def __init__(
        self,
        folder: Path,
        source: sqlite3.Connection,
        collection: PublishedCollection,
        *,
        status: LibraryStatus,
        model: ModelIdentity,
        index: str,
        progress: Callable[[int, int], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self.folder = folder
        self.source = source
        self.collection = collection
        self.status = status
        self.model = model
        self.index = index
        self.progress = progress
        self.should_stop = should_stop
        self.written = self.deleted = self.unchanged = self.looked_at = self.done = self.left_out = 0
        self.is_interrupted = False

    def publish(self, started: float, shards: int, replicas: int, lease_seconds: float) -> PublishSummary:
        self._agree()  # before anything is made
        collection = self.collection
        collection.create_pages()
        with HeldLease(collection, lease_seconds) as lease:
            existing = self._agree()
            if not collection.connection.has(collection.name):
                # It was dropped, or never made: what the page says of its blocks is void.
                for first in collection.blocks():
                    collection.remove_page(f"block/{first}")
                existing = None
            manifest = self._begin(existing)
            collection.create_rows(self.model.dimension, self.index, self.status.images, shards, replicas)
            known = collection.blocks()
            first_ids = sorted({*self._local_blocks(), *known})
            for first in first_ids:
                if self._is_stopping():
                    break
                self._publish_block(first, known.get(first, ""), manifest.publication, lease)
                if self.progress is not None:
                    self.progress(min(self.done, self.status.images), self.status.images)
            if self.written or self.deleted:
                # Only rows that are sealed get an index; without this they would wait for the next ones to come.
                collection.connection.call("flush", collection.name)
            if not self.is_interrupted:
                moment = _now()
                manifest = replace(
                    manifest,
                    state="complete",
                    images=self.written + self.unchanged,
                    changed_at=moment,
                    completed_at=moment,
                    copies_left_out=self.left_out,
                )
                collection.write_manifest(manifest)
        notices = []
        if self.left_out:
            notices.append(
                f"{self.left_out:,} files found no room in the row of their image: filters by folder and name do not"
                f" see these copies there."
            )
        return PublishSummary(
            place=str(collection.connection.address),
            images=self.written + self.unchanged,
            written=self.written,
            deleted=self.deleted,
            unchanged=self.unchanged,
            blocks_looked_at=self.looked_at,
            notices=notices,
            interrupted=self.is_interrupted,
            seconds=time.monotonic() - started,
        )

    def _agree(self) -> Manifest | None:
        """What the collection is now, if it may be written; None where there is none.

        Raises:
            ModelMismatchError: It holds another model's vectors.
            CollectionForeignError: It belongs to another library.
        """
        try:
            manifest = self.collection.manifest()
        except CollectionNotFoundError:
            return None
        except CollectionForeignError:
            # The page may be there and still empty: a publisher was killed between making and writing it.
            if self.collection.connection.has(self.collection.name) or self.collection.pages(["manifest"]):
                raise
            return None
        address = self.collection.connection.address
        if manifest.library_id != self._library_id():
            raise CollectionForeignError(
                f"The collection {address} holds the library {manifest.library or 'of a job'}, not"
                f" {display_path(self.folder)}. Publish to another collection."
            )
        if not manifest.model.is_same_model(self.model):
            raise ModelMismatchError(str(address), manifest.model, self.model)
        return manifest

    def _begin(self, existing: Manifest | None) -> Manifest:
        """Says that the collection is being written."""
        moment, status = _now(), self.status
        created_at = existing.created_at if existing is not None else moment
        library_id = self._library_id()
        identity = existing.identity if existing is not None else self.model.to_dict()
        manifest = Manifest(
            schema=SCHEMA_VERSION,
            publication=publication_number(identity, library_id, created_at),
            library_id=library_id,
            library=display_path(self.folder),
            identity=identity,
            index=self.index,
            state="publishing",
            images=existing.images if existing is not None else 0,
            created_at=created_at,
            changed_at=moment,
            completed_at=None if existing is None else existing.completed_at,
            library_created_at=status.created_at,
            last_run_at=status.last_run_at,
            files=status.files,
            failed=status.failed,
            skipped=status.skipped,
            offline_images=status.offline_images,
            roots=[
                [str(root.path), root.is_online, root.files, root.last_scanned_at] for root in status.roots
            ],
        )
        self.collection.write_manifest(manifest)
        return manifest

    def _library_id(self) -> str:
        return str(read_setting(self.source, "library_id"))

    def _local_blocks(self) -> list[int]:
        """The first ids of all blocks that the library has images in."""
        rows = self.source.execute(
            f"SELECT DISTINCT id / {BLOCK_IDS} FROM images WHERE gone_at IS NULL"  # noqa: S608  (a number of ours)
        )
        return [number * BLOCK_IDS for (number,) in rows]

    def _publish_block(self, first: int, known: str, publication: int, lease: HeldLease) -> None:
        rows = self._rows_of_block(first)
        state = blocks_hash([(row["id"], row["fingerprint"]) for row in rows])
        self.left_out += sum(copies_left_out(row) for row in rows)
        self.done += len(rows)
        lease.keep()
        if state == known:
            self.unchanged += len(rows)
            return
        self.looked_at += 1
        collection, connection = self.collection, self.collection.connection
        page = f"block/{first}"
        collection.write_page(page, "")
        there: dict[int, tuple[int, int]] = {}
        for found in connection.all_rows(
            collection.name,
            f"id >= {first} and id < {first + BLOCK_IDS}",
            ["id", "fingerprint", "publication"],
        ):
            there.update(
                (int(row["id"]), (int(row["fingerprint"]), int(row["publication"]))) for row in found
            )
        new = [row for row in rows if there.get(row["id"]) != (row["fingerprint"], publication)]
        gone = sorted(set(there) - {row["id"] for row in rows})
        if gone:
            connection.delete(collection.name, gone)
            self.deleted += len(gone)
        self.unchanged += len(rows) - len(new)
        for start in range(0, len(new), _ROWS_AT_ONCE):
            if self._is_stopping():
                return
            part = new[start : start + _ROWS_AT_ONCE]
            vectors = self._vectors([row["id"] for row in part])
            # An image that went away since its row was read is deleted by the next publication.
            complete = [
                {**row, "publication": publication, "vector": vectors[row["id"]].tolist()}
                for row in part
                if row["id"] in vectors
            ]
            connection.upsert(collection.name, complete)
            self.written += len(complete)
            lease.keep()
            if len(complete) < len(part):
                state = ""
        if state and rows:
            collection.write_page(page, state)
        elif not rows:
            collection.remove_page(page)

    def _rows_of_block(self, first: int) -> list[dict[str, Any]]:
        """The rows of the images with ids from `first` on, as of one moment."""
        last = first + BLOCK_IDS - 1
        self.source.execute("BEGIN")
        try:
            model = read_model(self.source, "active")
            if model is None or not model.identity.is_same_model(self.model):
                raise LibraryError(
                    f"The library {display_path(self.folder)} was moved to another model meanwhile. Publish it again."
                )
            copies: dict[int, list[Copy]] = {}
            found_copies = read_copies(self.source, "image_id BETWEEN ? AND ?", (first, last))
            for image_id, root, path, is_there, modified_ns in found_copies:
                whole = join_root(from_catalog(root), from_catalog(path))
                copies.setdefault(image_id, []).append(Copy(whole, is_there, modified_ns))
            found = self.source.execute(
                "SELECT id, lower(hex(content_hash)), size_bytes, width_pixels, height_pixels, format, taken_at,"  # noqa: S608
                f" camera_make, camera_model, latitude, longitude, {MOMENT} FROM images"
                " WHERE id BETWEEN ? AND ? AND gone_at IS NULL AND EXISTS"
                " (SELECT 1 FROM vectors WHERE image_id = images.id AND model_id = ?) ORDER BY id",
                (first, last, model.id),
            ).fetchall()
        finally:
            self.source.execute("COMMIT")
        return [
            row_of(PublishedImage(*(*fields, tuple(copies[fields[0]]))))
            for fields in found
            if fields[0] in copies
        ]

    def _vectors(self, ids: Sequence[int]) -> dict[int, NDArray[np.float32]]:
        marks = ",".join("?" * len(ids))
        model = read_model(self.source, "active")
        if model is None:
            return {}
        with closing(
            self.source.execute(
                f"SELECT image_id, vector FROM vectors WHERE model_id = ? AND image_id IN ({marks})",  # noqa: S608
                (model.id, *ids),
            )
        ) as cursor:
            found, codes = unpack_vectors(cursor.fetchall(), self.model.dimension)
        return {int(image_id): code.astype("float32") for image_id, code in zip(found, codes, strict=True)}

    def _is_stopping(self) -> bool:
        if self.should_stop is not None and self.should_stop():
            self.is_interrupted = True
        return self.is_interrupted


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
