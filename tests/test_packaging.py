"""The shape that people and tools rely on: package names, the command's name, the lock."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_the_four_packages_ship_in_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["name"] == "imago-search"
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == [
        "app",
        "indexer",
        "model",
        "search",
    ]


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock", "requirements-cluster.lock"])
def test_the_lock_pins_every_package_with_hashes_and_names_no_index(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    requirements = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert len(requirements) > 50
    unpinned = [line for line in requirements if "==" not in line]
    assert unpinned == []
    assert text.count("--hash=sha256:") >= len(requirements)
    assert "://" not in text
