"""What lies in a folder: a walk that reads directory entries only and opens no file.

Hidden files, the folders in which systems and network drives keep their own things, and libraries of Imago
are left out. Links are followed, after everything real, so that a real path is preferred to a linked one
and no folder is walked twice; a loop of links therefore ends by itself.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from indexer.paths import CATALOG_NAME, LOCK_NAME, catalog_time, relative_to_root

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

SYSTEM_NAMES = frozenset(
    (
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "@eadir",
        "@recently-snapshot",
        "@recycle",
        "__macosx",
        "desktop.ini",
        "lost+found",
        "system volume information",
        "thumbs.db",
    )
)
_HIDDEN_ON_WINDOWS = stat.FILE_ATTRIBUTE_HIDDEN | stat.FILE_ATTRIBUTE_SYSTEM
_HIDDEN_ON_MACOS = stat.UF_HIDDEN
# What a link says that leads nowhere; after anything else, what lies behind it may well be there.
_NOWHERE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP))
_RENUMBERING = ("vfat ", "msdos ", "exfat ", "fuse ", "fuse.", "fuseblk ")
_CAN_HIDE = sys.platform in {"win32", "darwin"}  # elsewhere a dot is all there is


# A regular file below the scanned folder: its path there with `/` between the parts, its size in bytes, the
# time of its last change in nanoseconds since 1970, and its number on the disk (0 where there is none that
# lasts). A plain tuple, because a hundred thousand of anything else takes a second.
FoundFile = tuple[str, int, int, int]


@dataclass
class Scan:
    """What a walk found.

    Attributes:
        files: All regular files, in the order met: folders and files by name, what is linked last.
        unreadable: Folders and links that could not be looked into: path below the scanned folder and the reason. What
            the catalog knows below them must be kept, because nobody could see whether it is still there.
        mounts: Folders on another disk than the folder that holds them, by their path below the scanned folder,
            with the disk's number: mount points, and links to other disks.
        is_empty: True if the folder itself holds no entry at all, as an unused mount point does.
        stopped: True if the walk was stopped before its end.
    """

    files: list[FoundFile] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    mounts: dict[str, int] = field(default_factory=dict)
    is_empty: bool = True
    stopped: bool = False


def scan_folder(
    folder: str,
    *,
    skip: Collection[str] = (),
    on_folder: Callable[[int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Scan:
    """Walks `folder`.

    Args:
        folder: An absolute path of a folder, links resolved.
        skip: Absolute paths of folders that are left out.
        on_folder: Called after each folder with the number of files found so far.
        should_stop: Asked before each folder.
    """
    result = Scan()
    files = result.files
    renumbering = _renumbering_disks()
    visited: set[tuple[int, int]] = set()
    # Absolute path, path below the scanned folder, device of the folder that holds it.
    linked: deque[tuple[str, str, int]] = deque()
    waiting: list[tuple[str, str, int | None]] = [(folder, "", None)]
    while waiting or linked:
        if should_stop is not None and should_stop():
            result.stopped = True
            break
        if not waiting:
            path, relative, parent_device = linked.popleft()
            try:
                target = os.stat(path)  # noqa: PTH116  (strings are faster, and may hold any bytes)
            except OSError as error:
                if error.errno not in _NOWHERE:
                    result.unreadable.append((relative, error.strerror or str(error)))
                continue
            if stat.S_ISDIR(target.st_mode):
                waiting.append((path, relative, parent_device))
            elif stat.S_ISREG(target.st_mode):
                number = 0 if target.st_dev in renumbering else target.st_ino
                files.append((relative, target.st_size, catalog_time(target.st_mtime_ns), number))
            continue
        path, relative, holder = waiting.pop()
        try:
            itself = os.stat(path)  # noqa: PTH116
            key = (itself.st_dev, itself.st_ino)
            if key in visited and itself.st_ino:
                continue
            visited.add(key)
            device = itself.st_dev
            if holder is not None and holder != device:
                result.mounts[relative] = device
            with os.scandir(path) as entries:
                listing = sorted(entries, key=_name)  # the same folder gives the same order everywhere
        except OSError as error:
            result.unreadable.append((relative, error.strerror or str(error)))
            continue
        if listing and not relative:
            result.is_empty = False
        if relative and _is_library(listing):
            continue
        prefix = f"{relative}/" if relative else ""
        has_lasting_numbers = device not in renumbering
        folders = []
        for entry in listing:
            name = entry.name
            if _is_named_to_be_left_out(name):
                continue
            try:
                if entry.is_symlink():
                    linked.append((entry.path, prefix + name, device))
                elif entry.is_file(follow_symlinks=False):
                    file = entry.stat(follow_symlinks=False)
                    if not (_CAN_HIDE and _is_hidden(file)):
                        modified = catalog_time(file.st_mtime_ns)
                        number = file.st_ino if has_lasting_numbers else 0
                        files.append((prefix + name, file.st_size, modified, number))
                elif entry.is_dir(follow_symlinks=False) and entry.path not in skip:
                    known = entry.stat(follow_symlinks=False) if _CAN_HIDE else None
                    if not _is_hidden(known):
                        folders.append((entry.path, prefix + name, device))
            except FileNotFoundError:
                continue  # gone between the listing and the look at it
            except OSError as error:
                result.unreadable.append((prefix + name, error.strerror or str(error)))
        waiting.extend(reversed(folders))  # the stack turns them round again
        if on_folder is not None:
            on_folder(len(files))
    return result


def is_left_out(folder: str, relative: str) -> bool:
    """Whether a walk of `folder` never comes to a path below it (`/` between its parts; "" is the folder itself).

    That is so below anything that is hidden by a dot, that a system keeps for itself, or that is a library.
    """
    for part in relative.split("/") if relative else ():
        folder = os.path.join(folder, part)  # noqa: PTH118
        if _is_named_to_be_left_out(part):
            return True
        if all(os.path.exists(os.path.join(folder, name)) for name in (CATALOG_NAME, LOCK_NAME)):  # noqa: PTH110, PTH118
            return True
    return False


def comes_to(outer: str, folder: str) -> bool:
    """Whether a scan of `outer` looks at `folder`; a hidden folder inside it is looked at by its own name only."""
    relative = below(folder, outer)
    return relative is not None and not is_left_out(outer, relative)


def below(folder: str, outer: str) -> str | None:
    """`relative_to_root`, also where the system knows `outer` by several names: in another case, or mounted twice."""
    relative = relative_to_root(folder, outer)
    if relative is not None:
        return relative
    names: list[str] = []
    while not _is_same(folder, outer):
        folder, name = os.path.split(folder)
        if not name:
            return None
        names.append(name)
    return "/".join(reversed(names))


def _is_same(folder: str, other: str) -> bool:
    with suppress(OSError):
        one, two = os.stat(folder), os.stat(other)  # noqa: PTH116
        return one.st_ino != 0 and (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)
    return False


def _renumbering_disks() -> frozenset[int]:
    """The disks whose files get other numbers each time they are mounted, as far as the system tells."""
    try:
        return renumbering_disks(Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return frozenset()


def renumbering_disks(mountinfo: str) -> frozenset[int]:
    """Those among what Linux says of its mounts: file systems that keep no numbers, or may not."""
    found = set()
    for line in mountinfo.splitlines():
        mount, _, kind = line.partition(" - ")
        if kind.startswith(_RENUMBERING):
            major, minor = mount.split()[2].split(":")
            found.add(os.makedev(int(major), int(minor)))
    return frozenset(found)


def _is_named_to_be_left_out(name: str) -> bool:
    return name[:1] == "." or name.lower() in SYSTEM_NAMES


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _is_library(listing: list[os.DirEntry[str]]) -> bool:
    names = {entry.name for entry in listing}
    return CATALOG_NAME in names and LOCK_NAME in names


def _is_hidden(known: os.stat_result | None) -> bool:
    if known is None:
        return False
    if os.name == "nt":
        return bool(getattr(known, "st_file_attributes", 0) & _HIDDEN_ON_WINDOWS)
    return bool(getattr(known, "st_flags", 0) & _HIDDEN_ON_MACOS)
