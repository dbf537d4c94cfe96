"""One tower of an encoder as a function from arrays to unit vectors, compiled once for each shape."""

from __future__ import annotations

import importlib
import json
import logging
import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from model import cache, replay
from model.families import without_labels
from model.identity import fingerprint_of_settings
from model.machine import (
    backend,
    making_client,
    multiplies_unsigned,
    precision_beside_int8,
    processor_flags,
)
from model.packed_parameters import SharedParameters
from model.replay import source_fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import jax
    import numpy.typing as npt
    from flax import nnx

    from model.families import CheckpointDescription, TowerClass

    Function = Callable[..., npt.NDArray[np.float32]]
    Inputs = tuple[npt.NDArray[Any], ...]

_log = logging.getLogger(__name__)

# What every layer calls the matrix that it gives to `model.products.product`, and to nothing else.
_MULTIPLIED = "kernel"

# In the cache: which products of a tower may be of integers.
_KIND = "int8"
_WHAT_DECIDES_INTEGERS = (
    *("int8", "int8_weights", "cpu_layout", "layers", "products"),
    *("clip", "siglip", "open_clip", "dual_encoder", "vit", "dinov2", "bert"),
)

# Blocks that are compiled as one (`model.stages`). Few make a short start, but each piece is a call, felt by one text.
_BLOCKS_A_PIECE, _BLOCKS_A_PIECE_OF_ONE = 1, 2

# Patches of 32 pixels, 1,024 wide, in integers. What is larger and not in the checkpoint makes no kept program.
_LARGEST_CONSTANT_BYTES = 4 << 20


class Tower:
    """A tower of a checkpoint, read when it is first called.

    A call looks for its shapes among the programs at hand, then among those kept by an earlier run
    (`model.replay`), and only then imports JAX, reads the tower and compiles. Safe to call from several
    threads.

    Args:
        description: The checkpoint.
        tower: The class that reads the tower.
        precision: The dtype of the operands of its products.
        run: Calls the model that the class makes with the inputs, giving features (batch, dimension);
            traced by JAX. What it closes over must follow from `description`.
        inputs_to_measure_with: Makes inputs of many kinds, always the same, to find out with which products may be of
            integers; asked where `precision` is int8 and this is not known yet.
        cores: On so many `map` computes at once.
        divides_mlps: Whether a call is of so many tokens that wide MLPs are better computed in pieces on a CPU.
    """

    def __init__(
        self,
        description: CheckpointDescription,
        tower: TowerClass,
        precision: str,
        run: Callable[..., jax.Array],
        inputs_to_measure_with: Callable[[], Inputs],
        *,
        cores: int = 1,
        divides_mlps: bool = False,
    ) -> None:
        self._description = description
        self._class = tower
        self._precision = precision
        self._run = run
        self._inputs_to_measure_with = inputs_to_measure_with
        self._cores = cores
        self._divides_mlps = divides_mlps and backend() == "cpu"
        self._lock = threading.Lock()
        self._workers: dict[tuple[Any, ...], CoreWorkers | None] = {}
        self._functions: dict[tuple[Any, ...], Function] = {}
        self._replayer: replay.Replayer | None = None
        self._may_replay = backend() == "cpu" and replay.is_usable()
        self._through_jax: _ThroughJax | None = None

    def __call__(self, *inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Returns float32 (batch, dimension), rows of length 1."""
        key = _shapes(inputs)
        function = self._functions.get(key)
        if function is None:
            with self._lock:
                function = self._functions.get(key) or self._replay(inputs) or self._compile(inputs)
                self._functions[key] = function
        return function(*inputs)

    def map(self, batches: Sequence[Inputs]) -> list[npt.NDArray[np.float32]]:
        """Returns what a call returns, for each of several batches of the same shapes.

        Where it can, each core computes a batch of its own: a program for one core spends nothing on dividing its work
        and on waiting for the other half. A batch that comes alone has all cores to itself, unless others came before.
        """
        if not batches:
            return []
        key = _shapes(batches[0])
        if (len(batches) > 1 or key in self._workers) and (
            workers := self._workers_for(batches[0])
        ) is not None:
            try:
                return workers.map(batches)
            except Exception:  # noqa: BLE001  (parts of jaxlib that promise nothing; JAX does)
                self._workers[key] = None
        return [self(*batch) for batch in batches]

    def _workers_for(self, inputs: Inputs) -> CoreWorkers | None:
        if self._cores == 1:
            return None
        key = _shapes(inputs)
        if key not in self._workers:
            with self._lock:
                if key not in self._workers:
                    self._workers[key] = self._make_workers(inputs)
        return self._workers[key]

    def _make_workers(self, inputs: Inputs) -> CoreWorkers | None:
        """Gives the cores what an earlier run compiled or this one compiles; None if that cannot be kept."""
        if not self._may_replay:
            return None
        name = self._program_name(inputs)
        program = replay.load_program(name)
        if program is None:
            key = _shapes(inputs)
            self._functions[key] = self._functions.get(key) or self._compile(inputs)
            program = replay.load_program(name)
            if program is None:
                return None
        # With its copy of the parameters: what it compiled is found among the kept programs when it is called again.
        self._through_jax = None
        self._functions.clear()
        return CoreWorkers(program, self._parameters, self._cores)

    @cached_property
    def _parameters(self) -> SharedParameters:
        return SharedParameters(self._description.open_weights(), self._description.weights_fingerprint())

    def _replay(self, inputs: Inputs) -> Function | None:
        """Returns what an earlier run compiled for these shapes, having tried it; None if there is nothing to use."""
        if not self._may_replay or self._through_jax is not None:
            return None
        program = replay.load_program(self._program_name(inputs))
        if program is None:
            return None
        try:
            if self._replayer is None:
                self._replayer = replay.Replayer(self._parameters)
            function: Function = self._replayer.load(program)
            function(*inputs)
        except Exception as error:  # noqa: BLE001  (parts of jaxlib that promise nothing; JAX does)
            self._may_replay = False
            replay.note_failure(error)
            return None
        return function

    def _compile(self, inputs: Inputs) -> Function:
        if self._through_jax is None:
            if self._may_replay:
                _log.info("Compiling the model for this machine, which is kept for the next time.")
            self._through_jax = _ThroughJax(
                self._description,
                self._class,
                self._precision,
                self._run,
                self._inputs_to_measure_with,
                keeps_programs=self._may_replay,
                divides_mlps=self._divides_mlps,
            )
        return self._through_jax.compile(inputs, self._program_name(inputs))

    def _program_name(self, inputs: Inputs) -> str:
        tower = _facts(self._description, self._class) | {
            "mask": self._description.reads_attention_mask,
            "rows": self._description.embedding_table,
            "precision": self._precision,
        }
        return replay.program_name(tower=tower, inputs=inputs)


def _facts(description: CheckpointDescription, tower: TowerClass) -> dict[str, Any]:
    """What makes a tower's numbers what they are, ready for JSON."""
    return {
        "class": [tower.module, tower.name, tower.output],
        "settings": without_labels(dict(description.settings)),
        "image": description.preprocessor.to_dict(),
        # Not their layout alone: where parameters come from was found by comparing values.
        "weights": description.weights_fingerprint(),
    }


def _shapes(inputs: Inputs) -> tuple[Any, ...]:
    return tuple((array.shape, array.dtype.name) for array in inputs)


class CoreWorkers:
    """A kept program in single-threaded copies, one for each core, which share its parameters.

    Safe to use from several threads. Every method may raise anything at all, see `model.replay`.

    Args:
        program: To run.
        parameters: Its parameters.
        count: Of copies, at most; they are made as they are needed.
    """

    def __init__(self, program: replay.StoredProgram, parameters: SharedParameters, count: int) -> None:
        self._program = program
        self._parameters = parameters
        self._free: queue.SimpleQueue[Function] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="tower")

    def map(self, batches: Sequence[Inputs]) -> list[npt.NDArray[np.float32]]:
        """Returns the program's answer to each batch, in their order."""
        return list(self._pool.map(self._run, batches))

    def _run(self, inputs: Inputs) -> npt.NDArray[np.float32]:
        try:
            function = self._free.get_nowait()
        except queue.Empty:  # no more of them are ever at work than the pool has threads
            function = replay.Replayer(self._parameters, is_single_threaded=True).load(self._program)
        answer = function(*inputs)
        self._free.put(function)
        return answer


class _ThroughJax:
    """A tower's parameters on all of JAX's devices, and what compiles it for given shapes.

    Several devices work data-parallel: each holds all parameters and takes an equal share of a batch.
    """

    def __init__(
        self,
        description: CheckpointDescription,
        tower: TowerClass,
        precision: str,
        run: Callable[..., jax.Array],
        inputs_to_measure_with: Callable[[], Inputs],
        *,
        keeps_programs: bool,
        divides_mlps: bool,
    ) -> None:
        import jax
        import jax.numpy as jnp
        from flax import nnx

        from model import int8, stages
        from model.cpu_layout import divide_mlps, turn_kernels
        from model.layers import unit_length
        from model.weights import fill

        with making_client():  # JAX makes its own when it is first asked
            devices = jax.local_devices()
        # Elsewhere many calls cost more than large programs do.
        is_in_pieces = backend() == "cpu" and len(devices) == 1
        self._keeps_programs = keeps_programs and len(devices) == 1
        if not self._keeps_programs:
            # Either cache, never both: what XLA took from JAX's it cannot put whole into ours.
            cache.keep_compiled_code()
        model_class = getattr(importlib.import_module(tower.module), tower.name)
        narrow = jnp.dtype(precision_beside_int8() if precision == "int8" else precision)
        model = model_class.from_settings(description.settings, dtype=narrow, param_dtype=jnp.float32)
        source = replay.RecordingSource(description.open_weights())
        fill(model, source, model.weights)
        whole_paths = list(nnx.to_flat_state(nnx.state(model)).paths)
        chosen = frozenset[str]()
        if precision == "int8":
            chosen = _products_of_integers(
                model, description, tower, run, inputs_to_measure_with, divides_mlps=divides_mlps
            )
        if divides_mlps:
            divide_mlps(model)
        int8.quantize(model, chosen, description.preprocessor.normalization, unsigned=multiplies_unsigned())
        if backend() == "cpu" and narrow != jnp.float32:
            turn_kernels(model)
        structure, state = nnx.split(model)
        flat = nnx.to_flat_state(state)
        paths = list(flat.paths)
        self._parameters = [
            # Rounded once, where each product would round it anew: the same numbers, half the memory to read.
            leaf[...].astype(narrow) if path[-1] == _MULTIPLIED and leaf.dtype != jnp.int8 else leaf[...]
            for path, leaf in zip(paths, flat.leaves, strict=True)
        ]
        # The function lives as long as the tower: with the leaves themselves it would keep the unrounded matrices.
        shells = [leaf.replace(None) for leaf in flat.leaves]

        def function(parameters: list[jax.Array], *inputs: jax.Array) -> jax.Array:
            leaves = [shell.replace(value) for shell, value in zip(shells, parameters, strict=True)]
            whole = nnx.merge(structure, nnx.from_flat_state(list(zip(paths, leaves, strict=True))))
            if is_in_pieces:
                stages.set_blocks_apart(
                    whole, _BLOCKS_A_PIECE if len(inputs[0]) > 1 else _BLOCKS_A_PIECE_OF_ONE
                )
            return unit_length(run(whole, *inputs))

        mesh = jax.sharding.Mesh(np.asarray(devices), ("batch",))
        whole, divided = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("batch")  # type: ignore[no-untyped-call]
        self._everywhere = jax.sharding.NamedSharding(mesh, whole)
        self._divided = jax.sharding.NamedSharding(mesh, divided)
        self._devices = len(devices)
        if self._devices > 1:
            self._parameters = jax.device_put(self._parameters, self._everywhere)

        self._function = jax.jit(function)
        self._source = source.source
        self._paths = paths
        # Of the arrays that the parameters were read from, as they were before some became integers and steps.
        is_one_to_one = len(whole_paths) == len(source.read_names)
        self._names = dict(zip(whole_paths, source.read_names, strict=True)) if is_one_to_one else {}
        self._origins: list[replay.Origin | replay.Constant] | None = None

    def compile(self, inputs: Inputs, name: str) -> Function:
        """Compiles for the shapes of `inputs`, and keeps the program under `name` where it can be replayed."""
        if self._devices > 1:
            return self._compile_for_all(inputs)
        from model.stages import lower

        lowered, steps = lower(self._function.trace(self._parameters, *inputs).jaxpr)
        pieces = [piece.compile(_compiler_options()) for piece in lowered]
        self._keep(pieces, steps, name)
        return lambda *arrays: np.asarray(replay.follow(steps, pieces, [*self._parameters, *arrays]))

    def _compile_for_all(self, inputs: Inputs) -> Function:
        """The same for several devices; what cannot be divided equally, a single query, each computes whole."""
        import jax

        share = self._everywhere if len(inputs[0]) % self._devices else self._divided

        def place(arrays: Inputs) -> tuple[jax.Array, ...]:
            placed: tuple[jax.Array, ...] = jax.device_put(arrays, share)
            return placed

        compiled = self._function.lower(self._parameters, *place(inputs)).compile(_compiler_options())
        return lambda *arrays: np.asarray(compiled(self._parameters, *place(arrays)))

    def _keep(self, pieces: list[Any], steps: list[replay.Step], name: str) -> None:
        if not self._keeps_programs:
            return
        if self._origins is None:
            self._origins = self._find_origins()
        if self._origins:
            try:
                kept = tuple(
                    replay.Piece(
                        piece.runtime_executable().serialize(),
                        tuple((output.dtype.name, output.shape) for output in piece.out_info),
                    )
                    for piece in pieces
                )
            except Exception:  # noqa: BLE001  (not every executable can be serialised; then nothing is kept)
                return
            replay.keep_program(name, replay.StoredProgram(kept, tuple(steps), tuple(self._origins)))

    def _find_origins(self) -> list[replay.Origin | replay.Constant]:
        """Tells where each parameter comes from; an empty list if one cannot be told."""
        from model.cpu_layout import whole_path

        found: list[replay.Origin | replay.Constant] = []
        beside: dict[tuple[Any, ...], replay.Origin] = {}
        for path, parameter in zip(self._paths, self._parameters, strict=True):
            values, origin = np.asarray(parameter), None
            whole, piece = whole_path(path)
            if whole in self._names:
                origin = replay.find_origin(values, self._names[whole], self._source, piece)
                if origin is not None and origin.quantized == "kernel":
                    beside[*path[:-1], "scale"] = replace(
                        origin, dtype="float32", shape=origin.shape[:1], quantized="scale"
                    )
            else:
                origin = beside.get(path)
                # Two of the arrays that are stacked in a checkpoint may have the same integers and other steps.
                if origin is not None and not np.array_equal(origin.take(self._source), values):
                    origin = None
            if origin is not None:
                found.append(origin)
            elif values.nbytes <= _LARGEST_CONSTANT_BYTES:
                found.append(replay.Constant.of(values))
            else:
                return []
        return found


def _compiler_options() -> dict[str, str | bool]:
    """Tells XLA to use whole registers where 512 bits are no burden; by itself it uses half of them anywhere.

    Processors before those with bfloat16 lower their clock for 512 bits.
    """
    is_wide = backend() == "cpu" and "avx512_bf16" in processor_flags()
    return {"xla_cpu_prefer_vector_width": "512"} if is_wide else {}


def _products_of_integers(
    model: nnx.Module,
    description: CheckpointDescription,
    tower: TowerClass,
    run: Callable[..., jax.Array],
    inputs_to_measure_with: Callable[[], Inputs],
    *,
    divides_mlps: bool,
) -> frozenset[str]:
    """Finds out which products of a tower may be of integers, see `model.int8`, or knows it from an earlier time."""
    import jax.numpy as jnp
    from flax import nnx

    from model import int8
    from model.cpu_layout import divide_mlps

    if not int8.products(model):
        return frozenset()
    # Not over all our source, as for a program: measuring takes seconds.
    source = source_fingerprint(*_WHAT_DECIDES_INTEGERS)
    name = fingerprint_of_settings(_facts(description, tower) | {"source": source})
    chosen = _names_in(cache.read_entry(_KIND, name))
    if chosen is None:
        exact = getattr(importlib.import_module(tower.module), tower.name).from_settings(
            description.settings, dtype=jnp.float32, param_dtype=jnp.float32
        )
        nnx.update(exact, nnx.state(model))
        if divides_mlps:
            divide_mlps(exact)
        inputs = inputs_to_measure_with()
        normalization = description.preprocessor.normalization
        chosen = int8.choose_products(exact, lambda whole: run(whole, *inputs), normalization)
        cache.write_entry(_KIND, name, json.dumps(sorted(chosen)).encode())
    return chosen


def _names_in(entry: bytes | None) -> frozenset[str] | None:
    """Reads what `_quantize` kept; None if there is nothing, or it is damaged."""
    try:
        names = json.loads(entry or b"")
    except ValueError:
        return None
    is_whole = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return frozenset(names) if is_whole else None
