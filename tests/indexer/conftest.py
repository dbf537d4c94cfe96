"""Pictures, a library in a temporary folder, and an encoder that costs nothing."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # decoding processes import the stand-ins by this path

from indexer_fakes import FakeEncoder  # noqa: E402

from indexer import IndexSummary, LibraryReader, index_folders, read_pixels  # noqa: E402


@pytest.fixture
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return tmp_path / "library"


@pytest.fixture
def index(library: Path, photos: Path, encoder: FakeEncoder) -> Callable[..., IndexSummary]:
    """Runs the indexer with one worker: `index()` on `photos`, `index(folder, ...)` on others."""

    def run(*folders: Path, **options: object) -> IndexSummary:
        options = {"workers": 1, **options}
        chosen = options.pop("encoder", encoder)
        if not options.pop("all_known", False):
            folders = folders or (photos,)
        return index_folders(library, folders, chosen, **options)

    return run


@pytest.fixture
def check(library: Path, encoder: FakeEncoder) -> Callable[[dict[Path, int]], None]:
    """Compares the whole library with the files that should be in it: paths, contents, vectors, search."""

    def compare(expected: dict[Path, int] | list[Path]) -> None:
        paths = list(expected)
        with LibraryReader.open(library) as reader:
            assert reader.notices == []
            assert reader.status().files == len(paths)
            found = {path: reader.find(path) for path in paths}
            assert None not in found.values(), found
            ids = sorted(set(found.values()))
            assert reader.ids().tolist() == ids
            assert reader.status().images == len(ids)
            for path, image_id in found.items():
                fresh = encoder.encode_pixels(read_pixels(path, encoder.preprocessor)[None])
                np.testing.assert_array_equal(reader.vectors([image_id])[0], fresh[0].astype(np.float16))
                assert reader.find_content(path) == image_id
                _, best = reader.nearest(fresh, 1)
                same = reader.vectors([int(best[0, 0])]) @ fresh.T
                assert same[0, 0] == pytest.approx(1, abs=2e-3)

    return compare


@pytest.fixture
def held_open(library: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], AbstractContextManager[None]]:
    """Within `held_open()`, nothing takes the place of vectors.faiss, as on Windows while a reader maps it."""
    replace = Path.replace

    def refuse(new: Path, target: Path) -> Path:
        if target == library / "vectors.faiss":
            raise PermissionError(13, "Access is denied")
        return replace(new, target)

    @contextmanager
    def hold() -> Iterator[None]:
        with monkeypatch.context() as context:
            context.setattr(Path, "replace", refuse)
            yield

    return hold


@pytest.fixture
def child() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `index_in_child` in a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        code = (
            f"import sys; sys.path.insert(0, {str(HERE)!r});"
            "from indexer_fakes import index_in_child; index_in_child(sys.argv[1:])"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
