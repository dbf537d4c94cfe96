"""The doors: the same commands with only the address new, and one line for whatever is wrong with it.

Their name puts them behind the tests of Ray: these import JAX, and Ray forks, which JAX does not like.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
from cluster_fakes import synthetic_library
from pymilvus.grpc_gen import common_pb2, milvus_pb2, milvus_pb2_grpc

from app.api.application import create_api
from app.api.settings import ApiSettings
from indexer import LibraryReader
from indexer.cluster.errors import CredentialsRefusedError, ServerTooOldError
from indexer.cluster.publishing import publish
from indexer.reading import open_reader
from search import Library

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def imago(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs the command line; whatever fails says so in one line and without a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "app", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "defect" not in done.stderr
    return done


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, milvus, draw_picture) -> tuple[Path, str, Path]:
    """A library of drawn pictures made with the starter, its address, and the folder of the pictures."""
    base = tmp_path_factory.mktemp("published")
    photos = base / "photos"
    photos.mkdir()
    for seed in range(60):
        draw_picture(seed).save(photos / f"{seed}.png")
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    imago("index", photos, "--model", "starter", "--library", base / "library")
    place = f"{milvus.place}/published"
    done = imago("publish", "--to", place, "--library", base / "library")
    assert "60 pictures" in done.stdout
    assert "60 written" in done.stdout
    return base / "library", place, photos


def test_the_same_commands_with_only_the_address_new(published: tuple[Path, str, Path]) -> None:
    library, place, photos = published
    for arguments in (
        ["search", "a red circle", "--all", "--json"],
        ["search", "a red circle in:photos", "--all", "--json"],
        ["search", "type:png", "-n", "5", "--json"],
        ["similar", photos / "3.png", "--json"],
    ):
        here = json.loads(imago(*arguments, "--library", library).stdout)
        there = json.loads(imago(*arguments, "--library", place).stdout)
        assert there.pop("library") == place
        here.pop("library")
        assert there == here
        assert here["hits"]
    status = json.loads(imago("status", "--json", "--library", place).stdout)
    assert (status["images"], status["failed"], status["library"]) == (60, 1, place)
    told = imago("status", "--library", place).stdout
    assert "hnsw, on the server" in told
    assert "on disk" not in told
    assert str(photos) in imago("roots", "--library", place).stdout
    doctor = imago("doctor", "--library", place).stdout
    assert "recall@10" in doctor
    assert "texts" in doctor
    again = json.loads(imago("publish", "--to", place, "--library", library, "--json").stdout)
    assert (again["written"], again["unchanged"]) == (0, 60)


def test_every_kind_of_answer_is_that_of_the_folder(published: tuple[Path, str, Path]) -> None:
    library, place, photos = published
    with Library.open(library) as local, Library.open(place) as served:
        served._encoder = local.encoder
        for options in (
            {}, {"all_hits": False}, {"order": "name"}, {"order": "size"}, {"explain": True}, {"fold": True},
            {"more_like": [3], "less_like": [5]}, {"offset": 7},
        ):  # fmt: skip
            for query in ("a dog", "a dog - night", str(photos / "4.png"), "type:png"):
                if query == "type:png" and ("explain" in options or "fold" in options):
                    continue
                assert served.answer(query, 9, **options) == local.answer(query, 9, **options), (
                    query,
                    options,
                )
        first = served.answer("a dog", 9)
        assert served.answer("a dog", 9, page=first.next_page) == local.answer(
            "a dog", 9, page=first.next_page
        )
        assert served.similar(photos / "3.png", 5) == local.similar(photos / "3.png", 5)
        assert served.duplicates("near") == local.duplicates("near")


def test_the_http_api_serves_it_and_thumbnails_lie_on_this_machine(
    published: tuple[Path, str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from httpx2 import Client  # noqa: F401  (what Starlette's client needs)
    from starlette.testclient import TestClient

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _, place, _ = published
    with TestClient(create_api(ApiSettings(place)), base_url="http://127.0.0.1") as client:
        found = client.get("/v1/search", params={"q": "a dog", "all": "true"}).json()
        assert found["hits"]
        picture = client.get(f"/v1/images/{found['hits'][0]['id']}/thumbnail")
        assert picture.status_code == 200
    assert list((tmp_path / "cache").rglob("*.webp"))


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = f"milvus://127.0.0.1:{port}/photos"
    library = synthetic_library(tmp_path / "library", 3)
    for arguments in (
        ["search", "a dog", "--library", place],
        ["status", "--library", place],
        ["doctor", "--library", place],
        ["publish", "--to", place, "--library", library],
    ):
        done = imago(*arguments, code=1)
        assert f"127.0.0.1:{port} does not answer" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    wrong = imago("search", "a dog", "--library", "mongodb://127.0.0.1/photos", code=1)
    assert "begins with mongodb://" in wrong.stderr


class _Stub(milvus_pb2_grpc.MilvusServiceServicer):
    """The few calls with which a client begins, answered as an old or a guarded server does."""

    def __init__(self, version: str, token: str | None) -> None:
        self._version = version
        self._token = token

    def Connect(self, request, context):  # noqa: N802
        self._guard(context)
        return milvus_pb2.ConnectResponse(
            status=common_pb2.Status(), server_info=common_pb2.ServerInfo(build_tags=self._version)
        )

    def GetVersion(self, request, context):  # noqa: N802
        self._guard(context)
        return milvus_pb2.GetVersionResponse(status=common_pb2.Status(), version=self._version)

    def _guard(self, context) -> None:
        given = dict(context.invocation_metadata()).get("authorization")
        if self._token is not None and given != self._token:
            context.abort(
                grpc.StatusCode.UNAUTHENTICATED, "auth check failure, please check username and password"
            )


@pytest.fixture
def stub(request: pytest.FixtureRequest) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    milvus_pb2_grpc.add_MilvusServiceServicer_to_server(_Stub(*request.param), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"milvus://127.0.0.1:{port}/photos"
    server.stop(None)


@pytest.mark.parametrize("stub", [("v2.2.16", None)], indirect=True)
def test_an_older_server(stub: str) -> None:
    with pytest.raises(ServerTooOldError, match=r"is Milvus v2\.2\.16; Imago needs 2\.5 or newer"):
        open_reader(stub)


@pytest.mark.parametrize("stub", [("v2.2.16", "cm9vdDpNaWx2dXM=")], indirect=True)
def test_credentials_that_are_refused(stub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = synthetic_library(tmp_path / "library", 3)
    file = tmp_path / "token"
    file.write_text("root:wrong")
    for attempt in (lambda: open_reader(stub), lambda: publish(library, stub, token_file=file)):
        with pytest.raises(CredentialsRefusedError, match="IMAGO_MILVUS_TOKEN") as caught:
            attempt()
        assert "wrong" not in str(caught.value)
    monkeypatch.setenv("IMAGO_MILVUS_TOKEN", "root:Milvus")
    with pytest.raises(ServerTooOldError):  # past the guard
        open_reader(stub)


def test_the_browser_offers_no_indexing_of_what_is_served(
    published: tuple[Path, str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamlit.testing.v1 import AppTest

    _, place, _photos = published
    monkeypatch.setitem(os.environ, "IMAGO_LIBRARY", place)
    page = AppTest.from_string(
        "from app.browser import library_page\nlibrary_page.show()", default_timeout=60
    ).run()
    assert not page.exception
    assert "served from elsewhere" in page.caption[0].value
    assert "published" in page.caption[-1].value
    assert not page.button
    assert not page.text_input


def test_indexing_on_ray_with_the_real_model(published: tuple[Path, str, Path], tmp_path: Path) -> None:
    library, _, photos = published
    out = tmp_path / "rows"
    told = json.loads(
        imago("index", photos, "--ray", "local", "--out", out, "--model", "starter", "--json").stdout
    )
    assert (told["embedded"], told["unchanged"], told["interrupted"]) == (60, 0, False)
    assert [failure["path"] for failure in told["failed"]] == [str(photos / "broken.png")]
    done = imago("index", photos, "--ray", "local", "--model", "starter", "--library", tmp_path / "library")
    assert "60" in done.stdout
    with LibraryReader.open(library) as here, LibraryReader.open(tmp_path / "library") as there:
        for path in photos.glob("?.png"):
            one, two = here.vectors([here.find(path)]), there.vectors([there.find(path)])
            # Kept in half precision, their lengths are not quite 1.
            assert float(one[0] @ two[0]) / float(np.linalg.norm(one) * np.linalg.norm(two)) > 0.9999
    wrong = imago("index", photos, "--ray", "nonsense", "--out", out, "--model", "starter", code=1)
    assert "'nonsense' is no address of a Ray cluster" in wrong.stderr
