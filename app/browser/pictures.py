"""What the browser fetches besides the page: thumbnails, large views, originals and facts, all by image id; the map.

No address here holds a path, so no path trick can reach a file: an id and a content hash are looked up in the
library, and what lies there must still have that hash.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from app import thumbnails
from app.browser.maps import maps, points_of
from app.browser.shelf import current_library, library_state
from app.browser.uploads import MAXIMUM_UPLOAD_BYTES, uploads
from app.browser.wording import facts_of, shown
from app.upload_decoder import DecodersBusyError
from indexer.errors import ImageGoneError, LibraryError
from search import SearchError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from indexer.records import ImageRecord

WORLD = Path(__file__).parent / "world.json"
"""The outline of the world behind a picture's place: maps from elsewhere would tell others where one was."""


_DIGITS = 20
"""One more than SQLite's numbers have: so long a one is found nowhere, and what follows makes no difference."""


class _Number(Convertor[int]):
    """A number in an address, however long: Python fails at 4,300 digits.

    What no route here takes, Streamlit answers with its page.
    """

    regex = "[0-9]+"

    def convert(self, value: str) -> int:
        return int(value[:_DIGITS])

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("number", _Number())

_CONTENT_HASH = re.compile(r"[0-9a-f]{64}")

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}
"""Other sites may neither show nor read what lies here, and nothing in a file may run."""

UPLOAD_SECONDS = 60
"""In which a picture must have arrived."""

_UPLOADS_AT_ONCE = 8
"""Each may hold `MAXIMUM_UPLOAD_BYTES`, and one of the forty threads, which thumbnails need as well, while it waits for
a decoder. Others wait unread."""

FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
"""The address names the content, so what it shows never changes."""


def picture_routes(library_path: Path | str) -> list[Route]:
    """Return the routes that serve pictures of the library at `library_path`."""

    def by_id(answer: Callable[[ImageRecord], Response | None]) -> Callable[[Request], Response]:
        def endpoint(request: Request) -> Response:
            record = _record(
                library_path, request.path_params["image_id"], request.path_params["content_hash"]
            )
            response = None if record is None else answer(record)
            return response or PlainTextResponse("There is no such picture now.", 404, HEADERS)

        return endpoint

    def thumbnail(record: ImageRecord) -> Response | None:
        return _picture(thumbnails.thumbnail(record.path, record.content_hash, library_path), "image/webp")

    def view(record: ImageRecord) -> Response | None:
        return _picture(thumbnails.view(record.path, record.content_hash), "image/jpeg")

    def details(record: ImageRecord) -> Response:
        about = {"path": shown(record.path), "facts": facts_of(record), "place": place_of(record)}
        return JSONResponse(about, headers=HEADERS)

    def thumbnail_by_id(request: Request) -> Response:
        record = _record(library_path, request.path_params["image_id"])
        if record is None:
            return PlainTextResponse("There is no such picture now.", 404, HEADERS)
        address = f"/pictures/{record.id}/{record.content_hash}/thumbnail.webp"
        return RedirectResponse(address, 307, HEADERS | {"Cache-Control": "no-cache"})

    def points(request: Request) -> Response:
        try:
            layout = maps.named(current_library(library_path), library_state(), request.path_params["name"])
        except (LibraryError, SearchError):
            return PlainTextResponse("There is no such map now.", 404, HEADERS)
        headers = HEADERS | {"Cache-Control": "no-cache"}
        return Response(points_of(layout), media_type="application/octet-stream", headers=headers)

    at_once = asyncio.Semaphore(_UPLOADS_AT_ONCE)

    async def upload(request: Request) -> Response:
        # A page from elsewhere cannot set this header without being asked first, and is never allowed to.
        if request.headers.get("x-imago") != "1":
            return JSONResponse({"detail": "Uploads come from Imago's own page only."}, 403, HEADERS)
        async with at_once:
            return await _take_upload(request)

    base = "/pictures/{image_id:number}/{content_hash}"
    return [
        Route(f"{base}/thumbnail.webp", by_id(thumbnail)),
        Route(f"{base}/view.jpg", by_id(view)),
        Route(f"{base}/details.json", by_id(details)),
        Route(f"{base}/original", by_id(_original)),
        Route("/pictures/{image_id:number}/thumbnail.webp", thumbnail_by_id),
        Route("/world.json", _world),
        Route("/maps/{name}-{state:number}.bin", points),
        Route("/uploads", upload, methods=["POST"]),
        Route("/uploads/{name}.webp", _upload_thumbnail),
    ]


def _record(library_path: Path | str, image_id: int, content_hash: str | None = None) -> ImageRecord | None:
    if content_hash is not None and not _CONTENT_HASH.fullmatch(content_hash):
        return None
    try:
        (record,) = current_library(library_path).reader.images([image_id])
    except (LibraryError, ImageGoneError, OverflowError):
        return None
    return record if content_hash in {None, record.content_hash} else None


def place_of(record: ImageRecord) -> dict[str, float] | None:
    """Return where a picture was taken, None where it does not say or says what no place on Earth is."""
    latitude, longitude = record.latitude, record.longitude
    if latitude is None or longitude is None or abs(latitude) > 90 or abs(longitude) > 180:
        return None
    return {"latitude": latitude, "longitude": longitude}


def _world(_request: Request) -> Response:
    return FileResponse(WORLD, headers=HEADERS | {"Cache-Control": "private, max-age=86400"})


def _picture(data: bytes | None, media_type: str) -> Response | None:
    return None if data is None else Response(data, media_type=media_type, headers=HEADERS | FOREVER)


def _original(record: ImageRecord) -> Response | None:
    """Return the file itself, to be saved and never to be shown: a browser must not guess what it is."""
    file = thumbnails.read_unchanged(record.path, record.content_hash)
    if file is None:
        return None
    name = quote(shown(record.path.name), safe="")
    headers = HEADERS | {"Content-Disposition": f"attachment; filename*=UTF-8''{name}"}
    return Response(file.data, media_type="application/octet-stream", headers=headers)


async def _take_upload(request: Request) -> Response:
    data = bytearray()
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            async for block in request.stream():
                data += block
                if len(data) > MAXIMUM_UPLOAD_BYTES:
                    limit = MAXIMUM_UPLOAD_BYTES >> 20
                    return JSONResponse(
                        {"detail": f"The picture is larger than the limit of {limit} MiB."}, 413, HEADERS
                    )
    except TimeoutError:
        return JSONResponse(
            {"detail": f"The picture did not arrive whole within {UPLOAD_SECONDS} seconds."}, 408, HEADERS
        )
    except ClientDisconnect:
        return Response(status_code=400)  # nobody is there to read it
    try:
        name = await run_in_threadpool(uploads.add, bytes(data))
    except DecodersBusyError as error:
        return JSONResponse({"detail": str(error)}, 503, HEADERS)
    except SearchError as error:
        return JSONResponse({"detail": str(error)}, 400, HEADERS)
    return JSONResponse({"name": name}, headers=HEADERS)


def _upload_thumbnail(request: Request) -> Response:
    data = uploads.thumbnail(request.path_params["name"])
    if data is None:
        return PlainTextResponse("This upload is gone.", 404, HEADERS)
    return Response(data, media_type="image/webp", headers=HEADERS | FOREVER)
