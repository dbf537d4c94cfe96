"""The life of a file, run after run; after each, catalog, vectors and files must agree."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from indexer_fakes import FakeEncoder, draw, identity

from indexer import LibraryReader, ModelMismatchError, NothingToIndexError, examine, index_folders
from indexer.catalog import Catalog
from indexer.decode_pool import Decoded
from indexer.ledger import Ledger
from indexer.paths import catalog_time
from indexer.scan import scan_folder


def test_first_run_indexes_everything(index, check, photos, encoder):
    paths = [draw(photos / f"{number}.png", number) for number in range(6)]
    (photos / "notes.txt").write_text("no picture")
    summary = index()
    assert (summary.indexed, summary.embedded, summary.skipped, summary.failed) == (6, 6, 1, [])
    assert (summary.interrupted, summary.notices) == (False, [])
    assert sum(encoder.batches) == 6
    check(paths)


def test_second_run_embeds_nothing_and_third_neither(index, check, photos, encoder):
    paths = [draw(photos / f"{number}.png", number) for number in range(3)]
    index()
    encoder.batches.clear()
    for _ in range(2):
        summary = index()
        assert (summary.indexed, summary.unchanged, summary.skipped) == (0, 3, 0)
    assert encoder.batches == []
    check(paths)


def test_old_unchanged_files_are_not_even_opened(index, photos):
    path = draw(photos / "a.png", 1)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    index()
    data = path.read_bytes()
    with path.open("r+b") as file:  # same inode, same size, same time: nothing tells that it changed
        file.write(bytes(len(data)))
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert index().unchanged == 1


@pytest.mark.parametrize("scanned", [0, 7, 7 + (1 << 64), (1 << 64) - 5, (3 << 64) - 5])
def test_numbers_of_files_that_no_catalog_can_hold(index, photos, library, monkeypatch, scanned):
    """Windows tells 0 while it lists a folder, and up to 128 bits of an opened file."""
    path = draw(photos / "a.png", 1)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    index()
    stat = path.stat()
    with Catalog.open(library) as catalog, catalog.transaction():
        (root,) = catalog.roots()
        catalog.put_file(
            root.id,
            "a.png",
            (stat.st_size, stat.st_mtime_ns, scanned or 7),
            "indexed",
            image_id=1,
            read_ns=time.time_ns(),
        )
    path.write_bytes(bytes(stat.st_size))  # seen only if it is opened
    os.utime(path, (1_000_000_000, 1_000_000_000))

    def scan(*arguments, **options):
        found = scan_folder(*arguments, **options)
        found.files = [(*file[:3], scanned) for file in found.files]
        return found

    monkeypatch.setattr("indexer.comparison.scan_folder", scan)
    assert index().unchanged == 1


def test_times_that_no_catalog_can_hold(index, check, photos, library):
    """Signed 64 bits of nanoseconds end in 2262 and begin in 1677; disks and archives hold other times."""
    seconds = (2300 - 1970) * 31_556_952
    assert catalog_time(seconds * 10**9) == -catalog_time(-seconds * 10**9) == 2**63 - 1
    paths = [draw(photos / name, number) for number, name in enumerate(("a.png", "b.png"))]
    (photos / "notes.txt").write_text("no picture")
    for path in (paths[0], photos / "notes.txt"):
        os.utime(path, (seconds, seconds))
        if path.stat().st_mtime != seconds:
            pytest.skip("the disk holds no such times")
    (photos / "link.png").symlink_to(paths[0])
    assert (index().indexed, index().unchanged) == (3, 3)
    check([*paths, photos / "link.png"])
    assert not any(finding.is_problem for finding in examine(library))
    paths[0].rename(photos / "moved.png")
    (photos / "link.png").unlink()
    summary = index()
    assert (summary.moved, summary.removed, summary.unchanged) == (1, 1, 1)


def test_a_change_within_the_clock_tick_of_the_reading_is_seen(index, check, photos):
    path = draw(photos / "a.bmp", 1)
    stat = path.stat()
    index()
    draw(photos / "a.bmp", 2)  # a bitmap of the same length, written in place
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    assert index().indexed == 1
    check([path])


def test_add_modify_delete(index, check, photos):
    first, second = draw(photos / "a.png", 1), draw(photos / "b.png", 2)
    index()
    draw(first, 3)
    second.unlink()
    third = draw(photos / "sub" / "c.png", 4)
    summary = index()
    assert (summary.indexed, summary.removed, summary.unchanged) == (2, 1, 0)
    check([first, third])


@pytest.mark.parametrize("new_name", ["renamed.png", "sub/a.png"])
def test_rename_and_move_are_found_by_content(index, check, photos, encoder, new_name):
    path, other = draw(photos / "a.png", 1), draw(photos / "b.png", 2)
    index()
    with LibraryReader.open(index().library_path) as reader:
        image_id = reader.find(path)
    encoder.batches.clear()
    target = photos / new_name
    target.parent.mkdir(exist_ok=True)
    path.rename(target)
    summary = index()
    assert (summary.moved, summary.removed, summary.indexed, summary.unchanged) == (1, 0, 0, 1)
    assert encoder.batches == []
    check([target, other])
    with LibraryReader.open(summary.library_path) as reader:
        assert reader.find(target) == image_id
        assert reader.find(path) is None


def test_two_files_that_swap_their_names(index, check, photos, encoder):
    first, second = draw(photos / "a.png", 1), draw(photos / "b.png", 2, (40, 40))
    index()
    encoder.batches.clear()
    first.rename(photos / "x")
    second.rename(first)
    (photos / "x").rename(second)
    index()
    assert encoder.batches == []
    check([first, second])


def test_copies_share_one_vector(index, check, photos, encoder):
    paths = [draw(photos / "a.png", 1)]
    paths += [Path(shutil.copy(paths[0], photos / f"copy{number}.png")) for number in range(5)]
    summary = index()
    assert (summary.indexed, summary.embedded) == (6, 1)
    check(paths)
    with LibraryReader.open(summary.library_path) as reader:
        (record,) = reader.images(reader.ids())
        assert record.copies == 6
    paths[0].unlink()
    summary = index()
    assert (summary.removed, summary.unchanged) == (1, 5)
    check(paths[1:])


def test_copies_that_wait_to_be_written_hold_no_pixels(index, photos, monkeypatch):
    first = draw(photos / "a.png", 1)
    index()
    held = []
    add = Ledger.add

    def look_and_add(ledger, task, vector):
        held.append(task.answer.pixels)
        add(ledger, task, vector)

    monkeypatch.setattr(Ledger, "add", look_and_add)
    new = draw(photos / "b.png", 2)
    for number in range(3):
        shutil.copy(first, photos / f"old{number}.png")  # whose vector is known
        shutil.copy(new, photos / f"new{number}.png")  # whose vector is being made
    assert index().indexed == 7
    assert len(held) >= 7
    assert all(pixels is None for pixels in held)


def test_a_file_that_was_touched_is_not_decoded(index, check, photos):
    paths = [draw(photos / name, number) for number, name in enumerate(("a.bmp", "b.bmp"))]
    index()
    os.utime(paths[0], (1_000_000_000, 1_000_000_000))
    summary = index()
    assert (summary.unchanged, summary.failed) == (2, [])
    assert "decode" not in summary.stage_seconds
    draw(paths[0], 7)  # as large as before
    assert index().embedded == 1
    check(paths)


def test_what_is_gone_comes_back_without_a_new_embedding(index, check, photos, encoder):
    paths = [draw(photos / f"{number}.png", number) for number in range(3)]
    index()
    kept = paths[0].read_bytes()
    paths[0].unlink()
    assert index().removed == 1
    check(paths[1:])
    encoder.batches.clear()
    paths[0].write_bytes(kept)
    summary = index()
    assert (summary.restored, summary.indexed) == (1, 0)
    assert encoder.batches == []
    check(paths)


def test_restored_after_the_index_was_rebuilt_without_it(index, check, photos, monkeypatch):
    monkeypatch.setattr("indexer.vector_index._SMALL", 0)
    paths = [draw(photos / f"{number}.png", number) for number in range(4)]
    index()
    kept = paths[3].read_bytes()
    paths[3].unlink()
    index()  # one of four: more than 5 % drift, so the file is rebuilt without it
    paths[3].write_bytes(kept)
    index()
    check(paths)


def test_a_run_goes_on_while_the_index_file_is_held_open(index, check, photos, held_open):
    paths = [draw(photos / "a.png", 1)]
    index()
    paths.append(draw(photos / "b.png", 2))
    with held_open():
        summary = index()
    assert summary.indexed == 1
    assert [notice[:38] for notice in summary.notices] == ["vectors.faiss could not be renewed, be"]
    check(paths)
    assert index().notices == []
    check(paths)


def test_small_changes_leave_the_index_file_alone(index, check, photos, library, monkeypatch):
    monkeypatch.setattr("indexer.vector_index._SMALL", 0)
    monkeypatch.setattr("indexer.vector_index._DRIFT", 0.9)
    paths = [draw(photos / f"{number}.png", number) for number in range(8)]
    index()
    before = (library / "vectors.faiss").stat().st_ino
    paths[0].unlink()
    draw(paths[1], 50)
    paths.append(draw(photos / "new.png", 60))
    index()
    assert (library / "vectors.faiss").stat().st_ino == before
    check(paths[1:])
    draw(paths[1], 1)  # the first content again: in the file, departed, and back
    index()
    assert (library / "vectors.faiss").stat().st_ino == before
    check(paths[1:])


def test_a_broken_file_costs_one_line_and_is_tried_again_when_it_changes(index, check, photos):
    good, bad = draw(photos / "good.jpg", 1), draw(photos / "bad.jpg", 2)
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    (failure,) = index().failed
    assert failure.path == bad
    assert failure.is_new
    assert "truncated" in failure.reason
    check([good])
    (failure,) = index().failed
    assert not failure.is_new
    bad.write_bytes(whole)
    summary = index()
    assert (summary.indexed, summary.failed) == (1, [])
    check([good, bad])


def test_an_image_that_becomes_broken_is_not_found_any_more(index, check, photos):
    good, bad = draw(photos / "good.png", 1), draw(photos / "bad.png", 2)
    index()
    bad.write_bytes(b"")
    (failure,) = index().failed
    assert failure.reason == "the file is empty"
    check([good])


def test_retry_failed(index, photos, monkeypatch):
    draw(photos / "good.png", 1)
    (photos / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert index().failed[0].is_new
    assert not index().failed[0].is_new
    assert index(retry_failed=True).failed[0].is_new


def test_the_library_inside_the_folder_is_left_out(photos, encoder):
    path = draw(photos / "a.png", 1)
    library = photos / "library"
    for _ in range(2):
        summary = index_folders(library, [photos], encoder, workers=1)
        draw(library / "thumbnails" / "1.png", 2)
    assert (summary.unchanged, summary.skipped) == (1, 0)
    with LibraryReader.open(library) as reader:
        assert reader.ids().tolist() == [reader.find(path)]


def test_the_library_in_the_very_folder(photos, encoder):
    path = draw(photos / "a.png", 1)
    for _ in range(2):
        index_folders(photos, [photos], encoder, workers=1)
        draw(photos / "thumbnails" / "1.png", 2)
    with LibraryReader.open(photos) as reader:
        assert reader.ids().tolist() == [reader.find(path)]


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_the_library_is_private(index, photos, library):
    draw(photos / "a.png", 1)
    index()
    assert library.stat().st_mode & 0o777 == 0o700
    for name in ("catalog.db", "vectors.faiss"):
        assert (library / name).stat().st_mode & 0o077 == 0, name


@pytest.mark.skipif(os.name == "nt", reason="names of any bytes exist on POSIX only")
def test_names_that_are_not_unicode(index, check, photos):
    raw = os.fsencode(photos) + b"/caf\xe9\n.png"
    path = Path(os.fsdecode(raw))
    draw(photos / "a.png", 1).rename(path)
    index()
    check([path])
    assert index().unchanged == 1
    other = Path(os.fsdecode(os.fsencode(photos) + b"/\xff.png"))
    path.rename(other)
    assert index().moved == 1
    check([other])


def test_nothing_to_index(index, photos, library, tmp_path):
    with pytest.raises(NothingToIndexError, match=r"there is no folder .*nowhere"):
        index(tmp_path / "nowhere")
    file = draw(tmp_path / "a.png", 1)
    with pytest.raises(NothingToIndexError, match=r"a\.png is a file, not a folder"):
        index(file)
    assert not library.exists()
    (photos / "notes.txt").write_text("no picture")
    with pytest.raises(NothingToIndexError, match=r"no image in .*photos \(1 other files\)"):
        index()


def test_a_wrong_folder_within_a_root_is_not_taken_for_one_that_is_away(index, photos):
    kept = draw(photos / "kept" / "a.png", 1)
    file = draw(photos / "b.png", 2)
    index()
    for wrong, reason in ((photos / "ketp", "there is no folder .*ketp"), (file, r"b\.png is a file, not a")):
        with pytest.raises(NothingToIndexError, match=reason):
            index(wrong)
        summary = index(photos / "kept", wrong)
        assert (summary.unchanged, summary.offline_roots) == (1, [])
        assert wrong.name in summary.notices[0]
    kept.parent.rename(photos.parent / "elsewhere")
    assert index(photos / "kept").offline_roots == [photos / "kept"]


def test_a_missing_folder_is_named_when_there_is_a_library(index, photos, tmp_path):
    draw(photos / "a.png", 1)
    index()
    with pytest.raises(NothingToIndexError, match=r"there is no folder .*nowhere"):
        index(tmp_path / "nowhere")


def test_a_missing_folder_among_others_is_said(index, photos, tmp_path):
    draw(photos / "a.png", 1)
    summary = index(photos, tmp_path / "nowhere")
    assert summary.indexed == 1
    assert "nowhere" in summary.notices[0]


def test_another_model_is_refused_by_name(index, photos):
    draw(photos / "a.png", 1)
    index()
    other = FakeEncoder(identity=identity("other", "c3"))
    with pytest.raises(
        ModelMismatchError, match=r"of the model fake, not of other.*imago index --model fake"
    ):
        index(encoder=other)
    renamed = FakeEncoder(identity=identity("the same under another name"))
    assert index(encoder=renamed).unchanged == 1


class TestRoots:
    def test_nested_and_repeated_folders_count_once(self, index, check, photos):
        paths = [draw(photos / "a.png", 1), draw(photos / "sub" / "b.png", 2)]
        summary = index(photos / "sub", photos, photos / "sub" / ".." / "sub", photos)
        assert summary.indexed == 2
        check(paths)
        with LibraryReader.open(summary.library_path) as reader:
            assert [root.path for root in reader.roots()] == [photos]

    def test_a_folder_inside_a_known_root_is_a_part_of_it(self, index, check, photos):
        paths = [
            draw(photos / "a.png", 1),
            draw(photos / "sub" / "b.png", 2),
            draw(photos / "sub2" / "c.png", 3),
        ]
        index()
        paths[0].unlink()  # outside of what the next run looks at
        paths[1].unlink()
        paths.append(draw(photos / "sub" / "d.png", 4))
        summary = index(photos / "sub")
        assert (summary.indexed, summary.removed, summary.unchanged) == (1, 1, 0)
        with LibraryReader.open(summary.library_path) as reader:
            assert reader.find(paths[0]) is not None
        index()
        check(paths[2:])

    @pytest.mark.parametrize("is_hidden_first", [True, False])
    def test_a_hidden_folder_inside_a_root_is_a_root_of_its_own(
        self, index, check, photos, encoder, is_hidden_first
    ):
        paths = [draw(photos / ".private" / "a.png", 1), draw(photos / "b.png", 2)]
        folders = [photos / ".private", photos]
        for folder in folders if is_hidden_first else reversed(folders):
            index(folder)
        check(paths)
        assert index(photos / ".private").unchanged == 1
        summary = index(all_known=True)
        assert (summary.unchanged, summary.removed) == (2, 0)
        other = FakeEncoder(identity=identity(weights="c3"))
        assert index(all_known=True, encoder=other, change_model=True).embedded == 2

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs to mount")
    def test_a_folder_under_two_names_is_one(self, index, check, photos, tmp_path):
        """Systems that ignore case give every folder several names, here it is mounted a second time."""
        draw(photos / "a.png", 1)
        draw(photos / "sub" / "b.png", 2)
        second = tmp_path / "Photos"
        second.mkdir()
        mount = ["mount", "--bind", str(photos), str(second)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("may not mount here")
        try:
            assert index(photos / "sub").indexed == 1
            summary = index(second, photos)
            assert (summary.indexed, summary.unchanged) == (1, 1)
            draw(photos / "sub" / "c.png", 3)
            assert index(photos / "sub").indexed == 1
            check([second / "a.png", second / "sub" / "b.png", second / "sub" / "c.png"])
            with LibraryReader.open(summary.library_path) as reader:
                assert [root.path for root in reader.roots()] == [second]
        finally:
            subprocess.run(["umount", str(second)], check=True)

    def test_a_root_swallows_those_inside_it(self, index, check, photos, encoder):
        paths = [draw(photos / "a.png", 1), draw(photos / "sub" / "b.png", 2)]
        index(photos / "sub")
        encoder.batches.clear()
        summary = index(photos)
        assert (summary.indexed, summary.unchanged) == (1, 1)
        assert sum(encoder.batches) == 1
        check(paths)
        with LibraryReader.open(summary.library_path) as reader:
            assert [root.path for root in reader.roots()] == [photos]

    def test_a_root_that_swallowed_others_is_kept_though_nothing_was_seen(
        self, index, check, photos, encoder, monkeypatch
    ):
        path = draw(photos / "sub" / "a.png", 1)
        index(photos / "sub")
        scandir = os.scandir

        def refuse(folder):
            if str(folder) == str(photos / "sub"):
                raise PermissionError(13, "Permission denied", folder)
            return scandir(folder)

        with monkeypatch.context() as closed:
            closed.setattr(os, "scandir", refuse)
            with pytest.raises(NothingToIndexError, match=r"sub cannot be read \(Permission denied\)"):
                index(photos)
        check([path])
        encoder.batches.clear()
        assert index(all_known=True).unchanged == 1
        assert encoder.batches == []

    def test_without_folders_all_known_ones(self, index, check, photos, tmp_path):
        paths = [draw(photos / "a.png", 1), draw(tmp_path / "more" / "b.png", 2)]
        index(photos)
        index(tmp_path / "more")
        paths.append(draw(tmp_path / "more" / "c.png", 3))
        summary = index(all_known=True)
        assert (summary.indexed, summary.unchanged) == (1, 2)
        check(paths)

    def test_a_root_that_is_away_keeps_its_images(self, index, check, photos, tmp_path):
        paths = [draw(photos / "a.png", 1), draw(tmp_path / "disk" / "b.png", 2)]
        index(photos, tmp_path / "disk")
        (tmp_path / "disk").rename(tmp_path / "unplugged")
        summary = index(photos, tmp_path / "disk")
        assert (summary.removed, summary.unchanged) == (0, 1)
        assert summary.offline_roots == [tmp_path / "disk"]
        with LibraryReader.open(summary.library_path) as reader:
            (record,) = reader.images([reader.find(paths[1])])
            assert record.is_offline
            assert reader.status().offline_images == 1
            assert [root.is_online for root in reader.roots()] == [True, False]
        (tmp_path / "unplugged").rename(tmp_path / "disk")
        summary = index(photos, tmp_path / "disk")
        assert (summary.unchanged, summary.offline_roots) == (2, [])
        check(paths)

    def test_an_empty_mount_point_is_not_an_emptied_folder(self, index, photos, library):
        import sqlite3

        path = draw(photos / "a.png", 1)
        index()
        path.unlink()
        with sqlite3.connect(library / "catalog.db") as catalog:
            catalog.execute("UPDATE roots SET device = 'another'")
        catalog.close()
        summary = index()
        assert (summary.removed, summary.offline_roots) == (0, [photos])
        with sqlite3.connect(library / "catalog.db") as catalog:
            catalog.execute("UPDATE roots SET device = ?", (str(photos.stat().st_dev),))
        catalog.close()
        assert index().removed == 1

    @pytest.mark.skipif(os.name == "nt", reason="links need rights there")
    def test_a_root_given_by_a_link_is_the_folder_itself(self, index, check, photos, tmp_path):
        path = draw(photos / "a.png", 1)
        (tmp_path / "link").symlink_to(photos)
        index(tmp_path / "link")
        assert index(photos).unchanged == 1
        check([path])
        with LibraryReader.open(tmp_path / "library") as reader:
            assert reader.find(tmp_path / "link" / "a.png") == reader.find(path) is not None


def test_stopping_keeps_what_is_done(index, check, photos, encoder):
    paths = [draw(photos / f"{number:02}.png", number) for number in range(40)]
    encoder.seconds_per_batch = 0.02
    summary = index(should_stop=lambda: len(encoder.batches) >= 3)
    assert summary.interrupted
    with LibraryReader.open(summary.library_path) as reader:
        done = len(reader)
        assert reader.notices == []
    assert 0 < done < 40
    summary = index()
    assert (summary.interrupted, summary.indexed, summary.indexed + summary.unchanged) == (
        False,
        40 - done,
        40,
    )
    check(paths)


def test_ctrl_c_ends_a_run_cleanly(index, check, photos, encoder):
    paths = [draw(photos / f"{number:02}.png", number) for number in range(30)]
    encoder.seconds_per_batch = 0.05

    def interrupt(progress):
        if progress.done >= 4:
            raise KeyboardInterrupt

    assert index(progress=interrupt).interrupted
    assert index().indexed + index().unchanged >= 30
    check(paths)


@pytest.mark.parametrize(("failing", "seconds", "kept"), [(3, 0.0, 8), (2, 0.5, 4)])
def test_an_encoder_that_fails_ends_the_run_and_keeps_what_is_done_and_in_work(
    index, photos, encoder, library, *, failing, seconds, kept
):
    for number in range(12):
        draw(photos / f"{number:02}.png", number)
    embed, numbers = encoder.encode_pixels, itertools.count(1)

    def fail_once(pixels):
        if next(numbers) == failing:
            raise RuntimeError("the tower fell")
        time.sleep(seconds)  # so that it is still in work when another fails
        return embed(pixels)

    encoder.encode_pixels = fail_once
    with pytest.raises(RuntimeError, match="the tower fell"):
        index()
    with LibraryReader.open(library) as reader:
        assert len(reader) == kept


def test_what_is_in_work_when_a_run_is_stopped_is_kept(index, photos, encoder, library):
    for number in range(12):
        draw(photos / f"{number:02}.png", number)
    embed, begun = encoder.encode_pixels, []

    def slowly(pixels):
        begun.append(len(pixels))
        time.sleep(0.5)
        return embed(pixels)

    encoder.encode_pixels = slowly
    assert index(should_stop=lambda: len(begun) > 0).interrupted
    with LibraryReader.open(library) as reader:
        assert len(reader) == sum(begun) > 0


def test_two_batches_are_in_work_at_once_and_their_time_counts_once(index, photos, encoder):
    for number in range(12):
        draw(photos / f"{number:02}.png", number)
    embed, together, begun, spans = encoder.encode_pixels, threading.Barrier(2, timeout=60), [], []

    def with_another(pixels):
        began = time.perf_counter()
        begun.append(began)
        if len(begun) <= 2:
            together.wait()
            time.sleep(0.2)
        vectors = embed(pixels)
        spans.append((began, time.perf_counter()))
        return vectors

    encoder.encode_pixels = with_another
    summary = index()
    assert summary.indexed == 12
    overlap = min(end for _, end in spans[:2]) - max(begun[:2])
    assert 0.2 <= overlap <= summary.stage_seconds["tower"]
    assert summary.stage_seconds["tower"] < sum(end - began for began, end in spans)


def test_vectors_that_are_no_numbers_are_failures(index, photos, encoder):
    for number in range(4):
        draw(photos / f"{number}.png", number)
    embed = encoder.encode_pixels

    def one_nan(pixels):
        vectors = embed(pixels)
        vectors[1, 3] = np.nan
        return vectors

    encoder.encode_pixels = one_nan
    summary = index()
    assert summary.indexed == 3
    assert [failure.reason for failure in summary.failed] == ["the model makes no valid vector of the image"]


def test_what_is_written_is_no_longer_held(index, photos, monkeypatch):
    monkeypatch.setattr("indexer.progress._PROGRESS_SECONDS", 0.0)  # told of all, however fast the machine
    for number in range(10):
        draw(photos / f"{number}.png", number)
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    of_other_runs = _written_answers(but_not=[])
    held = {}

    def count(progress):
        held[progress.phase] = max(held.get(progress.phase, 0), len(_written_answers(but_not=of_other_runs)))

    assert index(progress=count).indexed == 10
    assert held["indexing"] > 0
    assert held["finishing"] == 0


def _written_answers(but_not):
    """Every answer in memory that still has its contents.

    `but_not` keeps its own alive, so identities are not reused.
    """
    others = {id(answer) for answer in but_not}
    answers = [thing for thing in gc.get_objects() if isinstance(thing, Decoded) and id(thing) not in others]
    return [answer for answer in answers if answer.fields or answer.reason]


def test_progress_tells_phases_and_ends_complete(index, photos):
    for number in range(10):
        draw(photos / f"{number}.png", number)
    seen = []
    index(progress=seen.append)
    assert seen[0].phase == "scanning"
    assert seen[-1].phase == "finishing"
    assert (seen[-1].done, seen[-1].total, seen[-1].indexed) == (10, 10, 10)
    assert seen[-1].seconds_left == 0
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
