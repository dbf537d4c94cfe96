"""Counts of a library: by month, folder, camera, format and shape; for all images and for some."""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import pytest
from indexer_fakes import draw
from PIL import Image

from indexer import LibraryReader
from indexer.facets import Facets, camera_name

CAMERA = {0x010F: "Canon", 0x0110: "Canon EOS R6"}


def draw_taken(path, seed, size, taken, camera=None):
    """A picture that says when and with what it was taken."""
    draw(path, seed, size)
    exif = Image.Exif()
    for tag, value in (camera or {}).items():
        exif[tag] = value
    exif.get_ifd(0x8769)[0x9003] = taken
    with Image.open(path) as image:
        image.save(path, exif=exif)


@pytest.fixture
def varied(index, photos, library):
    """Seven pictures: two months and one of now, two cameras, three shapes, two formats, copies, hostile names."""
    rome = photos / "2023" / "rome 100% 'é"
    oslo = photos / "2023" / "oslo"
    rome.mkdir(parents=True)
    oslo.mkdir()
    draw_taken(rome / "a.jpg", 1, (60, 40), "2023:05:04 10:11:12", CAMERA)
    draw_taken(rome / "b.jpg", 2, (40, 60), "2023:05:31 23:59:59", CAMERA)
    draw_taken(oslo / "c.jpg", 3, (40, 40), "2022:12:01 00:00:00", {0x010F: "Nokia", 0x0110: "8"})
    draw(photos / "Screenshot 1.png", 4, (50, 90))
    for folder in (rome, oslo):
        draw(folder / "copy.png", 5, (90, 50))
    draw(photos / "top.png", 6, (90, 50))
    for name in ("Screenshot 1.png", "top.png", "2023/oslo/copy.png", "2023/rome 100% 'é/copy.png"):
        os.utime(photos / name, (1.7e9, 1.7e9))  # in November 2023
    index()
    return library


def test_all_images_are_counted(varied, photos):
    with LibraryReader.open(varied) as reader:
        facets = reader.facets()
    assert facets.months == {"2022-12": 1, "2023-05": 2, "2023-11": 3}
    assert list(facets.months) == sorted(facets.months)
    rome = str(photos / "2023" / "rome 100% 'é")
    assert facets.folders == {
        str(photos): 6,
        str(photos / "2023"): 4,  # the copy counts once
        rome: 3,
        str(photos / "2023" / "oslo"): 2,
    }
    assert facets.cameras == {"Canon EOS R6": 2, "Nokia 8": 1}
    assert facets.formats == {"jpeg": 3, "png": 3}
    assert facets.shapes == {"landscape": 3, "portrait": 2, "square": 1, "screenshot": 1}
    assert list(facets.folders)[:2] == [str(photos), str(photos / "2023")]


def test_counts_of_some_agree_with_their_records(varied):
    with LibraryReader.open(varied) as reader:
        ids = reader.ids()[::2]
        facets, records = reader.facets(ids), reader.images(ids)
    assert facets.formats == Counter(record.format for record in records)
    assert sum(facets.months.values()) == len(ids)
    assert facets.cameras == Counter(
        name for record in records if (name := camera_name(record.camera_make, record.camera_model))
    )
    assert sum(facets.shapes.get(name, 0) for name in ("landscape", "portrait", "square")) == len(ids)
    assert max(facets.folders.values()) == len(ids)


def test_only_what_is_asked_for_is_counted(varied):
    with LibraryReader.open(varied) as reader:
        facets = reader.facets(which=["formats"])
        assert facets == Facets(formats={"jpeg": 3, "png": 3})
        assert reader.facets(np.empty(0, np.int64)) == Facets()


def test_more_ids_than_a_statement_has_parameters(varied):
    with LibraryReader.open(varied) as reader:
        ids = np.concatenate([reader.ids(), np.arange(10**6, 10**6 + 300_000)])
        assert reader.facets(ids) == reader.facets()


def test_what_is_gone_does_not_count(varied, photos, index):
    (photos / "top.png").unlink()
    (photos / "2023" / "oslo" / "copy.png").unlink()
    index()
    with LibraryReader.open(varied) as reader:
        facets = reader.facets()
    assert facets.folders[str(photos)] == 5
    assert facets.folders[str(photos / "2023" / "oslo")] == 1
    assert facets.formats["png"] == 2


@pytest.mark.skipif(os.name != "posix", reason="names are text here")
def test_a_folder_whose_name_is_no_text_is_left_out(index, photos, library):
    folder = photos / os.fsdecode(b"\xff\xfe")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this disk takes names that are text only")
    draw(photos / "a.png", 1).rename(folder / "a.png")
    draw(photos / "b.png", 2)
    index()
    with LibraryReader.open(library) as reader:
        assert reader.facets().folders == {str(photos): 1}
        assert reader.facets().formats == {"png": 2}


@pytest.mark.parametrize(
    ("make", "model", "expected"),
    [
        ("Canon", "Canon EOS R6", "Canon EOS R6"),
        ("Google", "Pixel 8", "Google Pixel 8"),
        ("Leica", None, "Leica"),
        (None, "X100", "X100"),
        (None, None, None),
    ],
)
def test_a_camera_says_its_make_once(make, model, expected):
    assert camera_name(make, model) == expected
