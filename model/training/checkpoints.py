"""States on disk: written whole or not at all, found again after a kill.

Orbax writes a state under a temporary name and renames it when all is there, so a folder with a step's number is
always complete. Beside the arrays lie the facts that are not arrays, in JSON.
"""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import jax

from model.training.errors import ResumeError, TrainingError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from model.training.step import State

# The newest, and the one before it should the newest be damaged by a failing disk.
_KEPT = 2


class Checkpoints:
    """The states of one run. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        """Open the folder of a run's states; made if it is not there."""
        import orbax.checkpoint as ocp  # type: ignore[import-untyped]

        logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells every file that it writes
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._manager: Any = ocp.CheckpointManager(
            folder.resolve(),
            options=ocp.CheckpointManagerOptions(max_to_keep=_KEPT, enable_async_checkpointing=False),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._manager.close()

    def latest_step(self) -> int | None:
        """The step of the newest state, None if there is none."""
        step: int | None = self._manager.latest_step()
        return step

    def save(self, step: int, state: State, facts: dict[str, Any]) -> None:
        """Write a state; returns when it is on disk.

        Args:
            step: steps done; more than those of any state that is there.
            state: all arrays.
            facts: anything that JSON can hold.

        Raises:
            OSError: the disk is full, or something else of the system is in the way.
            TrainingError: it was not written, for another state is as new.
        """
        import orbax.checkpoint as ocp

        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(_tree(state)), facts=ocp.args.JsonSave(facts)
        )
        try:
            written = self._manager.save(step, args=arguments)
            self._manager.wait_until_finished()
        except ValueError as error:
            # TensorStore tells what the system said in its text alone.
            said = re.search(r"os_error_code='(\d+)'", str(error))
            if said is None:
                raise
            raise OSError(int(said[1]), os.strerror(int(said[1])), str(self._folder)) from error
        if not written:  # Orbax says no more than that, and does so for every step before its latest
            raise TrainingError(
                f"the state of step {step} was not written to {self._folder}, where the latest is of step "
                f"{self.latest_step()}. Delete what is newer than the run, or restart"
            )

    def kept_facts(self) -> list[dict[str, Any]]:
        """The facts of all states that are there and whose facts can be read, the oldest first."""
        import orbax.checkpoint as ocp

        kept = []
        for step in sorted(self._manager.all_steps()):
            # What cannot be read is never gone back to.
            with suppress(Exception):
                found = self._manager.restore(step, args=ocp.args.Composite(facts=ocp.args.JsonRestore()))
                kept.append(dict(found["facts"]))
        return kept

    def restore(self, like: State) -> tuple[State, dict[str, Any]]:
        """Read the newest state that can be read, and delete those after it: their steps will be saved again.

        Args:
            like: a state of the same shapes, placed as the result shall be.

        Raises:
            ResumeError: no state can be read.
        """
        import orbax.checkpoint as ocp

        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, _tree(like))
        problems: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(shapes), facts=ocp.args.JsonRestore()
                    ),
                )
            except Exception as error:  # noqa: BLE001 (Orbax and TensorStore raise whatever their parts raise)
                problems[step] = f"step {step}: {type(error).__name__}: {str(error)[:200]}"
                continue
            for damaged in problems:
                self._manager.delete(damaged)
            return _state(like, found["state"]), dict(found["facts"])
        raise ResumeError(
            f"no state in {self._folder} can be read ({'; '.join(problems.values())}). Delete the folder to start again"
        )


def _tree(state: State) -> dict[str, Any]:
    """A state as a dictionary of numbered arrays: independent of the names of optax's classes."""
    return {str(number): leaf for number, leaf in enumerate(jax.tree.leaves(state))}


def _state(like: State, tree: dict[str, Any]) -> State:
    leaves = [tree[str(number)] for number in range(len(tree))]
    state: State = jax.tree.unflatten(jax.tree.structure(like), leaves)
    return state
