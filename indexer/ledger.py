"""What a run has found out, on its way into the catalog: complete pieces, written together every few seconds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from indexer.decode import Metadata
from indexer.decode_pool import Decoded
from indexer.records import FileFailure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from indexer.catalog import Catalog, KnownImage, StoredModel
    from indexer.tasks import Counts, Task, Vanished

# In place of an answer that is written, so that a run does not hold what it found about millions of files.
_WRITTEN = Decoded(-1, "written", None, {}, None)
_COMMIT_SECONDS = 2.0  # with a batch that waits to fill up, what a kill can cost stays below five seconds


class Ledger:
    """Collects what is complete and commits it.

    Args:
        catalog: Where it goes.
        model: Whose vectors they are.
        counts: Told what became of each file.
        vanished: Where a file that was moved came from.
    """

    def __init__(self, catalog: Catalog, model: StoredModel, counts: Counts, vanished: Vanished) -> None:
        self.catalog = catalog
        self.model = model
        self.counts = counts
        self.vanished = vanished
        self._uncommitted: list[tuple[Task, NDArray[np.float32] | None]] = []
        self._last_commit = time.monotonic()

    def __len__(self) -> int:
        """Number of files that wait to be written."""
        return len(self._uncommitted)

    def find(self, content: tuple[bytes, int]) -> KnownImage | None:
        """What the catalog knows of a content (hash and size)."""
        return self.catalog.find_image(*content, self.model.id)

    def add(self, task: Task, vector: NDArray[np.float32] | None) -> None:
        """Takes a file whose content is known, with its vector, float32 (dimension,), unless that is known too."""
        self._uncommitted.append((task, vector))

    def add_unusable(self, task: Task, answer: Decoded) -> None:
        """Takes a file that holds no image, holds one that cannot be used or read now, or went away meanwhile."""
        if answer.status == "skipped":
            self.counts.skipped += 1
        elif answer.status == "vanished":
            self.counts.done += 1
            if task.known is not None:
                self.vanished.rows[task.known.id] = task.known.status == "indexed"
            return
        elif answer.status in {"changed", "unreadable"}:
            is_new = task.known is None or task.known.reason != answer.reason
            failure = FileFailure(Path(task.absolute), answer.reason or "unknown", is_new=is_new)
            self.counts.failed.append(failure)
            if task.known is not None and task.known.status == "indexed":
                self.counts.done += 1  # nobody could see what it holds now, so what it held is kept
                return
            task.stat = (task.stat[0], -1, task.stat[2])  # no file has this time: the next run tries again
        else:
            self.counts.failed.append(FileFailure(Path(task.absolute), answer.reason or "unknown"))
        self.counts.done += 1
        self._uncommitted.append((task, None))

    def commit_if_due(self) -> None:
        """Commits if the last time was a while ago."""
        if time.monotonic() - self._last_commit > _COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Writes all that is complete in one transaction."""
        self._last_commit = time.monotonic()
        if not self._uncommitted:
            return
        catalog = self.catalog
        touched: set[int] = set()
        linked: list[tuple[Task, int, bool, bool]] = []
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
                known = self.find(task.content)
                if known is None:
                    metadata = Metadata(
                        **answer.fields["metadata"], difference_hash=answer.fields.get("difference_hash")
                    )
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
        for task, _ in self._uncommitted:
            task.answer = _WRITTEN
        self._uncommitted.clear()
        for task, image_id, is_embedded, was_gone in linked:
            self._count_linked(task, image_id, is_embedded=is_embedded, was_gone=was_gone)

    def _count_linked(self, task: Task, image_id: int, *, is_embedded: bool, was_gone: bool) -> None:
        counts = self.counts
        counts.done += 1
        counts.embedded += is_embedded
        if task.known is not None and task.known.image_id == image_id and not is_embedded:
            counts.unchanged += 1
        elif self.vanished.take_source(image_id):
            counts.moved += 1
        elif was_gone:
            counts.restored += 1
        else:
            counts.indexed += 1
