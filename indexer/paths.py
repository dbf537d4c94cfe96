"""Paths, and times of files, between three worlds: the file system, the catalog (SQLite) and the eyes of people."""

from __future__ import annotations

import os
from pathlib import Path

CATALOG_NAME = "catalog.db"
VECTORS_NAME = "vectors.faiss"
APPROXIMATE_NAME = "vectors.ann"
LOCK_NAME = "writer.lock"
THUMBNAILS_NAME = "thumbnails"
_LATEST_NS = (1 << 63) - 1  # in 2262; what lies as far before 1970 is the earliest


def default_library_path() -> Path:
    """The library that is meant when none is named: `IMAGO_LIBRARY`, else one in the user's data folder."""
    named = os.environ.get("IMAGO_LIBRARY")
    if named:
        return Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("imago", appauthor=False)) / "library"


def thumbnail_path(folder: Path, content_hash: str) -> Path:
    """Where the thumbnail of an image is kept.

    Args:
        folder: What `indexer.reading.state_folder` gives for the library.
        content_hash: Hex SHA-256 of the image.
    """
    return folder / THUMBNAILS_NAME / content_hash[:2] / f"{content_hash}.webp"


def to_catalog(path: str) -> str | bytes:
    """A path as SQLite keeps it: TEXT where it is Unicode, else the very bytes as BLOB."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


def from_catalog(stored: str | bytes) -> str:
    """The path that `to_catalog` was given."""
    return stored if isinstance(stored, str) else os.fsdecode(stored)


def catalog_time(modified_ns: int) -> int:
    """The time of a file's last change, nanoseconds since 1970, as near as SQLite's 64 bits can come to it.

    It is taken this way wherever it is compared, because disks hold times that the catalog cannot.
    """
    return max(-_LATEST_NS, min(modified_ns, _LATEST_NS))


def catalog_inode(inode: int) -> int:
    """A file's number on its disk as near as SQLite's 64 bits, which have a sign, can come to it."""
    inode &= (1 << 64) - 1  # some file systems of Windows have 128 bits of it
    return inode - (1 << 64) if inode >= 1 << 63 else inode


def spellings_of(path: Path | str) -> list[str]:
    """Absolute paths under which a catalog may know something, the likeliest first.

    A link below a root is known by its own name, and what it leads to is meant only where nothing is; folders on the
    way are resolved.
    """
    given = Path(path).expanduser().absolute()
    on_the_way = os.path.join(os.path.realpath(given.parent), given.name)  # noqa: PTH118
    return list(dict.fromkeys((str(given), on_the_way, os.path.realpath(given))))


def display_path(path: Path | str) -> str:
    """A path that may be printed anywhere: no undecodable bytes, no line breaks, no escape sequences."""
    text = os.fsencode(path).decode(errors="backslashreplace") if os.name != "nt" else str(path)
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape", "backslashreplace").decode()
        for character in text
    )


def relative_to_root(path: str, root: str) -> str | None:
    """The part of `path` below `root` with `/` between its parts; "" for the root itself, None if outside."""
    if path == root:
        return ""
    prefix = root if root.endswith(os.sep) else root + os.sep
    if not path.startswith(prefix):
        return None
    relative = path[len(prefix) :]
    return relative if os.sep == "/" else relative.replace(os.sep, "/")


def join_root(root: str, relative: str) -> str:
    """The absolute path of a file that the catalog names by its root and the path below it."""
    return os.path.join(root, relative if os.sep == "/" else relative.replace("/", os.sep))  # noqa: PTH118
