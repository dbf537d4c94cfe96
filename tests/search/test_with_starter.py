"""The whole way with the real model that comes with the package: index, open by path alone, ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from PIL import Image

from indexer import index_folders
from model import Encoder
from search import Library

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, draw_picture: Callable[[int], Image.Image]) -> Path:
    """A folder of six drawn pictures, and a library of them beside it."""
    base = tmp_path_factory.mktemp("starter")
    (base / "pictures").mkdir()
    for seed in range(6):
        draw_picture(seed).save(base / "pictures" / f"{seed}.png")
    index_folders(base / "library", [base / "pictures"], Encoder.load("starter"), workers=1)
    return base


def test_the_model_is_found_by_the_name_that_the_library_keeps(drawn: Path) -> None:
    with Library.open(drawn / "library") as library:
        words = library.search("a circle on a red background", k=100)
        assert sorted(hit.path.name for hit in words) == [f"{i}.png" for i in range(6)]
        path = drawn / "pictures" / "3.png"
        stored = library.search(path, k=6)
        assert stored[0].path == path
        with Image.open(path) as image:  # through the tower this time
            embedded = library.search(image, k=6)
        assert [hit.id for hit in embedded] == [hit.id for hit in stored]
        for one, other in zip(embedded, stored, strict=True):
            assert one.score == pytest.approx(other.score, abs=2e-3)


def test_a_mixture_of_picture_and_words(drawn: Path) -> None:
    with Library.open(drawn / "library") as library:
        hits = library.search(f'5:"{drawn / "pictures" / "2.png"}" + flower - 0.2:dog', k=6, explain=True)
        assert hits[0].path.name == "2.png"
        assert [part.weight for part in hits[0].why] == [5, 1, -0.2]
