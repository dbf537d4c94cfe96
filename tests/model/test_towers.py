"""What a tower keeps in memory, and how it shares its work among the cores."""

import gc
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from model import encoder as encoder_module
from model import machine, replay, towers
from model.encoder import Encoder


def test_of_matrices_only_the_narrow_copies_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGO_CACHE", str(tmp_path))
    before = {id(array) for array in jax.live_arrays()}
    encoder = Encoder.load("starter", precision="bfloat16")
    encoder.encode_texts(["dog"])
    encoder.encode_pixels(random_pixels(1))
    gc.collect()
    # By the memory itself: JAX lists some arrays twice.
    new = {array.unsafe_buffer_pointer(): array for array in jax.live_arrays() if id(array) not in before}
    kept_bytes = {
        dtype: sum(array.nbytes for array in new.values() if array.ndim > 1 and array.dtype == dtype)
        for dtype in ("bfloat16", "float32")
    }
    # What stays in float32 are the tables of tokens and positions.
    assert kept_bytes["bfloat16"] > 6e6
    assert kept_bytes["float32"] < 0.5 * kept_bytes["bfloat16"]


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Three cores, whatever there are, and a cache of the test's own."""
    monkeypatch.setattr(encoder_module, "available_cores", lambda: 3)
    monkeypatch.setenv("IMAGO_CACHE", str(tmp_path / "cache"))
    # What JAX takes from a cache of its own, which other tests may have turned on, cannot be kept in ours.
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", before)
    compilation_cache.reset_cache()


def random_pixels(count: int) -> np.ndarray:
    preprocessor = Encoder.load("starter").preprocessor
    shape = (count, preprocessor.input_height_pixels, preprocessor.input_width_pixels, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def one_by_one(pixels: np.ndarray) -> np.ndarray:
    encoder = Encoder.load("starter")
    return np.concatenate([encoder.encode_pixels(pixels[row : row + 1]) for row in range(len(pixels))])


def test_each_core_computes_batches_of_its_own(cores: None, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder.load("starter")
    assert encoder.batch_size == 3 * encoder._images_per_call
    used, together = set(), threading.Barrier(3, timeout=60)
    run = towers.CoreWorkers._run

    def counted(self: towers.CoreWorkers, inputs: tuple[np.ndarray, ...]) -> np.ndarray:
        if len(used) < 3 and threading.current_thread().name.startswith("tower"):
            used.add(threading.current_thread().name)
            together.wait()  # which takes all three at once
        return run(self, inputs)

    pixels = random_pixels(5 * encoder._images_per_call + 2)
    encoder.encode_pixels(pixels)
    monkeypatch.setattr(towers.CoreWorkers, "_run", counted)
    vectors = encoder.encode_pixels(pixels)
    assert len(used) == 3
    np.testing.assert_allclose(vectors, one_by_one(pixels), atol=2e-6)


def test_cores_share_one_copy_of_the_parameters(cores: None, monkeypatch: pytest.MonkeyPatch) -> None:
    replayers: list[replay.Replayer] = []
    load = replay.Replayer.load

    def noted(self: replay.Replayer, program: replay.StoredProgram) -> object:
        replayers.append(self)
        return load(self, program)

    monkeypatch.setattr(replay.Replayer, "load", noted)
    encoder = Encoder.load("starter", precision="bfloat16")
    size = encoder._images_per_call
    pixels = random_pixels(2 * size)
    encoder.encode_pixels(pixels)
    (workers,) = encoder._get_vision_tower()._workers.values()
    assert workers is not None
    while not workers._free.empty():  # as if all were at work
        workers._free.get_nowait()
    workers.map([(pixels[:size],)])
    pointers = [
        [array.unsafe_buffer_pointer() for array in replayer._parameters.values()] for replayer in replayers
    ]
    assert len(replayers) > 1
    assert len(pointers[0]) > 50
    assert all(others == pointers[0] for others in pointers)


def test_kept_programs_hold_equal_blocks_once(cores: None, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[replay.StoredProgram] = []
    monkeypatch.setattr(replay, "keep_program", lambda _, program: kept.append(program))
    encoder = Encoder.load("starter", precision="bfloat16")
    encoder.encode_pixels(random_pixels(2))
    encoder.encode_texts(["dog"])
    assert [[step.piece for step in program.steps] for program in kept] == [[0, 1, 1, 1, 1, 1, 2], [0, 1, 2]]
    assert [len(program.pieces) for program in kept] == [3, 3]


def test_a_tower_whose_programs_cannot_be_run_again_computes_through_jax(
    cores: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("another jaxlib")

    pixels = random_pixels(40)
    expected = one_by_one(pixels)
    monkeypatch.setattr(replay.Replayer, "load", fail)
    np.testing.assert_allclose(Encoder.load("starter").encode_pixels(pixels), expected, atol=2e-6)
    # It may have been for want of memory: the next start tries again.
    assert replay.is_usable()


def test_a_jaxlib_that_has_changed_is_not_tried_again(cores: None, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Encoder.load("starter").encode_texts(["dog"])
    monkeypatch.setattr(replay.Replayer, "load", None)
    np.testing.assert_array_equal(Encoder.load("starter").encode_texts(["dog"]), expected)
    assert not replay.is_usable()


def test_the_variable_that_bounds_threads_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_cores", lambda: 3)
    monkeypatch.delenv("NPROC", raising=False)
    for before in (None, "5"):
        if before is None:
            monkeypatch.delenv("PJRT_NPROC", raising=False)
        else:
            monkeypatch.setenv("PJRT_NPROC", before)
        with machine.making_client(threads=1):
            assert os.environ["PJRT_NPROC"] == "1"
        with machine.making_client():
            assert os.environ["PJRT_NPROC"] == (before or "3")
        assert os.environ.get("PJRT_NPROC") == before
    monkeypatch.delenv("PJRT_NPROC")
    monkeypatch.setenv("NPROC", "2")  # which XLA reads as well
    with machine.making_client():
        assert "PJRT_NPROC" not in os.environ


ONE_WORKER = """
import time
import numpy as np
from model import Encoder, encoder

encoder.available_cores = lambda: 2
starter = Encoder.load("starter")
side = starter.preprocessor.input_height_pixels
size = starter._images_per_call
pixels = np.zeros((2 * size, side, side, 3), np.uint8)
starter.encode_pixels(pixels)
(workers,) = starter._get_vision_tower()._workers.values()
workers._run((pixels[:size],))
used, passed = time.process_time(), time.perf_counter()
for _ in range(100):
    workers._run((pixels[:size],))
print((time.process_time() - used) / (time.perf_counter() - passed))
"""


def test_a_worker_computes_in_one_thread(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = run_python(ONE_WORKER, JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr
    # With a thread for each core, as XLA has it by itself, nearly two cores would be at work.
    assert float(done.stdout) < 1.3
