"""Hits for other programs and other folders: bare paths, JSON lines, CSV, copies and links.

Streams are binary, because a path on POSIX is bytes and must come out as the file system has it.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal

from indexer.paths import display_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

_BLOCK_BYTES = 1 << 20
_NO_ROOM = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_WINDOWS_NO_PRIVILEGE = 1314


class ExportError(Exception):
    """Hits that cannot be put where they were asked for; the text says why and what to do."""


@dataclass(frozen=True)
class ExportSummary:
    """What became of hits that were put into a folder.

    Attributes:
        folder: Where they are.
        written: Files or links that were made.
        already_there: Hits that the folder held already, under any of the names that they would have got.
        failed: Hits that could not be put there, each with the reason.
    """

    folder: Path
    written: int
    already_there: int
    failed: tuple[tuple[Path, str], ...]


def write_paths(paths: Iterable[Path], stream: IO[bytes], *, nul: bool = False) -> None:
    """Write nothing but paths.

    Args:
        paths: Of the hits.
        stream: Where to.
        nul: End each with a NUL character instead of a line break, for `xargs -0`: the only way that is safe
            for names with line breaks.
    """
    end = b"\0" if nul else b"\n"
    for path in paths:
        stream.write(os.fsencode(path) + end)


def write_json_lines(records: Iterable[Mapping[str, Any]], stream: IO[bytes]) -> None:
    """Write one JSON object a line; bytes of a path that are no UTF-8 appear as lone surrogates (PEP 383)."""
    for record in records:
        stream.write(json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n")


def write_csv(records: Iterable[Mapping[str, Any]], stream: IO[bytes]) -> None:
    """Write a line of column names and a line a record; nothing where there is no record.

    The first record gives the columns. What is neither text nor number nor truth is written as JSON, None as
    nothing. Paths come out byte for byte.

    Raises:
        ValueError: A record has other fields than the first.
    """
    writer: csv.DictWriter[str] | None = None
    for record in records:
        if writer is None:
            writer = csv.DictWriter(_Encoded(stream), list(record), lineterminator="\n")
            writer.writeheader()
        if list(record) != list(writer.fieldnames):
            raise ValueError(
                f"a record has the fields {list(record)}, the first had {list(writer.fieldnames)}"
            )
        writer.writerow({name: _cell(value) for name, value in record.items()})


class _Encoded:
    """What `csv` writes text to: bytes of a path that are no UTF-8 become what they were."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        self._stream.write(text.encode("utf-8", sys.getfilesystemencodeerrors()))


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, (str, int, float)) else json.dumps(value, separators=(",", ":"))


def put_into_folder(
    paths: Iterable[Path], folder: Path, how: Literal["copy", "symlink"] = "copy"
) -> ExportSummary:
    """Copy or link images into a folder, which is made where it is not there.

    Nothing is ever overwritten: a name that is taken by something else gets a number. So a second run with
    the same hits changes nothing, and one with other hits adds to the first. A file that cannot be read
    costs itself only.

    Args:
        paths: Absolute paths of images.
        folder: Where to.
        how: `copy` also keeps the time of the last change; `symlink` makes a link to the absolute path.

    Raises:
        ExportError: The folder cannot be made or written, the disk is full, or this system makes no links.
    """
    folder = folder.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ExportError(f"{display_path(folder)} is a file; name a folder.") from None
    except OSError as error:
        raise ExportError(
            f"The folder {display_path(folder)} cannot be made: {error.strerror or error}."
        ) from error
    put = _copy if how == "copy" else _link
    written = already_there = 0
    failed: list[tuple[Path, str]] = []
    for path in paths:
        try:
            is_new = _put(put, path, folder)
        except OSError as error:
            _stop_if_hopeless(error, folder, how)
            failed.append((path, _reason(error)))
        else:
            written += is_new
            already_there += not is_new
    return ExportSummary(folder, written, already_there, tuple(failed))


def _put(put: Callable[[Path, Path], None], path: Path, folder: Path) -> bool:
    """Put one image under the first of its names that is free; False if one of them holds it already."""
    number = 1
    while True:
        name = path.name if number == 1 else f"{path.stem} ({number}){path.suffix}"
        target = folder / name
        try:
            put(path, target)
        except FileExistsError:
            if _holds(target, path):
                return False
            number += 1
        else:
            return True


def _copy(path: Path, target: Path) -> None:
    with path.open("rb") as source, target.open("xb") as copy:
        try:
            shutil.copyfileobj(source, copy, _BLOCK_BYTES)
        except BaseException:
            copy.close()
            target.unlink(missing_ok=True)  # half a picture looks like a whole one
            raise
    with suppress(OSError):  # not every file system keeps times and permissions
        shutil.copystat(path, target)


def _link(path: Path, target: Path) -> None:
    path.stat()  # a link to nothing is no use
    target.symlink_to(path.absolute())


def _holds(target: Path, path: Path) -> bool:
    """Whether `target` is the image at `path`: the same file, a link to it, or a copy."""
    try:
        if target.samefile(path):
            return True
        if target.stat().st_size != path.stat().st_size:
            return False
        with target.open("rb") as one, path.open("rb") as other:
            while block := one.read(_BLOCK_BYTES):
                if block != other.read(_BLOCK_BYTES):
                    return False
    except FileNotFoundError:
        return False  # a dangling link, or gone in between
    return True


def _stop_if_hopeless(error: OSError, folder: Path, how: str) -> None:
    """Raise where the next image would fail for the same reason."""
    if error.errno in _NO_ROOM:
        raise ExportError(
            f"The disk of {display_path(folder)} is full; what was written before is whole and stays."
        ) from error
    if how == "symlink" and (
        error.errno in {errno.EPERM, errno.ENOTSUP}
        or getattr(error, "winerror", None) == _WINDOWS_NO_PRIVILEGE
    ):
        raise ExportError(
            f"Links cannot be made in {display_path(folder)} ({error.strerror or error}); copy instead."
        ) from error
    if not os.access(folder, os.W_OK):
        raise ExportError(
            f"The folder {display_path(folder)} cannot be written: {error.strerror or error}."
        ) from error


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "it is no longer there; `imago index` brings the library up to date"
    return error.strerror or str(error)
