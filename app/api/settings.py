"""How the API is to be served, and what a request may cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.hosts import is_loopback
from app.upload_decoder import UPLOAD_LIMITS
from indexer.decode import DecodeLimits
from model.machine import available_cores

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_PORT = 8600
TOKEN_VARIABLE = "IMAGO_API_TOKEN"  # noqa: S105  (the name of the variable, not a token)
MINIMUM_TOKEN_CHARACTERS = 16
"""Sixteen random characters cannot be guessed over a network; `openssl rand -hex 16` makes thirty-two."""


class ApiSettingsError(ValueError):
    """Settings that must not be served with; the text says which and what to do."""


@dataclass(frozen=True)
class ApiSettings:
    """Where the API listens, whom it answers, and what one request may cost.

    Attributes:
        library_path: The library's folder or address.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        token: What every request must carry as a bearer token; None on loopback means that none is asked for.
        allowed_hosts: Names besides the loopback ones that a request's Host header may carry.
        maximum_upload_bytes: Largest request body.
        maximum_upload_pixels: Largest picture that is decoded.
        upload_seconds: How long a body may take to arrive.
        decode_seconds: How long one uploaded picture may take to decode; its process is killed then.
        worker_threads: Requests that are worked on at the same time, and as many besides that bring a picture; others
            wait their turn.
        search_threads: Searches by words among them. They compute all the time, so more than there are cores only
            take the interpreter from one another.
        shutdown_seconds: How long requests under way may take to end when the server is told to stop.
    """

    library_path: Path | str
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    token: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    maximum_upload_bytes: int = UPLOAD_LIMITS.max_bytes
    maximum_upload_pixels: int = UPLOAD_LIMITS.max_pixels
    upload_seconds: float = 60.0
    decode_seconds: float = UPLOAD_LIMITS.time_limit_seconds
    worker_threads: int = 16
    search_threads: int = field(default_factory=available_cores)
    shutdown_seconds: int = 30

    def __post_init__(self) -> None:
        """Refuse what would serve a person's pictures to strangers.

        Raises:
            ApiSettingsError: No token though others can reach the address, or one that can be guessed.
        """
        if self.token is None:
            if not self.is_loopback:
                raise ApiSettingsError(
                    f"Others can reach {self.host}, so a token is needed: set {TOKEN_VARIABLE} to a secret of at "
                    f"least {MINIMUM_TOKEN_CHARACTERS} characters, which clients then send as "
                    '"Authorization: Bearer ...", or listen on 127.0.0.1.'
                )
            return
        if len(self.token) < MINIMUM_TOKEN_CHARACTERS:
            raise ApiSettingsError(
                f"The token has {len(self.token)} characters; take at least {MINIMUM_TOKEN_CHARACTERS}, such as "
                "those that `openssl rand -hex 16` prints."
            )
        if not (self.token.isascii() and self.token.isprintable() and " " not in self.token):
            raise ApiSettingsError("The token may hold letters, digits and signs of ASCII only, no spaces.")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        return is_loopback(self.host)

    @property
    def upload_limits(self) -> DecodeLimits:
        """What decoding one uploaded picture may cost."""
        return DecodeLimits(self.maximum_upload_pixels, self.maximum_upload_bytes, self.decode_seconds)
