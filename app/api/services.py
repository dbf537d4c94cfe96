"""What the routes work with, made once for a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends
from starlette.requests import Request  # noqa: TC002  (FastAPI reads the annotation)

if TYPE_CHECKING:
    from anyio import CapacityLimiter

    from app.api.batching import TextBatcher
    from app.api.duplicates import DuplicateFinder
    from app.api.metrics import Metrics
    from app.api.settings import ApiSettings
    from app.api.shelf import Shelf
    from app.upload_decoder import UploadDecoder


@dataclass(frozen=True)
class Toolbox:
    """The parts behind the routes.

    Attributes:
        searches: How many searches may compute at the same time.
        pictures: How many requests that bring a picture are worked on at the same time. Theirs alone, because they may
            wait long for a decoder, and others must not wait behind them.
        checks: The same for those who ask whether the server is well: a busy one must not look dead.
    """

    settings: ApiSettings
    shelf: Shelf
    uploads: UploadDecoder
    duplicates: DuplicateFinder
    metrics: Metrics
    texts: TextBatcher
    searches: CapacityLimiter
    pictures: CapacityLimiter
    checks: CapacityLimiter


async def _toolbox(request: Request) -> Toolbox:  # async, or it would cost every request a change of threads
    toolbox: Toolbox = request.app.state.toolbox
    return toolbox


Services = Annotated[Toolbox, Depends(_toolbox)]
