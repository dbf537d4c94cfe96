"""Names to folders: aliases, folders, the hub's cache, a hub of our own, and no network at all."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from model import registry
from model.errors import ModelNotFoundError, UnsupportedCheckpointError
from model.registry import ALIASES, choose_files, find_model, is_on_disk, locate, resolve_default

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def own_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


def put_into_cache(cache: Path, hub_id: str, *names: str) -> Path:
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("{}")
    return folder


def test_the_starter_is_always_there() -> None:
    located = find_model("starter")
    assert located.folder == Path(registry.__file__).parent / "starter"
    assert (located.folder / "model.safetensors").is_file()
    assert located.name == "starter"
    assert located.revision is not None


def test_a_folder_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "some" / "model"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in (folder, str(folder), "some/model", "./some/model"):
        located = find_model(name)
        assert (located.name, located.folder, located.revision) == (str(folder), folder, None)
        assert locate(name) == folder
    (tmp_path / "clip").mkdir()
    assert find_model("./clip").folder == tmp_path / "clip"
    with pytest.raises(ModelNotFoundError, match="openai/clip-vit-base-patch32"):
        find_model("clip")  # an alias goes before a folder of its name


@pytest.mark.parametrize(
    "name", ["nonsense", "", "a/b/c", "/no/such/folder", "../up", "x" * 5000, "nul\0l", "-/x"]
)
def test_unknown_names_are_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        find_model(name)
    assert repr(name)[1:20] in str(caught.value)


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelNotFoundError, match=r"is a file\. Name the folder that holds the checkpoint"):
        find_model(tmp_path / "model.safetensors")


def test_a_model_in_the_cache_needs_no_network(own_hub_cache: Path) -> None:
    folder = put_into_cache(own_hub_cache, "openai/clip-vit-base-patch32", "flax_model.msgpack", *SMALL)
    by_id, by_alias = find_model("openai/clip-vit-base-patch32"), find_model("clip")
    assert by_id.folder == by_alias.folder == folder
    assert by_id.revision == by_alias.revision == COMMIT
    assert (by_id.name, by_alias.name) == ("openai/clip-vit-base-patch32", "clip")
    assert is_on_disk("clip")
    assert not is_on_disk("datacomp")


@pytest.mark.parametrize(
    "names",
    [
        ["config.json"],
        ["model.safetensors"],
        ["config.json", "model.safetensors.index.json"],
        ["config.json", "pytorch_model.bin"],
        ["config.json", "model.safetensors"],
        ["config.json", "model.safetensors", "preprocessor_config.json"],
        ["config.json", "model.safetensors", "tokenizer.json"],
        ["config.json", "open_clip_config.json", "model.safetensors"],
    ],
)
def test_a_half_fetched_model_does_not_count(own_hub_cache: Path, names: list[str]) -> None:
    put_into_cache(own_hub_cache, "some/model", *names)
    with pytest.raises(ModelNotFoundError, match="HF_HUB_OFFLINE forbids to fetch it"):
        find_model("some/model")


@pytest.mark.parametrize(
    "names",
    [
        ["config.json", "model.safetensors", "preprocessor_config.json", "vocab.txt"],
        ["config.json", "flax_model.msgpack", "processor_config.json", "tokenizer.json"],
        ["open_clip_config.json", "open_clip_model.safetensors"],
        ["config.json", "open_clip_config.json", "open_clip_model.safetensors"],
    ],
)
def test_what_a_whole_checkpoint_needs(own_hub_cache: Path, names: list[str]) -> None:
    put_into_cache(own_hub_cache, "some/model", *names)
    assert is_on_disk("some/model")


def test_every_shard_must_be_there(own_hub_cache: Path) -> None:
    folder = put_into_cache(own_hub_cache, "some/model", "model-00001-of-00002.safetensors", *SMALL)
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert not is_on_disk("some/model")
    (folder / "model-00002-of-00002.safetensors").touch()
    assert is_on_disk("some/model")


SMALL = ["config.json", "merges.txt", "preprocessor_config.json", "tokenizer.json"]


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (["pytorch_model.bin", "model.safetensors", "flax_model.msgpack"], ["model.safetensors"]),
        (["pytorch_model.bin", "flax_model.msgpack", "tf_model.h5"], ["flax_model.msgpack"]),
        (
            [
                "model.safetensors.index.json",
                "model-1-of-2.safetensors",
                "model-2-of-2.safetensors",
                "x.safetensors",
            ],
            ["model-1-of-2.safetensors", "model-2-of-2.safetensors", "model.safetensors.index.json"],
        ),
        (["open_clip_model.safetensors", "open_clip_config.json", "open_clip_pytorch_model.bin"], None),
    ],
)
def test_one_form_of_the_weights_is_fetched_and_never_a_pickle(
    names: list[str], weights: list[str] | None
) -> None:
    if weights is None:
        weights = ["open_clip_config.json", "open_clip_model.safetensors"]
    rubbish = ["README.md", "run.py", ".gitattributes", "onnx/model.onnx", "onnx/config.json", "vocab.pkl"]
    assert choose_files([*SMALL, *names, *rubbish]) == sorted([*SMALL, *weights])


def test_without_config_json_the_open_clip_weights_are_those_to_fetch() -> None:
    names = ["open_clip_config.json", "model.safetensors", "open_clip_model.safetensors"]
    assert choose_files(names) == ["open_clip_config.json", "open_clip_model.safetensors"]
    assert "model.safetensors" in choose_files([*names, "config.json"])


def test_weights_only_as_a_pickle_are_refused_with_the_way_out() -> None:
    with pytest.raises(UnsupportedCheckpointError, match=r"pytorch_model\.bin: a pickle.*save_pretrained"):
        choose_files([*SMALL, "pytorch_model.bin"])
    with pytest.raises(UnsupportedCheckpointError, match="no weights that are read here"):
        choose_files(SMALL)


def test_the_default_is_the_starter_where_there_is_no_network() -> None:
    lines: list[str] = []
    assert resolve_default(lines.append) == "starter"
    (line,) = lines
    assert "\n" not in line
    assert line.startswith("Model: starter")
    assert line.endswith("imago index DIR... --model siglip2")


def test_the_default_is_the_best_one_where_it_is_on_disk(own_hub_cache: Path) -> None:
    put_into_cache(own_hub_cache, ALIASES["siglip2"].hub_id or "", "model.safetensors", *SMALL)
    lines: list[str] = []
    assert resolve_default(lines.append) == "siglip2"
    assert lines == ["Model: siglip2 (google/siglip2-base-patch32-256), the default."]


def test_aliases_say_what_one_chooses_by() -> None:
    assert list(ALIASES) == ["siglip2", "clip", "datacomp", "starter"]
    for alias in ALIASES.values():
        assert alias.summary
        assert alias.languages
        assert alias.licence
        assert (alias.download_bytes > 0) == (alias.hub_id is not None) == bool(alias.quality)
        assert all(0 < quality.value < 100 and quality.source for quality in alias.quality)


FILES = {
    "config.json": b'{"model_type": "clip"}',
    "model.safetensors": b"weights",
    "preprocessor_config.json": b"{}",
    "pytorch_model.bin": b"a pickle",
    "tokenizer.json": b"{}",
}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as fetching a model takes."""

    requested: list[str]

    def answer(self, *, with_body: bool) -> None:
        self.requested.append(f"{self.command} {self.path}")
        if self.path.startswith("/api/models/some/model"):
            siblings = [{"rfilename": name} for name in FILES]
            body = json.dumps(
                {
                    "id": "some/model",
                    "modelId": "some/model",
                    "sha": COMMIT,
                    "private": False,
                    "siblings": siblings,
                }
            ).encode()
            if "/tree/" in self.path:
                entries = [
                    {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                    for name, body in FILES.items()
                ]
                body = json.dumps(entries).encode()
            self.reply(200, body, {"Content-Type": "application/json"}, with_body=with_body)
        elif self.path.startswith("/some/model/resolve/") and self.path.rsplit("/", 1)[1] in FILES:
            body = FILES[self.path.rsplit("/", 1)[1]]
            headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
            self.reply(200, body, headers, with_body=with_body)
        else:
            self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body=with_body)

    def reply(self, status: int, body: bytes, headers: dict[str, str], *, with_body: bool) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[tuple[str, list[str]]]:
    requested: list[str] = []
    handler = type("OwnHub", (Hub,), {"requested": requested})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", requested
        server.shutdown()
        thread.join()


FETCH = """
import sys
from model.registry import find_model
from model.errors import ModelError
try:
    located = find_model(sys.argv[1], before_download=lambda: print("fetching"))
    print(located.revision, *sorted(path.name for path in located.folder.iterdir()))
except ModelError as error:
    print(type(error).__name__, error)
"""


def fetch(name: str, endpoint: str, cache: Path) -> str:
    # In a process of its own: the hub library reads its settings when it is imported.
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    environment |= {
        "HF_ENDPOINT": endpoint,
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    command = [sys.executable, "-c", FETCH, name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.strip()


def test_a_model_is_fetched_once(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    endpoint, requested = hub
    expected = f"{COMMIT} config.json model.safetensors preprocessor_config.json tokenizer.json"
    assert fetch("some/model", endpoint, tmp_path / "cache") == f"fetching\n{expected}"
    assert not [request for request in requested if request.endswith(".bin")]
    requested.clear()
    assert fetch("some/model", endpoint, tmp_path / "cache") == expected
    assert requested == []
    folder = tmp_path / "cache" / "models--some--model" / "snapshots" / COMMIT
    (folder / "preprocessor_config.json").unlink()  # as a fetch leaves it that was cut short
    assert fetch("some/model", endpoint, tmp_path / "cache") == f"fetching\n{expected}"


def test_a_model_that_the_hub_does_not_have_is_named(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    answer = fetch("some/thing", hub[0], tmp_path / "cache")
    assert answer.startswith("ModelNotFoundError The hub has no model 'some/thing', or it is private")


def test_a_hub_out_of_reach_is_said_in_one_line(tmp_path: Path) -> None:
    answer = fetch("some/model", "http://127.0.0.1:9", tmp_path / "cache")
    assert answer.startswith("ModelNotFoundError some/model is not on this disk and could not be fetched (")
    assert answer.endswith("such as starter.")
    assert "\n" not in answer
