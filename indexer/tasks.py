"""What the parts of a run hand to one another: where it looks, a file to be read, what came of it so far."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from indexer.paths import join_root

if TYPE_CHECKING:
    from indexer.catalog import KnownFile, KnownRoot
    from indexer.decode_pool import Decoded
    from indexer.records import FileFailure


@dataclass(frozen=True)
class Scope:
    """A part of a root that this run looks at.

    Attributes:
        root: The root.
        prefix: The part's path below the root; "" for all of it.
    """

    root: KnownRoot
    prefix: str

    @property
    def folder(self) -> str:
        """Its absolute path."""
        return join_root(self.root.path, self.prefix) if self.prefix else self.root.path


@dataclass(eq=False, slots=True)
class Task:
    """A file that is new or changed.

    Attributes:
        root: Where it lies.
        path: Its path below the root.
        stat: Size in bytes, time of the last change in nanoseconds, inode: as scanned, then as read.
        known: What the catalog knew of it.
        hash_only: Whether to read it without decoding first, because its content is probably known.
        answer: What decoding said; without its details once they are written.
        read_ns: When it was read, nanoseconds since 1970.
    """

    root: KnownRoot
    path: str
    stat: tuple[int, int, int]
    known: KnownFile | None
    hash_only: bool
    answer: Decoded | None = None
    read_ns: int = 0

    @property
    def absolute(self) -> str:
        """The file's absolute path."""
        return join_root(self.root.path, self.path)

    @property
    def content(self) -> tuple[bytes, int]:
        """Hash and size of what was read."""
        assert self.answer is not None  # noqa: S101
        return bytes.fromhex(self.answer.fields["hash"]), int(self.answer.fields["size_bytes"])


@dataclass
class Counts:
    """How far a run is; the fields are those of `indexer.records.IndexProgress` and `IndexSummary`."""

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


@dataclass
class Vanished:
    """Files that the catalog knows and the scan did not find.

    Attributes:
        rows: Their rows in the catalog, and whether taking each away counts as a loss: not for a file that
            held no image, nor for one that turns up elsewhere.
        stats: Their sizes and times, to guess which new files are moved ones.
        by_image: Rows that held an image: where a moved file came from.
    """

    rows: dict[int, bool] = field(default_factory=dict)
    stats: set[tuple[int, int]] = field(default_factory=set)
    by_image: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, row: KnownFile) -> None:
        """Notes a file."""
        self.rows[row.id] = row.status == "indexed"
        self.stats.add((row.size_bytes, row.modified_ns))
        if row.image_id is not None:
            self.by_image[row.image_id].append(row.id)

    def take_source(self, image_id: int) -> bool:
        """Whether an image turned up that one of these held; if so, that one was moved and is no loss."""
        if not self.by_image.get(image_id):
            return False
        self.rows[self.by_image[image_id].pop()] = False
        return True
