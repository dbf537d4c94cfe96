"""Saved queries: kept, replaced, forgotten, refused, and never half written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from search import Library, QueryError, SavedQueries, SavedQueryError
from search.saved import MAXIMUM_SAVED, default_saved_path

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def saved(tmp_path: Path) -> SavedQueries:
    return SavedQueries(tmp_path / "settings" / "queries.json")


def test_save_get_list_delete(saved: SavedQueries) -> None:
    assert saved.all() == {}
    assert saved.get("pets") is None
    saved.save("@pets", "dog + cat in:home")
    saved.save("été", "@pets - snow")
    assert saved.all() == {"pets": "dog + cat in:home", "été": "@pets - snow"}
    assert SavedQueries(saved.path).get("pets") == "dog + cat in:home"
    assert saved.delete("@pets") is True
    assert saved.delete("pets") is False
    assert list(saved.all()) == ["été"]


def test_a_name_that_is_taken(saved: SavedQueries) -> None:
    saved.save("a", "dog")
    with pytest.raises(SavedQueryError, match="@a is taken, by: dog"):
        saved.save("a", "cat")
    saved.save("a", "cat", replace=True)
    assert saved.get("a") == "cat"


@pytest.mark.parametrize("name", ["", "@", "a b", "a/b", "x" * 65, "a@b"])
def test_what_is_no_name(saved: SavedQueries, name: str) -> None:
    with pytest.raises(SavedQueryError, match="cannot be a name"):
        saved.save(name, "dog")


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "empty"), ("colour:red", "no filter"), ("@nobody", "no saved query @nobody"), ("@a", "leads back")],
)
def test_queries_that_do_not_work_are_not_kept(saved: SavedQueries, text: str, reason: str) -> None:
    with pytest.raises(QueryError, match=reason):
        saved.save("a", text)
    assert saved.all() == {}


def test_a_replacement_cannot_close_a_circle(saved: SavedQueries) -> None:
    saved.save("a", "dog")
    saved.save("b", "@a")
    with pytest.raises(QueryError, match="leads back"):
        saved.save("a", "@b", replace=True)
    assert saved.get("a") == "dog"


def test_too_many(saved: SavedQueries) -> None:
    saved.path.parent.mkdir()
    saved.path.write_text(json.dumps({"queries": {f"q{i}": "dog" for i in range(MAXIMUM_SAVED)}}))
    with pytest.raises(SavedQueryError, match="1000 saved queries already"):
        saved.save("one-more", "dog")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"queries": 1}', '{"queries": {"a": 1}}', "\xff\xfe"])
def test_a_damaged_file_is_named_and_left_alone(saved: SavedQueries, text: str) -> None:
    saved.path.parent.mkdir()
    saved.path.write_bytes(text.encode("latin-1"))
    for use in (saved.all, lambda: saved.save("a", "dog"), lambda: saved.delete("a")):
        with pytest.raises(SavedQueryError, match="saved queries"):
            use()
    assert saved.path.read_bytes() == text.encode("latin-1")


def test_a_lookup_reads_the_file_once_and_only_when_asked(saved: SavedQueries) -> None:
    lookup = saved.lookup()
    saved.save("a", "dog")
    assert lookup("a") == "dog"
    saved.save("a", "cat", replace=True)
    assert (lookup("a"), lookup("b"), saved.lookup()("a")) == ("dog", None, "cat")


def test_two_processes_lose_nothing(saved: SavedQueries) -> None:
    code = (
        "import sys; from pathlib import Path; from search.saved import SavedQueries\n"
        "for i in range(25): SavedQueries(Path(sys.argv[1])).save(f'{sys.argv[2]}{i}', 'dog')"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, str(saved.path), name]) for name in "ab"]
    assert [run.wait() for run in runs] == [0, 0]
    assert len(saved.all()) == 50


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from search.saved import SavedQueries
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, resource.RLIM_INFINITY))
SavedQueries(Path(sys.argv[1])).save("long", "dog " * 100)
"""


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files as POSIX does")
def test_a_full_disk_leaves_them_as_they_were(saved: SavedQueries) -> None:
    saved.save("a", "dog")
    before = sorted(saved.path.parent.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(saved.path)], capture_output=True, text=True, check=False
    )
    assert "SavedQueryError" in done.stderr.splitlines()[-1]
    assert saved.all() == {"a": "dog"}
    assert sorted(saved.path.parent.iterdir()) == before


def test_where_they_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IMAGO_QUERIES", str(tmp_path / "mine.json"))
    assert default_saved_path() == tmp_path / "mine.json"
    monkeypatch.delenv("IMAGO_QUERIES")
    assert default_saved_path().name == "queries.json"


def test_a_query_calls_them(painted, colours, saved: SavedQueries) -> None:
    saved.save("sky", "blue in:blue")
    with Library.open(painted.path, encoder=colours, saved=saved.get) as library:
        assert library.search("@sky", k=3) == library.search("blue in:blue", k=3)
        with pytest.raises(QueryError, match="no saved query @sea"):
            library.search("@sea")
