"""From the names in a checkpoint to the parameters of a module, and back: one table per family.

A family's table is rows of (name in the checkpoint, name in our module, kind of layer). The kind knows which
arrays such a layer has and how they lie in PyTorch's and in Flax's files. `{}` stands for the number of a
block:

    Row("encoder.layers.{}.self_attn.q_proj", "blocks.{}.attention.query", LINEAR)

Names in the tables are those that Transformers 5 gives to PyTorch's arrays; what older files call differently
is renamed first (`WeightTable.renames`). Every array of a file must have a place, every parameter must be
filled, and all that does not fit is told in one error.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from model.checkpoint import FLAX_DRESS, TORCH_DRESS
from model.errors import CheckpointError, UnsupportedCheckpointError, UntrainedWeightsWarning

if TYPE_CHECKING:
    from collections.abc import Iterable

    from model.checkpoint import WeightSource


@dataclass(frozen=True)
class Leaf:
    """One array of a layer.

    Attributes:
        ours: its attribute in our layer; "" where the row names the parameter itself.
        torch: its name in PyTorch's file, after the layer's.
        flax: its name in Flax's file, after the layer's. Flax's axes are ours.
        axes: how PyTorch's axes are permuted into ours; None for no change.
    """

    ours: str
    torch: str
    flax: str
    axes: tuple[int, ...] | None = None


LINEAR = (Leaf("kernel", "weight", "kernel", (1, 0)), Leaf("bias", "bias", "bias"))
NORM = (Leaf("scale", "weight", "scale"), Leaf("bias", "bias", "bias"))
EMBEDDING = (Leaf("embedding", "weight", "embedding"),)
CONVOLUTION = (Leaf("kernel", "weight", "kernel", (2, 3, 1, 0)), Leaf("bias", "bias", "bias"))
PARAMETER = (Leaf("", "", ""),)
# PyTorch's MultiheadAttention names its stacked arrays without a dot: `in_proj_weight`.
STACKED_LINEAR = (Leaf("kernel", "_weight", "_kernel", (1, 0)), Leaf("bias", "_bias", "_bias"))
# A matrix that is multiplied from the right and so lies as ours does.
MATRIX = (Leaf("kernel", "", ""),)


@dataclass(frozen=True)
class Row:
    """One line of a table: a layer in the checkpoint, the same layer in our module.

    Attributes:
        source: name in the checkpoint.
        target: dotted path in our module.
        kind: the layer's arrays.
        part: (index, count) where the checkpoint stacks several layers along the first axis, such as (0, 3)
            for the query in a fused query-key-value matrix.
    """

    source: str
    target: str
    kind: tuple[Leaf, ...]
    part: tuple[int, int] | None = None


def under(rows: Iterable[Row], source: str = "", target: str = "") -> tuple[Row, ...]:
    """The same rows for a module that sits inside another: put `source` and `target` before their names."""
    return tuple(replace(row, source=source + row.source, target=target + row.target) for row in rows)


@dataclass(frozen=True)
class Rename:
    """Brings an older or a newer name to the one in the table.

    Attributes:
        pattern: a regular expression.
        replacement: for what it matches.
        within: only names that begin so are looked at, and only what follows is.
    """

    pattern: str
    replacement: str
    within: str = ""

    def __call__(self, name: str) -> str:
        """The name as the table has it."""
        if not name.startswith(self.within):
            return name
        return self.within + re.sub(self.pattern, self.replacement, name[len(self.within) :])


@dataclass(frozen=True)
class WeightTable:
    """How one model's parameters are called in checkpoints.

    Attributes:
        rows: the table.
        renames: applied in order to every name of the file, to bring older and newer names to those of the table.
        elsewhere: patterns of names that belong to other parts of a larger checkpoint; they are left unread.
        optional: modules of ours that a checkpoint may lack, because many were trained without; they are drawn
            afresh then (each has a method `redraw`), and a warning says so.
    """

    rows: tuple[Row, ...]
    renames: tuple[Rename, ...] = ()
    elsewhere: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    def inside(self, name: str) -> WeightTable:
        """The table of the same model as the part `name` of a larger one, where nothing is elsewhere or optional."""
        prefix = f"{name}."
        return WeightTable(
            under(self.rows, prefix, prefix),
            tuple(replace(rename, within=prefix + rename.within) for rename in self.renames),
        )


# Constants that older versions of Transformers saved beside the weights.
_BUFFERS = re.compile(r"(^|\.)(position_ids|token_type_ids)$")
_NUMBER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class _Match:
    """One of our parameters, and its place in a checkpoint."""

    parameter: nnx.Param[Any]
    target: str
    name: str
    leaf: Leaf
    part: tuple[int, int] | None
    dress: str

    @property
    def axes(self) -> tuple[int, ...] | None:
        return None if self.dress == FLAX_DRESS else self.leaf.axes

    def shape_there(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """What shape the checkpoint's array must have for a parameter of this shape."""
        there = list(shape)
        if self.axes is not None:
            for ours, theirs in enumerate(self.axes):
                there[theirs] = shape[ours]
        if self.part is not None:
            there[0] *= self.part[1]
        return tuple(there)

    def to_ours(self, array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        """The parameter's values, in memory of their own."""
        if self.part is not None:
            index, count = self.part
            rows = array.shape[0] // count
            array = array[index * rows : (index + 1) * rows]
        if self.axes is not None:
            array = array.transpose(self.axes)
        return np.array(array, dtype=dtype, order="C", copy=True)

    def to_theirs(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if self.axes is not None:
            array = array.transpose(np.argsort(self.axes))
        return np.array(array, order="C")


def _matches(module: nnx.Module, table: WeightTable, dress: str) -> list[_Match]:
    """Each parameter of a module with its place in a checkpoint; LookupError where the table has a gap."""
    places = {
        f"{row.target}.{leaf.ours}".removesuffix("."): (row, leaf) for row in table.rows for leaf in row.kind
    }
    matches = []
    for path, parameter in nnx.to_flat_state(nnx.state(module, nnx.Param)):
        ours = ".".join(map(str, path))
        number = _NUMBER.search(ours)
        row, leaf = places[_NUMBER.sub(".{}.", ours)]
        last = leaf.flax if dress == FLAX_DRESS else leaf.torch
        joint = "" if last == "" or last.startswith("_") else "."
        source = row.source.replace("{}", number.group(1)) if number else row.source
        matches.append(_Match(parameter, ours, f"{source}{joint}{last}", leaf, row.part, dress))
    return matches


def fill(
    module: nnx.Module, source: WeightSource, table: WeightTable, *, origin: str = "the checkpoint"
) -> None:
    """Give every parameter of a module its values from a checkpoint, in the dtype that the parameter has.

    Args:
        module: made without `rngs`, or with; what its parameters held before is not looked at.
        source: the checkpoint's arrays; only those that have a parameter here are read.
        table: where each array goes.
        origin: where the arrays come from, for messages.

    Warns:
        UntrainedWeightsWarning: optional modules are not in the checkpoint and were drawn at random.

    Raises:
        CheckpointError: arrays that have no place, parameters that find no array, shapes that differ: all in
            one.
        UnsupportedCheckpointError: the weights are integers, that is quantised.
    """
    there = _canonical_names(source, table)
    matches = _matches(module, table, source.dress)
    absent = _absent(matches, there, table)
    matches = [
        match for match in matches if not match.target.startswith(tuple(f"{part}." for part in absent))
    ]
    missing, misshapen, used = [], [], set()
    for match in matches:
        wanted = match.shape_there(tuple(match.parameter.shape))
        used.add(match.name)
        if match.name not in there:
            missing.append(f"{match.name} {wanted}")
        elif source.shapes[there[match.name]] != wanted:
            misshapen.append(f"{match.name} is {source.shapes[there[match.name]]}, expected {wanted}")
    aside = [re.compile(pattern) for pattern in table.elsewhere]
    left_over = [
        f"{there[name]} {source.shapes[there[name]]}"
        for name in there
        if name not in used and not any(pattern.search(name) for pattern in aside)
    ]
    problems = [
        f"{what} ({len(lines)}):\n    " + "\n    ".join(lines)
        for what, lines in (
            ("arrays missing from the checkpoint", missing),
            ("arrays of another shape", misshapen),
            ("arrays in the checkpoint that have no place", left_over),
        )
        if lines
    ]
    if problems:
        raise CheckpointError(
            f"{origin}: the weights do not fit {type(module).__name__} as its configuration describes it:\n  "
            + "\n  ".join(problems)
        )
    for match in matches:
        array = source.read(there[match.name])
        # Of bfloat16 and its like NumPy knows only that they are of no kind of its own ("V").
        if array.dtype.kind not in "fV":
            raise UnsupportedCheckpointError(
                f"{origin}: {match.name} is of type {array.dtype}; quantised weights are not read, use the original"
            )
        match.parameter.set_value(jnp.asarray(match.to_ours(array, match.parameter.get_value().dtype)))
    for part in absent:
        getattr(module, part).redraw(nnx.Rngs(0))
        warnings.warn(
            f"{origin} has no {part} for {type(module).__name__}: it was drawn at random and must be trained",
            UntrainedWeightsWarning,
            stacklevel=3,
        )


def export(module: nnx.Module, table: WeightTable) -> dict[str, np.ndarray[Any, Any]]:
    """A module's parameters under the names and in the layout of PyTorch's checkpoints, dtypes kept."""
    parts: dict[str, dict[int, np.ndarray[Any, Any]]] = {}
    for match in _matches(module, table, TORCH_DRESS):
        index = 0 if match.part is None else match.part[0]
        parts.setdefault(match.name, {})[index] = match.to_theirs(np.asarray(match.parameter.get_value()))
    return {
        name: pieces[0] if len(pieces) == 1 else np.concatenate([pieces[index] for index in sorted(pieces)])
        for name, pieces in parts.items()
    }


def _absent(matches: list[_Match], there: dict[str, str], table: WeightTable) -> list[str]:
    """The optional modules of which the checkpoint holds nothing at all."""
    return [
        part
        for part in table.optional
        if not any(match.name in there for match in matches if match.target.startswith(f"{part}."))
    ]


def _canonical_names(source: WeightSource, table: WeightTable) -> dict[str, str]:
    """Today's name of each array to the name it has in the file; constants are left out.

    Raises:
        CheckpointError: two arrays end up with the same name.
    """
    names: dict[str, str] = {}
    for given in source.shapes:
        if _BUFFERS.search(given):
            continue
        name = given
        for rename in table.renames:
            name = rename(name)
        if name in names:
            raise CheckpointError(f"the checkpoint holds {name} twice: as {names[name]} and as {given}")
        names[name] = given
    return names
