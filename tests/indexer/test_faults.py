"""Kills, full disks, locks, closed doors: nothing is lost, and the next run goes on from there."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest
from indexer_fakes import FakeEncoder, InlinePool, draw

from indexer import (
    DiskFullError,
    LibraryError,
    LibraryLockedError,
    LibraryNotWritableError,
    LibraryReader,
    decode_worker,
    index_folders,
)
from indexer.lock import writer_lock

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and limits of POSIX")
as_root = hasattr(os, "geteuid") and os.geteuid() == 0


def wait_for(condition, process=None):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)


def images_in(library):
    try:
        with LibraryReader.open(library) as reader:
            return len(reader)
    except LibraryError:
        return 0


@pytest.mark.parametrize("committed", [0, 1, 12])
def test_a_killed_run_loses_only_what_was_not_committed(child, index, check, photos, committed):
    library = photos.parent / "library"
    paths = [draw(photos / f"{number:02}.png", number) for number in range(60)]
    process = child(library, photos, 0.8)
    if committed == 0:
        assert process.stdout.readline().startswith("started")
    else:
        wait_for(lambda: images_in(library) >= committed, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = images_in(library)
    assert done >= committed
    summary = index()
    assert (summary.indexed, summary.unchanged, summary.failed) == (60 - done, done, [])
    check(paths)
    with closing(sqlite3.connect(library / "catalog.db")) as catalog:
        assert catalog.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert catalog.execute("PRAGMA foreign_key_check").fetchall() == []


def test_readers_see_commits_while_a_run_goes_on_and_a_second_writer_is_told_who(
    child, index, photos, library
):
    for number in range(100):
        draw(photos / f"{number:02}.png", number)
    process = child(library, photos, 0.6)
    wait_for(lambda: images_in(library) > 0, process)
    with pytest.raises(LibraryLockedError, match=rf"process {process.pid} on .*, since \d{{4}}-"):
        index()
    with LibraryReader.open(library) as reader:
        first = len(reader)
        wait_for(reader.refresh, process)
        assert len(reader) > first
        assert reader.nearest(reader.vectors(reader.ids()[:1]), 5)[1].shape == (1, 5)
    process.kill()
    process.wait()
    assert index().indexed > 0  # the lock died with its holder


def test_the_lock_is_free_after_a_run(index, photos, library):
    draw(photos / "a.png", 1)
    index()
    with writer_lock(library), pytest.raises(LibraryLockedError, match=f"process {os.getpid()}"):
        index()
    assert index().unchanged == 1


def test_a_catalog_that_may_not_grow_is_said_and_loses_nothing(index, check, photos, encoder, monkeypatch):
    """SQLite's own limit of pages gives the very error of a full disk, without rights to mount one."""
    from indexer.catalog import Catalog

    paths = [draw(photos / f"{number:03}.png", number) for number in range(150)]
    prepare = Catalog._prepare.__func__

    def limited(cls, *arguments):
        catalog = prepare(cls, *arguments)
        (pages,) = catalog._db.execute("PRAGMA page_count").fetchone()
        catalog._db.execute(f"PRAGMA max_page_count = {pages + 3}")
        return catalog

    monkeypatch.setattr("indexer.ledger._COMMIT_SECONDS", 0.05)
    monkeypatch.setattr(Catalog, "_prepare", classmethod(limited))
    encoder.seconds_per_batch = 0.03
    with pytest.raises(DiskFullError, match=r"is full.*run the same command again"):
        index()
    monkeypatch.undo()
    summary = index()
    assert (summary.unchanged + summary.indexed, summary.notices) == (150, [])
    assert summary.unchanged > 0
    check(paths)


@pytest.mark.skipif(not as_root, reason="needs to mount a file system")
def test_a_really_full_disk(photos, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("may not mount here")
    try:
        from indexer_fakes import identity

        for number in range(60):
            draw(photos / f"{number:03}.png", number)
        encoder = FakeEncoder(identity=identity(dimension=2048), seconds_per_batch=0.2)
        with pytest.raises(DiskFullError, match="is full"):
            index_folders(disk / "library", [photos], encoder, workers=1)
        kept = images_in(disk / "library")
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        summary = index_folders(disk / "library", [photos], encoder, workers=1)
        assert (summary.unchanged, summary.indexed) == (kept, 60 - kept)
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def without_rights(code):
    """Runs code as a user who may not do what permissions forbid; root is bereft of its powers for this."""
    program = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from indexer_fakes import FakeEncoder\n"
        "from indexer import *\n" + code
    )
    command = [sys.executable, "-c", program]
    if as_root:
        if shutil.which("setpriv") is None:
            pytest.skip("root may do everything")
        powers = "-dac_override,-dac_read_search"
        command = ["setpriv", "--bounding-set", powers, "--inh-caps", powers, *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_library_that_cannot_be_written_is_read_and_not_indexed(index, photos, library):
    for number in range(3):
        draw(photos / f"{number}.png", number)
    index()
    for path in library.iterdir():
        path.chmod(0o444)
    library.chmod(0o555)
    shown = without_rights(
        f"with LibraryReader.open({str(library)!r}) as reader:\n"
        "    print(len(reader), reader.images([1])[0].id, reader.notices)\n"
        f"try: index_folders({str(library)!r}, [{str(photos)!r}], FakeEncoder())\n"
        "except LibraryNotWritableError as error: print(error)\n"
    )
    library.chmod(0o755)
    assert shown.splitlines()[0] == "3 1 []"
    assert "cannot be written" in shown


def test_files_and_folders_that_may_not_be_read(index, check, photos, library):
    kept = draw(photos / "open" / "a.png", 1)
    closed_file = draw(photos / "open" / "b.png", 2)
    hidden = draw(photos / "closed" / "c.png", 3)
    index()
    os.utime(closed_file)
    closed_file.chmod(0)
    (photos / "closed").chmod(0)
    shown = without_rights(
        f"summary = index_folders({str(library)!r}, [{str(photos)!r}], FakeEncoder(), workers=1)\n"
        "print(summary.unchanged, summary.removed, [f.reason for f in summary.failed],"
        " [(f.path.name, f.reason) for f in summary.unreadable_folders])\n"
    )
    closed_file.chmod(0o644)
    (photos / "closed").chmod(0o755)
    assert shown.strip() == "1 0 ['no permission to read the file'] [('closed', 'Permission denied')]"
    with LibraryReader.open(library) as reader:
        assert reader.find(hidden) is not None  # nobody could see whether it is still there
        assert reader.find(closed_file) is not None
    assert index().failed == []
    check([kept, closed_file, hidden])


def test_a_disk_that_fails_to_read_costs_no_picture(index, check, photos, monkeypatch):
    known, new, other = (draw(photos / f"{name}.png", seed) for seed, name in enumerate("abc"))
    kept = new.read_bytes()
    new.unlink()
    index()
    new.write_bytes(kept)
    os.utime(known, (1_000_000_000, 1_000_000_000))
    read = decode_worker.read_file

    def fail_to_read(path, limits):
        if path != str(other):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path, limits)

    with monkeypatch.context() as failing:
        failing.setattr("indexer.embedding.DecodePool", InlinePool)
        failing.setattr(decode_worker, "read_file", fail_to_read)
        for is_new in (True, False):
            failed = {failure.path: failure for failure in index().failed}
            assert set(failed) == {known, new}
            assert "cannot be read: Input/output error" in failed[known].reason
            assert failed[new].is_new is is_new
        check([known, other])
    summary = index()
    assert (summary.failed, summary.embedded) == ([], 1)
    check([known, new, other])


def test_a_root_that_may_not_be_read(photos, tmp_path):
    photos.chmod(0)
    shown = without_rights(
        f"try: index_folders({str(tmp_path / 'new')!r}, [{str(photos)!r}], FakeEncoder())\n"
        "except NothingToIndexError as error: print(error)\n"
    )
    photos.chmod(0o755)
    assert "photos cannot be read (Permission denied)" in shown


def test_a_file_where_the_library_should_be(photos, tmp_path, encoder):
    draw(photos / "a.png", 1)
    (tmp_path / "library").write_text("mine")
    with pytest.raises(LibraryNotWritableError, match="is a file, not a folder"):
        index_folders(tmp_path / "library", [photos], encoder)
    assert (tmp_path / "library").read_text() == "mine"
