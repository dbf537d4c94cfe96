"""Cuts a traced tower where its blocks are, so that blocks which differ in their parameters alone are compiled once.

Compiled as a whole, a tower of twelve blocks is machine code for twelve, which every process that runs it has to link;
and XLA's CPU client makes the products of all twelve ready at the first call. What a start takes is the line `few` of
benchmarks/foundation.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
from flax import nnx
from jax.extend.core import ClosedJaxpr, JaxprEqn, Var, jaxpr_as_fun

from model.replay import Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jax.stages import Lowered

# Where towers have theirs.
_BLOCKS = "blocks"


class _Apart(nnx.Module):
    """Blocks, one after the other, whose call `lower` finds again in what JAX has traced."""

    def __init__(self, blocks: Sequence[Any]) -> None:
        self.blocks = nnx.List(blocks)

    def __call__(
        self,
        hidden: jax.Array,
        mask: jax.Array | None = None,
        *,
        rngs: None = None,  # noqa: ARG002  (as `run_blocks` calls any block)
    ) -> tuple[jax.Array, None]:
        """As `model.layers.Block` says, for all tokens, without randomness and without weights."""
        return _apart(*nnx.split(self.blocks), hidden, mask), None


def _through_blocks(
    structure: nnx.GraphDef[Any], state: nnx.State[Any, Any], hidden: jax.Array, mask: jax.Array | None
) -> jax.Array:
    for block in nnx.merge(structure, state):
        hidden, _ = block(hidden, mask)
    return hidden


# Traced once for blocks of equal structure: what JAX has traced for them is one object.
_apart = jax.jit(_through_blocks, static_argnums=0)


def set_blocks_apart(model: nnx.Module, together: int) -> None:
    """Have `lower` find the blocks of a tower in what is traced of it from now on.

    The last stays as it is, for it is computed in another way (`model.layers.run_blocks`), and with it those before it
    that are too few for a piece.

    Args:
        model: A tower, for inference alone.
        together: So many blocks make a piece.
    """
    for _, module in list(nnx.iter_modules(model)):
        blocks = list(vars(module).get(_BLOCKS, ()))
        end = (len(blocks) - 1) // together * together
        if end > 0:
            apart = [_Apart(blocks[start : start + together]) for start in range(0, end, together)]
            setattr(module, _BLOCKS, nnx.List([*apart, *blocks[end:]]))


def lower(traced: ClosedJaxpr) -> tuple[list[Lowered], list[Step]]:
    """Lower what was traced of a function of one output, in pieces.

    Returns:
        Pieces to be compiled, no two the same, and the way through them. Each takes all inputs that its steps name.
    """
    pieces, steps = _cut(traced)
    given = len(traced.jaxpr.invars)
    lowered = []
    for number, piece in enumerate(pieces):
        calls = [step for step in steps if step.piece == number]
        # Hidden states that are not read again: the next ones take their memory, which is in the cache.
        donated = [
            place
            for place, aval in enumerate(piece.in_avals)
            if any(aval.shape == output.shape and aval.dtype == output.dtype for output in piece.out_avals)
            and all(call.inputs[place] >= given and call.inputs[place] in call.spent for call in calls)
        ]
        # Also what a piece does not use is its input, so that kept ones can be fed blindly.
        function = jax.jit(jaxpr_as_fun(piece), keep_unused=True, donate_argnums=donated)
        lowered.append(function.lower(*piece.in_avals))
    return lowered, steps


def _cut(traced: ClosedJaxpr) -> tuple[list[ClosedJaxpr], list[Step]]:
    whole = traced.jaxpr
    constants = dict(zip(whole.constvars, traced.consts, strict=True))
    groups: list[list[JaxprEqn]] = [[]]
    for equation in whole.eqns:
        if _is_apart(equation):
            groups += [[equation], []]
        else:
            groups[-1].append(equation)
    groups = [group for group in groups if group]
    reads = [_read(group) for group in groups]
    numbers = {variable: number for number, variable in enumerate(whole.invars)}
    pieces: dict[ClosedJaxpr, int] = {}
    steps = []
    for index, group in enumerate(groups):
        wanted = {*whole.outvars, *(variable for later in reads[index + 1 :] for variable in later)}
        outputs = [variable for equation in group for variable in equation.outvars if variable in wanted]
        if _is_apart(group[0]):
            inputs = [variable for variable in group[0].invars if isinstance(variable, Var)]
            piece = group[0].params["jaxpr"]
        else:
            inputs = [variable for variable in reads[index] if variable in numbers]
            values = {variable: constants[variable] for variable in reads[index] if variable in constants}
            part = whole.replace(constvars=list(values), invars=inputs, outvars=outputs, eqns=group)
            piece = ClosedJaxpr(part, list(values.values()))
        number = pieces.setdefault(piece, len(pieces))
        spent = dict.fromkeys(numbers[variable] for variable in inputs if variable not in wanted)
        steps.append(Step(number, tuple(numbers[variable] for variable in inputs), tuple(spent)))
        numbers |= {variable: len(numbers) + place for place, variable in enumerate(outputs)}
    return list(pieces), steps


def _is_apart(equation: JaxprEqn) -> bool:
    return bool(equation.params.get("name") == _through_blocks.__name__)


def _read(equations: Iterable[JaxprEqn]) -> list[Var]:
    """The variables that equations read, each once."""
    read = (variable for equation in equations for variable in equation.invars if isinstance(variable, Var))
    return list(dict.fromkeys(read))
