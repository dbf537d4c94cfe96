"""Serves the browser app: Streamlit's pages, and the pictures that they show, on one address."""

from __future__ import annotations

import os
import re
import socket
import threading
import webbrowser
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import streamlit as st
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

from app.browser.pictures import picture_routes
from app.browser.shelf import warm_up
from app.hosts import is_loopback, names_own_origin
from indexer.reading import is_address

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from starlette.types import ASGIApp, Receive, Scope, Send

PAGE = Path(__file__).parent / "page.py"

THEME: Mapping[str, Any] = {
    "theme.baseRadius": "large",
    "theme.headingFontSizes": ["2rem", "1.35rem", "1.15rem"],
    "theme.light.primaryColor": "#0b655e",
    "theme.light.backgroundColor": "#ffffff",
    "theme.light.secondaryBackgroundColor": "#f1f4f3",
    "theme.light.textColor": "#0b1412",
    "theme.light.linkColor": "#0f766e",
    "theme.light.borderColor": "#d5dcda",
    "theme.dark.primaryColor": "#2dd4bf",
    "theme.dark.backgroundColor": "#121615",
    "theme.dark.secondaryBackgroundColor": "#1e2523",
    "theme.dark.textColor": "#e8eeec",
    "theme.dark.linkColor": "#5eead4",
    "theme.dark.borderColor": "#35403d",
}
"""Colours with a contrast of at least 4.5 to 1 in both; which one is shown follows the system."""


def serve(library_path: Path | str, *, host: str, port: int, open_browser: bool) -> None:
    """Serve the browser app until Ctrl-C.

    Raises:
        click.ClickException: The port is taken or the address cannot be listened on.
    """
    _check_address(host, port)
    path = library_path if is_address(library_path) else Path(library_path).absolute()
    os.environ["IMAGO_LIBRARY"] = str(path)
    click.echo(f"Imago: http://{_in_url(host)}:{port} (Ctrl-C ends it)", err=True)
    if not is_loopback(host):
        click.echo(
            "Whoever can reach this address can see these pictures: nobody is asked for a password. Folders can be "
            "added, and files outside the library searched with, only where Imago listens on this machine alone.",
            err=True,
        )
    warm_up(path)
    browser_app(path, host=host, opens=f"http://{_in_url(host)}:{port}" if open_browser else None).run(
        config={
            "server.address": host,
            "server.port": port,
            "server.headless": True,
            "server.fileWatcherType": "none",
            "server.enableAgentApi": False,
            # A whole collection after every interaction takes a fifth of a second, in which no thumbnail is served.
            "runner.postScriptGC": False,
            "browser.gatherUsageStats": False,
            "client.showErrorDetails": "none",
            "client.toolbarMode": "minimal",
            "logger.hideWelcomeMessage": True,
            **THEME,
        }
    )


def browser_app(library_path: Path | str, *, host: str, opens: str | None = None) -> st.App:
    """Return the ASGI application: pages, and below `/pictures` and `/uploads` what they show.

    Args:
        library_path: The library's folder or address.
        host: The address that it will listen on.
        opens: What to open in the person's browser once the server listens, None for nothing.
    """

    @asynccontextmanager
    async def lifespan(_app: st.App) -> AsyncIterator[None]:
        if opens is not None:
            # A thread of its own: opening a browser of the terminal returns when that is closed.
            threading.Thread(target=webbrowser.open, args=(opens,), name="browser", daemon=True).start()
        yield

    middleware = [Middleware(OwnNameOnly, host=host)] if is_loopback(host) else []
    return st.App(PAGE, lifespan=lifespan, routes=picture_routes(library_path), middleware=middleware)


class OwnNameOnly:
    """Refuses requests that reached this machine under a name which is not its own, or from a page which is not ours.

    A site elsewhere can point its own name at 127.0.0.1; to a browser it would then be of one origin with us,
    and could read everything. Its requests still carry its name. And any page can open a WebSocket to any address:
    Streamlit refuses most of them, but asks the Internet for this machine's address first, and waits for it.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._names = {"localhost", "127.0.0.1", "[::1]", _in_url(host)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what came under our own name, and the server's own events."""
        if scope["type"] in {"http", "websocket"}:
            headers = Headers(scope=scope)
            name = re.sub(r":\d+$", "", headers.get("host", "")).lower()
            if name not in self._names or not names_own_origin(headers):
                await PlainTextResponse("Open Imago under its own address.", 400)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _check_address(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do it: a port in TIME_WAIT after the last run counts as free.
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise click.ClickException(
                f"cannot listen on {host}:{port}: {reason}; choose another with --host or --port"
            ) from error


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
