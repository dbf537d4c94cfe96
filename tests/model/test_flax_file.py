"""Flax's weight files, read in place, against Flax's own writer."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from flax.serialization import msgpack_serialize

from model.errors import CheckpointError, UnsupportedCheckpointError
from model.flax_file import FlaxFileSource


def tree() -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        "text": {
            "layers": {
                str(number): {"kernel": random.normal(size=(3, 5)).astype(np.float32)} for number in range(20)
            },
            "a name that is longer than thirty-one letters": np.arange(300, dtype=np.float64),
        },
        "scale": np.array(2.5, dtype=np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "half": np.array([1, 2], np.float16),
        "brain": np.asarray(jnp.array([1.5, -2.0], jnp.bfloat16)),
        "wide": np.ones((70_000,), np.int8),
        "bytes": np.array([[7]], np.uint8),
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "flax_model.msgpack"
    path.write_bytes(msgpack_serialize(tree()))
    return path


def test_every_array_is_found_and_none_is_copied(file: Path) -> None:
    source = FlaxFileSource(file)
    expected = {}

    def flatten(node: Any, names: tuple[str, ...]) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                flatten(value, (*names, name))
        else:
            expected[".".join(names)] = node

    flatten(tree(), ())
    assert source.shapes == {name: array.shape for name, array in expected.items()}
    for name, array in expected.items():
        found = source.read(name)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
        assert not found.flags.writeable
    assert source.dress == "flax"


def test_a_file_cut_anywhere_is_named(file: Path) -> None:
    whole = file.read_bytes()
    for size in [0, 1, 2, 5, 30, 31, 32, 33, 100, *range(200, len(whole), 997), len(whole) - 1]:
        file.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="fetch it again"):
            FlaxFileSource(file)


def test_damage_is_named_whatever_it_is(file: Path) -> None:
    whole = bytearray(file.read_bytes())
    random = np.random.default_rng(0)
    for at in random.integers(0, 400, 300):
        damaged = bytearray(whole)
        damaged[at] = int(random.integers(0, 256))
        file.write_bytes(damaged)
        try:
            source = FlaxFileSource(file)
        except CheckpointError:
            continue
        for name in source.shapes:
            source.read(name)


@pytest.mark.parametrize("name", ["object", "(2,", "i4,f4", "nonsense"])
def test_a_dtype_that_is_not_of_numbers_is_named(tmp_path: Path, name: str) -> None:
    array = msgpack.packb(([1], name, b"1234"))
    path = tmp_path / "flax_model.msgpack"
    path.write_bytes(msgpack.packb({"a": msgpack.ExtType(1, array)}))
    with pytest.raises(CheckpointError, match="dtype"):
        FlaxFileSource(path)


def test_what_is_no_array_is_named(tmp_path: Path) -> None:
    path = tmp_path / "flax_model.msgpack"
    for content, message in (
        ({"step": 3}, "neither a map nor an array"),
        ({"note": "text"}, "neither a map nor an array"),
        ({}, "holds no arrays"),
        ({"z": 1j}, "extension type 2"),
    ):
        path.write_bytes(msgpack_serialize(content))
        with pytest.raises(CheckpointError, match=message):
            FlaxFileSource(path)
    pieces = {"big": {"__msgpack_chunked_array__": np.array([1]), "chunks": {"0": np.ones(3)}}}
    path.write_bytes(msgpack_serialize(pieces))
    with pytest.raises(UnsupportedCheckpointError, match="big is stored in pieces"):
        FlaxFileSource(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        FlaxFileSource(tmp_path / "nowhere")
