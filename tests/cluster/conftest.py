"""A Milvus server of this run's own, on loopback, and libraries to publish to it.

Ray and Milvus are an optional extra of over a gigabyte: without them the tests that need them are left out, and
`test_packages.py` says so.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MISSING = [
    name
    for name in ("fsspec", "milvus_lite", "pyarrow", "pymilvus", "ray")
    if importlib.util.find_spec(name) is None
]
NEED_NOTHING = {"test_packages.py", "test_addresses.py", "test_expressions.py", "test_failures.py"}

HERE = Path(__file__).parent
for folder in (HERE, HERE.parent / "indexer", HERE.parent / "search"):
    sys.path.insert(0, str(folder))  # stand-ins that child processes import by this path, too


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out the files of this folder that need what is not there."""
    name = collection_path.name
    return True if MISSING and name.startswith("test_") and name not in NEED_NOTHING else None


class Server:
    """`milvus-lite server` as a process of its own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def place(self) -> str:
        return f"milvus://127.0.0.1:{self.port}"

    def start(self) -> None:
        # Its default host is 0.0.0.0, which others could reach.
        arguments = [
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--data-dir",
            str(self._folder),
        ]
        log = (self._folder.parent / "milvus.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [str(Path(sys.executable).with_name("milvus-lite")), *arguments], stdout=log, stderr=log
            )
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        raise AssertionError("Milvus Lite did not come up")

    def kill(self) -> None:
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture(scope="session")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the whole run; tests take collections of their own."""
    server = Server(tmp_path_factory.mktemp("milvus") / "data")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_milvus(tmp_path: Path) -> Iterator[Server]:
    """A server that the test may kill."""
    server = Server(tmp_path / "milvus" / "data")
    server._folder.parent.mkdir()
    server.start()
    yield server
    server.kill()


@pytest.fixture
def collection(milvus: Server, request: pytest.FixtureRequest) -> str:
    """The address of a collection of the test's own."""
    name = "".join(part if part.isalnum() else "_" for part in request.node.name)[-80:]
    return f"{milvus.place}/c_{name}"


@pytest.fixture
def child() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a function of `cluster_fakes` in a process of its own: `child("name", argument, ...)`."""
    started: list[subprocess.Popen[str]] = []

    def start(function: str, *arguments: object) -> subprocess.Popen[str]:
        folders = [str(HERE), str(HERE.parent / "indexer"), str(HERE.parent / "search")]
        code = f"import sys; sys.path[:0] = {folders!r}; import cluster_fakes; cluster_fakes.{function}(*sys.argv[1:])"
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
