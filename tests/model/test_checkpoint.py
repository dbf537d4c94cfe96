"""Every dress that a checkpoint comes in gives the same model; every damaged one a typed error that says what to do."""

import errno
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx, serialization
from safetensors.numpy import load_file, save_file

from model import (
    CheckpointError,
    CLIPModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    ConfigurationError,
    ModelNotFoundError,
    UnsupportedCheckpointError,
)
from model.checkpoint import SafetensorsSource, open_weights

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def known(golden: Callable[[str], Any]) -> Any:
    return golden("clip-first-rules")


@pytest.fixture(scope="module")
def weights(known: Any) -> Arrays:
    return load_file(known.folder / "model.safetensors")


@pytest.fixture
def folder(known: Any, tmp_path: Path) -> Path:
    """A checkpoint with its configuration and no weights yet."""
    target = tmp_path / "checkpoint"
    target.mkdir()
    shutil.copy(known.folder / "config.json", target)
    return target


def parameters(model: nnx.Module) -> dict[str, np.ndarray]:
    return {
        ".".join(map(str, path)): np.asarray(leaf.get_value())
        for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))
    }


def assert_same(one: nnx.Module, two: nnx.Module) -> None:
    left, right = parameters(one), parameters(two)
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name], err_msg=name)


def as_flax(weights: Arrays) -> dict[str, Any]:
    """The same checkpoint as Flax Transformers laid it out: nested, (in, out), height-width-in-out."""
    tree: dict[str, Any] = {}
    for name, array in weights.items():
        *path, leaf = name.split(".")
        value = array
        if leaf == "weight" and "embedding" in path[-1] and array.ndim == 2:
            leaf = "embedding"
        elif leaf == "weight" and "norm" in path[-1]:
            leaf = "scale"
        elif leaf == "weight":
            leaf, value = "kernel", array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0)
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[leaf] = np.array(value, order="C")
    return tree


def shard(folder: Path, weights: Arrays, count: int = 3) -> None:
    names = sorted(weights)
    weight_map = {}
    for number in range(count):
        file = f"model-{number + 1:05}-of-{count:05}.safetensors"
        save_file({name: weights[name] for name in names[number::count]}, folder / file)
        weight_map |= dict.fromkeys(names[number::count], file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_sharded(known: Any, folder: Path, weights: Arrays) -> None:
    shard(folder, weights)
    assert_same(CLIPModel.from_pretrained(folder), CLIPModel.from_pretrained(known.folder))


def test_flax_msgpack(known: Any, folder: Path, weights: Arrays) -> None:
    (folder / "flax_model.msgpack").write_bytes(serialization.msgpack_serialize(as_flax(weights)))
    assert_same(CLIPModel.from_pretrained(folder), CLIPModel.from_pretrained(known.folder))
    assert_same(CLIPVisionModel.from_pretrained(folder), CLIPVisionModel.from_pretrained(known.folder))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_files_of_other_float_types_are_held_as_float32_or_as_asked(
    folder: Path, weights: Arrays, dtype: Any
) -> None:
    save_file({name: array.astype(dtype) for name, array in weights.items()}, folder / "model.safetensors")
    expected = weights["text_projection.weight"].astype(dtype).T
    for param_dtype in (jnp.float32, jnp.bfloat16):
        kernel = CLIPModel.from_pretrained(folder, param_dtype=param_dtype).text_projection.kernel[...]
        assert kernel.dtype == param_dtype
        np.testing.assert_array_equal(kernel, expected.astype(param_dtype))


def test_buffers_of_older_versions_are_left_aside(known: Any, folder: Path, weights: Arrays) -> None:
    old = {
        "text_model.embeddings.position_ids": np.arange(12)[None],
        "vision_model.embeddings.position_ids": np.arange(17)[None],
    }
    save_file(weights | old, folder / "model.safetensors")
    assert_same(CLIPModel.from_pretrained(folder), CLIPModel.from_pretrained(known.folder))


@pytest.mark.parametrize(
    "part",
    [(CLIPTextModel, "text_model.", "text_config"), (CLIPVisionModel, "vision_model.", "vision_config")],
)
@pytest.mark.parametrize("version", [4, 5])
def test_towers_saved_alone_by_transformers_4_and_5(
    known: Any, folder: Path, weights: Arrays, part: tuple[Any, str, str], version: int
) -> None:
    model, prefix, config = part
    cut = len(prefix) if version == 5 else 0
    alone = {name[cut:]: array for name, array in weights.items() if name.startswith(prefix)}
    save_file(alone, folder / "model.safetensors")
    settings = json.loads((folder / "config.json").read_text())[config]
    (folder / "config.json").write_text(json.dumps(settings))
    assert_same(model.from_pretrained(folder), model.from_pretrained(known.folder))


@pytest.mark.parametrize(
    "model",
    [
        CLIPModel,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPVisionModel,
        CLIPVisionModelWithProjection,
    ],
)
def test_what_was_saved_is_read_back_whole(known: Any, tmp_path: Path, model: Any) -> None:
    before = model.from_pretrained(known.folder)
    before.save_pretrained(tmp_path / "new" / "folder")
    after = model.from_pretrained(tmp_path / "new" / "folder")
    assert after.config == before.config
    assert_same(after, before)
    after.save_pretrained(tmp_path / "new" / "folder")  # onto itself
    assert_same(model.from_pretrained(tmp_path / "new" / "folder"), before)


def test_saved_file_holds_what_transformers_wrote(known: Any, tmp_path: Path, weights: Arrays) -> None:
    CLIPModel.from_pretrained(known.folder).save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(saved[name], array, err_msg=name)
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["architectures"] == ["CLIPModel"]
    assert settings["dtype"] == "float32"
    assert settings["text_config"]["model_type"] == "clip_text_model"
    with (tmp_path / "model.safetensors").open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        assert json.loads(file.read(length))["__metadata__"] == {"format": "pt"}


def test_bfloat16_parameters_are_saved_as_they_are(known: Any, tmp_path: Path) -> None:
    before = CLIPModel.from_pretrained(known.folder, param_dtype=jnp.bfloat16)
    before.save_pretrained(tmp_path)
    assert_same(CLIPModel.from_pretrained(tmp_path, param_dtype=jnp.bfloat16), before)
    assert open_weights(tmp_path).read("logit_scale").dtype == ml_dtypes.bfloat16


def test_only_the_part_that_was_asked_for_is_read(
    known: Any, folder: Path, weights: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = SafetensorsSource.read
    monkeypatch.setattr(
        SafetensorsSource, "read", lambda self, name: (read.append(name), original(self, name))[1]
    )
    CLIPTextModelWithProjection.from_pretrained(known.folder)
    assert set(read) == {name for name in weights if name.startswith(("text_model.", "text_projection."))}


def test_all_that_does_not_fit_is_told_at_once(folder: Path, weights: Arrays) -> None:
    wrong = dict(weights)
    del wrong["logit_scale"]
    del wrong["text_model.final_layer_norm.bias"]
    wrong["visual_projection.weight"] = np.zeros((18, 5), np.float32)
    wrong["surplus.weight"] = np.zeros((2, 3), np.float32)
    save_file(wrong, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as error:
        CLIPModel.from_pretrained(folder)
    for part in (
        f"{folder}: the weights do not fit CLIPModel",
        "missing from the checkpoint (2)",
        "logit_scale ()",
        "text_model.final_layer_norm.bias (30,)",
        "visual_projection.weight is (18, 5), expected (18, 28)",
        "arrays in the checkpoint that have no place (1)",
        "surplus.weight (2, 3)",
    ):
        assert part in str(error.value)


def test_weights_of_another_depth_do_not_pass(folder: Path, weights: Arrays) -> None:
    save_file(weights, folder / "model.safetensors")
    settings = json.loads((folder / "config.json").read_text())
    settings["text_config"]["num_hidden_layers"] = 1
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=r"text_model\.encoder\.layers\.1\.mlp\.fc1\.weight"):
        CLIPTextModel.from_pretrained(folder)


def test_an_array_under_two_names_is_refused(folder: Path, weights: Arrays) -> None:
    save_file(weights | {"final_layer_norm.bias": np.zeros(30, np.float32)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"text_model\.final_layer_norm\.bias twice"):
        CLIPTextModel.from_pretrained(folder)


def test_quantised_weights_are_refused(folder: Path, weights: Arrays) -> None:
    wrong = weights | {"text_projection.weight": weights["text_projection.weight"].astype(np.int8)}
    save_file(wrong, folder / "model.safetensors")
    with pytest.raises(UnsupportedCheckpointError, match="int8; quantised weights are not read"):
        CLIPModel.from_pretrained(folder)


def cut(folder: Path, weights: Arrays, keep: float) -> None:
    save_file(weights, folder / "model.safetensors")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: int(len(content) * keep)])


def lfs_pointer(folder: Path, weights: Arrays) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def bad_header(folder: Path, weights: Arrays) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 4) + b"{{{{" + bytes(50))


def wrong_sizes(folder: Path, weights: Arrays) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


def endless_header(folder: Path, weights: Arrays) -> None:
    header = b"[" * 200_000
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)


def boundless_shape(folder: Path, weights: Arrays) -> None:
    header = b'{"a": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, 4]}}'
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


def shard_missing(folder: Path, weights: Arrays) -> None:
    shard(folder, weights)
    (folder / "model-00002-of-00003.safetensors").unlink()


def shard_elsewhere(folder: Path, weights: Arrays) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../secret.safetensors"}}')


def empty_index(folder: Path, weights: Arrays) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {}}')


def half_msgpack(folder: Path, weights: Arrays) -> None:
    content = serialization.msgpack_serialize(as_flax(weights))
    (folder / "flax_model.msgpack").write_bytes(content[: len(content) // 2])


def half_config(folder: Path, weights: Arrays) -> None:
    (folder / "config.json").write_text('{"text_config": {')


def no_config(folder: Path, weights: Arrays) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder, weights: cut(folder, weights, 0.9),
            r"cut short.*header promises \d+.*fetch it again",
        ),
        (lambda folder, weights: cut(folder, weights, 0.01), r"cut short"),
        (lambda folder, weights: cut(folder, weights, 0.0), r"cut short: it has 0 bytes"),
        (lfs_pointer, "Git LFS pointer"),
        (bad_header, "header is damaged"),
        (endless_header, "header is damaged"),
        (boundless_shape, "header is damaged"),
        (wrong_sizes, r"4 bytes for shape \(5,\)"),
        (shard_missing, r"lacks 1 of 3 shards \(model-00002-of-00003\.safetensors\)"),
        (shard_elsewhere, "outside its folder"),
        (empty_index, "names no shards"),
        (half_msgpack, "cut short or damaged"),
        (half_config, "cannot be read as JSON"),
        (no_config, "it has no config.json"),
        (lambda folder, weights: None, "holds no weights: expected model.safetensors"),
    ],
)
def test_damaged_checkpoints(
    folder: Path, weights: Arrays, damage: Callable[[Path, Arrays], None], message: str
) -> None:
    damage(folder, weights)
    with pytest.raises(CheckpointError, match=message):
        CLIPModel.from_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pytorch_model.bin", "pickle.*model.safetensors.*save_pretrained"),
        ("tf_model.h5", "only as tf_model.h5, which is not read here"),
    ],
)
def test_formats_that_are_not_read_are_named_with_the_way_out(folder: Path, name: str, message: str) -> None:
    (folder / name).write_bytes(b"anything")
    with pytest.raises(UnsupportedCheckpointError, match=message):
        CLIPModel.from_pretrained(folder)


def test_configuration_of_another_architecture(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "siglip", "vision_config": {}}')
    with pytest.raises(ConfigurationError, match="expects model_type 'clip', it got 'siglip'"):
        CLIPModel.from_pretrained(folder)


def test_openclips_layout_is_named_with_the_class_that_reads_it(folder: Path) -> None:
    (folder / "config.json").rename(folder / "open_clip_config.json")
    with pytest.raises(UnsupportedCheckpointError, match=r"laid out by OpenCLIP.*use OpenCLIPModel"):
        CLIPModel.from_pretrained(folder)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no-such-folder"):
        CLIPModel.from_pretrained(tmp_path / "no-such-folder")


FULL_DISK = """
import resource, signal
from pathlib import Path
import numpy as np
from model.checkpoint import write_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    write_checkpoint(Path("{folder}"), {{}}, {{"weight": np.zeros(1000, np.float32)}})
except OSError as error:
    print(error.errno, error.filename)
"""


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files as POSIX does")
def test_weights_that_cannot_be_written_are_an_error_of_the_system(
    tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = run_python(FULL_DISK.format(folder=tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(errno.EFBIG), str(tmp_path / "model.safetensors")]
    assert not list(tmp_path.iterdir())
