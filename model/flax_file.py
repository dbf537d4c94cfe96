"""Reads `flax_model.msgpack` in place: a walk over the file finds where each array lies, the array is a view into it.

Flax's own reader needs Flax, and so JAX, which takes seconds to import, and it loads the whole file: too much for
one query with one tower. The format is MessagePack (https://github.com/msgpack/msgpack/blob/master/spec.md): nested
maps from names to arrays. An array is extension type 1, whose content is again MessagePack: [shape, name of the
dtype, bytes in C order].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes  # noqa: F401 (NumPy knows bfloat16 by name from here on)
import numpy as np

from model.checkpoint import FLAX_DRESS
from model.errors import CheckpointError, UnsupportedCheckpointError

if TYPE_CHECKING:
    from pathlib import Path

_ARRAY_EXTENSION = 1
# Flax cuts arrays above a gigabyte into pieces, which then cannot be viewed as one.
_PIECES = "__msgpack_chunked_array__"
_DEEPEST = 100


@dataclass(frozen=True)
class _Place:
    dtype: str
    shape: tuple[int, ...]
    begin_bytes: int
    size_bytes: int


class FlaxFileSource:
    """The arrays of one file, by their names joined with dots (see `model.checkpoint.WeightSource`)."""

    dress = FLAX_DRESS

    def __init__(self, path: Path) -> None:
        """Finds the arrays.

        Raises:
            CheckpointError: If the file is missing, cut short, damaged or holds no arrays.
            UnsupportedCheckpointError: If it holds an array in pieces.
        """
        self._path = path
        try:
            self._bytes: np.ndarray[Any, Any] = np.memmap(path, dtype=np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read ({error}): fetch it again") from error
        self._places: dict[str, _Place] = {}
        try:
            left_over = len(self._bytes) - self._walk(0, (), 0)
        except (IndexError, ValueError, OverflowError) as error:
            raise CheckpointError(
                f"{path} is cut short or damaged ({error}). A download was interrupted: fetch it again"
            ) from error
        if left_over:
            raise CheckpointError(f"{path} has {left_over} bytes behind its end: fetch it again")
        if not self._places:
            raise CheckpointError(f"{path} holds no arrays")
        self.shapes = {name: place.shape for name, place in self._places.items()}

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """Returns a read-only view into the file; what is not touched is not loaded."""
        place = self._places[name]
        piece = self._bytes[place.begin_bytes : place.begin_bytes + place.size_bytes]
        return np.asarray(piece).view(_dtype(place.dtype)).reshape(place.shape)

    def _walk(self, at: int, names: tuple[str, ...], depth: int) -> int:
        """Notes the arrays in the value that begins at a byte; returns where the value ends."""
        if depth > _DEEPEST:
            raise ValueError("nested too deeply")
        kind = self._byte(at)
        if 0x80 <= kind <= 0x8F:
            count, at = kind & 0x0F, at + 1
        elif kind in {0xDE, 0xDF}:
            width = 2 if kind == 0xDE else 4
            count, at = self._number(at + 1, width), at + 1 + width
        elif kind in _EXTENSIONS or kind in _FIXED_EXTENSIONS:
            return self._note_array(at, names)
        else:
            raise ValueError(f"byte {at} is of type 0x{kind:02x}, which is neither a map nor an array")
        for _ in range(count):
            name, at = self._text(at)
            if name == _PIECES:
                raise UnsupportedCheckpointError(
                    f"{self._path}: {'.'.join(names)} is stored in pieces, which is not read in place. Save it once "
                    "as model.safetensors: from_pretrained(...).save_pretrained(...)"
                )
            at = self._walk(at, (*names, name), depth + 1)
        return at

    def _note_array(self, at: int, names: tuple[str, ...]) -> int:
        kind = self._byte(at)
        width = _EXTENSIONS.get(kind, 0)
        size = self._number(at + 1, width) if width else _FIXED_EXTENSIONS[kind]
        extension, begin = self._byte(at + 1 + width), at + 2 + width
        end = begin + size
        if extension != _ARRAY_EXTENSION:
            raise ValueError(f"{'.'.join(names)} is of extension type {extension}, not an array")
        if end > len(self._bytes):
            raise ValueError(
                f"{'.'.join(names)} should end at byte {end}, the file ends at {len(self._bytes)}"
            )
        count, at = self._array_length(begin)
        if count != 3:
            raise ValueError(f"{'.'.join(names)} has {count} parts instead of shape, dtype and bytes")
        rank, at = self._array_length(at)
        shape = []
        for _ in range(rank):
            side, at = self._whole_number(at)
            shape.append(side)
        dtype, at = self._text(at)
        width = {0xC4: 1, 0xC5: 2, 0xC6: 4}.get(self._byte(at), 0)
        if not width:
            raise ValueError(f"{'.'.join(names)} holds no bytes")
        size = self._number(at + 1, width)
        at += 1 + width
        if at + size != end or size != math.prod(shape) * _dtype(dtype).itemsize:
            raise ValueError(f"{'.'.join(names)} has {size} bytes for shape {tuple(shape)} of {dtype}")
        self._places[".".join(names)] = _Place(dtype, tuple(shape), at, size)
        return end

    def _byte(self, at: int) -> int:
        return int(self._bytes[at])

    def _number(self, at: int, width: int) -> int:
        piece = self._bytes[at : at + width]
        if len(piece) < width:
            raise ValueError("it ends within a number")
        return int.from_bytes(piece.tobytes(), "big")

    def _whole_number(self, at: int) -> tuple[int, int]:
        kind = self._byte(at)
        if kind <= 0x7F:
            return kind, at + 1
        width = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}.get(kind, 0)
        if not width:
            raise ValueError(f"byte {at} is no whole number")
        return self._number(at + 1, width), at + 1 + width

    def _array_length(self, at: int) -> tuple[int, int]:
        kind = self._byte(at)
        if not 0x90 <= kind <= 0x9F:
            raise ValueError(f"byte {at} begins no short list")
        return kind & 0x0F, at + 1

    def _text(self, at: int) -> tuple[str, int]:
        kind = self._byte(at)
        if 0xA0 <= kind <= 0xBF:
            size, at = kind & 0x1F, at + 1
        else:
            width = {0xD9: 1, 0xDA: 2, 0xDB: 4}.get(kind, 0)
            if not width:
                raise ValueError(f"byte {at} begins no text")
            size, at = self._number(at + 1, width), at + 1 + width
        piece = self._bytes[at : at + size]
        if len(piece) < size:
            raise ValueError("it ends within a text")
        return piece.tobytes().decode("utf-8"), at + size


# Length fields of extensions, in bytes; and extensions whose length is in their type.
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_FIXED_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}


def _dtype(name: str) -> np.dtype[Any]:
    try:
        dtype = np.dtype(name)
    except (TypeError, SyntaxError, ValueError) as error:
        raise ValueError(f"unknown dtype {name!r}") from error
    if dtype.hasobject or dtype.fields is not None:
        raise ValueError(f"dtype {name!r} is not of numbers")
    return dtype
