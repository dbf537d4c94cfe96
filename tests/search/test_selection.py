"""Filters asked of a real catalog choose exactly the images that they fit one by one."""

from __future__ import annotations

import os
import random
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pytest
from filter_oracle import fits
from PIL import Image

from indexer import LibraryReader, index_folders
from indexer.catalog_file import connect_for_reading
from indexer.filters import (
    CameraContains,
    HasFormat,
    HasShape,
    InFolder,
    IsScreenshot,
    NameMatches,
    NearPlace,
    Not,
    SideBetween,
    TakenBetween,
)
from indexer.selection import select
from search.ordering import moment_of

if TYPE_CHECKING:
    from pathlib import Path

FOLDERS = ["rome", "Rome/2023", "100%", "it's", "a_b", 'say "x"', "new\nline", "[x]", "é", "2023/rome"]
CAMERAS = [None, ("Google", "Pixel 8"), ("Canon", "EOS R5"), ("ÉTÉ", "100%_")]
FORMATS = [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"), ("heic.jpg", "JPEG")]
PLACES = [None, (48.86, 2.34), (-33.9, 151.2), (0.5, 179.95), (0.5, -179.95)]


def exif_of(
    camera: tuple[str, str] | None, taken: datetime | None, place: tuple[float, float] | None
) -> bytes:
    exif = Image.Exif()
    if camera:
        exif[0x010F], exif[0x0110] = camera
    if taken:
        exif.get_ifd(0x8769)[0x9003] = taken.strftime("%Y:%m:%d %H:%M:%S")
    if place:
        latitude, longitude = place
        exif.get_ifd(0x8825).update(
            {
                1: "N" if latitude >= 0 else "S",
                2: (abs(latitude), 0.0, 0.0),
                3: "E" if longitude >= 0 else "W",
                4: (abs(longitude), 0.0, 0.0),
            }
        )
    return exif.tobytes()


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory, colours_once) -> tuple[Path, Path]:
    """A library of 120 small images of all kinds, and where they lie."""
    base = tmp_path_factory.mktemp("selection")
    chance = random.Random(5)
    for i in range(120):
        folder = base / "photos" / chance.choice(FOLDERS)
        folder.mkdir(parents=True, exist_ok=True)
        suffix, image_format = chance.choice(FORMATS)
        taken = (
            datetime(2023, 1, 1) + timedelta(hours=chance.randrange(20_000))
            if chance.random() < 0.6
            else None
        )
        size = chance.choice([(40, 30), (30, 40), (32, 32), (75, 133), (64, 16)])
        if chance.random() < 0.1:
            size, image_format, suffix = (750, 1334), "PNG", "png"
        name = chance.choice(["IMG_", "img%", "Screenshot ", "photo [1]", "Ünï"]) + f"{i}.{suffix}"
        picture = Image.new("RGB", size, (i * 2, chance.randrange(256), chance.randrange(256)))
        picture.save(
            folder / name, image_format, exif=exif_of(chance.choice(CAMERAS), taken, chance.choice(PLACES))
        )
        changed = datetime(2022, 1, 1).timestamp() + 86_400 * chance.randrange(900)
        os.utime(folder / name, (changed, changed))
    index_folders(base / "library", [base / "photos"], colours_once, workers=1)
    return base / "library", base / "photos"


def filters_to_try(photos: Path) -> list[object]:
    day = datetime(2023, 6, 1)
    return [
        *(InFolder((name,)) for name in [*FOLDERS, "ROME", "rom", "%", "_", "", "photos/rome", "."]),
        *(InFolder((str(photos / name),)) for name in ["rome", "Rome", "100%", "10", "nowhere"]),
        InFolder(("it's", "a_b")),
        *(CameraContains((text,)) for text in ["pixel", "GOOGLE PIXEL", "%", "_", "été", "canon", "nikon"]),
        CameraContains(("canon", "pixel")),
        *(
            NameMatches((text,))
            for text in ["img", "%", "_1", "*.PNG", "img?1*", "*[1]*", "ünï", "*", "photo [1]*"]
        ),
        *(HasShape(shape) for shape in ("portrait", "landscape", "square")),
        *(HasFormat(formats) for formats in (("jpeg",), ("png", "webp"), ("heic",))),
        SideBetween("width", 40, None),
        SideBetween("height", None, 32),
        SideBetween("width", 64, 75),
        TakenBetween(day, None),
        TakenBetween(None, day),
        TakenBetween(day, day + timedelta(days=200)),
        *(
            NearPlace(*place, radius)
            for place in [(48.85, 2.35), (0.5, 180.0), (90.0, 0.0)]
            for radius in (20, 5000)
        ),
        NearPlace(-33.9, 151.2, 0.001),
        IsScreenshot(),
    ]


def test_the_catalog_and_one_by_one_agree(catalog: tuple[Path, Path]) -> None:
    library, photos = catalog
    connection, _ = connect_for_reading(library)
    with LibraryReader.open(library) as reader:
        records = reader.images(reader.ids())
    assert len(records) == 120
    moments = [moment_of(record) for record in records[:6]]  # bounds that images lie on exactly
    tried = filters_to_try(photos)
    tried += [TakenBetween(moment, None) for moment in moments]
    tried += [TakenBetween(None, moment) for moment in moments]
    fitting_any = 0
    for wanted in [*tried, *map(Not, tried), *(Not(Not(each)) for each in tried[:3])]:
        expected = [record.id for record in records if fits(record, wanted)]
        found = select(connection, [wanted])
        assert found.dtype == np.int64
        assert found.tolist() == expected, wanted
        fitting_any += 0 < len(expected) < 120
    assert fitting_any > 60  # most of them tell images apart
    chance = random.Random(7)
    for _ in range(60):
        several = [chance.choice([each, Not(each)]) for each in chance.sample(tried, 3)]
        expected = [record.id for record in records if all(fits(record, each) for each in several)]
        assert select(connection, several).tolist() == expected, several
    assert select(connection, []).tolist() == [record.id for record in records]
    connection.close()


def test_any_copy_of_an_image_may_fit(tmp_path: Path, colours_once) -> None:
    for name in ("one", "two"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9), "red").save(tmp_path / "photos" / name / f"{name}.png")
    index_folders(tmp_path / "library", [tmp_path / "photos"], colours_once, workers=1)
    connection, _ = connect_for_reading(tmp_path / "library")
    for wanted in (InFolder(("one",)), InFolder(("two",)), NameMatches(("one",)), NameMatches(("two.*",))):
        assert select(connection, [wanted]).tolist() == [1]
        assert select(connection, [Not(wanted)]).tolist() == []
    connection.close()
