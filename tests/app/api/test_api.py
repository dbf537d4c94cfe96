"""Every address over a real library, model and files."""

import hashlib
import os
import re
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from indexer import LibraryReader, index_folders
from model import Encoder
from search import Library
from search.grouping import DuplicateGroup, Kind
from search.saved import SavedQueries

Connect = Callable[..., TestClient]
Draw = Callable[[int], Image.Image]


def id_of(library: Path, file: Path) -> int:
    with LibraryReader.open(library) as reader:
        found = reader.find(file)
    assert found is not None
    return found


def test_words_find_images_best_first(client: TestClient, indexed: tuple[Path, Path]) -> None:
    response = client.get("/v1/search", params={"q": "a dog", "k": 4, "all": True})
    assert response.status_code == 200
    hits = response.json()["hits"]
    assert len(hits) == 4
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    for hit in hits:
        assert Path(hit["path"]).parent == indexed[1]
        assert client.get(f"/v1/images/{hit['id']}").json()["path"] == hit["path"]


@pytest.mark.parametrize(
    ("query", "column"), [("", None), ("  ", None), ('dog "cat', 4), ("dog - dog", 4), ("colour:red", 0)]
)
def test_a_query_that_makes_no_sense_is_explained(client: TestClient, query: str, column: int | None) -> None:
    response = client.get("/v1/search", params={"q": query})
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (problem["code"], problem.get("column")) == ("bad_query", column)


@pytest.mark.parametrize("query", ["./0.png", "/etc/passwd", "dog - ../x", "~/x.jpg", "C:\\x.png", "~root/x"])
def test_no_query_reads_a_path(
    client: TestClient, indexed: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    monkeypatch.chdir(indexed[1])
    response = client.get("/v1/search", params={"q": query})
    if query == "~root/x":
        assert response.status_code == 200  # words, by the grammar
        return
    assert (response.status_code, response.json()["code"]) == (400, "bad_query")
    assert "upload" in response.json()["detail"]


@pytest.mark.parametrize("k", ["0", "-1", "1000000", "many", "1.5", ""])
def test_a_count_that_is_none_is_refused(client: TestClient, k: str) -> None:
    response = client.get("/v1/search", params={"q": "dog", "k": k})
    problem = response.json()
    assert (response.status_code, problem["code"]) == (422, "bad_parameters")
    assert problem["errors"][0]["where"] == "query.k"


def test_details_tell_what_the_library_knows(client: TestClient, indexed: tuple[Path, Path]) -> None:
    library, folder = indexed
    image_id = id_of(library, folder / "3.png")
    details = client.get(f"/v1/images/{image_id}").json()
    assert details["path"] == str(folder / "3.png")
    assert (details["width_pixels"], details["height_pixels"], details["format"]) == (160, 120, "png")
    assert details["content_hash"] == hashlib.sha256((folder / "3.png").read_bytes()).hexdigest()


def test_similar_leaves_the_image_itself_out(client: TestClient, indexed: tuple[Path, Path]) -> None:
    image_id = id_of(indexed[0], indexed[1] / "3.png")
    hits = client.get(f"/v1/images/{image_id}/similar", params={"k": 10}).json()["hits"]
    assert len(hits) == 5
    assert image_id not in [hit["id"] for hit in hits]


@pytest.mark.parametrize("address", ["", "/similar", "/thumbnail", "/original"])
@pytest.mark.parametrize("image_id", [999, 2**63 - 1])
def test_an_id_that_is_gone_is_said_to_be(client: TestClient, address: str, image_id: int) -> None:
    response = client.get(f"/v1/images/{image_id}{address}")
    assert (response.status_code, response.json()["code"]) == (404, "no_such_image")


@pytest.mark.parametrize(
    "trick",
    [
        "..%2f..%2f..%2fetc%2fpasswd",
        "%2fetc%2fpasswd",
        "1%00.png",
        "1/../../../../etc/passwd",
        "1%2f..%2f2",
        "../../../../../etc/passwd",
        "....//....//etc/passwd",
        "file:%2f%2f%2fetc%2fpasswd",
        "0",
        "-1",
        "0x1",
        str(2**63),
        "%31%2e%2e",
    ],
)
@pytest.mark.parametrize("what", ["original", "thumbnail"])
def test_no_path_gets_past_the_ids(client: TestClient, trick: str, what: str) -> None:
    for address in (f"/v1/images/{trick}/{what}", f"/v1/images/1/{what}/{trick}", f"/{trick}"):
        response = client.get(address)
        assert response.status_code in {400, 404, 422}, address
        assert response.headers["content-type"] == "application/problem+json"
        assert "root:" not in response.text


def test_an_original_comes_byte_for_byte_and_once(client: TestClient, indexed: tuple[Path, Path]) -> None:
    image_id = id_of(indexed[0], indexed[1] / "2.png")
    response = client.get(f"/v1/images/{image_id}/original")
    assert response.content == (indexed[1] / "2.png").read_bytes()
    assert response.headers["content-type"] == "image/png"
    assert response.headers["content-disposition"] == "inline; filename*=UTF-8''2.png"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    for tags in (response.headers["etag"], f'"x", W/{response.headers["etag"]}', "*"):
        again = client.get(f"/v1/images/{image_id}/original", headers={"If-None-Match": tags})
        assert (again.status_code, again.content) == (304, b"")
    other = client.get(f"/v1/images/{image_id}/original", headers={"If-None-Match": '"other"'})
    assert other.status_code == 200


def test_a_thumbnail_is_small_and_made_once(client: TestClient, indexed: tuple[Path, Path]) -> None:
    image_id = id_of(indexed[0], indexed[1] / "2.png")
    response = client.get(f"/v1/images/{image_id}/thumbnail")
    assert response.headers["content-type"] == "image/webp"
    assert max(Image.open(BytesIO(response.content)).size) <= 384
    headers = {"If-None-Match": response.headers["etag"]}
    assert client.get(f"/v1/images/{image_id}/thumbnail", headers=headers).status_code == 304


def test_who_has_an_original_is_told_that_it_is_gone(
    own: tuple[Path, Path], connect: Callable[..., TestClient]
) -> None:
    image_id = id_of(own[0], own[1] / "2.png")
    client = connect(own[0])
    tag = client.get(f"/v1/images/{image_id}/original").headers["etag"]
    (own[1] / "2.png").unlink()
    for tags in (tag, "*"):
        response = client.get(f"/v1/images/{image_id}/original", headers={"If-None-Match": tags})
        assert (response.status_code, response.json()["code"]) == (410, "file_gone")


def replace_by_link(file: Path, secret: Path) -> None:
    file.unlink()
    file.symlink_to(secret)


def replace_by_copy(file: Path, secret: Path) -> None:
    file.unlink()
    shutil.copy(secret, file)


def replace_by_same_size(file: Path, secret: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)


def replace_by_pipe(file: Path, secret: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def replace_by_folder(file: Path, secret: Path) -> None:
    file.unlink()
    file.mkdir()


def replace_by_a_link_that_cannot_be_followed(file: Path, secret: Path) -> None:
    file.unlink()
    file.symlink_to(
        "x" * 300
    )  # a longer name than file systems have, which is another error than a missing file


def link_the_folder_elsewhere(file: Path, secret: Path) -> None:
    file.parent.rename(file.parent.with_name("moved"))
    elsewhere = file.parent.with_name("elsewhere")
    elsewhere.mkdir()
    shutil.copy(secret, elsewhere / file.name)
    file.parent.symlink_to(elsewhere)


@pytest.mark.skipif(os.name != "posix", reason="links and pipes as POSIX has them")
@pytest.mark.parametrize(
    "replace",
    [
        lambda file, secret: file.unlink(),
        replace_by_link,
        replace_by_copy,
        replace_by_same_size,
        replace_by_pipe,
        replace_by_folder,
        replace_by_a_link_that_cannot_be_followed,
        link_the_folder_elsewhere,
    ],
)
def test_what_took_the_place_of_an_image_is_not_served(
    own: tuple[Path, Path],
    connect: Connect,
    draw_picture: Draw,
    tmp_path: Path,
    replace: Callable[[Path, Path], None],
) -> None:
    library, folder = own
    secret = tmp_path / "secret.png"
    draw_picture(77).save(secret)
    image_id = id_of(library, folder / "1.png")
    replace(folder / "1.png", secret)
    client = connect(library)
    for what in ("original", "thumbnail"):
        response = client.get(f"/v1/images/{image_id}/{what}")
        assert (response.status_code, response.json()["code"]) == (410, "file_gone"), what
        assert "imago index" in response.json()["detail"]


def test_indexing_while_serving_shows_at_the_next_request(
    own: tuple[Path, Path],
    connect: Connect,
    starter: Encoder,
    draw_picture: Draw,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.api.shelf.SECONDS_BETWEEN_LOOKS", 0.0)
    library, folder = own
    client = connect(library)
    gone = id_of(library, folder / "0.png")
    assert len(client.get("/v1/search", params={"q": "a dog", "all": True}).json()["hits"]) == 6

    draw_picture(50).save(folder / "new.png")
    (folder / "0.png").unlink()
    index_folders(library, [folder], starter)
    hits = client.get("/v1/search", params={"q": "a dog", "all": True}).json()["hits"]
    assert {Path(hit["path"]).name for hit in hits} == {
        "1.png",
        "2.png",
        "3.png",
        "4.png",
        "5.png",
        "new.png",
    }
    assert client.get(f"/v1/images/{gone}").status_code == 404
    assert client.get(f"/v1/images/{id_of(library, folder / 'new.png')}").status_code == 200
    assert "imago_library_images 6.0" in client.get("/metrics").text


def test_a_library_that_is_put_in_the_place_of_another_is_opened(
    own: tuple[Path, Path],
    connect: Connect,
    starter: Encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.api.shelf.SECONDS_BETWEEN_LOOKS", 0.0)
    library, folder = own
    client = connect(library)
    library.rename(tmp_path / "old")
    missing = client.get("/v1/search", params={"q": "a dog", "all": True})
    assert (missing.status_code, missing.json()["code"]) == (503, "library")
    assert client.get("/health").status_code == 503
    for number in range(4):
        (folder / f"{number}.png").unlink()
    index_folders(library, [folder], starter)
    assert len(client.get("/v1/search", params={"q": "a dog", "all": True}).json()["hits"]) == 2
    assert client.get("/health").json() == {"status": "ok"}


def test_an_empty_library_says_so(
    tmp_path: Path, own: tuple[Path, Path], connect: Connect, starter: Encoder
) -> None:
    library, folder = own
    for file in folder.iterdir():
        file.unlink()
    index_folders(library, [folder], starter)
    client = connect(library)
    assert client.get("/v1/search", params={"q": "a dog", "all": True}).json()["hits"] == []
    assert client.get("/v1/status").json()["images"] == 0


def save_larger(folder: Path) -> None:
    """Save a picture of the gallery once more, larger: a near-duplicate, and the best of the two."""
    with Image.open(folder / "2.png") as picture:
        picture.resize((320, 240)).save(folder / "larger.png")


def test_duplicates_come_in_groups_with_the_best_first(
    own: tuple[Path, Path], connect: Connect, starter: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.api.shelf.SECONDS_BETWEEN_LOOKS", 0.0)
    library, folder = own
    save_larger(folder)
    shutil.copy(folder / "3.png", folder / "copy.png")
    index_folders(library, [folder], starter)
    client = connect(library)
    near = client.get("/v1/duplicates").json()
    assert near["total"] == 1
    (group,) = near["groups"]
    assert group["kind"] == "near"
    assert Path(group["best"]["path"]).name == "larger.png"
    assert [Path(other["path"]).name for other in group["others"]] == ["2.png"]
    exact = client.get("/v1/duplicates", params={"kind": "exact"}).json()
    assert [group["best"]["copies"] for group in exact["groups"]] == [2]
    assert [Path(path).name for path in exact["groups"][0]["best"]["paths"]] == ["3.png", "copy.png"]
    assert client.get("/v1/duplicates", params={"offset": 1}).json() == {"total": 1, "groups": []}
    assert client.get("/v1/duplicates", params={"kind": "all"}).status_code == 422

    (folder / "larger.png").unlink()
    index_folders(library, [folder], starter)
    assert client.get("/v1/duplicates").json()["total"] == 0


def test_duplicates_that_take_long_are_asked_for_again(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()

    def slow(library: object, kind: str, *, progress: Callable[[int, int], None]) -> list[object]:
        progress(2, 6)
        assert goes_on.wait(60)
        return []

    monkeypatch.setattr("search.Library.duplicates", slow)
    monkeypatch.setattr("app.api.duplicates.PATIENCE_SECONDS", 0.05)
    response = client.get("/v1/duplicates")
    assert (response.status_code, response.json()["code"]) == (503, "not_yet")
    assert "2 of 6" in response.json()["detail"]
    assert int(response.headers["retry-after"]) > 0
    goes_on.set()
    monkeypatch.setattr("app.api.duplicates.PATIENCE_SECONDS", 60.0)
    assert client.get("/v1/duplicates").json() == {"total": 0, "groups": []}


class SlowDuplicates:
    """Lets looks for duplicates begin, and end when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.has_begun, self.goes_on = threading.Event(), threading.Event()
        find = Library.duplicates

        def slow(
            library: Library, kind: Kind, *, progress: Callable[[int, int], None]
        ) -> list[DuplicateGroup]:
            self.has_begun.set()
            assert self.goes_on.wait(30)
            return find(library, kind, progress=progress)

        monkeypatch.setattr("search.Library.duplicates", slow)


def test_duplicates_that_were_found_last_are_told_while_a_changed_library_is_looked_through(
    own: tuple[Path, Path], connect: Connect, starter: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.api.shelf.SECONDS_BETWEEN_LOOKS", 0.0)
    library, folder = own
    save_larger(folder)
    index_folders(library, [folder], starter)
    client = connect(library)
    before = client.get("/v1/duplicates").json()
    assert before["total"] == 1

    slow = SlowDuplicates(monkeypatch)
    monkeypatch.setattr("app.api.duplicates.PATIENCE_SECONDS", 0.05)
    (folder / "larger.png").unlink()
    index_folders(library, [folder], starter)
    assert client.get("/v1/duplicates").json() == before
    monkeypatch.setattr("app.api.duplicates.SECONDS_KEPT", 0.0)
    assert client.get("/v1/duplicates").status_code == 503
    slow.goes_on.set()
    monkeypatch.setattr("app.api.duplicates.PATIENCE_SECONDS", 60.0)
    assert client.get("/v1/duplicates").json()["total"] == 0


def test_who_waits_for_duplicates_keeps_nobody_else_waiting(
    indexed: tuple[Path, Path], connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowDuplicates(monkeypatch)
    monkeypatch.setattr("app.api.duplicates.PATIENCE_SECONDS", 60.0)
    client = connect(indexed[0], worker_threads=1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.get, "/v1/duplicates")
        assert slow.has_begun.wait(30)
        assert client.get("/v1/status").status_code == 200
        assert not waiting.done()
        slow.goes_on.set()
        assert waiting.result().json() == {"total": 0, "groups": []}


def test_health_is_told_while_all_threads_work(
    indexed: tuple[Path, Path], connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_begun, goes_on = threading.Event(), threading.Event()

    def slow(reader: LibraryReader) -> object:
        has_begun.set()
        assert goes_on.wait(30)
        return status(reader)

    status = LibraryReader.status
    monkeypatch.setattr("indexer.LibraryReader.status", slow)
    client = connect(indexed[0], worker_threads=1)
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(client.get, "/v1/status")
        assert has_begun.wait(30)
        assert client.get("/health").json() == {"status": "ok"}
        assert not working.done()
        goes_on.set()
        assert working.result().status_code == 200


def test_pages_follow_one_another_and_nothing_fits_is_an_answer(client: TestClient) -> None:
    seen: list[int] = []
    page: dict[str, str] = {}
    while True:
        options = {"q": "a dog", "k": "4", "all": "true", "order": "name", "explain": "true", **page}
        answer = client.get("/v1/search", params=options).json()
        seen += [hit["id"] for hit in answer["hits"]]
        assert [why["term"] for hit in answer["hits"] for why in hit["why"]] == ["a dog"] * len(
            answer["hits"]
        )
        if answer["next_page"] is None:
            break
        page = {"page": answer["next_page"]}
    assert answer["total"] == 6
    assert len(seen) == len(set(seen)) == 6
    wrong = client.get("/v1/search", params={"q": "a dog", "page": "bm9uc2Vuc2U"})
    assert (wrong.status_code, wrong.json()["code"]) == (400, "bad_query")
    none = client.get("/v1/search", params={"q": "type:gif"}).json()
    assert (none["total"], none["candidates"], none["hits"]) == (0, 0, [])


def test_feedback_moves_the_query(client: TestClient, indexed: tuple[Path, Path]) -> None:
    liked = id_of(indexed[0], indexed[1] / "5.png")
    options = {"q": "a dog", "all": True, "k": 6}
    plain = client.get("/v1/search", params=options).json()["hits"]
    moved = client.get("/v1/search", params={**options, "more_like": [liked]}).json()["hits"]
    rank = [hit["id"] for hit in moved].index(liked)
    assert rank <= [hit["id"] for hit in plain].index(liked)
    assert [hit["score"] for hit in moved] != [hit["score"] for hit in plain]
    gone = client.get("/v1/search", params={**options, "less_like": [999]})
    assert (gone.status_code, gone.json()["code"]) == (404, "no_such_image")
    unknown = client.get("/v1/search", params={**options, "limit": 5})
    assert (unknown.status_code, unknown.json()["errors"][0]["where"]) == (422, "query.limit")


def test_status_and_metrics(client: TestClient, indexed: tuple[Path, Path]) -> None:
    status = client.get("/v1/status").json()
    assert (status["images"], status["failed"], status["model"]["name"]) == (6, 0, "starter")
    assert status["library"] == str(indexed[0])
    client.get("/v1/search", params={"q": "a text that no other test asks for"})
    client.get("/no/such/address")
    text = client.get("/metrics").text
    assert 'imago_http_requests_total{method="GET",route="/v1/search",status="200"} 1.0' in text
    assert 'imago_http_requests_total{method="GET",route="none",status="404"} 1.0' in text
    assert "imago_texts_per_call_sum" in text
    assert "imago_library_images 6.0" in text


def test_the_page_lists_every_address_and_loads_nothing(client: TestClient) -> None:
    assert client.get("/", follow_redirects=True).url.path == "/docs"
    response = client.get("/docs")
    for path in client.get("/openapi.json").json()["paths"]:
        assert path in response.text
    assert not re.search(r"<script|<link|src=|@import|url\(", response.text)
    assert set(re.findall(r'href="([^"]*)"', response.text)) == {"openapi.json"}
    assert "script" not in response.headers["content-security-policy"]


def test_a_defect_tells_the_client_nothing_and_the_log_everything(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("search.Library.answer", fail)
    response = client.get("/v1/search", params={"q": "dog"})
    assert (response.status_code, response.json()["code"]) == (500, "defect")
    assert "secret" not in response.text
    assert "RuntimeError" in caplog.text


def test_other_methods_and_addresses_are_problems(client: TestClient) -> None:
    for response, status, allowed in (
        (client.delete("/v1/search"), 405, "GET, POST"),
        (client.put("/v1/images/1"), 405, "GET"),
        (client.post("/docs"), 405, "GET"),
        (client.get("/v1/nothing"), 404, None),
    ):
        assert response.status_code == status
        assert response.headers.get("allow") == allowed
        assert response.headers["content-type"] == "application/problem+json"
        assert "/docs" in response.json()["detail"]


def test_a_saved_query_opens_no_way_to_paths(
    client: TestClient, indexed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGO_QUERIES", str(tmp_path / "queries.json"))
    saved = SavedQueries()
    saved.save("mine", f'"{indexed[1] / "0.png"}" + dog')
    saved.save("dogs", "a dog")
    refused = client.get("/v1/search", params={"q": "cat + @mine"})
    assert (refused.status_code, refused.json()["code"]) == (400, "bad_query")
    assert "Paths are not read here" in refused.json()["detail"]
    assert str(indexed[1]) not in refused.text
    assert client.get("/v1/search", params={"q": "@dogs"}).status_code == 200
