"""What never reaches a route."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from app.api.guard import Guard
from app.api.settings import ApiSettings, ApiSettingsError

TOKEN = "correct-horse-battery"
Make = Callable[..., TestClient]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that guards an application of three addresses."""

    async def hello(_request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    async def body(request: Request) -> JSONResponse:
        return JSONResponse(len(await request.body()))

    def make(base: str = "http://127.0.0.1:8600", **settings: Any) -> TestClient:
        async def refused(_request: Request, error: HTTPException) -> JSONResponse:
            return JSONResponse(error.detail, status_code=error.status_code)

        app = Starlette(
            routes=[Route("/hello", hello), Route("/health", hello), Route("/body", body, methods=["POST"])],
            exception_handlers={HTTPException: refused},  # type: ignore[dict-item]
        )
        return TestClient(Guard(app, ApiSettings(tmp_path, **settings)), base_url=base)

    return make


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8600", "localhost:1", "LOCALHOST", "[::1]:8600"])
def test_names_of_this_machine_pass(make: Make, host: str) -> None:
    assert make().get("/hello", headers={"Host": host}).text == "hello"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "evil.example:8600",
        "127.0.0.1@evil.example",
        "localhost.",
        "[::",
        "",
    ],
)
def test_other_names_do_not(make: Make, host: str) -> None:
    response = make().get("/hello", headers={"Host": host})
    assert response.status_code == 403
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "unknown_host"


def test_a_name_can_be_allowed(make: Make) -> None:
    client = make(allowed_hosts=("photos.home",))
    assert client.get("/hello", headers={"Host": "Photos.Home:8600"}).status_code == 200
    assert client.get("/hello", headers={"Host": "other.home"}).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "something new"},
    ],
)
def test_pages_of_other_sites_are_refused(make: Make, headers: dict[str, str]) -> None:
    response = make().get("/hello", headers=headers)
    assert (response.status_code, response.json()["code"]) == (403, "foreign_page")


@pytest.mark.parametrize(
    "headers",
    [{}, {"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1:8600"}],
)
def test_own_pages_and_programs_pass_without_cors(make: Make, headers: dict[str, str]) -> None:
    response = make().get("/hello", headers=headers)
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert response.headers["cross-origin-resource-policy"] == "same-origin"
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
    ],
)
def test_without_the_token_nothing_is_said(make: Make, value: str) -> None:
    response = make(token=TOKEN).get("/hello", headers={"Authorization": value} if value else {})
    assert (response.status_code, response.json()["code"]) == (401, "token_needed")
    assert response.headers["www-authenticate"].startswith("Bearer")


def test_with_the_token_all_is(make: Make) -> None:
    client = make(token=TOKEN)
    assert client.get("/hello", headers={"Authorization": f"Bearer {TOKEN}"}).text == "hello"
    assert client.get("/hello", headers={"Authorization": f"bearer  {TOKEN}"}).text == "hello"
    assert client.get("/health").text == "hello"


def test_with_a_token_on_an_open_address_any_name_passes(make: Make) -> None:
    client = make(host="0.0.0.0", token=TOKEN)
    headers = {"Host": "photos.example", "Authorization": f"Bearer {TOKEN}"}
    assert client.get("/hello", headers=headers).text == "hello"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "photos.home", "", "128.0.0.1"])
def test_an_open_address_needs_a_token(tmp_path: Path, host: str) -> None:
    with pytest.raises(ApiSettingsError, match="IMAGO_API_TOKEN"):
        ApiSettings(tmp_path, host=host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_none(tmp_path: Path, host: str) -> None:
    assert ApiSettings(tmp_path, host=host).is_loopback


@pytest.mark.parametrize("token", ["", "short", "with a space in between", "späße-und-umlaute"])
def test_a_token_that_is_none_is_refused(tmp_path: Path, token: str) -> None:
    with pytest.raises(ApiSettingsError, match=r"token"):
        ApiSettings(tmp_path, token=token)


def test_bodies_have_a_limit_declared_or_not(make: Make) -> None:
    client = make(maximum_upload_bytes=1 << 20)
    assert client.post("/body", content=b"x" * (1 << 20)).json() == 1 << 20
    declared = client.post("/body", content=b"x" * ((1 << 20) + 1))
    assert (declared.status_code, declared.json()["code"]) == (413, "too_large")
    streamed = client.post("/body", content=iter([b"x" * (1 << 19)] * 3))
    assert streamed.status_code == 413
    assert "1 MiB" in streamed.text


@pytest.mark.parametrize("declared_bytes", [300_000, None])
def test_the_body_of_a_refused_request_is_read_before_the_answer(
    tmp_path: Path, declared_bytes: int | None
) -> None:
    """Many clients write all of it before they read; what they would see else is a broken connection."""

    async def read(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass

    parts = [{"type": "http.request", "body": b"x" * 100_000, "more_body": left > 0} for left in range(3)]
    events: list[str] = []

    async def receive() -> Any:
        events.append("received")
        return parts.pop()

    async def send(message: Any) -> None:
        events.append(message["type"])

    headers = [(b"host", b"localhost")]
    if declared_bytes is not None:
        headers.append((b"content-length", str(declared_bytes).encode()))
    scope = {"type": "http", "path": "/body", "headers": headers}
    guard = Guard(read, ApiSettings(tmp_path, maximum_upload_bytes=200_000))
    if declared_bytes is None:
        with pytest.raises(HTTPException):
            asyncio.run(guard(scope, receive, send))
        assert events == ["received"] * 3
        return
    asyncio.run(guard(scope, receive, send))
    assert events == [*["received"] * 3, "http.response.start", "http.response.body"]
    # Who asks before it sends is answered at once, and what is far too long is not waited for.
    events.clear()
    asyncio.run(guard(scope | {"headers": [*headers, (b"expect", b"100-continue")]}, receive, send))
    assert events == ["http.response.start", "http.response.body"]


def test_a_refused_body_without_end_is_given_up(tmp_path: Path) -> None:
    received_bytes = 0

    async def receive() -> Any:
        nonlocal received_bytes
        received_bytes += 100_000
        return {"type": "http.request", "body": b"x" * 100_000, "more_body": True}

    async def send(_message: Any) -> None:
        pass

    async def read(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    scope = {"type": "http", "path": "/body", "headers": [(b"host", b"elsewhere")]}
    asyncio.run(Guard(read, ApiSettings(tmp_path, maximum_upload_bytes=200_000))(scope, receive, send))
    assert received_bytes == 500_000


def test_a_body_that_does_not_arrive_is_given_up(tmp_path: Path) -> None:
    async def read(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass

    parts = [{"type": "http.request", "body": b"x", "more_body": True}]

    async def receive() -> Any:
        if parts:
            return parts.pop()
        return await asyncio.get_running_loop().create_future()  # never

    async def send(_message: Any) -> None:
        pass

    scope = {"type": "http", "path": "/body", "headers": [(b"host", b"localhost")]}
    guard = Guard(read, ApiSettings(tmp_path, upload_seconds=0.01))
    with pytest.raises(HTTPException) as caught:
        asyncio.run(asyncio.wait_for(guard(scope, receive, send), 30))
    assert caught.value.status_code == 408
