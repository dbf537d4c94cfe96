"""The application in uvicorn, from taking the address to an orderly end."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.api.application import create_api

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import FrameType

    from app.api.settings import ApiSettings

_KEEP_ALIVE_SECONDS = 20
_HEAD_SECONDS = 20
"""In which a new connection must have sent the head of a request."""
_CONNECTIONS = 512
"""More at the same time are answered 503 at once instead of slowly."""
_BACKLOG = 1024
_REQUEST_LINE_BYTES = 256 << 10
"""The longest query there may be, each of its characters written as twelve."""


def run(settings: ApiSettings, notify: Callable[[str], None]) -> None:
    """See `app.api.server.serve`."""
    listening = _listen(settings.host, settings.port)
    with listening:
        application = create_api(settings)
        config = uvicorn.Config(
            application,
            log_level="warning",
            access_log=False,  # queries are private; /metrics counts them
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=settings.shutdown_seconds,
            limit_concurrency=_CONNECTIONS,
            lifespan="on",
            ws="none",
            http=PromptConnection,
            h11_max_incomplete_event_size=_REQUEST_LINE_BYTES,
        )
        port = listening.getsockname()[1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        server = _Server(
            config, lambda: notify(f"Imago API: http://{host}:{port} (docs at /docs, Ctrl-C ends it)")
        )
        previous = {number: signal.signal(number, _ignore) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            server.run(sockets=[listening])
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


class PromptConnection(H11Protocol):
    """Ends connections that do not ask for anything: as they count, some hundreds of them would shut out everybody.

    uvicorn itself waits without end for the first head of a connection, and for the rest of each that has begun.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request."""
        super().connection_made(transport)
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Take what came; once it makes a whole head, the guard watches over the rest."""
        super().data_received(data)
        if self._is_answering():
            self._forget()

    def on_response_complete(self) -> None:
        """Expect the next request, unless it is there already."""
        super().on_response_complete()
        if not self._is_answering():
            self._forget()
            self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing more."""
        self._forget()
        super().connection_lost(exc)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect(self) -> None:
        self._deadline = self.loop.call_later(_HEAD_SECONDS, self._give_up)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()


class _Server(uvicorn.Server):
    """Says when it is ready."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()


def _listen(host: str, port: int) -> socket.socket:
    """Take the address before anything slow is done, so that a taken one is said at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG, reuse_port=False)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: uvicorn raises the signal that ended it once more, when all is in order already."""
