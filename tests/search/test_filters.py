"""What each filter demands, on records made by hand, hostile names included."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from filter_oracle import fits

from indexer import ImageRecord
from indexer.selection import distance_km
from search.ordering import SORT_KEYS
from search.query import parse

RECORD = ImageRecord(
    id=1,
    path=Path("/photos/2023/Rome & 100%/IMG_0042 [1].JPG"),
    size_bytes=1000,
    width_pixels=3000,
    height_pixels=4000,
    format="jpeg",
    taken_at="2023-05-17T18:30:00+02:00",
    camera_make="Google",
    camera_model="Pixel 8",
    latitude=48.86,
    longitude=2.34,
    modified_seconds=datetime(2024, 1, 2).timestamp(),
    copies=1,
    is_offline=False,
    content_hash="00",
)


@pytest.mark.parametrize(
    ("text", "fitting"),
    [
        ("in:photos", True),
        ("in:2023", True),
        ("in:202", False),
        ('in:"rome & 100%"', True),
        ('in:"2023/Rome & 100%"', True),
        ('in:"photos/Rome & 100%"', False),
        ("in:/photos/2023", True),
        ("in:/photos/202", False),
        ("in:/photos/2023/", True),
        ("in:%", False),
        ("in:a,photos", True),
        ("-in:photos", False),
        ("after:2023-05-17T18:30", True),
        ("after:2023-05-17T18:31", False),
        ("before:2023-05-17T18:30", False),
        ("before:2023-05-17T18:31", True),
        ("date:2023-05", True),
        ("date:2024", False),
        ('camera:"pixel 8"', True),
        ('camera:"google pixel"', True),
        ("camera:canon,pixel", True),
        ("camera:canon", False),
        ("near:48.85,2.35,10km", True),
        ("near:48.85,2.35,1km", False),
        ("is:portrait", True),
        ("is:landscape", False),
        ("-is:square", True),
        ("is:screenshot", False),
        ("type:jpg", True),
        ("type:png,gif", False),
        ("width:3000", True),
        ("width:>3000", False),
        ("height:>=4000", True),
        ("height:<4000", False),
        ("name:img_", True),
        ("name:img", True),
        ("name:IMG?0042*", True),
        ("name:IMG", True),
        ("name:*.png", False),
        ("name:*[1]*", True),
        ("name:*[0-9]*", False),
        ("name:_0_", False),
        ("name:0042.*", False),
    ],
)
def test_a_filter(text: str, fitting: bool) -> None:
    (wanted,) = parse(text).filters
    assert fits(RECORD, wanted) is fitting


def test_what_an_image_does_not_say() -> None:
    silent = replace(
        RECORD, taken_at=None, camera_make=None, camera_model=None, latitude=None, longitude=None
    )
    for text, fitting in [
        ("date:2024-01-02", True),
        ("date:2023", False),
        ("camera:pixel", False),
        ("-camera:pixel", True),
        ("near:48.85,2.35", False),
        ("-near:48.85,2.35", True),
    ]:
        (wanted,) = parse(text).filters
        assert fits(silent, wanted) is fitting, text
    assert SORT_KEYS["date"](replace(silent, taken_at="no date")) == (datetime(2024, 1, 2),)


@pytest.mark.parametrize(
    ("change", "fitting"),
    [
        ({"path": Path("/a/Screenshot_20230101.jpg")}, True),
        ({"path": Path("/a/Bildschirmfoto 2023.png"), "format": "png"}, True),
        ({"format": "png", "width_pixels": 1170, "height_pixels": 2532}, True),
        ({"format": "png", "width_pixels": 2532, "height_pixels": 1170}, True),
        ({"format": "jpeg", "width_pixels": 1170, "height_pixels": 2532}, False),
        ({"path": Path("/a/Screenshot.png"), "camera_make": "Google"}, False),
    ],
)
def test_screenshots(change: dict, fitting: bool) -> None:
    (wanted,) = parse("is:screenshot").filters
    record = replace(RECORD, **{"camera_make": None, "camera_model": None, **change})
    assert fits(record, wanted) is fitting


def test_distances() -> None:
    assert distance_km(48.8566, 2.3522, 51.5074, -0.1278) == pytest.approx(343.6, abs=1)  # Paris, London
    assert distance_km(0, 179.9, 0, -179.9) == pytest.approx(22.2, abs=0.1)  # over the date line
    assert distance_km(90, 0, -90, 0) == pytest.approx(20015, abs=1)
