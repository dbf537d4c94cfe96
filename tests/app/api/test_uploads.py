"""Pictures that come with a request, good and bad."""

import os
import struct
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import psutil
import pytest
from PIL import Image
from starlette.testclient import TestClient

from app.upload_decoder import UPLOAD_LIMITS, UploadDecoder
from indexer.pipeline import read_pixels
from model import Encoder

Connect = Callable[..., TestClient]
Draw = Callable[[int], Image.Image]


def as_bytes(picture: Image.Image, image_format: str = "PNG") -> bytes:
    buffer = BytesIO()
    picture.save(buffer, image_format)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that says it is this large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10_000)))
        + chunk(b"IEND", b"")
    )


def test_a_picture_finds_its_twin_first(client: TestClient, indexed: tuple[Path, Path]) -> None:
    twin = (indexed[1] / "4.png").read_bytes()
    for address in ("/v1/search", "/v1/similar"):
        response = client.post(address, files={"picture": ("4.png", twin)}, params={"k": 3})
        hits = response.json()["hits"]
        assert len(hits) == 3
        assert Path(hits[0]["path"]).name == "4.png"
        assert hits[0]["score"] == pytest.approx(1, abs=1e-3)


def test_a_picture_has_the_vector_that_indexing_gives_it(
    client: TestClient, indexed: tuple[Path, Path], starter: Encoder, draw_picture: Draw
) -> None:
    """Decoding in the other process and preprocessing once more change nothing."""
    for image_format in ("PNG", "JPEG"):
        large = draw_picture(9).resize((1203, 811))
        data = as_bytes(large, image_format)
        decoder = UploadDecoder(UPLOAD_LIMITS)
        try:
            picture = decoder.decode(BytesIO(data), starter.preprocessor)
        finally:
            decoder.close()
        path = indexed[0].parent / f"twin.{image_format.lower()}"
        path.write_bytes(data)
        assert (starter.preprocessor(picture) == read_pixels(path, starter.preprocessor)).all()


def test_words_beside_a_picture_change_the_order_and_may_name_it(
    client: TestClient, indexed: tuple[Path, Path]
) -> None:
    picture = {"picture": ("4.png", (indexed[1] / "4.png").read_bytes())}
    alone = client.post("/v1/search", files=picture).json()
    both = client.post("/v1/search", files=picture, data={"q": "- a dog"}, params={"all": True}).json()
    named = client.post(
        "/v1/search", files=picture, data={"q": "upload:picture - a dog"}, params={"all": True}
    ).json()
    assert alone["query"] == "upload:picture"
    assert both["query"] == "upload:picture - a dog"
    assert named["hits"] == both["hits"]
    assert [hit["score"] for hit in alone["hits"]] != [hit["score"] for hit in both["hits"]]


def test_only_a_term_that_is_the_picture_stands_for_it(
    client: TestClient, indexed: tuple[Path, Path]
) -> None:
    picture = {"picture": ("4.png", (indexed[1] / "4.png").read_bytes())}
    response = client.post("/v1/search", files=picture, data={"q": '"upload:picture frame"'})
    assert response.json()["query"] == 'upload:picture + "upload:picture frame"'


def test_the_longest_words_beside_a_picture_are_as_long_as_is_said(
    client: TestClient, indexed: tuple[Path, Path]
) -> None:
    picture = {"picture": ("4.png", (indexed[1] / "4.png").read_bytes())}
    schema = client.get("/openapi.json").json()["components"]["schemas"]
    (longest,) = {
        body["properties"]["q"]["maxLength"]
        for body in schema.values()
        if {"q", "picture"} <= set(body.get("properties", {}))
    }
    for letters, status in ((longest, 200), (longest + 1, 422)):
        response = client.post("/v1/search", files=picture, data={"q": "x" * letters})
        assert response.status_code == status, response.text


def test_an_error_in_the_words_points_at_its_place_in_them(
    client: TestClient, indexed: tuple[Path, Path]
) -> None:
    picture = {"picture": ("4.png", (indexed[1] / "4.png").read_bytes())}
    response = client.post("/v1/search", files=picture, data={"q": 'dog "cat'})
    assert (response.status_code, response.json()["column"]) == (400, 4)
    response = client.post("/v1/search", files=picture, data={"q": "dog + ./x.jpg"})
    assert (response.status_code, response.json()["column"]) == (400, 4)
    response = client.post("/v1/search", files=picture, data={"q": "upload:other"})
    assert response.status_code == 400


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "upload"),
        (b"no picture", "upload"),
        (b"\xff\xd8\xff\xe0 begins like one", "JPEG"),
        (bomb(60_000, 60_000), "megapixels"),
        (as_bytes(Image.new("RGB", (64, 64)), "JPEG")[:300], ""),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ""),
        (b"GIF89a" + bytes(50), ""),
    ],
)
def test_an_upload_that_is_no_picture_is_refused_in_a_sentence(
    client: TestClient, data: bytes, said: str
) -> None:
    for address in ("/v1/search", "/v1/similar"):
        response = client.post(address, files={"picture": ("../../etc/passwd", data)})
        assert (response.status_code, response.json()["code"]) == (422, "bad_picture")
        assert said in response.json()["detail"]


def test_uploads_have_limits_of_bytes_and_pixels(connect: Connect, indexed: tuple[Path, Path]) -> None:
    client = connect(indexed[0], maximum_upload_bytes=100_000, maximum_upload_pixels=10_000)
    large = client.post("/v1/similar", files={"picture": ("x.png", bytes(100_001))})
    assert (large.status_code, large.json()["code"]) == (413, "too_large")
    wide = client.post("/v1/similar", files={"picture": ("x.png", as_bytes(Image.new("L", (101, 100))))})
    assert (wide.status_code, wide.json()["code"]) == (422, "bad_picture")
    fine = client.post("/v1/similar", files={"picture": ("x.png", as_bytes(Image.new("L", (100, 100))))})
    assert fine.status_code == 200


def test_a_picture_of_a_good_camera_may_be_uploaded(client: TestClient) -> None:
    # Indexing decodes such pictures one at a time, for their memory; here its limits alone count.
    large = as_bytes(Image.new("L", (9000, 5000)))
    assert client.post("/v1/similar", files={"picture": ("x.png", large)}).status_code == 200


@pytest.mark.skipif(os.name != "posix", reason="stops a process with a POSIX signal")
def test_who_waits_for_a_decoder_keeps_nobody_else_waiting(
    connect: Connect, indexed: tuple[Path, Path]
) -> None:
    client = connect(indexed[0], worker_threads=1, decode_seconds=120.0)
    picture = {"picture": ("4.png", (indexed[1] / "4.png").read_bytes())}
    before = set(psutil.Process().children())
    assert client.post("/v1/similar", files=picture).status_code == 200
    (decoder,) = set(psutil.Process().children()) - before
    decoder.suspend()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.post, "/v1/similar", files=picture)
        while "imago_http_requests_under_way 2.0" not in client.get("/metrics").text:
            time.sleep(0.05)  # until the upload is under way, as seen by this request
        assert client.get("/v1/status").status_code == 200
        assert not waiting.done()
        decoder.resume()
        assert waiting.result().status_code == 200


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"", "multipart/form-data"),
        (b"garbage", "multipart/form-data; boundary=x"),
        (
            b"--x\r\nContent-Disposition: form-data; name=picture\r\n\r\ntext\r\n--x--",
            "multipart/form-data; boundary=x",
        ),
        (b"{}", "application/json"),
        (b"picture=1", "application/x-www-form-urlencoded"),
        (b"x", "image/jpeg"),
        (b"x", ""),
    ],
)
def test_a_body_that_is_no_form_is_a_problem(client: TestClient, content: bytes, content_type: str) -> None:
    response = client.post("/v1/similar", content=content, headers={"Content-Type": content_type})
    assert response.status_code in {400, 422}
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["detail"]


def test_nothing_of_an_upload_stays(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for data in (b"no picture", as_bytes(Image.new("L", (9, 9)))):
        client.post("/v1/similar", files={"picture": ("x.png", data)})
    assert list(tmp_path.glob("imago-upload-*")) == []
