# ruff: noqa: INP001, S311, T201
"""Makes the pictures of the app that the README shows: `make screenshots`, with Chromium on PATH.

The gallery is drawn here, so that no picture of anybody's has to be shown or shipped.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

from PIL import Image, ImageDraw, ImageFilter
from playwright.sync_api import sync_playwright

from indexer import index_folders
from model import Encoder

if TYPE_CHECKING:
    from playwright.sync_api import Page

TARGET = Path(__file__).parent / "screenshots"
SCENES = ("beach", "mountains", "city", "meadow", "boat", "balloons", "forest")
PLACES = {
    "beach": (41.15, -8.68), "mountains": (46.54, 7.96), "city": (35.68, 139.7), "meadow": (52.3, 4.9),
    "boat": (43.7, 7.3), "balloons": (38.64, 34.83), "forest": (60.2, 24.7),
}  # fmt: skip
CAMERAS = (("Canon", "EOS R6"), ("Google", "Pixel 8"), ("FUJIFILM", "X-T4"))
SKIES = {
    "dawn": ((255, 190, 150), (120, 130, 190)),
    "day": ((190, 225, 250), (70, 140, 220)),
    "dusk": ((255, 140, 80), (80, 40, 110)),
    "night": ((40, 50, 90), (8, 10, 30)),
}
BROWSER_OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
]


def draw(scene: str, seed: int) -> Image.Image:
    """A scene in one of many moods, 1200 pixels long."""
    dice = random.Random(f"{scene} {seed}")
    width, height = dice.choice([(1200, 800), (1200, 800), (1200, 900), (800, 1200), (1200, 675)])
    mood = "night" if scene == "city" else dice.choice(["dawn", "day", "dusk"])
    low, high = SKIES[mood]
    horizon = int(height * dice.uniform(0.5, 0.7))
    picture = Image.new("RGB", (width, height))
    pen = ImageDraw.Draw(picture)
    for y in range(height):
        share = min(y / horizon, 1.0)
        pen.line(
            [(0, y), (width, y)],
            fill=tuple(round(b + (a - b) * share) for a, b in zip(low, high, strict=True)),
        )
    sun_x, sun_y, sun = (
        dice.uniform(0.2, 0.8) * width,
        horizon - dice.uniform(0.05, 0.35) * height,
        height * 0.06,
    )
    pen.ellipse([sun_x - sun, sun_y - sun, sun_x + sun, sun_y + sun], fill=(255, 245, 210))
    picture = picture.filter(ImageFilter.GaussianBlur(3))
    PAINTERS[scene](ImageDraw.Draw(picture), dice, width, height, horizon)
    return picture


def ridge(
    pen: ImageDraw.ImageDraw, dice: random.Random, size: tuple[int, int, int], rough: float, fill: tuple
) -> None:
    """A line of hills from side to side, filled down to the lower edge."""
    width, height, base = size
    waves = [(dice.uniform(1, 9), dice.uniform(0, 6.3), dice.uniform(0.2, 1.0)) for _ in range(5)]
    points = [
        (
            x,
            base
            - rough
            * height
            * sum(a * math.sin(f * x / width * 3 + p) / (1 + f / 3) for f, p, a in waves)
            / 3,
        )
        for x in range(0, width + 8, 8)
    ]
    pen.polygon([(0, height), *points, (width, height)], fill=fill)


def paint_beach(pen: ImageDraw.ImageDraw, dice: random.Random, width: int, height: int, horizon: int) -> None:
    """Sand, the sea and a parasol."""
    pen.rectangle([0, horizon, width, height], fill=(40, 110, 150))
    ridge(pen, dice, (width, height, int(height * 0.85)), 0.03, (232, 208, 160))
    x, y = dice.uniform(0.15, 0.6) * width, height * 0.88
    pen.line([(x, y), (x + 60, y - 200)], fill=(150, 110, 70), width=10)
    pen.pieslice(
        [x - 80, y - 280, x + 200, y - 120], 180, 360, fill=dice.choice([(220, 60, 60), (240, 180, 40)])
    )


def paint_mountains(
    pen: ImageDraw.ImageDraw, dice: random.Random, width: int, height: int, horizon: int
) -> None:
    """Grey peaks with snow on them."""
    for step in range(3):
        x, peak = dice.uniform(0, 1) * width, horizon - dice.uniform(0.2, 0.4) * height
        reach = dice.uniform(0.3, 0.5) * width
        grey = 90 + 25 * step
        pen.polygon([(x - reach, horizon), (x, peak), (x + reach, horizon)], fill=(grey, grey + 8, grey + 25))
        tip = 0.3
        pen.polygon(
            [
                (x - reach * tip, peak + (horizon - peak) * tip),
                (x, peak),
                (x + reach * tip, peak + (horizon - peak) * tip),
            ],
            fill=(245, 248, 252),
        )
    ridge(pen, dice, (width, height, horizon + 20), 0.03, (60, 100, 70))


def paint_city(pen: ImageDraw.ImageDraw, dice: random.Random, width: int, height: int, horizon: int) -> None:
    """Towers at night."""
    x = 0
    while x < width:
        wide, top = dice.randint(60, 140), dice.randint(int(height * 0.2), horizon)
        pen.rectangle([x, top, x + wide - 6, height], fill=(22, 24, 40))
        for window_y in range(top + 14, height, 34):
            for window_x in range(x + 10, x + wide - 24, 26):
                if dice.random() < 0.45:
                    pen.rectangle([window_x, window_y, window_x + 12, window_y + 16], fill=(250, 214, 120))
        x += wide


def paint_meadow(
    pen: ImageDraw.ImageDraw, dice: random.Random, width: int, height: int, horizon: int
) -> None:
    """Flowers."""
    ridge(pen, dice, (width, height, horizon), 0.04, (96, 160, 70))
    colour = dice.choice([(230, 60, 90), (250, 210, 60), (180, 120, 220), (250, 250, 250)])
    for _ in range(350):
        x, y = dice.uniform(0, width), dice.uniform(horizon + 30, height)
        size = 3 + 14 * (y - horizon) / (height - horizon)
        pen.ellipse([x - size, y - size, x + size, y + size], fill=colour)
        pen.ellipse([x - size / 3, y - size / 3, x + size / 3, y + size / 3], fill=(120, 80, 20))


def paint_boat(pen: ImageDraw.ImageDraw, dice: random.Random, width: int, height: int, horizon: int) -> None:
    """A sailing boat on the sea."""
    pen.rectangle([0, horizon, width, height], fill=(30, 90, 140))
    for _ in range(120):
        x, y = dice.uniform(0, width), dice.uniform(horizon, height)
        pen.line([(x, y), (x + dice.uniform(20, 90), y)], fill=(90, 150, 190), width=2)
    x, y, size = dice.uniform(0.3, 0.7) * width, horizon + height * 0.12, height * dice.uniform(0.15, 0.25)
    pen.polygon(
        [(x - size, y), (x + size, y), (x + size * 0.7, y + size * 0.3), (x - size * 0.7, y + size * 0.3)],
        fill=(120, 40, 40),
    )
    pen.polygon([(x, y - 8), (x, y - size * 1.6), (x + size * 0.8, y - 8)], fill=(250, 250, 245))
    pen.polygon([(x - 8, y - 8), (x - 8, y - size * 1.3), (x - size * 0.6, y - 8)], fill=(240, 220, 200))


def paint_balloons(
    pen: ImageDraw.ImageDraw, dice: random.Random, width: int, height: int, horizon: int
) -> None:
    """Hot-air balloons."""
    ridge(pen, dice, (width, height, horizon + 60), 0.05, (190, 150, 110))
    for _ in range(dice.randint(3, 7)):
        x, y, size = (
            dice.uniform(0.1, 0.9) * width,
            dice.uniform(0.15, 0.55) * height,
            height * dice.uniform(0.05, 0.12),
        )
        colours = dice.sample(
            [(220, 50, 50), (250, 200, 50), (60, 120, 200), (250, 250, 250), (90, 170, 90)], 2
        )
        pen.ellipse([x - size, y - size, x + size, y + size * 1.1], fill=colours[0])
        pen.ellipse([x - size * 0.4, y - size, x + size * 0.4, y + size * 1.1], fill=colours[1])
        pen.polygon(
            [(x - size * 0.5, y + size), (x + size * 0.5, y + size), (x, y + size * 1.5)], fill=colours[0]
        )
        pen.rectangle([x - size * 0.15, y + size * 1.6, x + size * 0.15, y + size * 1.85], fill=(110, 70, 40))


def paint_forest(
    pen: ImageDraw.ImageDraw, dice: random.Random, width: int, height: int, horizon: int
) -> None:
    """Firs, in some pictures in winter."""
    is_winter = dice.random() < 0.4
    ridge(pen, dice, (width, height, horizon), 0.03, (235, 240, 246) if is_winter else (70, 110, 60))
    for _ in range(26):
        x, foot = dice.uniform(0, width), dice.uniform(horizon, height)
        size = 60 + 200 * (foot - horizon) / (height - horizon)
        green = dice.randint(60, 110)
        for layer in range(3):
            top, wide = foot - size * (1.2 - 0.3 * layer), size * (0.25 + 0.1 * layer)
            pen.polygon(
                [(x, top), (x - wide, top + size * 0.5), (x + wide, top + size * 0.5)], fill=(20, green, 50)
            )
            if is_winter:
                pen.polygon(
                    [(x, top), (x - wide * 0.4, top + size * 0.2), (x + wide * 0.4, top + size * 0.2)],
                    fill=(250, 252, 255),
                )


PAINTERS = {
    "beach": paint_beach, "mountains": paint_mountains, "city": paint_city, "meadow": paint_meadow,
    "boat": paint_boat, "balloons": paint_balloons, "forest": paint_forest,
}  # fmt: skip


def make_gallery(folder: Path) -> None:
    """Thirty of each scene over four years, and a few copies."""
    for kind, scene in enumerate(SCENES):
        for seed in range(30):
            year = 2021 + (seed + kind) % 4
            place = folder / str(year) / scene
            place.mkdir(parents=True, exist_ok=True)
            exif = Image.Exif()
            exif[0x010F], exif[0x0110] = CAMERAS[(seed + kind) % 3]
            exif.get_ifd(0x8769)[0x9003] = (
                f"{year}:{1 + (seed * 5 + kind) % 12:02}:{1 + seed % 28:02} 17:{seed:02}:00"
            )
            latitude, longitude = PLACES[scene]
            exif.get_ifd(0x8825).update(
                {
                    1: "N",
                    2: (abs(latitude), 0.0, 0.0),
                    3: "E" if longitude > 0 else "W",
                    4: (abs(longitude), 0.0, 0.0),
                }
            )
            picture = draw(scene, seed)
            picture.save(place / f"{scene}-{seed + 1}.jpg", quality=88, exif=exif)
            if seed == 4:
                half = picture.resize((picture.width // 2, picture.height // 2))
                half.save(place / f"{scene}-{seed + 1}-small.jpg", quality=70, exif=exif)


def shoot(page: Page, name: str) -> None:
    """Take a picture once all thumbnails in sight have come."""
    page.wait_for_function(
        """() => {
            const within = e => e.shadowRoot ? all(e.shadowRoot) : [];
            const all = root => [...root.querySelectorAll("*")].flatMap(e => [e, ...within(e)]);
            return all(document).filter(e => e.tagName === "IMG").every(e => e.complete);
        }"""
    )
    page.wait_for_timeout(800)
    taken = Image.open(BytesIO(page.screenshot())).convert("RGB")
    taken.save(TARGET / f"{name}.webp", quality=88, method=6)
    print(TARGET / f"{name}.webp")


def shoot_all(address: str) -> None:
    """Take all pictures."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=BROWSER_OPTIONS
        )
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme=scheme)
            page.set_default_timeout(60_000)
            page.goto(f"{address}/?q=a+ship+at+sunset")
            page.locator(".tile").first.wait_for()
            shoot(page, f"search-{scheme}")
            if scheme == "dark":
                page.locator(".tile").nth(1).click()
                page.locator("dialog[open] dd").nth(3).wait_for()
                shoot(page, "picture-dark")
                continue
            page.goto(f"{address}/explore")
            page.locator(".groups a").first.wait_for(timeout=120_000)
            page.wait_for_timeout(3000)  # the pictures on the map come after its points
            shoot(page, "explore-light")
            page.goto(f"{address}/duplicates")
            page.locator(".tile").first.wait_for()
            shoot(page, "duplicates-light")
            page.goto(f"{address}/library")
            page.locator("[data-testid=stDataFrame]").wait_for()
            shoot(page, "library-light")
        phone = browser.new_page(
            viewport={"width": 390, "height": 800}, device_scale_factor=2, is_mobile=True
        )
        phone.goto(f"{address}/explore")
        phone.locator(".groups a").first.wait_for()
        phone.wait_for_timeout(3000)
        shoot(phone, "explore-phone")
        phone.goto(f"{address}/?q=a+ship+at+sunset")
        phone.locator(".tile").first.wait_for()
        shoot(phone, "phone-light")
        browser.close()


def main() -> None:
    """Draw a gallery, index it, and take pictures of the app that shows it."""
    TARGET.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="imago-") as scratch:
        gallery, library = Path(scratch) / "Pictures", Path(scratch) / "library"
        make_gallery(gallery)
        index_folders(library, [gallery], Encoder.load("starter"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
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
        # A home of its own: the pictures must not show whose machine they were made on.
        server = subprocess.Popen(command, env=os.environ | {"HOME": scratch})
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                try:
                    with urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5):
                        break
                except OSError:
                    time.sleep(0.2)
            shoot_all(f"http://127.0.0.1:{port}")
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
