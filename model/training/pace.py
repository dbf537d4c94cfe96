"""How many steps a run shall have, measured where its time is limited."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING

from model.training.batches import BATCHES_IN_HAND
from model.training.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from model.training.setup import Prepared

# How many there are in a run whose settings leave it open.
VALIDATIONS = 10

# Steps that are timed, where the time is limited.
_TIMED_STEPS = 4
# Of a limited time this much is kept for what cannot be foreseen: a slower disk, a busier machine.
_RESERVE = 0.1


def plan_steps(prepared: Prepared, begin_seconds: float, notice: Callable[[str], None]) -> int:
    """Decide how many steps a run shall have.

    Args:
        prepared: the run.
        begin_seconds: when it began, of `time.monotonic`.
        notice: told what takes time, and what was decided.

    Raises:
        TrainingError: the time is too short for a single step.
    """
    plan = prepared.config.schedule
    steps = plan.steps_for(prepared.data.examples)
    if plan.max_minutes is None:
        return steps
    notice("compiling, and measuring how fast this machine is")
    step_seconds = _time_steps(prepared, 0.0, steps)
    augmentation = prepared.config.augmentation
    if augmentation.patch_dropout:
        share = augmentation.patch_dropout_until
        dropping_seconds = _time_steps(prepared, augmentation.patch_dropout, steps)
        step_seconds = share * dropping_seconds + (1 - share) * step_seconds
    prepared.score(prepared.parameters)  # compiles
    began = time.perf_counter()
    prepared.score(prepared.parameters)
    validation_seconds = time.perf_counter() - began
    spent_seconds = time.monotonic() - begin_seconds
    left_seconds = plan.max_minutes * 60 * (1 - _RESERVE) - spent_seconds
    if plan.validate_every is None:
        left_seconds -= (VALIDATIONS + 1) * validation_seconds
    else:
        step_seconds += validation_seconds / plan.validate_every
    affordable = int(left_seconds / step_seconds)
    if affordable < 1:
        raise TrainingError(
            f"schedule.max_minutes = {plan.max_minutes:g} is too short: getting ready took {spent_seconds:.0f} s, "
            f"and one step takes {step_seconds:.2f} s. Allow more time, or use a smaller model or batch"
        )
    if affordable < steps:
        notice(
            f"{steps} steps would take longer than {plan.max_minutes:g} minutes: {affordable} steps of "
            f"{step_seconds:.2f} s are planned"
        )
    return min(steps, affordable)


def _time_steps(prepared: Prepared, patch_dropout: float, steps: int) -> float:
    """Seconds that a step takes, once it is compiled, while batches are made as they will be."""
    # On a state of its own: what is learnt in the measurement is thrown away.
    trainer = prepared.trainer
    state = trainer.start(prepared.parameters)
    timed = min(steps, _TIMED_STEPS)
    # Longer than it is read, so that the last batches are not timed with nobody at work on the next.
    stream = prepared.batches.from_step(0, 2 + timed + 2 * BATCHES_IN_HAND)
    with closing(stream):

        def learn() -> None:
            nonlocal state
            batch = trainer.place(next(stream))
            state, measured = trainer.step(state, batch, 0.0, patch_dropout=patch_dropout)
            measured.loss.block_until_ready()

        learn()  # compiles
        for _ in range(BATCHES_IN_HAND):
            next(stream)  # made meanwhile: decoding may be slower than what follows
        learn()
        began = time.perf_counter()
        for _ in range(timed):
            learn()
        return (time.perf_counter() - began) / timed
