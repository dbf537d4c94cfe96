"""Parameters that are rounded are kept on disk as programs take them, and mapped by later starts."""

import os
from pathlib import Path

import numpy as np
import pytest

from model import packed_parameters
from model.encoder import Encoder
from model.int8_weights import quantized
from model.packed_parameters import SharedParameters
from model.replay import Constant, Origin, find_origin

MATRIX = Origin("matrix", "int8", (3, 5), axes=None, quantized="kernel")
STEPS = Origin("matrix", "float32", (3,), quantized="scale")
NARROW = Origin("matrix", "bfloat16", (3, 5), axes=(1, 0))
WHOLE = Origin("matrix", "float32", (5, 3))


class Matrices:
    """A checkpoint in memory."""

    dress = "torch"

    def __init__(self) -> None:
        self.arrays = {"matrix": np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)}
        self.shapes = {name: array.shape for name, array in self.arrays.items()}

    def read(self, name: str) -> np.ndarray:
        return self.arrays[name]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("IMAGO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def take(*origins: Origin | Constant, fingerprint: str = "one") -> list[np.ndarray]:
    return SharedParameters(Matrices(), fingerprint).take(origins)


def files(cache: Path) -> list[Path]:
    return sorted(cache.glob("parameters/*"))


def test_what_was_rounded_is_mapped_the_next_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = take(MATRIX, STEPS, NARROW)
    assert len(files(cache)) == 1
    monkeypatch.setattr(Origin, "take", None)
    second = take(MATRIX, STEPS, NARROW)
    for before, after in zip(first, second, strict=True):
        assert (before.dtype, before.shape) == (after.dtype, after.shape)
        np.testing.assert_array_equal(before, after)
        assert after.ctypes.data % 64 == before.ctypes.data % 64 == 0
        assert not after.flags.writeable


def test_what_is_as_in_the_checkpoint_is_not_written_again(cache: Path) -> None:
    constant = Constant.of(np.arange(3, dtype=np.float32))
    whole, kept = take(WHOLE, constant)
    np.testing.assert_array_equal(whole, Matrices().arrays["matrix"])
    np.testing.assert_array_equal(kept, [0, 1, 2])
    assert files(cache) == []


def test_another_checkpoint_has_a_file_of_its_own(cache: Path) -> None:
    take(MATRIX)
    take(MATRIX, fingerprint="another")
    take(MATRIX, STEPS)
    assert len(files(cache)) == 3


def test_a_file_that_was_cut_short_is_made_again(cache: Path) -> None:
    expected = take(MATRIX, NARROW)
    (file,) = files(cache)
    whole = file.read_bytes()
    for content in (whole[:-1], b""):
        file.write_bytes(content)
        for array, right in zip(take(MATRIX, NARROW), expected, strict=True):
            np.testing.assert_array_equal(array, right)
        assert file.read_bytes() == whole


def test_what_could_not_be_read_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = SharedParameters(Matrices(), "one")
    take_one = Origin.take

    def fail(self: Origin, source: Matrices) -> np.ndarray:
        if self in {NARROW, WHOLE}:
            raise MemoryError
        return take_one(self, source)

    monkeypatch.setattr(Origin, "take", fail)
    for origins in ((MATRIX, NARROW), (WHOLE,)):
        with pytest.raises(MemoryError):
            parameters.take(origins)
    monkeypatch.setattr(Origin, "take", take_one)
    for array, origin in zip(parameters.take((MATRIX, NARROW, WHOLE)), (MATRIX, NARROW, WHOLE), strict=True):
        np.testing.assert_array_equal(array, origin.take(Matrices()))


def test_without_a_place_to_write_they_are_rounded_each_time(cache: Path) -> None:
    cache.write_text("no folder")
    np.testing.assert_array_equal(take(MATRIX)[0], MATRIX.take(Matrices()))


def test_the_files_used_last_stay(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_parameters, "_MOST_FILES", 3)
    for seconds, number in enumerate("012"):
        take(MATRIX, fingerprint=number)
        (new,) = (file for file in files(cache) if file.stat().st_mtime > 100)
        os.utime(new, (seconds, seconds))
    take(MATRIX, fingerprint="0")  # mapped
    take(MATRIX, fingerprint="3")
    assert len(files(cache)) == 3
    monkeypatch.setattr(Origin, "take", None)
    for number in "023":
        take(MATRIX, fingerprint=number)


def test_a_tower_has_one_file_for_all_its_programs(cache: Path) -> None:
    texts = ["dog", "a dog in the snow beside a red car, seen from above"]
    first = [Encoder.load("starter", precision="bfloat16").encode_texts([text]) for text in texts]
    for _ in range(2):
        encoder = Encoder.load("starter", precision="bfloat16")
        np.testing.assert_array_equal([encoder.encode_texts([text]) for text in texts], first)
        assert len(files(cache)) == 1


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("is_turned", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_piece_of_a_matrix_is_found_along_either_axis(axis: int, is_turned: bool, dtype: str) -> None:
    source = Matrices()
    source.arrays["matrix"] = np.random.default_rng(1).standard_normal((6, 9)).astype(np.float32)
    piece = np.split(source.arrays["matrix"], 3, axis)[2]
    turned = piece.T if is_turned else piece
    parameter = quantized(turned) if dtype == "int8" else turned.astype(dtype)
    origin = find_origin(parameter, "matrix", source, 2)
    assert origin is not None
    np.testing.assert_array_equal(origin.take(source), parameter)
    assert find_origin(parameter, "matrix", source, 1) is None
