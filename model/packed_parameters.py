"""The parameters of a tower's kept programs, in memory once for all that use them, and ready to be used on disk.

Matrices are rounded and turned before a program takes them. What was rounded, and is no larger than in the checkpoint,
is kept in the cache folder, in one file, as it lies in memory: later starts map it instead of rounding anew, and
processes that use the same model share its pages. `model.replay` runs the programs.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from model.cache import keep_newest, map_entry, write_entry
from model.replay import Origin, source_fingerprint

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from model.checkpoint import WeightSource
    from model.replay import Constant

_KIND = "parameters"

# From this on XLA's CPU client takes an array where it lies.
_ALIGNMENT_BYTES = 64

# Of a base-size model, its picture's tower has 90 MB and its text's 40. Those used last are kept.
_MOST_FILES = 12


class SharedParameters:
    """Parameters taken from a checkpoint, once for all the replayers that they are given to.

    Args:
        source: The checkpoint.
        weights_fingerprint: Of its weights.
    """

    def __init__(self, source: WeightSource, weights_fingerprint: str) -> None:
        self._source = source
        self._weights_fingerprint = weights_fingerprint
        self._arrays: dict[Origin | Constant, npt.NDArray[Any]] = {}
        self._lock = threading.Lock()

    def take(self, origins: Sequence[Origin | Constant]) -> list[npt.NDArray[Any]]:
        """Returns parameters where XLA can read them in place: device arrays of them are the same memory."""
        with self._lock:
            missing = [origin for origin in dict.fromkeys(origins) if origin not in self._arrays]
            rounded = [
                origin for origin in missing if isinstance(origin, Origin) and self._is_rounded(origin)
            ]
            if rounded:
                self._arrays |= self._packed(rounded)
            for origin in missing:
                if origin not in self._arrays:
                    array = _view(_aligned(_size_bytes(origin)), origin)
                    array[...] = origin.take(self._source)
                    self._arrays[origin] = array
            return [self._arrays[origin] for origin in origins]

    def _is_rounded(self, origin: Origin) -> bool:
        stored, wanted = self._source.read(origin.name).dtype, np.dtype(origin.dtype)
        is_narrowed = wanted != stored and wanted.itemsize <= stored.itemsize
        return is_narrowed or origin.quantized is not None  # the steps of a matrix, which is read for them

    def _packed(self, origins: list[Origin]) -> dict[Origin | Constant, npt.NDArray[Any]]:
        name, places = self._file_name(origins), _places(origins)
        size_bytes = places[-1].stop
        mapped = map_entry(_KIND, name, size_bytes)
        memory = _aligned(size_bytes) if mapped is None else mapped
        arrays: dict[Origin | Constant, npt.NDArray[Any]] = {
            origin: _view(memory[place], origin) for origin, place in zip(origins, places, strict=True)
        }
        if mapped is None:
            for origin, array in arrays.items():
                array[...] = origin.take(self._source)
            # Not where another process has written it meanwhile, and maps it.
            if map_entry(_KIND, name, size_bytes) is None:
                write_entry(_KIND, name, memory.data)
                keep_newest(_KIND, _MOST_FILES)
        return arrays

    def _file_name(self, origins: list[Origin]) -> str:
        entries = [asdict(origin) for origin in origins]
        text = json.dumps([source_fingerprint(), self._weights_fingerprint, entries], sort_keys=True)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _places(origins: list[Origin]) -> list[slice]:
    """Where each lies in a file, in bytes."""
    places, start = [], 0
    for origin in origins:
        places.append(slice(start, start + _size_bytes(origin)))
        start = -(-places[-1].stop // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    return places


def _size_bytes(origin: Origin | Constant) -> int:
    return np.dtype(origin.dtype).itemsize * math.prod(origin.shape)


def _view(memory: npt.NDArray[np.uint8], origin: Origin | Constant) -> npt.NDArray[Any]:
    return memory.view(origin.dtype).reshape(origin.shape)


def _aligned(size_bytes: int) -> npt.NDArray[np.uint8]:
    memory = np.zeros(size_bytes + _ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT_BYTES
    return memory[start : start + size_bytes]
