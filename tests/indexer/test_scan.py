"""What a walk finds, what it leaves out, and that it always ends."""

from __future__ import annotations

import errno
import os
import sys

import pytest

from indexer import scan
from indexer.scan import scan_folder


def touch(path, text="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def names(folder, **options):
    return sorted(file[0] for file in scan_folder(str(folder), **options).files)


def test_hidden_and_system_things_are_left_out(tmp_path):
    for name in ("a.jpg", "sub/b.jpg", "sub/deep/c.jpg"):
        touch(tmp_path / name)
    for name in (
        ".hidden.jpg",
        ".thumbnails/d.jpg",
        "@eaDir/e.jpg",
        "sub/@eaDir/a.jpg/f.jpg",
        "#recycle/g.jpg",
        "$RECYCLE.BIN/h.jpg",
        "System Volume Information/i.jpg",
        "lost+found/j.jpg",
        "__MACOSX/k.jpg",
        "._a.jpg",
        "Thumbs.db",
        "desktop.ini",
    ):
        touch(tmp_path / name)
    assert names(tmp_path) == ["a.jpg", "sub/b.jpg", "sub/deep/c.jpg"]


def test_what_a_system_hides_by_a_flag_is_left_out(tmp_path, monkeypatch):
    for name in ("a.jpg", "hidden.jpg", "Library/b.jpg", "sub/c.jpg"):
        touch(tmp_path / name)
    hidden = {(tmp_path / name).stat().st_ino for name in ("hidden.jpg", "Library")}
    monkeypatch.setattr(scan, "_CAN_HIDE", True)
    monkeypatch.setattr(scan, "_is_hidden", lambda known: known is not None and known.st_ino in hidden)
    assert names(tmp_path) == ["a.jpg", "sub/c.jpg"]


def test_size_time_and_inode(tmp_path):
    path = touch(tmp_path / "a.jpg", "four")
    os.utime(path, ns=(1, 1_234_567_890_123_456_789))
    (file,) = scan_folder(str(tmp_path)).files
    assert file == ("a.jpg", 4, 1_234_567_890_123_456_789, path.stat().st_ino)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_disks_that_number_their_files_anew():
    mountinfo = (
        "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
        "36 35 8:17 / /media/a\\040card rw,noatime shared:1 master:2 - exfat /dev/sdb1 rw,errors=continue\n"
        "37 35 8:33 / /media/stick rw - vfat /dev/sdc1 rw\n"
        "38 35 0:52 / /mnt/far rw - fuse.sshfs me@far: rw\n"
        "39 35 0:30 / /sys/fs/fuse/connections rw - fusectl fusectl rw\n"
        "40 35 259:2 / / rw - ext4 /dev/nvme0n1p2 rw\n"
    )
    expected = {os.makedev(8, 17), os.makedev(8, 33), os.makedev(0, 52)}
    assert scan.renumbering_disks(mountinfo) == expected
    assert isinstance(scan._renumbering_disks(), frozenset)


def test_a_number_that_does_not_last_is_none(tmp_path, monkeypatch):
    touch(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "a.jpg")
    monkeypatch.setattr(scan, "_renumbering_disks", lambda: frozenset({tmp_path.stat().st_dev}))
    assert [file[3] for file in scan_folder(str(tmp_path)).files] == [0, 0]


def test_other_libraries_are_left_out(tmp_path):
    touch(tmp_path / "a.jpg")
    for name in ("catalog.db", "writer.lock", "thumbnails/1.webp"):
        touch(tmp_path / "old library" / name)
    touch(tmp_path / "only named so" / "catalog.db")
    assert names(tmp_path) == ["a.jpg", "only named so/catalog.db"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
class TestLinks:
    def test_loops_end(self, tmp_path):
        touch(tmp_path / "sub" / "a.jpg")
        (tmp_path / "sub" / "up").symlink_to(tmp_path)
        (tmp_path / "sub" / "self").symlink_to("self")
        (tmp_path / "sub" / "nowhere").symlink_to(tmp_path / "missing")
        assert names(tmp_path) == ["sub/a.jpg"]

    def test_real_folders_are_preferred_to_links(self, tmp_path):
        touch(tmp_path / "z" / "a.jpg")
        (tmp_path / "a").symlink_to(tmp_path / "z")
        assert names(tmp_path) == ["z/a.jpg"]

    def test_links_that_lead_elsewhere_are_followed_once(self, tmp_path):
        inside, outside = tmp_path / "inside", tmp_path / "outside"
        touch(outside / "a.jpg", "12345")
        inside.mkdir()
        (inside / "one").symlink_to(outside)
        (inside / "two").symlink_to(outside)
        (inside / "file.jpg").symlink_to(outside / "a.jpg")
        files = scan_folder(str(inside)).files
        assert sorted(file[0] for file in files) == ["file.jpg", "one/a.jpg"]
        assert {file[1] for file in files} == {5}

    @pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
    def test_links_to_what_cannot_be_seen_now_are_reported(self, tmp_path, monkeypatch, number):
        touch(tmp_path / "outside" / "a.jpg")
        touch(tmp_path / "inside" / "b.jpg")
        (tmp_path / "inside" / "link").symlink_to(tmp_path / "outside")
        look = os.stat

        def refuse(path, *arguments, **options):
            if str(path).endswith("link"):
                raise OSError(number, os.strerror(number), path)
            return look(path, *arguments, **options)

        monkeypatch.setattr(os, "stat", refuse)
        scan = scan_folder(str(tmp_path / "inside"))
        assert [file[0] for file in scan.files] == ["b.jpg"]
        assert scan.unreadable == [("link", os.strerror(number))]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_pipes_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path, monkeypatch):
    touch(tmp_path / "a.jpg")
    touch(tmp_path / "closed" / "b.jpg")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    scan = scan_folder(str(tmp_path))
    assert [file[0] for file in scan.files] == ["a.jpg"]
    assert scan.unreadable == [("closed", "Permission denied")]


def test_empty_means_no_entry_at_all(tmp_path):
    assert scan_folder(str(tmp_path)).is_empty
    touch(tmp_path / ".hidden")
    assert not scan_folder(str(tmp_path)).is_empty


def test_stopping(tmp_path):
    for number in range(5):
        touch(tmp_path / f"{number}" / "a.jpg")
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > 3

    scan = scan_folder(str(tmp_path), should_stop=stop)
    assert scan.stopped
    assert len(scan.files) == 2
