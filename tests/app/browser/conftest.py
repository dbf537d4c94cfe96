"""What the browser's tests share: a gallery with hostile names, indexed with the model in the package."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from indexer import index_folders
from model import Encoder

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE_NAME = (
    '<img src=x onerror="document.title=1">.png' if os.name == "posix" else "&lt;b&gt; 'quoted'.png"
)
HOSTILE_CAMERA = "<script>document.title=1</script>"
CHROMIUM_OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def gallery(tmp_path_factory: pytest.TempPathFactory, draw_picture: Callable[[int], Image.Image]) -> Path:
    """Twelve drawn pictures of several shapes and formats in two folders, some with metadata."""
    folder = tmp_path_factory.mktemp("gallery")
    (folder / "2023" / "rome").mkdir(parents=True)
    for seed in range(6):
        draw_picture(seed).save(folder / f"{seed}.png")
    for seed in range(6, 10):
        draw_picture(seed).rotate(90, expand=True).save(folder / "2023" / "rome" / f"{seed}.webp")
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Imago", HOSTILE_CAMERA
    details = exif.get_ifd(0x8769)
    details[0x9003] = "2023:05:04 10:11:12"
    place = exif.get_ifd(0x8825)
    place.update({1: "N", 2: (41.0, 53.0, 24.0), 3: "E", 4: (12.0, 29.0, 32.0)})
    draw_picture(10).resize((800, 600)).save(folder / "2023" / "rome" / "with-exif.jpg", exif=exif)
    draw_picture(11).save(folder / HOSTILE_NAME)
    return folder


@pytest.fixture(scope="session")
def indexed_gallery(gallery: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of the gallery."""
    library = tmp_path_factory.mktemp("indexed") / "library"
    summary = index_folders(library, [gallery], Encoder.load("starter"), workers=1)
    assert (summary.indexed, summary.failed) == (12, [])
    return library


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the same make as the one in the package, with other weights."""
    from safetensors.numpy import load_file, save_file

    from model.registry import STARTER_FOLDER

    folder = tmp_path_factory.mktemp("models") / "other"
    shutil.copytree(STARTER_FOLDER, folder)
    file = folder / "model.safetensors"
    weights = {name: np.asarray(array * array.dtype.type(1.01)) for name, array in load_file(file).items()}
    save_file(weights, file)
    return folder


@pytest.fixture
def use_gallery(indexed_gallery: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the gallery's library the one that pages show."""
    monkeypatch.setenv("IMAGO_LIBRARY", str(indexed_gallery))
    return indexed_gallery


class Server:
    """`imago app` as a process of its own."""

    def __init__(self, library: Path, log: Path, browser: str | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.log = log
        command = [sys.executable, "-m", "app", "app", "--port", str(self.port)]
        command.append("--no-browser" if browser is None else "--browser")
        environment = os.environ | {
            "IMAGO_LIBRARY": str(library),
            "IMAGO_QUERIES": str(log.with_name("queries.json")),
            "BROWSER": browser or "",
        }
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        deadline = time.monotonic() + 60
        while True:
            try:
                with urlopen(f"{self.address}/_stcore/health", timeout=5):
                    return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise AssertionError(log.read_text(errors="replace")) from None
                time.sleep(0.1)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Start servers, with the command of a browser if they shall open one; all of them end with the tests."""
    started: list[Server] = []

    def start(library: Path, browser: str | None = None) -> Server:
        started.append(Server(library, tmp_path_factory.mktemp("server") / "log", browser))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def gallery_server(indexed_gallery: Path, start_server: Callable[[Path], Server]) -> Server:
    """A running app over the gallery."""
    return start_server(indexed_gallery)


@pytest.fixture(scope="session")
def chromium() -> Path:
    """The Chromium on PATH. Without one the test is skipped, unless IMAGO_REQUIRE_BROWSER demands it."""
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    if os.environ.get("IMAGO_REQUIRE_BROWSER"):
        pytest.fail(
            "IMAGO_REQUIRE_BROWSER is set and there is no Chromium on PATH: install it (apt: chromium)"
        )
    pytest.skip("no Chromium on PATH: the browser tests are left out")


@pytest.fixture(autouse=True)
def own_saved_queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Saved queries of the test's own."""
    saved = tmp_path / "queries.json"
    monkeypatch.setenv("IMAGO_QUERIES", str(saved))
    return saved


@pytest.fixture(scope="session")
def component() -> Callable[[AppTest, str], dict[str, Any] | None]:
    """Return a function that tells what one of our components was given to show, None if it is not there."""

    def find(page: AppTest, name: str) -> dict[str, Any] | None:
        for element in page.get("bidi_component"):
            if element.proto.component_name == f"imago_{name}":
                data = json.loads(element.proto.json)
                assert isinstance(data, dict)
                return data
        return None

    return find


@pytest.fixture(autouse=True)
def no_component_leftovers(caplog: pytest.LogCaptureFixture) -> None:
    """Streamlit warns in the log where a page runs outside a browser; that is not what these tests look at."""
    caplog.set_level("ERROR", logger="streamlit")


@pytest.fixture(scope="session")
def browser(chromium: Path) -> "Iterator[Browser]":
    """One browser for all tests, with an empty profile."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: "Browser") -> "Iterator[Callable[..., Page]]":
    """Open an address in a window of its own; afterwards nothing may have been wrong in any of them.

    Wrong are errors in the console, and anything fetched from another machine: the app works offline.
    """
    contexts, complaints = [], []

    def open_window(address: str, *, expected_errors: Sequence[str] = (), **options: Any) -> "Page":
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        own = urlsplit(address).netloc
        page.on("pageerror", lambda error: complaints.append(f"error in the page: {error}"))
        page.on(
            "console",
            # On pages below /, Streamlit looks for its server there first, and is told 404.
            lambda line: (
                complaints.append(f"{line.text} {line.location}")
                if line.type == "error"
                and "/_stcore/" not in line.location["url"]
                and not any(text in line.text for text in expected_errors)
                else None
            ),
        )
        page.on(
            "request",
            lambda request: (
                complaints.append(f"fetched from elsewhere: {request.url}")
                if urlsplit(request.url).scheme in {"http", "https", "ws", "wss"}
                and urlsplit(request.url).netloc != own
                else None
            ),
        )
        page.goto(address)
        return page

    yield open_window
    for context in contexts:
        context.close()
    assert complaints == []
