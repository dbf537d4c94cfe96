"""The cache folder: what is kept comes back, what cannot be kept is no hindrance, old things go."""

import os
from pathlib import Path

import pytest

from model import cache


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMAGO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_was_written_is_read(folder: Path) -> None:
    assert cache.read_entry("things", "one") is None
    cache.write_entry("things", "one", b"1")
    cache.write_entry("things", "one", b"2")
    assert cache.read_entry("things", "one") == b"2"
    assert [path.name for path in (folder / "things").iterdir()] == ["one"]


def test_without_the_variable_it_is_the_users_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMAGO_CACHE")
    assert cache.cache_folder().name in {"imago", "Cache"}


def test_a_folder_that_cannot_be_made_is_no_hindrance(folder: Path) -> None:
    folder.write_text("in the way")
    cache.write_entry("things", "one", b"1")
    cache.keep_newest("things", 1)
    assert cache.read_entry("things", "one") is None


def test_only_the_newest_are_kept(folder: Path) -> None:
    for number in range(5):
        cache.write_entry("things", str(number), b"")
        os.utime(folder / "things" / str(number), ns=(number, number))
    cache.keep_newest("things", 2)
    assert sorted(path.name for path in (folder / "things").iterdir()) == ["3", "4"]


def test_a_file_is_hashed_again_when_it_changed_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"abc")
    first = cache.cached_fingerprint(file)
    hashed = []
    monkeypatch.setattr(cache, "fingerprint_of_file", lambda path: hashed.append(path) or "f" * 64)
    assert cache.cached_fingerprint(file) == first
    assert hashed == []
    file.write_bytes(b"abcd")
    assert cache.cached_fingerprint(file) == "f" * 64
    assert hashed == [file]
