"""States on disk: what is gone back to when one is damaged, and that none is lost silently."""

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from model.training.checkpoints import Checkpoints
from model.training.errors import ResumeError, TrainingError
from model.training.step import State


def state(step: int) -> State:
    return State(jnp.int32(step), {"weight": jnp.full((3,), float(step))}, {}, {})


def damage(folder: Path, step: int) -> None:
    for file in (folder / str(step) / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"damaged")


def test_the_newest_state_comes_back_with_its_facts(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        for step in (2, 4, 6):
            checkpoints.save(step, state(step), {"best_step": step - 1})
        assert [facts["best_step"] for facts in checkpoints.kept_facts()] == [3, 5]
        found, facts = checkpoints.restore(state(0))
    assert facts == {"best_step": 5}
    assert int(found.step) == 6
    np.testing.assert_array_equal(found.trained["weight"], [6, 6, 6])


def test_after_going_back_the_same_steps_are_saved_again(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        for step in (2, 6):
            checkpoints.save(step, state(step), {})
    damage(tmp_path, 6)
    with Checkpoints(tmp_path) as checkpoints:
        assert int(checkpoints.restore(state(0))[0].step) == 2
        assert checkpoints.latest_step() == 2
        for step in (4, 6):
            checkpoints.save(step, state(step), {})
    with Checkpoints(tmp_path) as checkpoints:
        found, _ = checkpoints.restore(state(0))
    np.testing.assert_array_equal(found.trained["weight"], [6, 6, 6])


def test_states_that_cannot_be_read_stay_where_there_is_no_other(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state(2), {})
    damage(tmp_path, 2)
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ResumeError, match=r"no state in .* can be read .*step 2: "):
            checkpoints.restore(state(0))
        assert checkpoints.latest_step() == 2


def test_a_state_that_is_not_written_is_an_error(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, state(4), {})
        with pytest.raises(TrainingError, match="state of step 3 was not written"):
            checkpoints.save(3, state(3), {})


FULL_DISK = """
import resource, signal
from pathlib import Path
import jax.numpy as jnp
import numpy as np
from model.training.checkpoints import Checkpoints
from model.training.step import State
weights = jnp.asarray(np.random.default_rng(0).random(1_000_000, np.float32))
with Checkpoints(Path("{folder}")) as checkpoints:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    try:
        checkpoints.save(1, State(jnp.int32(1), {{"weights": weights}}, {{}}, {{}}), {{}})
    except OSError as error:
        print(error.errno, error.filename)
"""


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files as POSIX does")
def test_a_state_that_finds_no_room_is_an_error_of_the_system(
    tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = run_python(FULL_DISK.format(folder=tmp_path))
    assert done.stdout.split() == [str(errno.EFBIG), str(tmp_path)], done.stderr
