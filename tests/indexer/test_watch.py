"""A library that stays current by itself."""

from __future__ import annotations

import threading
import time

import pytest
from indexer_fakes import draw

from indexer import LibraryReader
from indexer.errors import ImageGoneError
from indexer.lock import writer_lock
from indexer.watch import _folder_to_look_at, _folders_to_index, watch_folders


@pytest.fixture
def watching(request, library, photos, encoder, tmp_path):
    """Runs the watch in a thread, on more folders where a test names some; gives the summaries and notices so far."""
    folders = [photos, *(tmp_path / name for name in getattr(request, "param", []))]
    stop = threading.Event()
    summaries, notices, failures = [], [], []

    def work():
        try:
            watch_folders(
                library,
                folders,
                encoder,
                should_stop=stop.is_set,
                on_summary=summaries.append,
                on_notice=notices.append,
                debounce_seconds=0.2,
                workers=1,
            )
        except BaseException as error:  # noqa: BLE001  (shown by the test)
            failures.append(error)

    draw(photos / "first.png", 1)
    thread = threading.Thread(target=work)
    thread.start()
    wait_for(lambda: len(summaries) >= 2 or failures)
    yield summaries, notices
    stop.set()
    thread.join()
    assert failures == []


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def files_in(library):
    """The names of the pictures; None where the watch took one away between the two questions."""
    with LibraryReader.open(library) as reader:
        try:
            return {record.path.name for record in reader.images(reader.ids())}
        except ImageGoneError:
            return None


def test_what_changes_is_indexed(watching, check, photos, library):
    summaries, _ = watching
    draw(photos / "sub" / "second.png", 2)
    wait_for(lambda: files_in(library) == {"first.png", "second.png"})
    (photos / "first.png").rename(photos / "sub" / "moved.png")
    wait_for(lambda: files_in(library) == {"moved.png", "second.png"})
    (photos / "sub" / "second.png").unlink()
    wait_for(lambda: files_in(library) == {"moved.png"})
    check([photos / "sub" / "moved.png"])
    runs = len(summaries)
    time.sleep(1)  # reading files and writing the library are no changes
    assert len(summaries) <= runs + 1


def test_what_a_scan_leaves_out_is_not_indexed_when_it_changes(watching, check, photos, library):
    for name in ("old/catalog.db", "old/writer.lock"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).touch()
    for number, folder in enumerate((".Trash-1000/files", "sub/@eaDir/first.png", "old/thumbnails")):
        draw(photos / folder / "hidden.png", 10 + number)
    draw(photos / "second.png", 2)
    wait_for(lambda: "second.png" in (files_in(library) or ()))
    check([photos / "first.png", photos / "second.png"])


def test_a_folder_that_became_a_library_is_seen_from_the_one_above(tmp_path):
    (tmp_path / "old" / "thumbnails").mkdir(parents=True)
    changed = {str(tmp_path / "old"), str(tmp_path / "old" / "thumbnails")}
    assert _folders_to_index(changed, [str(tmp_path)]) == sorted(changed)
    for name in ("catalog.db", "writer.lock"):
        (tmp_path / "old" / name).touch()
    assert _folders_to_index(changed, [str(tmp_path)]) == [str(tmp_path)]
    assert _folders_to_index({str(tmp_path / "old")}, [str(tmp_path / "old")]) == [str(tmp_path / "old")]


def test_the_folder_of_a_change(tmp_path):
    watched, library = str(tmp_path), str(tmp_path / "library")

    def folder_of(path):
        return _folder_to_look_at(str(tmp_path / path), watched, library)

    assert folder_of("a/b.png") == str(tmp_path / "a")
    assert folder_of("library/vectors.faiss") is folder_of("library") is None
    assert folder_of(".hidden/a/b.png") is folder_of("a/.b.png") is folder_of("#recycle/b.png") is None
    assert folder_of("") == watched
    assert _folder_to_look_at("/spelled/otherwise/b.png", watched, library) == watched
    (tmp_path / ".hidden" / "a").mkdir(parents=True)
    hidden = tmp_path / ".hidden"
    assert _folder_to_look_at(str(hidden / "a" / "b.png"), str(hidden), library) == str(hidden / "a")


def test_the_library_inside_the_folder_does_not_wake_it(photos, encoder):
    stop = threading.Event()
    summaries = []
    draw(photos / "a.png", 1)
    thread = threading.Thread(
        target=watch_folders,
        args=(photos / "library", [photos], encoder),
        kwargs={
            "should_stop": stop.is_set,
            "on_summary": summaries.append,
            "debounce_seconds": 0.1,
            "workers": 1,
        },
    )
    thread.start()
    wait_for(lambda: len(summaries) >= 2)
    time.sleep(1.5)
    stop.set()
    thread.join()
    assert len(summaries) <= 3


def test_another_writer_is_waited_for(watching, photos, library):
    _, notices = watching
    with writer_lock(library):
        draw(photos / "second.png", 2)
        wait_for(lambda: notices)
    assert "Another process is writing" in notices[0]
    wait_for(lambda: "second.png" in (files_in(library) or ()))


@pytest.mark.parametrize("watching", [["missing"]], indirect=True)
def test_a_folder_that_the_system_does_not_watch_costs_a_notice(watching, photos, library):
    _, notices = watching
    assert ["does not tell what changes in" in notice and "missing" in notice for notice in notices] == [True]
    draw(photos / "second.png", 2)
    wait_for(lambda: "second.png" in (files_in(library) or ()))


def test_folders_to_index(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    roots = [str(tmp_path / "a")]
    assert _folders_to_index({str(tmp_path / "a" / "b" / "gone" / "x")}, roots) == [str(tmp_path / "a" / "b")]
    assert _folders_to_index({str(tmp_path / "elsewhere")}, roots) == []
    assert _folders_to_index({str(tmp_path / "a" / str(number)) for number in range(100)}, roots) == roots
