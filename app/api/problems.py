"""Errors as clients get them: `application/problem+json` (RFC 9457) with one clear sentence.

This is the only place that knows which typed error from below becomes which status.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from app.upload_decoder import DecodersBusyError
from indexer.errors import ImageGoneError, LibraryError
from model.errors import ModelError
from search import QueryError, QueryImageError, SavedQueryError, SearchError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"

log = logging.getLogger(__name__)


class FieldError(BaseModel):
    """A parameter that cannot be used."""

    where: str = Field(description="Where it stands, such as query.k")
    message: str


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(default="about:blank", description="Always about:blank: `code` tells problems apart")
    title: str = Field(description="The status in words")
    status: int
    code: str = Field(description="Stable name of the problem for programs")
    detail: str = Field(description="What was wrong and what to do, for people")
    column: int | None = Field(
        default=None, description="Where in the query the trouble starts, counted from 0"
    )
    length: int | None = Field(default=None, description="How many characters from there on are meant")
    errors: list[FieldError] | None = Field(default=None, description="Every parameter that cannot be used")


class ApiError(HTTPException):
    """A refusal of the API's own, with the problem's code."""

    def __init__(
        self, status: HTTPStatus, code: str, detail: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, detail, headers)
        self.code = code


def problem(
    status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any
) -> JSONResponse:
    """Return a problem as a response."""
    body = Problem(title=title(status), status=status, code=code, detail=detail, **more)
    return JSONResponse(
        body.model_dump(mode="json", exclude_none=True),
        status_code=status,
        media_type=MEDIA_TYPE,
        headers=dict(headers or {}),
    )


def title(status: int) -> str:
    """The status in words, the same in every version of Python."""
    return _TITLES.get(status) or HTTPStatus(status).phrase


# Python 3.13 renamed these two.
_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}

# From the particular to the general: the first that fits counts.
_STATUSES: tuple[tuple[type[Exception], HTTPStatus, str], ...] = (
    (DecodersBusyError, HTTPStatus.SERVICE_UNAVAILABLE, "busy"),
    (QueryImageError, HTTPStatus.UNPROCESSABLE_ENTITY, "bad_picture"),
    (SavedQueryError, HTTPStatus.SERVICE_UNAVAILABLE, "saved_queries"),
    (SearchError, HTTPStatus.BAD_REQUEST, "bad_request"),
    (ImageGoneError, HTTPStatus.NOT_FOUND, "no_such_image"),
    (LibraryError, HTTPStatus.SERVICE_UNAVAILABLE, "library"),
    (ModelError, HTTPStatus.SERVICE_UNAVAILABLE, "model"),
)

# For routing errors, whose texts are Starlette's.
_HTTP_DETAILS = {
    HTTPStatus.NOT_FOUND: "There is nothing at this address; /docs lists what there is.",
    HTTPStatus.METHOD_NOT_ALLOWED: "This address does not answer this method; /docs lists what there is.",
}


def install(api: FastAPI) -> None:
    """Let every error that leaves a route of `api` become a problem."""

    async def known(_request: Request, error: Exception) -> Response:
        for kind, status, code in _STATUSES:
            if isinstance(error, kind):
                return problem(status, code, _line(str(error)))
        raise error

    async def bad_query(_request: Request, error: Exception) -> Response:
        if not isinstance(error, QueryError):
            raise error
        place: dict[str, Any] = (
            {} if error.column is None else {"column": error.column, "length": error.length}
        )
        return problem(HTTPStatus.BAD_REQUEST, "bad_query", _line(str(error)), **place)

    async def invalid(_request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            raise error
        errors = [
            FieldError(where=".".join(map(str, one["loc"])), message=one["msg"]) for one in error.errors()
        ]
        detail = "; ".join(f"{one.where}: {one.message}" for one in errors)
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "bad_parameters", _line(detail), errors=errors)

    async def http(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        if isinstance(error, ApiError):
            return problem(error.status_code, error.code, _line(error.detail), headers=error.headers)
        status = HTTPStatus(error.status_code)
        code = title(status).lower().replace(" ", "_")
        detail = _HTTP_DETAILS.get(status) or _line(str(error.detail))
        headers = dict(error.headers or {})
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            # Two functions that share a path know only their own method.
            headers["Allow"] = ", ".join(_methods(api, request.scope["path"])) or headers.get("Allow", "GET")
        return problem(status, code, detail, headers=headers)

    async def defect(request: Request, error: Exception) -> Response:
        # Starlette raises it again after the response, so the server's log has the traceback; the client
        # gets none.
        log.error("%s %s failed: %s", request.method, request.url.path, type(error).__name__)
        return problem(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            "defect",
            "Something in Imago failed; the log of the server has the details.",
        )

    for base in (SearchError, LibraryError, ModelError):
        api.add_exception_handler(base, known)
    api.add_exception_handler(QueryError, bad_query)
    api.add_exception_handler(RequestValidationError, invalid)
    api.add_exception_handler(HTTPException, http)
    api.add_exception_handler(Exception, defect)


def _methods(api: FastAPI, path: str) -> list[str]:
    """The methods that a path answers, as the description lists them."""
    return sorted(
        method.upper()
        for template, operations in api.openapi()["paths"].items()
        if compile_path(template)[0].match(path)
        for method in operations
    )


def _line(text: str) -> str:
    """The text as any JSON parser takes it: bytes of a path that are no UTF-8 become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
