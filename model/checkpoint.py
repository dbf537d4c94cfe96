"""A checkpoint's files: reading arrays by name, without loading what nobody asks for, and writing them.

Read are, in this order: `model.safetensors`, `model.safetensors.index.json` with its shards,
`flax_model.msgpack`. Pickled files (`pytorch_model.bin`) are refused: unpickling runs whatever code the file
holds.
"""

from __future__ import annotations

import json
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import ml_dtypes
import numpy as np

from model.errors import CheckpointError, UnsupportedCheckpointError
from model.json_file import read_json
from model.whole_file import put_in_place

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG_NAME = "config.json"
SAFETENSORS_NAME = "model.safetensors"
SAFETENSORS_INDEX_NAME = "model.safetensors.index.json"
FLAX_NAME = "flax_model.msgpack"

# Names that say which dress the arrays wear; see `model.weights`.
TORCH_DRESS = "torch"
FLAX_DRESS = "flax"

# The safetensors names of the types that a weight can have here. Integers and 8-bit floats are quantised
# weights.
_SAFETENSORS_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}

# The format caps its own header; a longer one means that the first bytes are not a length.
_LARGEST_SAFETENSORS_HEADER_BYTES = 100_000_000

_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "open_clip_pytorch_model.bin")
_FOREIGN = ("tf_model.h5", "flax_model.msgpack.index.json", "model.onnx", "model.gguf")


class WeightSource(Protocol):
    """Arrays by name, read when asked for."""

    dress: str
    shapes: dict[str, tuple[int, ...]]

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """The array of that name. It may be a view into the file: copy it before you keep or change it."""
        ...


@dataclass(frozen=True)
class _Place:
    path: Path
    dtype: str
    shape: tuple[int, ...]
    begin_bytes: int
    end_bytes: int


class SafetensorsSource:
    """One or more safetensors files, memory-mapped: only the pages of arrays that are read are touched."""

    dress = TORCH_DRESS

    def __init__(self, *paths: Path) -> None:
        """Read and check the headers.

        Raises:
            CheckpointError: a file is missing, cut short or no safetensors file, or two hold the same name.
        """
        self._places: dict[str, _Place] = {}
        self._maps: dict[Path, np.memmap[Any, Any]] = {}
        for path in paths:
            for name, place in _read_header(path).items():
                if name in self._places:
                    other = self._places[name].path.name
                    raise CheckpointError(
                        f"{path}: holds {name!r}, and so does {other}: keep one of the two files"
                    )
                self._places[name] = place
        self.shapes = {name: place.shape for name, place in self._places.items()}

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """A read-only view into the file; rows that are not touched are not loaded.

        Raises:
            UnsupportedCheckpointError: the array is of a type that is no plain number (such as 8-bit floats).
        """
        place = self._places[name]
        if place.dtype not in _SAFETENSORS_DTYPES:
            known = ", ".join(_SAFETENSORS_DTYPES)
            raise UnsupportedCheckpointError(
                f"{place.path}: {name} is of type {place.dtype}; read are {known}. "
                "Use a checkpoint that is not quantised"
            )
        if place.path not in self._maps:
            self._maps[place.path] = np.memmap(place.path, dtype=np.uint8, mode="r")
        piece = self._maps[place.path][place.begin_bytes : place.end_bytes]
        return np.asarray(piece).view(_SAFETENSORS_DTYPES[place.dtype]).reshape(place.shape)


class ArraySource:
    """Arrays that are already in memory, such as those of a msgpack file."""

    def __init__(self, arrays: Mapping[str, np.ndarray[Any, Any]], *, dress: str) -> None:
        self._arrays = arrays
        self.dress = dress
        self.shapes = {name: tuple(array.shape) for name, array in arrays.items()}

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """The array of that name."""
        return self._arrays[name]


def open_weights(folder: Path) -> WeightSource:
    """Find and open the weights in a checkpoint's folder.

    Raises:
        CheckpointError: there are none, or files are missing or cut short.
        UnsupportedCheckpointError: there are only formats that are not read here; says which and the way out.
    """
    if (folder / SAFETENSORS_NAME).exists():
        return SafetensorsSource(folder / SAFETENSORS_NAME)
    if (folder / SAFETENSORS_INDEX_NAME).exists():
        return SafetensorsSource(*_shards(folder / SAFETENSORS_INDEX_NAME))
    if (folder / FLAX_NAME).exists():
        return ArraySource(_read_msgpack(folder / FLAX_NAME), dress=FLAX_DRESS)
    pickled = [name for name in _PICKLED if (folder / name).exists()]
    if pickled:
        raise UnsupportedCheckpointError(
            f"{folder} holds its weights only as {pickled[0]}, a Python pickle, which can run any code when "
            "it is read. Use a revision that has model.safetensors, or convert it where you trust the file: "
            "AutoModel.from_pretrained(...).save_pretrained(...) in Transformers with PyTorch writes one"
        )
    foreign = [name for name in _FOREIGN if (folder / name).exists()]
    if foreign:
        raise UnsupportedCheckpointError(
            f"{folder} holds its weights only as {foreign[0]}, which is not read here: "
            f"use a revision that has {SAFETENSORS_NAME} or {FLAX_NAME}"
        )
    raise CheckpointError(
        f"{folder} holds no weights: expected {SAFETENSORS_NAME}, {SAFETENSORS_INDEX_NAME} or {FLAX_NAME}"
    )


def write_checkpoint(
    folder: Path, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray[Any, Any]]
) -> None:
    """Write `config.json` and `model.safetensors`, each in one move: a killed writer leaves no half file.

    Raises:
        OSError: the disk is full, or something else of the system is in the way.
        CheckpointError: safetensors cannot write the arrays.
    """
    # Numbers leave Python only here, and safetensors takes 50 ms to import.
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{SAFETENSORS_NAME}.unfinished"
    # Transformers refuses a file that does not say whose tensors it holds.
    try:
        save_file(dict(arrays), unfinished, metadata={"format": "pt"})
    except SafetensorError as error:
        unfinished.unlink(missing_ok=True)
        # What the system said stands in the text alone.
        said = re.search(r"\(os error (\d+)\)", str(error))
        if said is None:
            raise CheckpointError(f"{folder / SAFETENSORS_NAME} cannot be written: {error}") from error
        raise OSError(int(said[1]), os.strerror(int(said[1])), str(folder / SAFETENSORS_NAME)) from error
    put_in_place(unfinished, folder / SAFETENSORS_NAME)
    unfinished = folder / f"{CONFIG_NAME}.unfinished"
    unfinished.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    put_in_place(unfinished, folder / CONFIG_NAME)


def names_of_shards(index: Path) -> list[str]:
    """The files that an index names beside it, sorted; CheckpointError if it is damaged or names others."""
    content = read_json(index)
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} names no shards (no weight_map): fetch it again")
    # An index comes from elsewhere and must not point out of its folder.
    strange = [name for name in weight_map.values() if not isinstance(name, str) or Path(name).name != name]
    if strange:
        raise CheckpointError(f"{index} names files outside its folder: {strange[:5]!r:.200}")
    return sorted(set(weight_map.values()))


def _shards(index: Path) -> list[Path]:
    """The files that an index names, all of them there."""
    names = names_of_shards(index)
    missing = [name for name in names if not (index.parent / name).exists()]
    if missing:
        raise CheckpointError(
            f"{index.parent} lacks {len(missing)} of {len(names)} shards ({', '.join(missing)}): fetch them"
        )
    return [index.parent / name for name in names]


def _read_header(path: Path) -> dict[str, _Place]:
    """Where each array lies in a safetensors file.

    The format: 8 bytes little-endian length, a JSON header of that length, then the arrays' bytes, to which
    the header's offsets refer (https://github.com/huggingface/safetensors#format).
    """
    try:
        with path.open("rb") as file:
            start = file.read(8)
            size_bytes = path.stat().st_size
            if len(start) < 8:
                raise _cut_short(path, size_bytes)
            (header_bytes,) = struct.unpack("<Q", start)
            if header_bytes > _LARGEST_SAFETENSORS_HEADER_BYTES:
                raise CheckpointError(f"{path} is no safetensors file{_hint(start)}")
            if 8 + header_bytes > size_bytes:
                raise _cut_short(path, size_bytes)
            text = file.read(header_bytes)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    try:
        header = json.loads(text)
        places = {
            name: _place(path, entry, 8 + header_bytes)
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise CheckpointError(f"{path}: its header is damaged ({error!r}): fetch it again") from error
    needed_bytes = max((place.end_bytes for place in places.values()), default=0)
    if needed_bytes > size_bytes:
        raise _cut_short(path, size_bytes, needed_bytes)
    return places


def _place(path: Path, entry: Mapping[str, Any], offset_bytes: int) -> _Place:
    begin, end = (int(number) for number in entry["data_offsets"])
    shape = tuple(int(side) for side in entry["shape"])
    dtype = _SAFETENSORS_DTYPES.get(entry["dtype"])
    if begin < 0 or end < begin or min(shape, default=0) < 0:
        raise ValueError("negative sizes")
    if dtype is not None and end - begin != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"{end - begin} bytes for shape {shape} of {dtype}")
    return _Place(path, str(entry["dtype"]), shape, offset_bytes + begin, offset_bytes + end)


def _hint(start: bytes) -> str:
    if start == b"version ":
        return (
            ": it is a Git LFS pointer, a note of where the file lies. Fetch the file itself (git lfs pull)"
        )
    return ": fetch it again"


def _cut_short(path: Path, size_bytes: int, needed_bytes: int | None = None) -> CheckpointError:
    expected = "" if needed_bytes is None else f", its header promises {needed_bytes}"
    return CheckpointError(
        f"{path} is cut short: it has {size_bytes} bytes{expected}. A download broke off: fetch it again"
    )


def _read_msgpack(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """A Flax checkpoint's nested dictionaries, flattened to names joined with dots."""
    from flax.serialization import msgpack_restore

    try:
        content = path.read_bytes()
        tree = msgpack_restore(content)
    except Exception as error:
        raise CheckpointError(
            f"{path} is cut short or damaged ({type(error).__name__}: {error}): fetch it again"
        ) from error
    arrays: dict[str, np.ndarray[Any, Any]] = {}

    def flatten(node: Any, names: tuple[str, ...]) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                flatten(value, (*names, str(key)))
        elif isinstance(node, np.ndarray | np.generic):
            arrays[".".join(names)] = np.asarray(node)
        else:
            raise CheckpointError(f"{path}: {'.'.join(names)} is a {type(node).__name__}, not an array")

    flatten(tree, ())
    if not arrays:
        raise CheckpointError(f"{path} holds no arrays")
    return arrays
