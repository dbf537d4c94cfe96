"""The open library of a server, while its model changes and while others take its place."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import psutil
import pytest
from PIL import Image

from app.api.metrics import Metrics
from app.api.shelf import Shelf
from indexer import index_folders
from model import Encoder
from model.errors import ModelNotFoundError
from model.registry import STARTER_FOLDER
from search import Library


def test_a_new_model_that_cannot_be_loaded_is_never_answered_for_by_the_old_one(
    tmp_path: Path, starter: Encoder, draw_picture: Callable[[int], Image.Image]
) -> None:
    pictures, library, other = tmp_path / "pictures", tmp_path / "library", tmp_path / "other"
    pictures.mkdir()
    draw_picture(0).save(pictures / "0.png")
    index_folders(library, [pictures], starter)
    shutil.copytree(STARTER_FOLDER, other)
    settings = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").write_text(json.dumps(settings | {"image_mean": [0.4, 0.4, 0.4]}))
    is_there = False

    def load(name: str) -> Encoder:
        if name == str(other) and not is_there:
            raise ModelNotFoundError("not yet")
        return Encoder.load(name)

    shelf = Shelf(library, Metrics(), load)
    assert shelf.ask(lambda found: found.search("dog", k=1))
    changed = Encoder.load(other)
    index_folders(library, [], changed, change_model=True)
    for _ in range(3):
        shelf._looked_at = 0.0
        with pytest.raises(ModelNotFoundError):
            shelf.ask(lambda found: found.search("dog", k=1))
    is_there = True
    shelf._looked_at = 0.0
    found = shelf.ask(lambda found: (found.encoder.identity, found.search("dog", k=1)))
    assert found[0].is_same_model(changed.identity)
    assert len(found[1]) == 1
    shelf.close()


@pytest.fixture
def with_one(
    tmp_path: Path, starter: Encoder, draw_picture: Callable[[int], Image.Image]
) -> Callable[[str], Path]:
    """Return a function that makes a library of one picture, of this name."""

    def make(name: str) -> Path:
        folder = tmp_path / f"pictures {name}"
        folder.mkdir()
        draw_picture(len(name)).save(folder / f"{name}.png")
        index_folders(tmp_path / name, [folder], starter)
        return tmp_path / name

    return make


def names(library: Library) -> list[str]:
    return [hit.path.stem for hit in library.search("dog")]


def put_in_place(new: Path, old: Path) -> None:
    """As tools that restore a backup do: each file is written beside the old one and takes its name."""
    for file in new.iterdir():
        if file.is_file():
            file.replace(old / file.name)


def test_a_backup_that_is_put_back_file_by_file_is_opened(
    with_one: Callable[[str], Path], starter: Encoder
) -> None:
    served, backup = with_one("served"), with_one("backup")
    shelf = Shelf(served, Metrics(), lambda _: starter)
    assert shelf.ask(names) == ["served"]
    version = shelf.version
    put_in_place(backup, served)
    shelf._looked_at = 0.0
    assert shelf.ask(names) == ["backup"]
    assert shelf.version == version + 1
    shelf.close()


def open_catalogs(folder: Path) -> int:
    files = psutil.Process().open_files()
    return sum(
        Path(file.path).name == "catalog.db" and Path(file.path).parent.parent == folder for file in files
    )


def test_a_library_that_lost_its_place_stays_open_for_as_long_as_it_is_asked(
    with_one: Callable[[str], Path], starter: Encoder, tmp_path: Path
) -> None:
    served, others = with_one("served"), [with_one(name) for name in ("second", "third")]
    shelf = Shelf(served, Metrics(), lambda _: starter)
    is_asked, goes_on = Event(), Event()

    def ask_slowly(library: Library) -> list[str]:
        is_asked.set()
        assert goes_on.wait(60)
        return names(library)

    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(shelf.ask, ask_slowly)
        assert is_asked.wait(60)
        for number, other in enumerate(others):
            served.rename(tmp_path / f"old {number}")
            other.rename(served)
            shelf._looked_at = 0.0
            assert shelf.ask(names) == [other.name]
        assert open_catalogs(tmp_path) == 2  # that of the slow question, and the one that is served
        goes_on.set()
        assert under_way.result() == ["served"]
    assert open_catalogs(tmp_path) == 1
    shelf.close()
    assert open_catalogs(tmp_path) == 0
