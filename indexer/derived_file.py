"""Files that are made from the catalog: written whole, checked by checksum, replaced in one step.

Whatever bytes such a file begins with, it ends in a JSON description, which holds a CRC-32 of these bytes,
and a footer with the length and the CRC-32 of the description. So a file that was truncated, or has a
flipped bit anywhere, is found out, and made anew.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from model import whole_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ALIGNMENT = 64
_FOOTER = struct.Struct("<8sQI")  # magic, length of the JSON, CRC-32 of the JSON
_MAGIC = b"IMAGOVEC"
_BLOCK_BYTES = 8 << 20


class VectorFileError(Exception):
    """The file is missing, damaged, or belongs to something else; the text says which. It can be rebuilt."""


class FileInUseError(Exception):
    """A new file cannot take the place of the old one while another program has that open, as on Windows."""


class DerivedFileWriter:
    """Takes a file's bytes; see `replacing`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.length = 0
        self.checksum = 0

    def write(self, data: bytes) -> None:
        """Appends."""
        self.checksum = zlib.crc32(data, self.checksum)
        self._file.write(data)
        self.length += len(data)

    def pad(self) -> None:
        """Appends zeros up to the next multiple of `ALIGNMENT`."""
        self.write(bytes(-self.length % ALIGNMENT))

    def finish(self, fields: dict[str, Any]) -> None:
        """Appends the description."""
        text = json.dumps(fields).encode()
        self._file.write(text + _FOOTER.pack(_MAGIC, len(text), zlib.crc32(text)))


@contextmanager
def replacing(path: Path) -> Iterator[DerivedFileWriter]:
    """Writes a file beside `path` that takes its place at the end; whatever fails, the old one is untouched.

    Raises:
        FileInUseError: Another program has the old one open, and the system minds.
    """
    temporary = path.with_name(path.name + ".new")
    try:
        with open(temporary, "wb", opener=_open_privately) as file:
            yield DerivedFileWriter(file)
        put_in_place(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def put_in_place(new: Path, path: Path) -> None:
    """Replaces a file by another of its folder, in one step.

    Raises:
        FileInUseError: Another program has the old one open, and the system minds.
    """
    try:
        whole_file.put_in_place(new, path)
    except PermissionError as error:
        if not path.exists():
            raise
        raise FileInUseError(f"{path.name} is open in another program") from error


def read_description(path: Path, version: int) -> tuple[dict[str, Any], int]:
    """Reads a file's description, and how many bytes come before it.

    Raises:
        VectorFileError: There is no file, it does not end as it should, or it has another version.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size < _FOOTER.size:
                raise VectorFileError("it is truncated")
            file.seek(size - _FOOTER.size)
            magic, length, crc = _FOOTER.unpack(file.read(_FOOTER.size))
            if magic != _MAGIC or length > size - _FOOTER.size:
                raise VectorFileError("its end is missing or damaged")
            file.seek(size - _FOOTER.size - length)
            text = file.read(length)
    except FileNotFoundError:
        raise VectorFileError("it is missing") from None
    except OSError as error:
        raise VectorFileError(f"it cannot be read ({error.strerror})") from error
    if zlib.crc32(text) != crc:
        raise VectorFileError("its description is damaged")
    fields: dict[str, Any] = json.loads(text)
    if fields.get("version") != version:
        raise VectorFileError(f"it has the layout {fields.get('version')}, not {version}")
    return fields, size - _FOOTER.size - length


def verify_bytes(
    path: Path, length: int, checksum: int, should_stop: Callable[[], bool] | None = None
) -> None:
    """Compares the first `length` bytes of a file with their checksum (gigabytes a second).

    Args:
        path: The file.
        length: How many bytes.
        checksum: Their CRC-32.
        should_stop: Asked now and then; once it says True, nothing more is compared.

    Raises:
        VectorFileError: They differ.
    """
    crc = 0
    try:
        with path.open("rb", buffering=0) as file:
            block = bytearray(min(length, _BLOCK_BYTES))
            while length:
                if should_stop is not None and should_stop():
                    return
                got = file.readinto(memoryview(block)[: min(length, len(block))])
                if not got:
                    raise VectorFileError("it is truncated")
                crc = zlib.crc32(memoryview(block)[:got], crc)
                length -= got
    except OSError as error:
        raise VectorFileError(f"it cannot be read ({error.strerror})") from error
    if crc != checksum:
        raise VectorFileError("its bytes do not fit its checksum")


def padded(length: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return length + -length % ALIGNMENT


def _open_privately(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
