"""Files that are there whole or not at all."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from model.whole_file import put_in_place, write_whole


def test_what_was_written_is_there_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    for content in (b"one", memoryview(b"two")):
        write_whole(path, content)
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_what_cannot_take_its_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError):  # noqa: PT011  (of which kind, each system says in its own way)
        write_whole(tmp_path / "file", b"content")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


FULL_DISK = """
import resource, signal
from pathlib import Path
from model.cache import write_entry
from model.whole_file import write_whole
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
for size in (1001, 100_000):
    write_entry("things", "one", bytes(size))
    try:
        write_whole(Path("{folder}", "file"), bytes(size))
    except OSError as error:
        print(error.strerror)
"""


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files as POSIX does")
def test_a_full_disk_leaves_what_was_there_and_nothing_beside_it(
    tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "file").write_bytes(b"before")
    done = run_python(FULL_DISK.format(folder=tmp_path), IMAGO_CACHE=str(tmp_path / "cache"))
    assert (done.returncode, done.stdout) == (0, "File too large\n" * 2), done.stderr
    assert (tmp_path / "file").read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cache", "file", "things"]


@pytest.mark.skipif(os.name != "posix", reason="asks the system which file a handle is of")
def test_what_gets_its_name_is_on_the_disk_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(os.fstat(handle).st_ino) or sync(handle))
    folder = tmp_path / "new"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / name).write_bytes(name.encode())
    wanted = {path.stat().st_ino for path in (folder, *folder.iterdir())}
    put_in_place(folder, tmp_path / "named")
    assert set(flushed[:-1]) == wanted
    assert flushed[-1] == tmp_path.stat().st_ino  # the name itself
    put_in_place(tmp_path / "named" / "one", tmp_path / "named" / "two")
    assert (tmp_path / "named" / "two").read_bytes() == b"one"
    folder.mkdir()
    with pytest.raises(OSError):  # noqa: PT011  (of which kind, each system says in its own way)
        put_in_place(folder, tmp_path / "named")
