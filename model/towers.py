"""One tower of an encoder as a function from arrays to unit vectors, compiled once for each shape."""

from __future__ import annotations

import importlib
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from model import cache, replay
from model.families import without_labels
from model.machine import backend

if TYPE_CHECKING:
    from collections.abc import Callable

    import jax
    import numpy.typing as npt

    from model.families import CheckpointDescription, TowerClass

    Function = Callable[..., npt.NDArray[np.float32]]

# What every layer calls the matrix that it gives to `model.layers.product`, and to nothing else.
_MULTIPLIED = "kernel"


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
    """

    def __init__(
        self,
        description: CheckpointDescription,
        tower: TowerClass,
        precision: str,
        run: Callable[..., jax.Array],
    ) -> None:
        self._description = description
        self._class = tower
        self._precision = precision
        self._run = run
        self._lock = threading.Lock()
        self._functions: dict[tuple[Any, ...], Function] = {}
        self._replayer: replay.Replayer | None = None
        self._may_replay = backend() == "cpu" and replay.is_usable()
        self._through_jax: _ThroughJax | None = None

    def __call__(self, *inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Returns float32 (batch, dimension), rows of length 1."""
        key = tuple((array.shape, array.dtype.name) for array in inputs)
        function = self._functions.get(key)
        if function is None:
            with self._lock:
                function = self._functions.get(key) or self._replay(inputs) or self._compile(inputs)
                self._functions[key] = function
        return function(*inputs)

    def _replay(self, inputs: tuple[npt.NDArray[Any], ...]) -> Function | None:
        """Returns what an earlier run compiled for these shapes, having tried it; None if there is nothing to use."""
        if not self._may_replay or self._through_jax is not None:
            return None
        program = replay.load_program(self._program_name(inputs))
        if program is None:
            return None
        try:
            if self._replayer is None:
                self._replayer = replay.Replayer(self._description.open_weights())
            function: Function = self._replayer.load(program)
            function(*inputs)
        except Exception as error:  # noqa: BLE001  (parts of jaxlib that promise nothing; JAX does)
            self._may_replay = False
            replay.note_failure(error)
            return None
        return function

    def _compile(self, inputs: tuple[npt.NDArray[Any], ...]) -> Function:
        if self._through_jax is None:
            self._through_jax = _ThroughJax(
                self._description, self._class, self._precision, self._run, keeps_programs=self._may_replay
            )
        return self._through_jax.compile(inputs, self._program_name(inputs))

    def _program_name(self, inputs: tuple[npt.NDArray[Any], ...]) -> str:
        description = self._description
        tower = {
            "class": [self._class.module, self._class.name, self._class.output],
            "settings": without_labels(dict(description.settings)),
            "image": description.preprocessor.to_dict(),
            "mask": description.reads_attention_mask,
            "rows": description.embedding_table,
            "precision": self._precision,
            # Not their layout alone: where parameters come from was found by comparing values.
            "weights": description.weights_fingerprint(),
        }
        return replay.program_name(tower=tower, inputs=inputs)


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
        *,
        keeps_programs: bool,
    ) -> None:
        import jax
        import jax.numpy as jnp
        from flax import nnx

        from model.weights import fill

        devices = jax.local_devices()
        self._keeps_programs = keeps_programs and len(devices) == 1
        if not self._keeps_programs:
            # Either cache, never both: what XLA took from JAX's it cannot put whole into ours.
            cache.keep_compiled_code()
        model_class = getattr(importlib.import_module(tower.module), tower.name)
        model = model_class.from_settings(
            description.settings, dtype=jnp.dtype(precision), param_dtype=jnp.float32
        )
        source = replay.RecordingSource(description.open_weights())
        fill(model, source, model.weights)
        structure, state = nnx.split(model)
        flat = nnx.to_flat_state(state)
        paths = list(flat.paths)
        self._parameters = [
            # Rounded once, where each product would round it anew: the same numbers, half the memory to read.
            leaf[...].astype(precision) if path[-1] == _MULTIPLIED else leaf[...]
            for path, leaf in zip(paths, flat.leaves, strict=True)
        ]
        # The function lives as long as the tower: with the leaves themselves it would keep the unrounded matrices.
        shells = [leaf.replace(None) for leaf in flat.leaves]

        def function(parameters: list[jax.Array], *inputs: jax.Array) -> jax.Array:
            leaves = [shell.replace(value) for shell, value in zip(shells, parameters, strict=True)]
            whole = nnx.from_flat_state(list(zip(paths, leaves, strict=True)))
            features = run(nnx.merge(structure, whole), *inputs).astype(jnp.float32)
            length = jnp.linalg.norm(features, axis=-1, keepdims=True)
            return features / jnp.maximum(length, np.finfo(np.float32).tiny)

        mesh = jax.sharding.Mesh(np.asarray(devices), ("batch",))
        whole, divided = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("batch")  # type: ignore[no-untyped-call]
        self._everywhere = jax.sharding.NamedSharding(mesh, whole)
        self._divided = jax.sharding.NamedSharding(mesh, divided)
        self._devices = len(devices)
        if self._devices > 1:
            self._parameters = jax.device_put(self._parameters, self._everywhere)

        # Also parameters that a program does not use are its inputs, so that a kept program can be fed
        # blindly.
        self._function = jax.jit(function, keep_unused=True)
        self._source = source
        self._origins: list[replay.Origin] | None = None

    def compile(self, inputs: tuple[npt.NDArray[Any], ...], name: str) -> Function:
        """Compiles for the shapes of `inputs`, and keeps the program under `name` where it can be replayed."""
        if self._devices > 1:
            return self._compile_for_all(inputs)
        compiled = self._function.lower(self._parameters, *inputs).compile()
        self._keep(compiled, name)
        return lambda *arrays: np.asarray(compiled(self._parameters, *arrays))

    def _compile_for_all(self, inputs: tuple[npt.NDArray[Any], ...]) -> Function:
        """The same for several devices; what cannot be divided equally, a single query, each computes whole."""
        import jax

        share = self._everywhere if len(inputs[0]) % self._devices else self._divided

        def place(arrays: tuple[npt.NDArray[Any], ...]) -> tuple[jax.Array, ...]:
            placed: tuple[jax.Array, ...] = jax.device_put(arrays, share)
            return placed

        compiled = self._function.lower(self._parameters, *place(inputs)).compile()
        return lambda *arrays: np.asarray(compiled(self._parameters, *place(arrays)))

    def _keep(self, compiled: Any, name: str) -> None:
        if not self._keeps_programs:
            return
        if self._origins is None:
            self._origins = self._find_origins()
        if self._origins:
            try:
                code = compiled.runtime_executable().serialize()
            except Exception:  # noqa: BLE001  (not every executable can be serialised; then nothing is kept)
                return
            shape = tuple(compiled.out_info.shape)
            replay.keep_program(name, replay.StoredProgram(code, tuple(self._origins), shape))

    def _find_origins(self) -> list[replay.Origin]:
        names = self._source.read_names
        if len(names) != len(self._parameters):
            return []
        found = [
            replay.find_origin(np.asarray(parameter), name, self._source.source)
            for parameter, name in zip(self._parameters, names, strict=True)
        ]
        whole = [origin for origin in found if origin is not None]
        return whole if len(whole) == len(found) else []
