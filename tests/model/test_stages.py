"""A tower in pieces gives what it gives in one, and equal blocks are one piece."""

from __future__ import annotations

import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model import replay, stages
from model.layers import BlockSettings, Build, PreNormBlock, run_blocks

WIDTH, TOKENS = 8, 5


class Tower(nnx.Module):
    """Blocks, with something before and after them."""

    def __init__(self, activations: list[str]) -> None:
        build = Build(nnx.Rngs(0), jnp.dtype("float32"), jnp.dtype("float32"))
        self.first = nnx.Param(jnp.arange(float(WIDTH)))
        self.blocks = nnx.List(
            [PreNormBlock(BlockSettings(WIDTH, 2, 16, name, 1e-5), build) for name in activations]
        )

    def __call__(self, inputs: jax.Array) -> jax.Array:
        hidden = (
            inputs + self.first[...][None, None] + np.linspace(0, 1, TOKENS, dtype=np.float32)[None, :, None]
        )
        mask = jnp.tril(jnp.ones((1, 1, TOKENS, TOKENS), bool))
        return run_blocks(self.blocks, hidden, mask, pooled_at=2).pooled * 3


def lowered(
    activations: list[str], together: int | None
) -> tuple[list[Any], list[replay.Step], list[jax.Array]]:
    """The tower's pieces, the way through them, and what it is given."""
    structure, state = nnx.split(Tower(activations))
    leaves, tree = jax.tree.flatten(state)
    # Random, or blocks would be told apart by nothing.
    draws = [
        jnp.asarray(np.random.default_rng(number).normal(size=leaf.shape), jnp.float32)
        for number, leaf in enumerate(leaves)
    ]
    inputs = jnp.asarray(np.random.default_rng(99).normal(size=(3, TOKENS, WIDTH)), jnp.float32)

    def function(leaves: list[jax.Array], inputs: jax.Array) -> jax.Array:
        model = nnx.merge(structure, jax.tree.unflatten(tree, leaves))
        if together is not None:
            stages.set_blocks_apart(model, together)
        return model(inputs)

    pieces, steps = stages.lower(jax.jit(function).trace(draws, inputs).jaxpr)
    return pieces, steps, [*draws, inputs]


def run(pieces: list[Any], steps: list[replay.Step], given: list[jax.Array]) -> np.ndarray:
    return np.asarray(replay.follow(steps, [piece.compile() for piece in pieces], given))


# Pieces, and calls of them: what is before the blocks, the equal ones, the last one with what comes after.
@pytest.mark.parametrize(
    ("activations", "together", "expected"),
    [
        (["gelu"] * 6, None, [0]),
        (["gelu"] * 6, 1, [0, 1, 1, 1, 1, 1, 2]),
        (["gelu"] * 6, 2, [0, 1, 1, 2]),
        (["gelu"] * 6, 5, [0, 1, 2]),
        (["gelu"] * 6, 6, [0]),
        (["gelu"], 1, [0]),
        (["gelu", "gelu", "relu", "gelu", "relu"], 1, [0, 1, 1, 2, 1, 3]),
    ],
)
def test_equal_blocks_are_one_piece_and_the_numbers_are_those_of_the_whole(
    activations: list[str], together: int | None, expected: list[int]
) -> None:
    pieces, steps, given = lowered(activations, together)
    assert [step.piece for step in steps] == expected
    assert len(pieces) == len(set(expected))
    np.testing.assert_allclose(
        run(pieces, steps, given), run(*lowered(activations, None)), rtol=1e-5, atol=1e-5
    )


def test_hidden_states_take_the_memory_of_those_before_them() -> None:
    pieces, steps, given = lowered(["gelu"] * 4, 1)
    of_blocks = pieces[steps[1].piece]
    (arguments, _) = of_blocks.args_info
    donated = [argument.shape for argument in jax.tree.leaves(arguments) if argument.donated]
    assert donated == [(3, TOKENS, WIDTH)]
    # What is given is never taken: it serves the next call too.
    run(pieces, steps, given)
    assert not any(array.is_deleted() for array in given)


def test_what_no_later_step_takes_is_let_go() -> None:
    class Value:
        """Something that can be seen to go."""

    alive: list[weakref.ref[Value]] = []

    def piece(*_: object) -> list[Value]:
        made = Value()
        alive.append(weakref.ref(made))
        return [made]

    def last(*_: object) -> list[int]:
        return [sum(value() is not None for value in alive)]

    steps = [
        replay.Step(0, (0,), ()),
        replay.Step(0, (1,), (1,)),
        replay.Step(0, (2,), (2,)),
        replay.Step(1, (3, 0), (3, 0)),
    ]
    assert replay.follow(steps, [piece, last], ["given"]) == 1


@pytest.mark.parametrize("damage", ["bytes", "piece"])
def test_a_kept_program_that_is_damaged_is_none(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setenv("IMAGO_CACHE", str(tmp_path))
    step = replay.Step(0, (0, 1), (1,))
    pieces = (replay.Piece(b"first", (("float32", (2, 3)),)), replay.Piece(b"second", (("int32", ()),)))
    parameters = (
        replay.Constant.of(np.arange(3)),
        replay.Origin("a", "int8", (2, 2), None, (1, 0), "kernel"),
    )
    program = replay.StoredProgram(pieces, (step,), parameters)
    replay.keep_program("kept", program)
    assert replay.load_program("kept") == program
    (file,) = (path for path in tmp_path.rglob("kept*") if path.is_file())
    content = file.read_bytes()
    file.write_bytes(content[:-1] if damage == "bytes" else content.replace(b"second", b"sekond"))
    assert replay.load_program("kept") is None
