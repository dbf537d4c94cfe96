"""The server as a process: start, signals, and what it does with requests under way."""

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import uvicorn
from uvicorn.server import ServerState

from app.api import running
from app.api.server import serve
from app.api.settings import ApiSettings
from indexer import LibraryNotFoundError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")


def is_open(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health", timeout=60).is_success
    except httpx2.TransportError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_and_lets_the_last_answer_out(
    indexed: tuple[Path, Path], start_server: Callable[..., Any], number: signal.Signals
) -> None:
    picture = (indexed[1] / "4.png").read_bytes()
    body = (
        b'--x\r\nContent-Disposition: form-data; name="picture"; filename="4.png"\r\n\r\n'
        + picture
        + b"\r\n--x--\r\n"
    )
    with start_server(indexed[0]) as server:
        connection = HTTPConnection(urlsplit(server.url).netloc, timeout=120)
        connection.putrequest("POST", "/v1/similar")
        connection.putheader("Content-Type", "multipart/form-data; boundary=x")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        connection.send(body[:100])
        while "imago_http_requests_under_way 2.0" not in httpx2.get(f"{server.url}/metrics", timeout=60).text:
            time.sleep(0.05)  # until the upload has begun, as seen by this request
        server.process.send_signal(number)
        while is_open(server.url):
            time.sleep(0.05)  # until nobody new is let in
        connection.send(body[100:])
        response = connection.getresponse()
        assert response.status == 200
        assert b"4.png" in response.read()
        connection.close()
        output, _ = server.process.communicate(timeout=120)
        assert output.endswith("ended in order\n")
        assert "Traceback" not in output
        assert server.process.returncode == 0


def test_many_clients_at_once_get_each_their_own_answer(server: Any) -> None:
    """Words of concurrent queries go through the tower together and must not be mixed up."""
    words = [
        f"{colour} {thing}" for colour in ("red", "green", "blue") for thing in ("dog", "car", "tree", "boat")
    ]

    def ask(word: str) -> list[float]:
        answer = httpx2.get(f"{server.url}/v1/search", params={"q": word, "all": True}, timeout=60).json()
        return [hit["score"] for hit in answer["hits"]]

    alone = {word: ask(word + " alone") for word in words}
    with ThreadPoolExecutor(12) as pool:
        together = dict(zip(words, pool.map(ask, [word + " alone" for word in words]), strict=True))
    for word in words:
        assert together[word] == pytest.approx(alone[word], abs=2e-5)
    assert len({tuple(scores) for scores in alone.values()}) == len(words)


def test_a_library_that_is_not_there_is_said_before_serving(tmp_path: Path) -> None:
    with pytest.raises(LibraryNotFoundError):
        serve(ApiSettings(tmp_path / "none", port=0), lambda _line: pytest.fail("it listens"))


def test_an_address_that_is_taken_is_said(indexed: tuple[Path, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        serve(ApiSettings(indexed[0], port=taken.getsockname()[1]), lambda _line: None)


def test_a_request_that_is_no_http_does_no_harm(server: Any) -> None:
    address = urlsplit(server.url)
    for data in (
        b"\0" * 1000,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"\r\n",
    ):
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            try:
                while connection.recv(65536):
                    pass
            except ConnectionError:
                pass
    assert httpx2.get(f"{server.url}/health", timeout=60).json() == {"status": "ok"}


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: local"])
def test_a_connection_that_asks_for_nothing_is_ended(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    """Some hundreds of them would be all that there may be."""
    monkeypatch.setattr(running, "_HEAD_SECONDS", 0.2)

    async def answer(_scope: Any, _receive: Any, send: Any) -> None:
        await asyncio.sleep(1)  # longer than a head may take
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def talk() -> None:
        config = uvicorn.Config(answer, lifespan="off", ws="none", http=running.PromptConnection)
        config.load()
        state = ServerState()
        server = await asyncio.get_running_loop().create_server(
            lambda: running.PromptConnection(config, state, {}), "127.0.0.1", 0
        )
        host, port = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port)
        try:
            for _ in range(2):  # a connection that asks is answered, again and again
                writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert b"200" in await reader.readuntil(b"\r\n\r\nok")
            new_reader, new_writer = await asyncio.open_connection(host, port)  # and one that never asks
            for one, other in ((reader, writer), (new_reader, new_writer)):
                other.write(sent)
                with suppress(ConnectionError):
                    assert await one.read() == b""
            new_writer.close()
        finally:
            writer.close()
            server.close()

    asyncio.run(asyncio.wait_for(talk(), 30))


def test_raw_paths_that_clients_tidy_up_find_nothing(server: Any) -> None:
    """`..` reaches the server only from clients that do not resolve it first."""
    connection = HTTPConnection(urlsplit(server.url).netloc, timeout=120)
    for path in (
        "/v1/images/1/../../../../../../etc/passwd",
        "/../../../../etc/passwd",
        "//etc/passwd",
        "/v1/images/..%2f..%2f..%2fetc%2fpasswd/original",
        "/docs/../../etc/passwd",
        "/v1/images/1/original/../../../../etc/passwd",
        "/v1/images/1%2foriginal%2f..",
        "/v1/images/\\..\\..\\etc\\passwd/original",
    ):
        connection.putrequest("GET", path, skip_host=False)
        connection.endheaders()
        response = connection.getresponse()
        assert response.status in {400, 404, 422}, path
        assert b"root:" not in response.read()
    connection.close()


def test_threads_of_clients_that_vanish_are_given_back(server: Any, indexed: tuple[Path, Path]) -> None:
    address = urlsplit(server.url)

    def vanish() -> None:
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            connection.sendall(
                b"POST /v1/similar HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
            )

    threads = [threading.Thread(target=vanish) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answer = httpx2.get(f"{server.url}/v1/search", params={"q": "still there"}, timeout=60)
    assert answer.status_code == 200
