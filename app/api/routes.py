"""The addresses of the API. Each puts one question to the library and turns the answer into JSON or bytes."""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, File, Form, Header, Path, Query, UploadFile
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from app.api import bodies
from app.api.metrics import CONTENT_TYPE
from app.api.originals import entity_tag, is_in_place, original
from app.api.problems import ApiError
from app.api.services import Services  # noqa: TC001  (FastAPI reads the annotation)
from app.thumbnails import thumbnail
from search import QueryError
from search.grouping import Kind  # noqa: TC001  (FastAPI reads it)
from search.ordering import Order  # noqa: TC001  (Pydantic reads it)
from search.query import LARGEST_ID, MAXIMUM_CHARACTERS, ImagePath, ImageUpload, expand, parse, texts_of
from search.query import Query as Parsed
from search.saved import SavedQueries

if TYPE_CHECKING:
    from PIL import Image

    from app.api.services import Toolbox
    from indexer import ImageRecord
    from search import Hit, Library

MAXIMUM_HITS = 1000
MAXIMUM_MARKED = 100
"""Of images marked as right or wrong; each is a term of the query."""
LONGEST_PAGE = 10_000
"""Characters; the name of a file may be in it."""
UPLOAD_NAME = "picture"
_UPLOAD_TERM = f"upload:{UPLOAD_NAME} "
_Q_WITH_PICTURE = (
    f"In the query language of Imago; `upload:{UPLOAD_NAME}` is the picture, in front unless named"
)

AnyId = Annotated[int, Field(ge=1, le=LARGEST_ID)]
Count = Annotated[int, Query(ge=1, le=MAXIMUM_HITS, description="How many hits at most")]
ImageId = Annotated[int, Path(ge=1, le=LARGEST_ID, description="The image's number in this library")]
IfNoneMatch = Annotated[str | None, Header(description="Entity tags that the client has")]

router = APIRouter()


def _problems(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """The problems that an address may answer with besides those that every address may."""
    return {status: {"description": status.phrase} for status in statuses}


class Options(BaseModel):
    """How a search is answered."""

    model_config = ConfigDict(extra="forbid")

    k: int = Field(20, ge=1, le=MAXIMUM_HITS, description="How many hits on this page")
    page: str | None = Field(
        None,
        max_length=LONGEST_PAGE,
        pattern="^[A-Za-z0-9_-]+$",
        description="`next_page` of the answer before",
    )
    all: bool = Field(False, description="Also hits that do not look like the query")
    order: Order = Field("relevance", description="Of the hits that passed the cut")
    descending: bool | None = Field(None, description="By default dates and sizes descend, names ascend")
    fold: bool = Field(False, description="Fold near-duplicates into the best hit of each")
    explain: bool = Field(False, description="Tell what each term of the query adds to each hit")
    more_like: list[AnyId] = Field([], max_length=MAXIMUM_MARKED, description="Ids of images that are right")
    less_like: list[AnyId] = Field([], max_length=MAXIMUM_MARKED, description="Ids of images that are wrong")


class Question(Options):
    """A search by words."""

    q: str = Field(max_length=MAXIMUM_CHARACTERS, description="In the query language of Imago")


@router.get("/v1/search", tags=["search"], responses=_problems(HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND))
async def search(tools: Services, question: Annotated[Question, Query()]) -> bodies.AnswerBody:
    """Find the images that a query describes."""
    query = _checked(question.q)
    await tools.texts.embed(tools.shelf.latest, texts_of(query))
    return await run_sync(
        lambda: tools.shelf.ask(lambda library: _answer(library, query, question)), limiter=tools.searches
    )


@router.post("/v1/search", tags=["search"], responses=_problems(HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND))
async def search_by_picture(
    tools: Services,
    options: Annotated[Options, Query()],
    picture: Annotated[UploadFile, File(description="An image file")],
    q: Annotated[
        str, Form(max_length=MAXIMUM_CHARACTERS - len(_UPLOAD_TERM), description=_Q_WITH_PICTURE)
    ] = "",
) -> bodies.AnswerBody:
    """Find the images that look like an uploaded one, and, if there are words as well, as the words say."""
    prefix = "" if _names_the_upload(q) else _UPLOAD_TERM

    def ask(library: Library) -> bodies.AnswerBody:
        image = _decoded(tools, library, picture)
        try:
            return _answer(library, _checked(prefix + q), options, {UPLOAD_NAME: image})
        except QueryError as error:
            if error.column is None:
                raise
            raise QueryError(
                error.reason, query=q, column=error.column - len(prefix), length=error.length
            ) from error

    return await run_sync(tools.shelf.ask, ask, limiter=tools.pictures)


@router.post("/v1/similar", tags=["search"], responses=_problems(HTTPStatus.BAD_REQUEST))
async def similar_to_picture(
    tools: Services, picture: Annotated[UploadFile, File(description="An image file")], k: Count = 20
) -> bodies.Hits:
    """Find the images that look most like an uploaded one, however much that is."""

    def ask(library: Library) -> bodies.Hits:
        return _hits(library.similar(_decoded(tools, library, picture), k=k))

    return await run_sync(tools.shelf.ask, ask, limiter=tools.pictures)


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
    if _has_it(if_none_match, record) and is_in_place(record):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers={"ETag": entity_tag(record)})
    return original(record)


@router.get("/v1/duplicates", tags=["search"])
async def duplicates(
    tools: Services,
    kind: Annotated[Kind, Query(description="exact, near or similar")] = "near",
    k: Count = 20,
    offset: Annotated[int, Query(ge=0, le=LARGEST_ID, description="How many groups to skip")] = 0,
) -> bodies.Groups:
    """Groups of images that show one picture, the largest first. Nothing is ever deleted.

    In a library of 100,000 they take about a minute to find; the answer is 503 with Retry-After until they are. When
    such a library has changed, the answer is for another minute what was found before.
    """
    return await run_sync(bodies.groups_body, await tools.duplicates.groups(kind), offset, k)


@router.get("/v1/status", tags=["server"])
def status(tools: Services) -> bodies.StatusBody:
    """Tell how the library stands."""
    return tools.shelf.ask(
        lambda library: bodies.status_body(library.reader.status(), library.reader.failures())
    )


@router.get("/health", tags=["server"])
async def health(tools: Services) -> bodies.Health:
    """Say whether the server answers and its library can be read; asks for no token."""
    await run_sync(lambda: tools.shelf.ask(lambda library: len(library.reader)), limiter=tools.checks)
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


def _answer(
    library: Library, query: Parsed, options: Options, uploads: dict[str, Image.Image] | None = None
) -> bodies.AnswerBody:
    answer = library.answer(
        query,
        options.k,
        all_hits=options.all or None,
        order=options.order,
        descending=options.descending,
        page=options.page,
        fold=options.fold,
        explain=options.explain,
        more_like=options.more_like,
        less_like=options.less_like,
        uploads=uploads,
    )
    return bodies.answer_body(answer)


def _checked(text: str) -> Parsed:
    """A query without paths, saved queries put in: paths would be read on the server's disk, outside the library.

    Raises:
        QueryError: The query names a path, or is none.
    """
    query = expand(parse(text), SavedQueries().lookup())
    for term in query.terms:
        if isinstance(term.target, ImagePath):
            raise QueryError(
                "Paths are not read here, because they would be the server's: upload the picture, or put "
                "the words in quotes.",
                query=text,
                column=term.column,
                length=term.length,
            )
    return query


def _names_the_upload(text: str) -> bool:
    with suppress(QueryError):  # said when it is asked
        return any(term.target == ImageUpload(UPLOAD_NAME) for term in parse(text).terms)
    return False


def _decoded(tools: Toolbox, library: Library, picture: UploadFile) -> Image.Image:
    picture.file.seek(0)  # a question may be put twice
    return tools.uploads.decode(picture.file, library.encoder.preprocessor)


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
