"""What is served besides the page: by id and content, and nothing else."""

import asyncio
import hashlib
import shutil
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from app import thumbnails
from app.browser import uploads as uploads_module
from app.browser.maps import points_of
from app.browser.pictures import picture_routes, place_of
from app.browser.server import OwnNameOnly
from indexer import LibraryReader, index_folders
from indexer.records import ImageRecord
from model import Encoder
from search import layout


@pytest.fixture
def client(indexed_gallery: Path) -> Iterator[TestClient]:
    application = Starlette(routes=picture_routes(indexed_gallery))
    with TestClient(application) as client:
        yield client


def run_apart(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run it in a thread of its own: where there was a real browser, this one has a loop already."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, coroutine).result()


def as_png(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def record_of(library: Path, name: str) -> ImageRecord:
    with LibraryReader.open(library) as reader:
        return next(record for record in reader.images(reader.ids()) if record.path.name == name)


def address(record: ImageRecord, what: str) -> str:
    return f"/pictures/{record.id}/{record.content_hash}/{what}"


def test_thumbnails_are_small_kept_and_never_change(client: TestClient, indexed_gallery: Path) -> None:
    record = record_of(indexed_gallery, "with-exif.jpg")
    answer = client.get(address(record, "thumbnail.webp"))
    assert answer.headers["content-type"] == "image/webp"
    assert "immutable" in answer.headers["cache-control"]
    picture = Image.open(BytesIO(answer.content))
    assert (picture.format, picture.size) == ("WEBP", (384, 288))
    kept = indexed_gallery / "thumbnails" / record.content_hash[:2] / f"{record.content_hash}.webp"
    assert kept.read_bytes() == answer.content


def test_a_thumbnail_that_a_power_cut_left_empty_is_made_anew(
    client: TestClient, indexed_gallery: Path
) -> None:
    record = record_of(indexed_gallery, "1.png")
    made = client.get(address(record, "thumbnail.webp")).content
    kept = indexed_gallery / "thumbnails" / record.content_hash[:2] / f"{record.content_hash}.webp"
    for damaged in (b"", bytes(len(made))):
        kept.write_bytes(damaged)
        assert client.get(address(record, "thumbnail.webp")).content == made
        assert kept.read_bytes() == made


def test_a_thumbnail_that_cannot_be_kept_leaves_nothing(client: TestClient, indexed_gallery: Path) -> None:
    record = record_of(indexed_gallery, "2.png")
    kept = indexed_gallery / "thumbnails" / record.content_hash[:2] / f"{record.content_hash}.webp"
    kept.unlink(missing_ok=True)
    kept.mkdir(parents=True)  # in the way
    assert client.get(address(record, "thumbnail.webp")).status_code == 200
    assert not [path for path in kept.parent.iterdir() if path.suffix != ".webp"]
    kept.rmdir()


def test_views_fill_a_window_and_originals_are_the_very_file(
    client: TestClient, indexed_gallery: Path
) -> None:
    record = record_of(indexed_gallery, "with-exif.jpg")
    view = client.get(address(record, "view.jpg"))
    assert Image.open(BytesIO(view.content)).size == (800, 600)
    original = client.get(address(record, "original"))
    assert original.content == record.path.read_bytes()
    assert original.headers["content-type"] == "application/octet-stream"
    assert original.headers["content-disposition"] == "attachment; filename*=UTF-8''with-exif.jpg"


def test_nothing_served_may_run_or_be_shown_elsewhere(client: TestClient, indexed_gallery: Path) -> None:
    record = record_of(indexed_gallery, "0.png")
    for what in ("thumbnail.webp", "view.jpg", "original", "details.json"):
        headers = client.get(address(record, what)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "sandbox" in headers["content-security-policy"]


def test_details_name_what_is_known_and_how_to_find_its_like(
    client: TestClient, indexed_gallery: Path
) -> None:
    record = record_of(indexed_gallery, "with-exif.jpg")
    details = client.get(address(record, "details.json")).json()
    facts = {fact["label"]: fact for fact in details["facts"]}
    assert details["path"] == str(record.path)
    assert facts["Size"]["value"].startswith("800 x 600 pixels")
    assert facts["Taken"] == {"label": "Taken", "value": "4 May 2023, 10:11", "query": "date:2023-05-04"}
    assert facts["Camera"]["value"] == "Imago <script>document.title=1</script>"
    assert facts["Place"]["query"] == "near:41.89000,12.49222,5km"


@pytest.mark.parametrize(
    "path",
    [
        "/pictures/999999/" + "0" * 64 + "/original",
        "/pictures/99999999999999999999999/" + "0" * 64 + "/original",
        "/pictures/-1/" + "0" * 64 + "/original",
        "/pictures/" + "9" * 5000 + "/thumbnail.webp",
        "/pictures/" + "9" * 19 + "/thumbnail.webp",
        "/maps/all-" + "9" * 5000 + ".bin",
        "/pictures/{id}/" + "0" * 64 + "/original",
        "/pictures/{id}/../../../etc/passwd",
        "/pictures/{id}/%2e%2e%2f%2e%2e%2fetc%2fpasswd/original",
        "/pictures/{id}/{hash}/%2e%2e/original",
        "/pictures//etc/passwd",
        "/uploads/..%2f..%2fetc%2fpasswd.webp",
    ],
)
def test_no_path_trick_reaches_a_file(client: TestClient, indexed_gallery: Path, path: str) -> None:
    record = record_of(indexed_gallery, "0.png")
    answer = client.get(path.format(id=record.id, hash=record.content_hash))
    assert answer.status_code == 404


def test_a_file_that_changed_or_was_replaced_is_not_served(gallery: Path, tmp_path: Path) -> None:
    folder, library, secret = tmp_path / "pictures", tmp_path / "library", tmp_path / "secret.png"
    folder.mkdir()
    for name in ("changed.png", "replaced.png"):
        shutil.copy(gallery / ("0.png" if name == "changed.png" else "1.png"), folder / name)
    shutil.copy(gallery / "2.png", secret)
    index_folders(library, [folder], Encoder.load("starter"), workers=1)
    changed, replaced = record_of(library, "changed.png"), record_of(library, "replaced.png")
    shutil.copy(gallery / "3.png", changed.path)
    replaced.path.unlink()
    replaced.path.symlink_to(secret)
    client = TestClient(Starlette(routes=picture_routes(library)))
    for record in (changed, replaced):
        for what in ("thumbnail.webp", "view.jpg", "original"):
            assert client.get(address(record, what)).status_code == 404


def test_an_upload_gets_a_name_and_a_thumbnail(client: TestClient, gallery: Path) -> None:
    data = (gallery / "3.png").read_bytes()
    answer = client.post("/uploads", content=data, headers={"X-Imago": "1"})
    name = answer.json()["name"]
    assert hashlib.sha256(data).hexdigest().startswith(name)
    thumbnail = client.get(f"/uploads/{name}.webp")
    assert Image.open(BytesIO(thumbnail.content)).size == (160, 120)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty"),
        (b"hello, I am no picture", "no picture"),
        (b"\x89PNG\r\n\x1a\n" + b"broken" * 20, "truncated"),
        (as_png(Image.new("L", (9000, 6000))), "54 megapixels"),
    ],
)
def test_an_upload_that_is_no_picture_is_refused(client: TestClient, data: bytes, expected: str) -> None:
    answer = client.post("/uploads", content=data, headers={"X-Imago": "1"})
    assert answer.status_code == 400
    assert expected in answer.json()["detail"]


def test_an_upload_that_is_too_large_is_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.browser.pictures.MAXIMUM_UPLOAD_BYTES", 1000)
    answer = client.post("/uploads", content=b"x" * 1001, headers={"X-Imago": "1"})
    assert answer.status_code == 413


def test_other_sites_cannot_upload(client: TestClient, gallery: Path) -> None:
    # A form or a simple request from elsewhere cannot carry the header; a fetch with it asks first and is refused.
    data = (gallery / "3.png").read_bytes()
    assert client.post("/uploads", content=data).status_code == 403
    asked = client.options(
        "/uploads", headers={"Origin": "http://evil.example", "Access-Control-Request-Headers": "x-imago"}
    )
    assert "access-control-allow-origin" not in asked.headers


@pytest.fixture
def own_uploads() -> Iterator[uploads_module.Uploads]:
    """Uploads of the test's own."""
    own = uploads_module.Uploads()
    yield own
    own.close()


def test_old_uploads_go_when_memory_is_used_up(
    own_uploads: uploads_module.Uploads, gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (gallery / "3.png").read_bytes(), (gallery / "4.png").read_bytes()
    monkeypatch.setattr(uploads_module, "MAXIMUM_KEPT_BYTES", len(first) + len(second))
    name = own_uploads.add(first)
    assert own_uploads.thumbnail(name) is not None
    other = own_uploads.add(second)  # the thumbnails count as well
    assert own_uploads.thumbnail(other) is not None
    assert own_uploads.thumbnail(name) is None
    assert own_uploads.picture(name, thumbnails.Fit(8)) is None


def test_an_upload_is_decoded_once_for_a_model(own_uploads: uploads_module.Uploads, gallery: Path) -> None:
    name = own_uploads.add((gallery / "3.png").read_bytes())
    picture = own_uploads.picture(name, thumbnails.Fit(8))
    assert picture is not None
    assert picture.size == (8, 6)
    assert own_uploads.picture(name, thumbnails.Fit(8)) is picture
    other = own_uploads.picture(name, thumbnails.Fit(4))
    assert other is not None
    assert other.size == (4, 3)


def test_an_upload_that_kills_its_decoder_does_no_more_harm(
    client: TestClient, gallery: Path, own_uploads: uploads_module.Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.browser.pictures.uploads", own_uploads)
    data = (gallery / "3.png").read_bytes()
    before = set(psutil.Process().children())
    assert client.post("/uploads", content=data, headers={"X-Imago": "1"}).status_code == 200
    (decoder,) = set(psutil.Process().children()) - before
    decoder.kill()
    answer = client.post("/uploads", content=data, headers={"X-Imago": "1"})
    assert answer.status_code == 400
    assert "the decoder crashed on the file" in answer.json()["detail"]
    assert client.post("/uploads", content=data, headers={"X-Imago": "1"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8501", 404),
        ("localhost", 404),
        ("[::1]:8501", 404),
        ("evil.example:8501", 400),
        ("127.0.0.1.evil.example", 400),
        ("", 400),
    ],
)
def test_a_name_that_is_not_ours_is_refused(indexed_gallery: Path, host: str, status: int) -> None:
    application = Starlette(
        routes=picture_routes(indexed_gallery), middleware=[Middleware(OwnNameOnly, host="127.0.0.1")]
    )
    answer = TestClient(application).get("/pictures/1/0/original", headers={"Host": host})
    assert answer.status_code == status


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("origin", "passes"),
    [
        (None, True),
        ("http://127.0.0.1:8501", True),
        ("http://localhost:8501", False),
        ("http://127.0.0.1:3000", False),
        ("https://evil.example", False),
        ("null", False),
    ],
)
def test_pages_from_elsewhere_are_stopped_at_the_door(kind: str, origin: str | None, passes: bool) -> None:
    passed: list[str] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        passed.append(scope["type"])

    async def receive() -> Any:
        return {"type": f"{kind}.connect"}

    async def send(_message: Any) -> None:
        pass

    headers = [(b"host", b"127.0.0.1:8501")] + ([] if origin is None else [(b"origin", origin.encode())])
    scope = {"type": kind, "path": "/_stcore/stream", "headers": headers}
    run_apart(OwnNameOnly(app, host="127.0.0.1")(scope, receive, send))
    assert passed == ([kind] if passes else [])


def test_uploads_hold_nothing_else_up(indexed_gallery: Path) -> None:
    """Whoever waits for a decoder, or sends slowly, takes no thread from the thumbnails."""
    waiting, let_go = threading.Semaphore(0), threading.Event()

    class Slow(uploads_module.Uploads):
        def add(self, data: bytes) -> str:
            waiting.release()
            let_go.wait(60)
            return "done"

    record = record_of(indexed_gallery, "0.png")
    with (
        pytest.MonkeyPatch.context() as patch,
        TestClient(Starlette(routes=picture_routes(indexed_gallery))) as client,
    ):
        patch.setattr("app.browser.pictures.uploads", Slow())
        with ThreadPoolExecutor(50) as pool:
            try:
                sent = [
                    pool.submit(client.post, "/uploads", content=b"x", headers={"X-Imago": "1"})
                    for _ in range(50)
                ]
                assert waiting.acquire(timeout=60)
                assert client.get(address(record, "thumbnail.webp")).status_code == 200
                assert not any(answer.done() for answer in sent)
            finally:
                let_go.set()
            assert {answer.result().status_code for answer in sent} == {200}


def test_an_upload_that_does_not_arrive_is_given_up(
    indexed_gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.browser.pictures.UPLOAD_SECONDS", 0.1)
    application = Starlette(routes=picture_routes(indexed_gallery))
    messages: list[Any] = []

    def upload(then: Any) -> None:
        parts = [{"type": "http.request", "body": b"x", "more_body": True}]

        async def receive() -> Any:
            return parts.pop() if parts else await then()

        async def send(message: Any) -> None:
            messages.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/uploads",
            "query_string": b"",
            "headers": [(b"x-imago", b"1")],
        }
        run_apart(asyncio.wait_for(application(scope, receive, send), 30))

    async def nothing() -> Any:
        await asyncio.get_running_loop().create_future()

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    upload(nothing)
    assert messages[0]["status"] == 408
    upload(gone)  # no error that would be logged


def test_a_thumbnail_by_id_leads_to_that_of_its_content(client: TestClient, indexed_gallery: Path) -> None:
    record = record_of(indexed_gallery, "0.png")
    answer = client.get(f"/pictures/{record.id}/thumbnail.webp", follow_redirects=False)
    assert answer.status_code == 307
    assert answer.headers["location"] == address(record, "thumbnail.webp")
    assert "immutable" not in answer.headers["cache-control"]
    assert client.get("/pictures/999999/thumbnail.webp").status_code == 404


def test_the_world_and_where_a_picture_was_taken(client: TestClient, indexed_gallery: Path) -> None:
    world = client.get("/world.json").json()
    assert world["land"].startswith("M")
    assert "public domain" in world["source"]
    place = client.get(address(record_of(indexed_gallery, "with-exif.jpg"), "details.json")).json()["place"]
    assert place == {"latitude": pytest.approx(41.89), "longitude": pytest.approx(12.492222)}
    assert client.get(address(record_of(indexed_gallery, "0.png"), "details.json")).json()["place"] is None


@pytest.mark.parametrize("place", [(91.0, 0.0), (0.0, 200.0), (None, 3.0)])
def test_what_is_no_place_on_earth_is_on_no_map(
    indexed_gallery: Path, place: tuple[float | None, float | None]
) -> None:
    record = record_of(indexed_gallery, "0.png")
    assert place_of(replace(record, latitude=place[0], longitude=place[1])) is None


def test_a_map_is_served_by_its_name(client: TestClient, indexed_gallery: Path) -> None:
    with LibraryReader.open(indexed_gallery) as reader:
        made = layout.lay_out(reader, None)
        layout.keep(reader, made)
    answer = client.get(f"/maps/{made.name}-7.bin")
    assert answer.content == points_of(made)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/maps/000000000000-7.bin").status_code == 404
    assert client.get("/maps/..%2F..%2Fsecret-7.bin").status_code == 404


def test_heavy_pictures_are_decoded_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (9000, 5000)).save(tmp_path / "scan.png")
    file = thumbnails.read_unchanged(
        tmp_path / "scan.png", hashlib.sha256((tmp_path / "scan.png").read_bytes()).hexdigest()
    )
    assert file is not None
    at_once, most = 0, 0
    decode = thumbnails.decode

    def watched(*arguments, may_be_heavy=True):
        nonlocal at_once, most
        if not may_be_heavy:
            return decode(*arguments, may_be_heavy=False)
        at_once += 1
        most = max(most, at_once)
        try:
            return decode(*arguments)
        finally:
            at_once -= 1

    monkeypatch.setattr(thumbnails, "decode", watched)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: thumbnails.render(file, 64, "WEBP"), range(4)))
    assert all(made)
    assert most == 1
