"""Runs a compiled tower again without importing JAX, Flax or the tower's code.

Importing JAX and Flax and tracing a tower costs seconds at each start of the program, for one query that
then takes milliseconds. What XLA compiled is a file of machine code; running it takes `jaxlib` alone,
which is imported in a quarter of a second. So the first run of a tower keeps, in the cache folder, the
machine code and a list of where its parameters lie in the checkpoint; later starts map the checkpoint into
memory and run the code. The numbers are the same to the last bit.

The parts of `jaxlib` that this needs are not public. So a program is kept under the exact version that
made it, and whatever goes wrong here means only that the tower is run through JAX as usual. Like JAX's own
cache of compiled code, the folder must be writable by its owner alone: code from it is run.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes  # noqa: F401 (NumPy knows bfloat16 by name from here on)
import numpy as np

from model.cache import keep_newest, read_entry, write_entry
from model.int8_weights import quantized, steps_of
from model.machine import available_cores, making_client, processor_flags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy.typing as npt

    from model.checkpoint import WeightSource
    from model.packed_parameters import SharedParameters

_KIND = "programs"
_CHECKSUM_BYTES = 4

# A model has about a dozen, of a megabyte or a few each; every update of the software makes new ones.
_MOST_PROGRAMS = 100


@dataclass(frozen=True)
class Origin:
    """Where one parameter of a program comes from.

    Attributes:
        name: Of the array in the checkpoint.
        dtype: That the program wants.
        shape: That the program wants.
        part: Index, count and axis where it is one of several equal parts of the array; None for the whole.
        axes: How the array's axes are permuted; None for not at all.
        quantized: "kernel" for the integers that stand for the matrix that all this gives, "scale" for their steps
            (`model.int8`); None for the values themselves.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    part: tuple[int, int, int] | None = None
    axes: tuple[int, ...] | None = None
    quantized: str | None = None

    def take(self, source: WeightSource) -> npt.NDArray[Any]:
        """Returns the parameter's values; possibly a view into the file."""
        array = source.read(self.name)
        if self.part is not None:
            index, count, axis = self.part
            length = array.shape[axis] // count
            array = array[(slice(None),) * axis + (slice(index * length, (index + 1) * length),)]
        if self.axes is not None:
            array = array.transpose(self.axes)
        if self.quantized is not None:
            return quantized(array) if self.quantized == "kernel" else steps_of(array)
        return np.asarray(array, dtype=self.dtype, order="C")


@dataclass(frozen=True)
class Constant:
    """A parameter of a program that is kept with it: computed from the checkpoint, and small."""

    dtype: str
    shape: tuple[int, ...]
    content: bytes

    @classmethod
    def of(cls, array: npt.NDArray[Any]) -> Constant:
        """Keeps an array."""
        return cls(array.dtype.name, array.shape, array.tobytes())

    def take(self, _: WeightSource | None) -> npt.NDArray[Any]:
        """As `Origin.take`."""
        return np.frombuffer(self.content, self.dtype).reshape(self.shape)


def find_origin(
    parameter: npt.NDArray[Any], name: str, source: WeightSource, piece: int | None = None
) -> Origin | None:
    """Finds how a parameter was made from an array of the checkpoint, by comparing values.

    Args:
        parameter: The values that the tower uses.
        name: Of the array that was read for it.
        source: The checkpoint.
        piece: Which it is of several along either axis; None where it is the whole array, or one of several along the
            first axis.

    Returns:
        None if it is none of the ways known here, so that the tower cannot be run again from the
        checkpoint alone.
    """
    array = source.read(name)
    dtype, shape = parameter.dtype.name, parameter.shape
    if dtype == "int8" and array.ndim != 2:
        return None
    parts: list[tuple[int, int, int] | None] = [None]
    if array.shape and array.size > parameter.size and array.size % parameter.size == 0:
        count = array.size // parameter.size
        indices = range(count) if piece is None else [piece]
        axes = range(1 if piece is None else array.ndim)
        parts = [(index, count, axis) for axis in axes if array.shape[axis] % count == 0 for index in indices]
    permutations: dict[int, list[tuple[int, ...]]] = {2: [(1, 0)], 4: [(2, 3, 1, 0)]}
    for part in parts:
        for order in (None, *permutations.get(array.ndim, [])):
            origin = Origin(name, dtype, shape, part, order, "kernel" if dtype == "int8" else None)
            candidate = origin.take(source)
            if candidate.shape == shape and np.array_equal(candidate, parameter):
                return origin
    return None


class RecordingSource:
    """A checkpoint that remembers which arrays were read, in order."""

    def __init__(self, source: WeightSource) -> None:
        self.source = source
        self.dress = source.dress
        self.shapes = source.shapes
        self.read_names: list[str] = []

    def read(self, name: str) -> npt.NDArray[Any]:
        """Returns the array of that name."""
        self.read_names.append(name)
        return self.source.read(name)


def program_name(*, tower: dict[str, Any], inputs: Sequence[npt.NDArray[Any]]) -> str:
    """Returns the name to keep a program under: another one where anything differs that it depends on.

    Args:
        tower: All that makes the tower what it is, ready for JSON.
        inputs: Arrays of the shapes and dtypes that the program takes.
    """
    shapes = [[array.dtype.name, *array.shape] for array in inputs]
    text = json.dumps([_environment(), tower, shapes], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


@dataclass(frozen=True)
class Step:
    """One call on the way through a program.

    Attributes:
        piece: Number of the piece that is called.
        inputs: Numbers of the values that it takes. First come those that the program is given, then what its steps
            gave, in their order.
        spent: Numbers of the values that no later step takes.
    """

    piece: int
    inputs: tuple[int, ...]
    spent: tuple[int, ...]


def follow(
    steps: Iterable[Step], pieces: Sequence[Callable[..., Sequence[Any]]], given: Iterable[Any]
) -> Any:
    """Runs a program on what it is given; returns what its last step gave."""
    values = list(given)
    for step in steps:
        outputs = pieces[step.piece](*[values[number] for number in step.inputs])
        for number in step.spent:
            values[number] = None
        values.extend(outputs)
    return values[-1]


@dataclass(frozen=True)
class Piece:
    """A part of a program.

    Attributes:
        code: XLA's serialised machine code.
        outputs: Dtype and shape of each array that it returns.
    """

    code: bytes
    outputs: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class StoredProgram:
    """A kept program, not yet loaded.

    Attributes:
        pieces: Its machine code; blocks that differ in their parameters alone are one piece.
        steps: The way through them; the last gives one float32 array.
        parameters: Where they come from, in order; the inputs follow them.
    """

    pieces: tuple[Piece, ...]
    steps: tuple[Step, ...]
    parameters: tuple[Origin | Constant, ...]


def keep_program(name: str, program: StoredProgram) -> None:
    """Keeps a program for `load_program`: a checksum, a length, a head in JSON of that length, constants, codes."""
    entries, constants = [], []
    for parameter in program.parameters:
        entry = asdict(parameter)
        if isinstance(parameter, Constant):
            constants.append(entry.pop("content"))
            entry["bytes"] = len(parameter.content)
        entries.append(entry)
    codes = [piece.code for piece in program.pieces]
    description = {
        "parameters": entries,
        "pieces": [{"bytes": len(piece.code), "outputs": piece.outputs} for piece in program.pieces],
        "steps": [asdict(step) for step in program.steps],
    }
    head = json.dumps(description).encode("ascii")
    content = b"".join([len(head).to_bytes(8, "little"), head, *constants, *codes])
    write_entry(_KIND, name, zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "little") + content)
    keep_newest(_KIND, _MOST_PROGRAMS)


def is_usable() -> bool:
    """Tells whether this version of `jaxlib` on this machine was not yet seen to fail at replaying."""
    return read_entry(_KIND, _failure_name()) is None


def note_failure(error: BaseException) -> None:
    """Keeps later starts, up to the next version, from trying in vain, where it was the version that failed."""
    if not isinstance(
        error, (AttributeError, ImportError, LookupError, NotImplementedError, TypeError, ValueError)
    ):
        return  # too little memory, a machine that shuts down, a file that went away
    write_entry(_KIND, _failure_name(), f"{type(error).__name__}: {error}".encode("utf-8", "replace"))


def _failure_name() -> str:
    return "unusable-" + hashlib.sha256(json.dumps(_environment(), sort_keys=True).encode()).hexdigest()


def load_program(name: str) -> StoredProgram | None:
    """Returns a kept program, or None if there is none or it is damaged."""
    kept = read_entry(_KIND, name)
    if kept is None:
        return None
    checksum, content = kept[:_CHECKSUM_BYTES], kept[_CHECKSUM_BYTES:]
    if len(content) < 8 or zlib.crc32(content) != int.from_bytes(checksum, "little"):
        return None
    end = 8 + int.from_bytes(content[:8], "little")
    parameters: list[Origin | Constant] = []
    try:
        head = json.loads(content[8:end])
        for entry in head["parameters"]:
            shape = tuple(entry["shape"])
            if "bytes" in entry:
                start, end = end, end + entry["bytes"]
                constant = Constant(entry["dtype"], shape, content[start:end])
                constant.take(None)  # raises ValueError if it was cut short
                parameters.append(constant)
                continue
            parameters.append(
                Origin(
                    entry["name"],
                    entry["dtype"],
                    shape,
                    tuple(entry["part"]) if entry["part"] else None,
                    tuple(entry["axes"]) if entry["axes"] else None,
                    entry["quantized"],
                )
            )
        pieces = []
        for entry in head["pieces"]:
            start, end = end, end + entry["bytes"]
            outputs = tuple((dtype, tuple(shape)) for dtype, shape in entry["outputs"])
            pieces.append(Piece(content[start:end], outputs))
        steps = [
            Step(entry["piece"], tuple(entry["inputs"]), tuple(entry["spent"])) for entry in head["steps"]
        ]
        return StoredProgram(tuple(pieces), tuple(steps), tuple(parameters))
    except (ValueError, LookupError, TypeError):
        return None


class Replayer:
    """Runs kept programs of one tower; they share its parameters.

    Every method may raise anything at all: the caller falls back on JAX.

    Args:
        parameters: Replayers of the same ones share their memory.
        is_single_threaded: Whether a call computes in one thread, which leaves the other cores to other replayers.
    """

    def __init__(self, parameters: SharedParameters, *, is_single_threaded: bool = False) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # as JAX does: else XLA tells its life on stderr
        from jaxlib import _jax, xla_client

        self._shared = parameters
        self._xla = xla_client
        if "jax" not in sys.modules:  # which sets this when it is imported, before us or after
            _jax.jax_jit.set_enable_x64_state(_jax.config.Config("imago_enable_x64", False))
        make_client: Callable[..., Any] = xla_client.make_cpu_client
        with making_client(threads=1 if is_single_threaded else None):
            # On one core nothing is gained by calling a piece before the last is done, and memory is taken for both.
            self._client = make_client(asynchronous=not is_single_threaded)
        self._device = self._client.local_devices()[0]
        self._devices = xla_client.DeviceList((self._device,))

        class OnOneDevice(xla_client.SingleDeviceSharding):  # type: ignore[misc]
            """What JAX's Python half adds to this class, as far as an array's way to the device asks."""

            memory_kind = None

            def _to_xla_hlo_sharding(self, _dimensions: int) -> Any:
                return xla_client.HloSharding.replicate()

        self._sharding = OnOneDevice(self._device)
        self._parameters: dict[Origin | Constant, Any] = {}

    def load(self, program: StoredProgram) -> Any:
        """Makes a function from arrays to one array."""
        missing = [origin for origin in program.parameters if origin not in self._parameters]
        with ThreadPoolExecutor(1) as pool:  # linking the code takes as long as turning matrices does
            arrays = pool.submit(self._shared.take, missing)
            pieces = [self._load_piece(piece) for piece in program.pieces]
            self._parameters |= {
                origin: self._put(array) for origin, array in zip(missing, arrays.result(), strict=True)
            }
        parameters = [self._parameters[origin] for origin in program.parameters]

        def run(*inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
            output = follow(program.steps, pieces, [*parameters, *(self._put(array) for array in inputs)])
            return np.array(memoryview(output), dtype=np.float32)

        return run

    def _load_piece(self, piece: Piece) -> Callable[..., Sequence[Any]]:
        """Makes a function from arrays on the device to others."""
        executable = self._client.deserialize_executable(piece.code, self._devices)
        results = [
            self._xla.array_result_handler(
                _ShapeAndDtype(shape, np.dtype(dtype)), self._sharding, committed=True, _skip_checks=True
            )
            for dtype, shape in piece.outputs
        ]

        def run(*arrays: Any) -> Sequence[Any]:
            outputs: Sequence[Any] = executable.execute_sharded(arrays).consume_with_handlers(results)
            return outputs

        return run

    def _put(self, array: npt.NDArray[Any]) -> Any:
        shape_and_dtype = _ShapeAndDtype(array.shape, array.dtype)
        return self._xla.batched_device_put(shape_and_dtype, self._sharding, [array], [self._device])


class _ShapeAndDtype:
    """As much of JAX's abstract value as putting an array on a device asks for."""

    weak_type = False

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.dtype = dtype
        self.ndim = len(shape)
        self.size = math.prod(shape)


@cache
def source_fingerprint(*modules: str) -> str:
    """Returns a hexadecimal SHA-256 over our own source, for what depends on it.

    Args:
        modules: Of this package, such as "layers"; none for all of them.
    """
    source = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if not modules or path.stem in modules:
            source.update(path.read_bytes())
    return source.hexdigest()


@cache
def _environment() -> dict[str, object]:
    """What the machine code depends on besides the tower: versions, processor, XLA's flags, our own source."""
    return {
        "jaxlib": importlib.metadata.version("jaxlib"),
        "source": source_fingerprint(),
        "processor": [
            platform.machine(),
            platform.processor(),
            available_cores(),
            *sorted(processor_flags()),
        ],
        "flags": os.environ.get("XLA_FLAGS", ""),
    }
