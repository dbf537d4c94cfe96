"""Pictures from the network, for queries that hold an address, where that is switched on.

An address that a stranger typed makes this machine ask another one, so: only http and https; only addresses of the
public internet, looked up once and then connected to by number, so that a name cannot change its mind in between;
redirections are judged like the first address; and size and time are bounded.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urljoin, urlsplit

from search.errors import QueryImageError

if TYPE_CHECKING:
    from collections.abc import Callable

MAXIMUM_BYTES: Final = 20_000_000
"""A large photograph; more is a film or an attack."""
MAXIMUM_SECONDS: Final = 10.0
"""Somebody waits for the answer."""
MAXIMUM_REDIRECTIONS: Final = 3
_BLOCK_BYTES: Final = 64 * 1024
_REDIRECTIONS: Final = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True)
class FetchLimits:
    """What fetching one picture may cost."""

    bytes: int = MAXIMUM_BYTES
    seconds: float = MAXIMUM_SECONDS


def fetch_image(
    url: str,
    limits: FetchLimits | None = None,
    *,
    is_allowed: Callable[[ipaddress.IPv4Address | ipaddress.IPv6Address], bool] | None = None,
) -> bytes:
    """Fetch the bytes behind an address.

    Args:
        url: `http://` or `https://`.
        limits: What it may cost.
        is_allowed: Judges the numbers that the name stands for; public ones only when not given.

    Raises:
        QueryImageError: The address is none, leads to a private network, does not answer, or answers with too much.
    """
    limits = limits or FetchLimits()
    deadline = time.monotonic() + limits.seconds
    for _ in range(MAXIMUM_REDIRECTIONS + 1):
        parts = _checked(url)
        connection = _connect(parts, deadline, is_allowed or is_public)
        # A time limit on the socket is one on each of its reads; a server that drips bytes never meets it.
        # It is told of the socket, since the connection forgets its own once the answer begins.
        alarm = threading.Timer(_left(deadline, url), _hang_up, [connection.sock])
        alarm.daemon = True
        alarm.start()
        try:
            answer = _ask(connection, parts)
            if answer.status in _REDIRECTIONS and (target := answer.getheader("Location")):
                url = urljoin(url, target)
                continue
            if answer.status != 200:
                raise QueryImageError(f"{url} answers {answer.status} {answer.reason}, not with a picture.")
            return _read(answer, url, limits, deadline)
        except (OSError, http.client.HTTPException, ValueError) as error:
            _left(deadline, url)
            raise QueryImageError(f"{url} could not be fetched: {error or type(error).__name__}.") from error
        finally:
            alarm.cancel()
            connection.close()
    raise QueryImageError(f"{url} redirects more than {MAXIMUM_REDIRECTIONS} times.")


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address belongs to the public internet, whatever way it is written."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        # NAT64 (RFC 6052) carries an IPv4 address in its last four bytes.
        if inner is None and address in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(address.packed[-4:])
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise QueryImageError(f"{url} is no address: {error}.") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise QueryImageError(f"{url} is no address of a picture: it must start with http:// or https://.")
    if parts.username is not None or parts.password is not None:
        raise QueryImageError(f"{url} holds a name or a password, which are not sent.")
    if port == 0:
        raise QueryImageError(f"{url} names the port 0, which does not exist.")
    if not url.isascii() or any(character <= " " or character == "\x7f" for character in url):
        raise QueryImageError(f"{url} holds characters that must be written as %XX in an address.")
    return parts


def _connect(
    parts: SplitResult,
    deadline: float,
    is_allowed: Callable[[ipaddress.IPv4Address | ipaddress.IPv6Address], bool],
) -> http.client.HTTPConnection:
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise QueryImageError(f"The address of {host} cannot be found: {error}.") from error
    numbers = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not numbers or not all(map(is_allowed, numbers)):
        raise QueryImageError(f"{host} lies in a private network, from which no pictures are fetched.")
    connection = http.client.HTTPConnection(host, port, timeout=_left(deadline, host))
    try:
        # By number: what was judged is what is connected to, whatever the name stands for a moment later.
        plain = socket.create_connection((str(numbers[0]), port), timeout=_left(deadline, host))
        connection.sock = plain
        if parts.scheme == "https":
            connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host)
    except OSError as error:
        connection.close()
        raise QueryImageError(f"{host} does not answer: {error}.") from error
    return connection


def _ask(connection: http.client.HTTPConnection, parts: SplitResult) -> http.client.HTTPResponse:
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {"Accept": "image/*", "User-Agent": "imago", "Connection": "close"}
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def _read(answer: http.client.HTTPResponse, url: str, limits: FetchLimits, deadline: float) -> bytes:
    declared = answer.getheader("Content-Length")
    data = bytearray()
    if declared is None or not declared.isdigit() or int(declared) <= limits.bytes:
        while block := answer.read1(_BLOCK_BYTES):
            data += block
            if len(data) > limits.bytes:
                break
        else:
            _left(deadline, url)  # a body that was hung up on looks like one that ends
            return bytes(data)
    raise QueryImageError(
        f"{url} holds more than {limits.bytes:,} bytes. Save the picture and give its path."
    )


def _hang_up(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _left(deadline: float, name: str) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise QueryImageError(f"{name} took too long to answer.")
    return left
