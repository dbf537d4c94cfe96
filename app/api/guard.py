"""What a request must pass before any route sees it. Plain ASGI, because it must hold for every route there is.

- Host header: a page on the web can point a name of its own at 127.0.0.1 and read what answers there, as if
  it were its own server (DNS rebinding). The name is then in the Host header, and only names that mean this
  machine pass.
- Pages of other sites: browsers say where a request comes from (Sec-Fetch-Site, Origin). No page may so
  much as make this server work or show its pictures; there is no CORS header in any answer either.
- Token: compared in constant time. Asked for everywhere but at `/health`.
- Bodies: so many bytes, and so many seconds to arrive. That of a request which is refused is read, too, and dropped:
  many clients write all of it before they read, and a connection that ends before shows them no answer.
"""

from __future__ import annotations

import asyncio
import hmac
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders

from app.api.problems import ApiError, problem
from app.hosts import names_own_origin

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from app.api.settings import ApiSettings

OPEN_PATHS = frozenset({"/health"})
"""A load balancer asks this one; it says nothing about the library's content."""
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
SAFE_SITES = frozenset({"same-origin", "same-site", "none"})
"""`none` is a person typing the address; without the header the client is no browser of today."""

_DROPPED_SECONDS = 10.0
"""In which the body of a refused request is waited for."""

_RESPONSE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


class Guard:
    """Lets a request through to `app`, or answers it with a problem."""

    def __init__(self, app: ASGIApp, settings: ApiSettings) -> None:
        self._app = app
        self._settings = settings
        self._token = settings.token.encode() if settings.token is not None else None
        names = {name.lower().strip("[]") for name in settings.allowed_hosts}
        # With a token a rebound page gains nothing, because it has none; a server of several names stays
        # usable.
        self._hosts = names | LOOPBACK_NAMES if settings.is_loopback or names else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _RESPONSE_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refuse(scope)
        if refusal is not None:
            # Who expects to be asked for the body waits for the answer before sending any.
            if "expect" not in Headers(scope=scope):
                await self._drop_body(receive)
            await refusal(scope, receive, send_guarded)
            return
        await self._app(scope, self._bounded(receive), send_guarded)

    def _refuse(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = _host_name(headers.get("host", ""))
        if self._hosts is not None and host not in self._hosts:
            return problem(
                HTTPStatus.FORBIDDEN,
                "unknown_host",
                "The Host header names another machine than this one. Ask for localhost or 127.0.0.1, or start the "
                "server with --allow-host and the name.",
            )
        if not _is_own_page(headers):
            return problem(
                HTTPStatus.FORBIDDEN,
                "foreign_page",
                "Pages of other sites may not use this server.",
            )
        if not self._has_token(headers) and scope["path"] not in OPEN_PATHS:
            return problem(
                HTTPStatus.UNAUTHORIZED,
                "token_needed",
                'The token is missing or wrong: send it as "Authorization: Bearer ...".',
                headers={"WWW-Authenticate": 'Bearer realm="Imago"'},
            )
        declared = headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > self._settings.maximum_upload_bytes:
            return problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", self._too_large())
        return None

    def _has_token(self, headers: Headers) -> bool:
        if self._token is None:
            return True
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self._token)

    def _too_large(self) -> str:
        return f"A request may have {self._settings.maximum_upload_bytes >> 20} MiB at most: make the picture smaller."

    async def _drop_body(self, receive: Receive, received_bytes: int = 0) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_DROPPED_SECONDS):
                is_complete = False
                while not is_complete and received_bytes <= 2 * self._settings.maximum_upload_bytes:
                    message = await receive()
                    received_bytes += len(message.get("body", b""))
                    is_complete = not message.get("more_body", False)

    def _bounded(self, receive: Receive) -> Receive:
        """The body of a request, up to the limits of bytes and of time."""
        seconds = self._settings.upload_seconds
        deadline = asyncio.get_running_loop().time() + seconds
        received_bytes = 0
        is_complete = False

        async def bounded() -> Message:
            nonlocal received_bytes, is_complete
            if is_complete:  # what comes now is the end of the connection, which may take its time
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise ApiError(
                    HTTPStatus.REQUEST_TIMEOUT,
                    "too_slow",
                    f"The request did not arrive whole within {seconds:g} s.",
                ) from None
            received_bytes += len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            if received_bytes > self._settings.maximum_upload_bytes:
                if not is_complete:
                    await self._drop_body(receive, received_bytes)
                raise ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", self._too_large())
            return message

        return bounded


def _host_name(header: str) -> str:
    """The name in a Host header, without port and brackets; "" for what is no name."""
    try:
        return (urlsplit(f"//{header}").hostname or "").lower()
    except ValueError:
        return ""


def _is_own_page(headers: Headers) -> bool:
    """Whether the request comes from no page at all or from one that this server sent."""
    return headers.get("sec-fetch-site", "none") in SAFE_SITES and names_own_origin(headers)
