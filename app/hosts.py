"""Who can reach an address that a server listens on, and whose page a request comes from."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on, a name or a number, is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def names_own_origin(headers: Mapping[str, str]) -> bool:
    """Return whether a request comes from no page at all, or from one that came from where it goes to.

    Args:
        headers: The request's, by lower-case names.
    """
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host")
