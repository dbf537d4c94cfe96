"""The open library of a server, while its model changes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from app.api.metrics import Metrics
from app.api.shelf import Shelf
from indexer import index_folders
from model import Encoder
from model.errors import ModelNotFoundError
from model.registry import STARTER_FOLDER


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
