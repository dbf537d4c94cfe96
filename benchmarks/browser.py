"""What a person feels in the browser: first paint, from Enter to the grid, the map, and memory over many queries.

    .venv/bin/python benchmarks/browser.py [--images 100000] [--queries 1000] [--map]

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


def suggest(page: Page, text: str) -> float:
    """Type a letter more, and return the seconds until what it proposes is there."""
    field = page.get_by_role("combobox", name="Search your pictures")
    field.fill(text[:-1])
    started = time.perf_counter()
    field.press(text[-1])
    page.get_by_role("option").first.wait_for()
    return time.perf_counter() - started


def scroll_through(page: Page, address: str) -> dict[str, object]:
    """Scroll to the last of 10,000 hits; what that took, and how many are in the page at its end."""
    page.goto(f"{address}/?q=is:landscape&order=name")
    page.locator(".tile").first.wait_for()
    page.locator(".tile").first.focus()
    started = time.perf_counter()
    while not page.locator("li[aria-posinset='10000']").count():
        page.keyboard.press("End")
        page.wait_for_timeout(100)
        if time.perf_counter() - started > 120:
            raise AssertionError("the last of 10,000 hits did not come")
    return {
        "end_of_10000_hits_seconds": round(time.perf_counter() - started, 1),
        "tiles_in_page_then": page.locator(".tile").count(),
        "page_megabytes_then": round(page.evaluate("performance.memory.usedJSHeapSize") / 1e6),
    }


def explore(page: Page, address: str) -> dict[str, object]:
    """Draw the map for the first time, then come back to it, and paint it."""
    started = time.perf_counter()
    page.goto(f"{address}/explore")
    page.locator(".groups a").first.wait_for(timeout=1_800_000)
    drawn = time.perf_counter() - started
    again = []
    for _ in range(3):
        started = time.perf_counter()
        page.goto(f"{address}/explore")
        page.wait_for_function(
            "(() => { for (const e of document.querySelectorAll('*')) {"
            "const r = e.shadowRoot?.querySelector('.explore_map') ?? (e.matches('.explore_map') ? e : null);"
            "if (r?.imago?.inView) return true } return false })()"
        )
        again.append(time.perf_counter() - started)
    paints = page.locator(".explore_map").evaluate(
        """root => [...Array(20)].map(() => {
            const began = performance.now();
            root.imago.paint();
            return performance.now() - began;
        })"""
    )
    lasso = page.locator(".explore_map").evaluate(
        """root => {
            const around = [...Array(100).keys()].map((at) => at / 16);
            const corners = around.map((at) => [2048 + 1500 * Math.cos(at), 2048 + 900 * Math.sin(at)]);
            const began = performance.now();
            root.imago.choosePolygon(corners);
            return performance.now() - began;
        }"""
    )
    return {
        "map_drawn_first_seconds": round(drawn, 1),
        "map_shown_again_seconds": [round(seconds, 2) for seconds in again],
        "map_paint_milliseconds": round(statistics.median(paints), 1),
        "map_lasso_milliseconds": round(lasso, 1),
    }


def memory_bytes(process: psutil.Process) -> int:
    """Memory of the server and its children."""
    return sum(part.memory_info().rss for part in [process, *process.children(recursive=True)])


def measure(library: Path, queries: int, *, with_map: bool) -> dict[str, object]:
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
            typed = [suggest(page, "is:po"), suggest(page, "camer"), suggest(page, "in:0")]
            scrolled = scroll_through(page, address)
            shown = explore(page, address) if with_map else {}
            page.goto(address)
            page.get_by_role("combobox", name="Search your pictures").wait_for()
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
        "key_to_suggestions_seconds": [round(seconds, 3) for seconds in typed],
        **scrolled,
        **shown,
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
    parser.add_argument("--map", action="store_true", help="draw the map, too, which takes minutes")
    parser.add_argument("--library", type=Path, help="where the synthetic library lies or shall be made")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        library = options.library or Path(scratch) / "library"
        if not library.exists():
            make_library(library, options.images, Encoder.load("starter").identity)
        figures = measure(library, options.queries, with_map=options.map)
    machine = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
    print(json.dumps({"images": options.images, **figures, **machine}, indent=2))


if __name__ == "__main__":
    main()
