"""Addresses as queries, against a real server on this machine: what is fetched, and what is not even asked."""

from __future__ import annotations

import ipaddress
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, ClassVar

import pytest

from search.errors import QueryImageError
from search.fetch import FetchLimits, fetch_image, is_public

if TYPE_CHECKING:
    from collections.abc import Iterator


class Handler(BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        elif self.path == "/loop":
            self.send_response(301)
            self.send_header("Location", "/loop")
            self.end_headers()
        elif self.path == "/picture?size=1":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"picture")
        elif self.path == "/long":
            self.send_response(200)
            self.end_headers()
            with suppress(OSError):
                for _ in range(100):
                    self.wfile.write(b"x" * 1000)
        elif self.path == "/declared":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
        elif self.path == "/drip/body":
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            with suppress(OSError):
                for _ in range(200):
                    self.wfile.write(b"x")
                    self.wfile.flush()
                    time.sleep(0.05)
        elif self.path == "/drip":
            with suppress(OSError):
                for character in b"HTTP/1.1 200 OK\r\nX-Header: " + b"x" * 200:
                    self.wfile.write(bytes([character]))
                    self.wfile.flush()
                    time.sleep(0.05)
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Handler.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def only_here(address: object) -> bool:
    return str(address) == "127.0.0.1"


def fetch(url: str, **limits: float) -> bytes:
    return fetch_image(url, FetchLimits(**{"bytes": 10_000, "seconds": 5.0, **limits}), is_allowed=only_here)


def test_a_picture_is_fetched_also_through_redirections(server: str) -> None:
    assert fetch(f"{server}/picture?size=1") == b"picture"
    assert fetch(f"{server}/to//to//picture?size=1") == b"picture"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/none", "answers 404"),
        ("/loop", "more than 3 times"),
        ("/long", "more than 10,000 bytes"),
        ("/declared", "more than 10,000 bytes"),
        ("/to/http://127.0.0.2/", "private network"),
        ("/to/file:///etc/passwd", "must start with http"),
    ],
)
def test_what_does_not_arrive(server: str, path: str, reason: str) -> None:
    with pytest.raises(QueryImageError, match=reason):
        fetch(server + path)


@pytest.mark.parametrize("path", ["/drip", "/drip/body"])
def test_a_server_that_drips_is_hung_up_on(server: str, path: str) -> None:
    with pytest.raises(QueryImageError, match="took too long"):
        fetch(server + path, seconds=0.5)


def test_a_private_server_is_not_even_asked(server: str) -> None:
    port = server.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost", "127.1", "2130706433"):
        with pytest.raises(QueryImageError, match="private network"):
            fetch_image(f"http://{host}:{port}/picture?size=1")
    assert Handler.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/a.jpg",
        "file:///etc/passwd",
        "http://",
        "http://user:secret@example.org/",
        "http://example.org:99999/",
        "http://example.org:0/",
        "http://example.org/a b.jpg",
        "http://example.org/\r\nHost: x",
        "http://ex\u00e4mple.org/",
        "http://[::1/",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(QueryImageError):
        fetch_image(url)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public
