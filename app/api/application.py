"""The ASGI application: routes, errors, the description of both, and what stands in front of them."""

from __future__ import annotations

import gc
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from anyio import CapacityLimiter
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, RedirectResponse

from app.api import page, problems
from app.api.batching import TextBatcher
from app.api.duplicates import DuplicateFinder
from app.api.guard import OPEN_PATHS, Guard
from app.api.metrics import Measured, Metrics
from app.api.routes import router
from app.api.services import Toolbox
from app.api.shelf import Shelf
from app.upload_decoder import UploadDecoder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import ASGIApp

    from app.api.settings import ApiSettings
    from model import Encoder

TITLE = "Imago"
DESCRIPTION = """\
Finds pictures by what they show. Images are named by the ids that searches give; paths are told, never taken.

    curl -G http://127.0.0.1:8600/v1/search --data-urlencode "q=a dog on the beach"
    curl -F picture=@cat.jpg -F "q=at night" http://127.0.0.1:8600/v1/search
    curl -o small.webp http://127.0.0.1:8600/v1/images/42/thumbnail

Where a token is asked for, send it as "Authorization: Bearer ...". Errors are application/problem+json; their
"code" is for programs, their "detail" for people.
"""
ALWAYS = ("401", "403", "408", "413", "422", "500", "503")
"""Statuses that any address may answer with."""


def create_api(settings: ApiSettings, load_encoder: Callable[[str], Encoder] | None = None) -> ASGIApp:
    """Make the application, open its library and load the text tower, so that no query waits for that.

    Args:
        settings: What to serve and how.
        load_encoder: From a model's name to the model; `Encoder.load` when not given.

    Raises:
        indexer.errors.LibraryError: No library there, a damaged one, or one that a newer version made.
        model.errors.ModelError: Its model cannot be loaded.
    """
    metrics = Metrics()
    shelf = Shelf(settings.library_path, metrics, load_encoder)
    shelf.warm_up()
    toolbox = Toolbox(
        settings=settings,
        shelf=shelf,
        uploads=UploadDecoder(settings.upload_limits),
        duplicates=DuplicateFinder(shelf),
        metrics=metrics,
        texts=TextBatcher(metrics.texts.observe),
        searches=CapacityLimiter(settings.search_threads),
        pictures=CapacityLimiter(settings.worker_threads),
        checks=CapacityLimiter(1),
    )

    @asynccontextmanager
    async def lifespan(_api: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = settings.worker_threads
        gc.freeze()  # what is loaded stays, so no collection need look at it again
        yield
        gc.unfreeze()
        toolbox.uploads.close()
        shelf.close()

    api = FastAPI(
        title=TITLE,
        version=version("imago-search"),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    api.state.toolbox = toolbox
    api.include_router(router)
    problems.install(api)
    api.openapi = lambda: _description(api, needs_token=settings.token is not None)  # type: ignore[method-assign]

    @api.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        headers = {"Content-Security-Policy": page.CONTENT_POLICY}
        return HTMLResponse(page.render(api.openapi()), headers=headers)

    @api.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("docs")

    return Measured(Guard(api, settings), metrics)


def _description(api: FastAPI, *, needs_token: bool) -> dict[str, Any]:
    """The OpenAPI description, with the problems that every address may answer with."""
    if api.openapi_schema is not None:
        return api.openapi_schema
    schema = get_openapi(title=api.title, version=api.version, description=api.description, routes=api.routes)
    parts = schema.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        parts.pop(name, None)
    problem = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    parts |= problem.pop("$defs", {}) | {"Problem": problem}
    content = {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            answers = operation["responses"]
            for status in ALWAYS:
                answers[status] = {"description": problems.title(int(status))}
            for status, answer in answers.items():
                if int(status) >= 400:
                    answer["content"] = content
            operation["responses"] = dict(sorted(answers.items()))
            if needs_token and path not in OPEN_PATHS:
                operation["security"] = [{"token": []}]
    if needs_token:
        schema["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    api.openapi_schema = schema
    return schema
