"""Disks inside a root: what is on one that is away is kept, and known to be away."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from indexer_fakes import FakeEncoder, draw, identity

from indexer import LibraryReader, examine, forget

OTHER_DISK = Path("/dev/shm")  # where there is one, it is another disk than the tests' folder


def is_another_disk(path):
    return OTHER_DISK.is_dir() and OTHER_DISK.stat().st_dev != path.stat().st_dev


def is_offline(library, path):
    with LibraryReader.open(library) as reader:
        (record,) = reader.images([reader.find(path)])
        return record.is_offline


class Tmpfs:
    """A real file system, mounted below the root; unplugged, it is mounted elsewhere and leaves an empty folder."""

    def __init__(self, place, base):
        self.place, self.elsewhere = place, base / "elsewhere"
        place.mkdir()
        self.elsewhere.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("needs to mount a file system")
        # Refused in some containers, and below a mount that is shared with others, as systemd makes them all.
        moved = self._move(self.place, self.elsewhere)
        if moved.returncode:
            self.clean_up()
            pytest.skip(f"needs to move a mount: {moved.stderr.strip()}")
        self.plug_in_again()

    @staticmethod
    def _move(place, target):
        command = ["mount", "--move", str(place), str(target)]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    def unplug(self):
        moved = self._move(self.place, self.elsewhere)
        assert moved.returncode == 0, moved.stderr

    def plug_in_again(self):
        moved = self._move(self.elsewhere, self.place)
        assert moved.returncode == 0, moved.stderr

    def clean_up(self):
        for place in (self.place, self.elsewhere):
            subprocess.run(["umount", str(place)], check=False, capture_output=True)


class Linked:
    """A link to a folder on another disk, which comes to lead nowhere when that is unplugged."""

    def __init__(self, place, base):
        if not is_another_disk(base):
            pytest.skip("needs a second disk")
        self.there = Path(tempfile.mkdtemp(dir=OTHER_DISK))
        self.place = place
        place.symlink_to(self.there)

    def unplug(self):
        self.there.rename(f"{self.there} away")

    def plug_in_again(self):
        Path(f"{self.there} away").rename(self.there)

    def clean_up(self):
        shutil.rmtree(self.there, ignore_errors=True)
        shutil.rmtree(f"{self.there} away", ignore_errors=True)


@pytest.fixture(
    params=[
        pytest.param(
            Tmpfs,
            marks=pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root"),
        ),
        Linked,
    ]
)
def disk(request, photos, tmp_path):
    """A disk at `photos/card`."""
    made = request.param(photos / "card", tmp_path)
    yield made
    made.clean_up()


@pytest.fixture
def paths(photos, disk):
    return draw(photos / "own.png", 1), draw(photos / "card" / "2024" / "a.png", 2)


def test_what_is_on_a_disk_that_is_away_is_kept(index, photos, library, disk, paths):
    own, away = paths
    index()
    disk.unplug()
    summary = index()
    assert (summary.removed, summary.unchanged, summary.offline_roots) == (0, 1, [photos / "card"])
    assert is_offline(library, away)
    assert not is_offline(library, own)
    with LibraryReader.open(library) as reader:
        assert len(reader) == 2
        assert reader.status().offline_images == 1
    assert not any(finding.is_problem for finding in examine(library))
    disk.plug_in_again()
    summary = index()
    assert (summary.removed, summary.unchanged, summary.embedded, summary.offline_roots) == (0, 2, 0, [])
    assert not is_offline(library, away)


def test_a_picture_deleted_from_a_disk_that_is_there_is_gone(index, check, disk, paths):
    own, other = paths
    second = draw(other.with_name("b.png"), 3)
    index()
    other.unlink()
    assert index().removed == 1
    check([own, second])
    second.unlink()  # the last one: an empty disk, but a disk
    assert index().removed == 1
    check([own])


def test_a_copy_that_is_there_is_preferred(index, photos, library, disk, paths):
    _, away = paths
    copy = photos / "copy.png"
    shutil.copy(away, copy)
    index()
    disk.unplug()
    index()
    with LibraryReader.open(library) as reader:
        (record,) = reader.images([reader.find(copy)])
        assert (record.path, record.is_offline, record.copies) == (copy, False, 2)
        assert reader.status().offline_images == 0


@pytest.mark.usefixtures("paths")
def test_indexing_only_the_place_of_the_disk(index, library, photos, disk):
    if isinstance(disk, Linked):
        pytest.skip("a link to nowhere is no place")
    index()
    disk.unplug()
    summary = index(photos / "card")
    assert (summary.removed, summary.offline_roots) == (0, [photos / "card"])
    with LibraryReader.open(library) as reader:
        assert [root.is_online for root in reader.status().roots] == [True]
        assert len(reader) == 2


def test_the_place_used_as_a_folder_of_its_own(index, check, photos, disk, paths):
    """Somebody copied the disk's pictures to where it was mounted: then it is a folder like any other."""
    own, away = paths
    content = away.read_bytes()
    second = draw(away.with_name("b.png"), 3)
    index()
    disk.unplug()
    if disk.place.is_symlink():
        disk.place.unlink()
    away.parent.mkdir(parents=True)
    away.write_bytes(content)
    summary = index()
    assert (summary.removed, summary.offline_roots) == (1, [])
    assert not second.exists()
    check([own, away])


def unplugging(encoder, unplug):
    """Has a disk go away while the first pictures are embedded, and the others are still to be read."""
    embed = encoder.encode_pixels
    left = [unplug]

    def encode_pixels(pixels):
        if left:
            left.pop()()
        return embed(pixels)

    encoder.encode_pixels = encode_pixels
    return encoder


def test_a_disk_that_goes_away_during_a_run(index, library, photos, disk, paths):
    for number in range(60):
        draw(photos / "card" / f"{number}.png", 100 + number)
    index()
    other = unplugging(FakeEncoder(identity=identity(weights="c3")), disk.unplug)
    summary = index(encoder=other, change_model=True)
    assert (summary.removed, summary.offline_roots) == (0, [photos / "card"])
    assert summary.embedded < 62
    with LibraryReader.open(library) as reader:
        assert reader.status().files == 62
    assert is_offline(library, paths[1])
    disk.plug_in_again()
    summary = index(encoder=other, all_known=True)
    assert (summary.removed, summary.offline_roots, summary.notices) == (0, [], [])
    with LibraryReader.open(library) as reader:
        assert len(reader) == 62


def test_a_root_that_goes_away_during_a_run(index, library, photos, tmp_path):
    first = photos / "0.png"
    for number in range(60):
        draw(photos / f"{number}.png", number)
    index()
    other = FakeEncoder(identity=identity(weights="c3"))
    away = tmp_path / "away"
    summary = index(encoder=unplugging(other, lambda: photos.rename(away)), change_model=True)
    assert (summary.removed, summary.offline_roots) == (0, [photos])
    assert summary.embedded < 60
    assert is_offline(library, first)
    away.rename(photos)
    summary = index(encoder=other, all_known=True)
    assert (summary.removed, summary.offline_roots, summary.notices) == (0, [], [])
    with LibraryReader.open(library) as reader:
        assert len(reader) == 60


def test_a_disk_that_is_gone_for_good_is_forgotten(index, library, disk, paths):
    index()
    disk.unplug()
    index()
    forget(library, disk.place.parent.resolve() / disk.place.name)
    assert index().offline_roots == []
    with LibraryReader.open(library) as reader:
        assert reader.ids().tolist() == [reader.find(paths[0])]


@pytest.mark.usefixtures("paths")
def test_a_folder_around_the_root_takes_over_what_is_known(index, photos, disk):
    index()
    disk.unplug()
    summary = index(photos.parent)
    assert summary.removed == 0
    assert photos / "card" in summary.offline_roots or isinstance(disk, Tmpfs)


def test_a_folder_around_a_disk_that_is_away_keeps_it(index, photos, library, disk, paths):
    """The disk was a root of its own, unplugged before the folder that holds it was named."""
    if isinstance(disk, Linked):
        pytest.skip("the root is where the link leads")
    _, away = paths
    index(photos / "card")
    disk.unplug()
    summary = index(photos)
    assert (summary.indexed, summary.removed, summary.offline_roots) == (1, 0, [photos / "card"])
    assert is_offline(library, away)
    disk.plug_in_again()
    summary = index(photos)
    assert (summary.unchanged, summary.removed, summary.offline_roots) == (2, 0, [])
    assert not is_offline(library, away)
