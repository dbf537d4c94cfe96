"""What in the folders is new, has changed or has vanished since the last run.

A folder that cannot be seen is not an empty one: what lies on a disk that is not there, or where nobody may
look, is kept.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer.catalog import KnownFile, KnownMount
from indexer.paths import THUMBNAILS_NAME, catalog_inode, join_root
from indexer.records import FileFailure
from indexer.scan import scan_folder
from indexer.tasks import Task, Vanished

if TYPE_CHECKING:
    from collections.abc import Callable

    from indexer.catalog import Catalog, KnownRoot
    from indexer.scan import Scan
    from indexer.tasks import Counts, Scope

_RACY_NS = 2_000_000_000  # the coarsest clock of a file system (FAT): two seconds


class Comparison:
    """Compares folders with the catalog.

    Args:
        library: The library's folder, which is no place for pictures.
        catalog: What is known.
        counts: Told of what is unchanged, skipped and failed before.
        lacking: Images whose vector of this run's model is still to be made although the catalog knows them.
        retry_failed: Whether files that failed before and have not changed are to be read again.
        report: Called after each folder.
        should_stop: Asked before each folder.

    Attributes:
        tasks: What is to be read.
        vanished: What is not there any more.
        offline: Folders that were not there; what they held is kept.
        unreadable: Folders that could not be listed; what they held is kept.
    """

    def __init__(
        self,
        library: Path,
        catalog: Catalog,
        counts: Counts,
        *,
        lacking: set[int],
        retry_failed: bool,
        report: Callable[[], None],
        should_stop: Callable[[], bool],
    ) -> None:
        self.tasks: list[Task] = []
        self.vanished = Vanished()
        self.offline: list[Path] = []
        self.unreadable: list[FileFailure] = []
        self.library = library
        self.catalog = catalog
        self.counts = counts
        self.retry_failed = retry_failed
        self._lacking = lacking
        self._report = report
        self._should_stop = should_stop

    def look(self, scope: Scope) -> bool:
        """Scans a part of a root and sorts its files into unchanged, to do, and vanished.

        Returns:
            Whether the folder was there and seen to its end.
        """
        folder = scope.folder
        if not os.path.isdir(folder):  # noqa: PTH112
            self.offline.append(Path(folder))
            if not os.path.isdir(scope.root.path):  # noqa: PTH112
                with self.catalog.transaction():
                    self.catalog.mark_root(scope.root.id, is_online=False)
            return False
        before = self.counts.scanned

        def on_folder(files: int) -> None:
            self.counts.scanned = before + files
            self._report()

        own = {os.path.realpath(self.library / THUMBNAILS_NAME)}
        if os.path.realpath(self.library) != folder:
            own.add(os.path.realpath(self.library))
        scan = scan_folder(folder, skip=own, on_folder=on_folder, should_stop=self._should_stop)
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
            return False
        mounts, away = self._look_at_mounts(scope, prefix, scan, known)
        with self.catalog.transaction():
            self.catalog.mark_root(scope.root.id, is_online=True, device=device_of(scope.root.path))
            self.catalog.set_mounts(scope.root.id, mounts)
        self.tasks.extend(self._sort_files(scope.root, prefix, scan, known))
        hidden = [prefix + relative for relative, _ in scan.unreadable]
        self._note_vanished(prefix, [*hidden, *away], known)
        return True

    def _look_at_mounts(
        self, scope: Scope, prefix: str, scan: Scan, known: dict[str, tuple[Any, ...]]
    ) -> tuple[dict[str, KnownMount], list[str]]:
        """Which places below a root are on other disks, and which of these disks are away.

        What is left of a disk that is not mounted is an empty folder, a link to nowhere, or nothing: it
        looks like a folder that somebody emptied. So a place where a disk was counts as away, and keeps its
        images, unless some of them are still there, or the same disk turned up elsewhere in this folder.

        Returns:
            What to remember of the root, and the paths below it that are away.
        """
        there = {prefix + relative: device for relative, device in scan.mounts.items()}
        if scope.prefix and (device := _mounted_device(scope.folder)) is not None:
            there[scope.prefix] = device
        mounts = {path: KnownMount(device, True) for path, device in there.items()}
        before = self.catalog.mounts(scope.root.id)
        turned_up = {device for path, device in there.items() if path not in before}
        away = []
        for path, mount in before.items():
            if path in there:
                continue
            if scope.prefix and path != scope.prefix and not path.startswith(prefix):
                mounts[path] = mount  # nobody looked there
                continue
            below = f"{path}/"
            is_held = any(name.startswith(below) for name in known)
            is_emptied = not any(
                f"{prefix}{name}" in known for name, *_ in scan.files if f"{prefix}{name}".startswith(below)
            )
            if not is_held or not is_emptied or mount.device in turned_up:
                continue
            mounts[path] = KnownMount(mount.device, False)
            away.append(path)
            self.offline.append(Path(join_root(scope.root.path, path)))
        return mounts, away

    def _is_unused_mount_point(self, scope: Scope) -> bool:
        """An empty folder on another device than the root was on: its disk is not mounted now."""
        was_on = scope.root.device
        return not scope.prefix and was_on is not None and was_on != device_of(scope.folder)

    def _sort_files(
        self, root: KnownRoot, prefix: str, scan: Scan, known: dict[str, tuple[Any, ...]]
    ) -> list[Task]:
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
                tasks.append(Task(root, path, (size_bytes, modified_ns, inode), None, False))
                continue
            _, known_size, known_modified, known_inode, read_ns, status, image_id, reason = row
            is_same = known_size == size_bytes and known_modified == modified_ns
            if lacking and image_id in lacking:
                tasks.append(Task(root, path, (size_bytes, modified_ns, inode), KnownFile(*row), False))
            elif is_same and status == "indexed":
                # Another inode, or a file written so shortly before it was read that a later change may
                # carry the same time: the content decides, and usually it is the same. 0 is an unknown one.
                is_sure = known_inode == inode or not inode or not known_inode
                is_sure = is_sure or known_inode == catalog_inode(inode)
                if is_sure and not -_RACY_NS < read_ns - known_modified < _RACY_NS:
                    unchanged += 1
                else:
                    tasks.append(Task(root, path, (size_bytes, modified_ns, inode), KnownFile(*row), True))
            elif is_same and status == "skipped":
                self.counts.skipped += 1
            elif is_same and not self.retry_failed:
                self.counts.failed.append(
                    FileFailure(Path(join_root(root.path, path)), reason or "", is_new=False)
                )
            else:  # of the same size, it was most often copied or touched
                hash_only = status == "indexed" and known_size == size_bytes
                tasks.append(Task(root, path, (size_bytes, modified_ns, inode), KnownFile(*row), hash_only))
        self.counts.unchanged += unchanged
        return tasks

    def _note_vanished(self, prefix: str, unseen: list[str], known: dict[str, tuple[Any, ...]]) -> None:
        """Notes what is left in `known`: gone, unless it lies where nobody could look."""
        hidden = tuple(path if path == prefix else f"{path}/" for path in unseen)
        exact = set(unseen)
        for path, fields in known.items():
            if not path.startswith(prefix) or path in exact or (hidden and path.startswith(hidden)):
                continue
            self.vanished.add(KnownFile(*fields))

    def look_again(self, scopes: list[Scope]) -> list[Scope]:
        """Takes back what seems to have vanished from disks that went away since they were scanned.

        Returns:
            Those whose root is still there.
        """
        still_there = []
        devices = {root.id: root.device for root in self.catalog.roots()}
        for scope in scopes:
            root = scope.root
            if device_of(root.path) != devices[root.id]:
                self.offline.append(Path(scope.folder))
                self.catalog.mark_root(root.id, is_online=False)
                away = [""]
            else:
                still_there.append(scope)
                mounts = self.catalog.mounts(root.id)
                away = [
                    path
                    for path, mount in mounts.items()
                    if mount.is_online
                    and (not scope.prefix or f"{path}/".startswith(f"{scope.prefix}/"))
                    and device_of(join_root(root.path, path)) != str(mount.device)
                ]
                for path in away:
                    self.offline.append(Path(join_root(root.path, path)))
                    mounts[path] = KnownMount(mounts[path].device, False)
                if away:
                    self.catalog.set_mounts(root.id, mounts)
            for path in away:
                for row in self.catalog.files_below(root.id, path):
                    self.vanished.rows.pop(row, None)
        return still_there

    def guess_moves(self) -> None:
        """Has files hashed before they are decoded that are as large and as old as one that vanished."""
        for task in self.tasks:
            if task.known is None and task.stat[:2] in self.vanished.stats:
                task.hash_only = True


def device_of(path: str) -> str | None:
    """The number of the disk that something lies on, as `roots` keeps it; None if it is not there."""
    try:
        return str(os.stat(path).st_dev)  # noqa: PTH116
    except OSError:
        return None


def _mounted_device(folder: str) -> int | None:
    """The device of a folder, if the folder that holds it is on another."""
    with suppress(OSError):
        device = os.stat(folder).st_dev  # noqa: PTH116
        if device != os.stat(os.path.dirname(folder)).st_dev:  # noqa: PTH116, PTH120
            return device
    return None
