"""What a job is to embed: files of folders that all machines see, and objects of a store through fsspec."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer.cluster.errors import ClusterPackagesMissingError
from indexer.errors import NothingToIndexError
from indexer.formats import is_named_like_image
from indexer.paths import catalog_time, display_path
from indexer.scan import scan_folder

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Source:
    """One file or object: its path or address, its size in bytes, and when it was changed, ns since 1970.

    Where a store does not tell the time, its tag stands in: another tag is another time.
    """

    path: str
    size_bytes: int
    modified_ns: int


def list_sources(places: Sequence[str]) -> tuple[list[Source], list[str]]:
    """Lists folders and places in stores.

    Of a store only what is named like an image is taken, because looking into an object means to fetch it.

    Returns:
        What was found, none twice, and sentences about what could not be listed.

    Raises:
        NothingToIndexError: There is nothing at all.
    """
    found: dict[str, Source] = {}
    notices: list[str] = []
    for place in places:
        listed = _objects(place, notices) if "://" in place else _files(place, notices)
        found.update((source.path, source) for source in listed)
    if not found:
        raise NothingToIndexError(f"Nothing to embed: no image in {', '.join(map(display_path, places))}.")
    return list(found.values()), notices


def _files(place: str, notices: list[str]) -> list[Source]:
    folder = os.path.realpath(Path(place).expanduser())
    if not Path(folder).is_dir():
        notices.append(f"There is no folder {display_path(folder)}; it was left out.")
        return []
    scan = scan_folder(folder)
    notices += [
        f"{display_path(Path(folder) / name)} cannot be listed: {reason}" for name, reason in scan.unreadable
    ]
    return [
        Source(os.path.join(folder, name.replace("/", os.sep)), size, modified)  # noqa: PTH118  (any bytes in it)
        for name, size, modified, _ in scan.files
    ]


def _objects(place: str, notices: list[str]) -> list[Source]:
    try:
        import fsspec
    except ImportError as error:
        raise ClusterPackagesMissingError("fsspec") from error
    try:
        filesystem, path = fsspec.core.url_to_fs(place)
        entries = filesystem.find(path, detail=True)
    except ImportError as error:  # the store's own package: s3fs, gcsfs, adlfs
        raise NothingToIndexError(f"{place} needs a package that is not installed: {error}.") from error
    except Exception as error:  # noqa: BLE001  (every store has errors of its own)
        notices.append(f"{place} cannot be listed: {' '.join(str(error).split())[:200]}")
        return []
    return [
        Source(filesystem.unstrip_protocol(name), int(entry.get("size") or 0), catalog_time(_moment(entry)))
        for name, entry in entries.items()
        if entry.get("type", "file") == "file" and is_named_like_image(name)
    ]


def _moment(entry: dict[str, Any]) -> int:
    for key in ("mtime", "LastModified", "last_modified", "updated", "created"):
        value = entry.get(key)
        if isinstance(value, datetime):
            return int(value.timestamp() * 1e9)
        if isinstance(value, (int, float)):
            return int(value * 1e9)
        if isinstance(value, str):
            try:
                return int(datetime.fromisoformat(value).timestamp() * 1e9)
            except ValueError:
                continue
    tag = str(entry.get("ETag") or entry.get("etag") or "")
    return int.from_bytes(tag.encode()[:7], "big")
