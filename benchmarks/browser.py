"""What a person feels in the browser: first paint, from Enter to the grid, and the server's memory over many queries.

    .venv/bin/python benchmarks/browser.py [--images 100000] [--queries 1000]

Needs Chromium on PATH. The library is made of synthetic vectors with the names of files that are not there, so the
thumbnails are not part of the figures: the grid counts as shown when its first picture's place is in the page. All
times are taken from outside, with what driving the browser costs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

import psutil
from api_load import ADJECTIVES, NOUNS, PLACES, make_library
from playwright.sync_api import sync_playwright

from model import Encoder

if TYPE_CHECKING:
    from playwright.sync_api import Page

WARM_QUERIES = 30
BROWSER_OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def query(number: int) -> str:
    """A query that was not asked before, of words."""
    adjective = ADJECTIVES[number % len(ADJECTIVES)]
    noun = NOUNS[number // len(ADJECTIVES) % len(NOUNS)]
    return f"{adjective} {noun} {PLACES[number // 256 % len(PLACES)]}"


def ask(page: Page, text: str) -> float:
    """Ask, and return the seconds until the grid shows the answer."""
    field = page.get_by_role("combobox", name="Search your pictures")
    field.fill(text)
    started = time.perf_counter()
    field.press("Enter")
    page.get_by_role("list", name=f"Pictures for {text}", exact=True).wait_for()
    page.locator(".tile").first.wait_for()
    return time.perf_counter() - started


def memory_bytes(process: psutil.Process) -> int:
    """Memory of the server and its children."""
    return sum(part.memory_info().rss for part in [process, *process.children(recursive=True)])


def measure(library: Path, queries: int) -> dict[str, object]:
    """Start the server on the library and use it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [
        sys.executable,
        "-m",
        "app",
        "app",
        "--no-browser",
        "--port",
        str(port),
        "--library",
        str(library),
    ]
    started = time.perf_counter()
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                with urlopen(f"{address}/_stcore/health", timeout=5):
                    break
            except OSError:
                time.sleep(0.02)
        up_seconds = time.perf_counter() - started
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
                args=BROWSER_OPTIONS,
            )
            first = []
            for _ in range(3):
                page = browser.new_page(viewport={"width": 1280, "height": 800})
                began = time.perf_counter()
                page.goto(address)
                page.get_by_role("combobox", name="Search your pictures").wait_for()
                first.append(time.perf_counter() - began)
                paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
                page.close()
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(60_000)
            page.goto(address)
            page.get_by_role("combobox", name="Search your pictures").wait_for()
            ask(page, "the first of all")
            warm = sorted(ask(page, query(number)) for number in range(WARM_QUERIES))
            process = psutil.Process(server.pid)
            memory = []
            for number in range(queries):
                ask(page, query(WARM_QUERIES + number))
                if number % (queries // 10 or 1) == 0:
                    memory.append(round(memory_bytes(process) / 1e6))
            memory.append(round(memory_bytes(process) / 1e6))
            browser.close()
    finally:
        server.terminate()
        server.wait()
    return {
        "server_up_seconds": round(up_seconds, 2),
        "field_shown_seconds": [round(seconds, 2) for seconds in first],
        "first_contentful_paint_seconds": round(paint / 1000, 2),
        "query_to_grid_p50_seconds": round(statistics.median(warm), 3),
        "query_to_grid_p95_seconds": round(warm[int(len(warm) * 0.95)], 3),
        "server_megabytes_over_queries": memory,
        "queries": queries,
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--library", type=Path, help="where the synthetic library lies or shall be made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        library = options.library or Path(scratch) / "library"
        if not library.exists():
            make_library(library, options.images, Encoder.load("starter").identity)
        figures = measure(library, options.queries)
    machine = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
    print(json.dumps({"images": options.images, **figures, **machine}, indent=2))


if __name__ == "__main__":
    main()
