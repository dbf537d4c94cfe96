"""A small library, a served one, and clients for it."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from app.api.application import create_api
from app.api.settings import ApiSettings
from indexer import index_folders
from model import Encoder

LOOPBACK = "http://127.0.0.1"


@pytest.fixture(scope="session")
def starter() -> Encoder:
    """The model in the package, loaded once."""
    return Encoder.load("starter")


@pytest.fixture(scope="session")
def indexed(
    tmp_path_factory: pytest.TempPathFactory, starter: Encoder, draw_picture: Callable[[int], Image.Image]
) -> tuple[Path, Path]:
    """A library and the folder of its six pictures; not to be changed."""
    place = tmp_path_factory.mktemp("indexed")
    return make_library(place, starter, draw_picture)


def make_library(
    place: Path, encoder: Encoder, draw_picture: Callable[[int], Image.Image]
) -> tuple[Path, Path]:
    """Index six drawn pictures; returns the library and the folder."""
    folder = place / "pictures"
    folder.mkdir()
    for seed in range(6):
        draw_picture(seed).save(folder / f"{seed}.png")
    index_folders(place / "library", [folder], encoder)
    return place / "library", folder


@pytest.fixture
def own(tmp_path: Path, starter: Encoder, draw_picture: Callable[[int], Image.Image]) -> tuple[Path, Path]:
    """A library and the folder of its six pictures, for a test that changes them."""
    return make_library(tmp_path, starter, draw_picture)


@pytest.fixture
def connect(starter: Encoder) -> Iterator[Callable[..., TestClient]]:
    """Return a function that serves a library in this process, with settings, and gives a client."""
    clients: list[TestClient] = []

    def connect(library: Path, **settings: object) -> TestClient:
        api = create_api(ApiSettings(library, **settings), lambda _: starter)  # type: ignore[arg-type]
        client = TestClient(api, base_url=LOOPBACK, raise_server_exceptions=False)
        clients.append(client.__enter__())
        return client

    yield connect
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(indexed: tuple[Path, Path], connect: Callable[..., TestClient]) -> TestClient:
    """A client of the library that all tests share."""
    return connect(indexed[0])


PROGRAM = """
import sys
from pathlib import Path
from app.api.server import serve
from app.api.settings import ApiSettings
serve(ApiSettings(Path(sys.argv[1]), port=0, shutdown_seconds=120), lambda line: print(line, flush=True))
print("ended in order", flush=True)
"""


class Server:
    """The API in a process of its own, on a free port."""

    def __init__(self, library: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(library)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", first)
        assert found is not None, first + self.process.stdout.read()
        self.url = found.group()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="session")
def server(indexed: tuple[Path, Path]) -> Iterator[Server]:
    """A server of the library that all tests share."""
    with Server(indexed[0]) as server:
        yield server


@pytest.fixture
def start_server() -> type[Server]:
    """Return what starts another server; use it as a context manager."""
    return Server
