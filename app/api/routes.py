"""The addresses of the API. Each puts one question to the library and turns the answer into JSON or bytes."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Header, Path, Query
from fastapi.responses import Response

from app.api import bodies
from app.api.metrics import CONTENT_TYPE
from app.api.originals import entity_tag, original
from app.api.problems import ApiError
from app.api.services import Services  # noqa: TC001  (FastAPI reads the annotation)
from app.thumbnails import thumbnail
from search import QueryError
from search.query import ImagePath, parse

if TYPE_CHECKING:
    from indexer import ImageRecord
    from search import Hit, Library

MAXIMUM_HITS = 1000
LARGEST_ID = 2**63 - 1
LONGEST_QUERY = 10_000
CACHE_SECONDS = 365 * 24 * 3600

Count = Annotated[int, Query(ge=1, le=MAXIMUM_HITS, description="How many hits at most")]
ImageId = Annotated[int, Path(ge=1, le=LARGEST_ID, description="The image's number in this library")]
IfNoneMatch = Annotated[str | None, Header(description="Entity tags that the client has")]
QueryText = Annotated[str, Query(max_length=LONGEST_QUERY, description="In the query language of Imago")]

router = APIRouter()


def _problems(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """The problems that an address may answer with besides those that every address may."""
    return {status: {"description": status.phrase} for status in statuses}


@router.get("/v1/search", tags=["search"], responses=_problems(HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND))
def search(tools: Services, q: QueryText, k: Count = 20) -> bodies.Hits:
    """Find the images that show what `q` says."""
    return tools.shelf.ask(lambda library: _hits(library.search(_checked(q), k=k)))


@router.get("/v1/images/{image_id}", tags=["images"], responses=_problems(HTTPStatus.NOT_FOUND))
def details(tools: Services, image_id: ImageId) -> bodies.ImageBody:
    """Tell what the library knows of an image."""
    return tools.shelf.ask(lambda library: bodies.image_body(_record(library, image_id)))


@router.get("/v1/images/{image_id}/similar", tags=["search"], responses=_problems(HTTPStatus.NOT_FOUND))
def similar_to_image(tools: Services, image_id: ImageId, k: Count = 20) -> bodies.Hits:
    """Find the images that look like one of the library, itself left out."""
    return tools.shelf.ask(lambda library: _hits(library.similar(image_id, k=k)))


@router.get(
    "/v1/images/{image_id}/thumbnail",
    tags=["images"],
    response_class=Response,
    responses={
        200: {"content": {"image/webp": {"schema": {"type": "string", "format": "binary"}}}},
        304: {"description": "The client has it already"},
        **_problems(HTTPStatus.NOT_FOUND, HTTPStatus.GONE),
    },
)
def image_thumbnail(tools: Services, image_id: ImageId, if_none_match: IfNoneMatch = None) -> Response:
    """Send a small WebP picture of an image."""
    record = tools.shelf.ask(lambda library: _record(library, image_id))
    headers = {"ETag": entity_tag(record), "Cache-Control": "private, no-cache"}
    if _has_it(if_none_match, record):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    data = thumbnail(record.path, record.content_hash, tools.settings.library_path)
    if data is None:
        raise ApiError(
            HTTPStatus.GONE,
            "file_gone",
            "The file is gone or has changed; `imago index` on the server brings the library up to date.",
        )
    return Response(data, media_type="image/webp", headers=headers)


@router.get(
    "/v1/images/{image_id}/original",
    tags=["images"],
    response_class=Response,
    responses={
        200: {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}},
        304: {"description": "The client has it already"},
        **_problems(HTTPStatus.NOT_FOUND, HTTPStatus.GONE),
    },
)
def image_original(tools: Services, image_id: ImageId, if_none_match: IfNoneMatch = None) -> Response:
    """Send an image's file, as long as it is the one that was indexed."""
    record = tools.shelf.ask(lambda library: _record(library, image_id))
    if _has_it(if_none_match, record):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers={"ETag": entity_tag(record)})
    return original(record)


@router.get("/v1/status", tags=["server"])
def status(tools: Services) -> bodies.StatusBody:
    """Tell how the library stands."""
    return tools.shelf.ask(
        lambda library: bodies.status_body(library.reader.status(), library.reader.failures())
    )


@router.get("/health", tags=["server"])
def health(tools: Services) -> bodies.Health:
    """Say whether the server answers and its library can be read; asks for no token."""
    tools.shelf.ask(lambda library: len(library.reader))
    return bodies.Health(status="ok")


@router.get(
    "/metrics",
    tags=["server"],
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(tools: Services) -> Response:
    """Everything that the server counts, for Prometheus."""
    return Response(tools.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


def _checked(text: str) -> str:
    """A query without paths: they would be read on the server's disk, outside the library.

    Raises:
        QueryError: The query names a path, or is none.
    """
    for term in parse(text).terms:
        if isinstance(term.target, ImagePath):
            raise QueryError(
                "Paths are not read here, because they would be the server's: upload the picture, or put "
                "the words in quotes.",
                query=text,
                column=term.column,
                length=term.length,
            )
    return text


def _hits(found: list[Hit]) -> bodies.Hits:
    return bodies.Hits(hits=[bodies.hit_body(hit) for hit in found])


def _record(library: Library, image_id: int) -> ImageRecord:
    (record,) = library.reader.images([image_id])
    return record


def _has_it(if_none_match: str | None, record: ImageRecord) -> bool:
    if if_none_match is None:
        return False
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return "*" in tags or entity_tag(record) in tags
