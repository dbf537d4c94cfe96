"""The library page and the first start: folders, indexing, pause, failures."""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from app.browser import indexing_panel
from app.browser.indexing_job import DIED, AlreadyIndexingError, IndexingJob
from indexer import LibraryReader, index_folders
from model import Encoder

SECONDS_AT_MOST = 120


def open_page() -> AppTest:
    def script() -> None:
        from app.browser import library_page
        from app.browser.frame import guarded

        guarded(library_page.show)()

    return AppTest.from_function(script, default_timeout=60).run()


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Iterator[IndexingJob]:
    """A job of the test's own, ended with it."""
    job = IndexingJob()
    for module in ("indexing_panel", "library_page", "start"):
        monkeypatch.setattr(f"app.browser.{module}.job", job)
    yield job
    job.pause()
    job.wait(SECONDS_AT_MOST)


def test_without_a_library_the_page_makes_the_first_one(
    job: IndexingJob, pictures: Path, own_library: Path
) -> None:
    page = open_page()
    assert page.title[0].value == "Find your pictures by what they show"
    page.text_input(key="folder_to_add").set_value(str(pictures))
    page.button[0].click().run()
    job.wait(SECONDS_AT_MOST)
    page.run()
    assert page.title[0].value == "Library"
    assert "6 new or changed" in page.success[0].value
    assert {metric.label: metric.value for metric in page.metric}["Pictures"] == "6"
    with LibraryReader.open(own_library) as reader:
        assert len(reader) == 6


@pytest.mark.parametrize(
    ("folder", "expected"),
    [("", "Which folder"), ("{tmp}/missing", "There is no folder"), ("{tmp}/pictures/0.png", "is a file")],
)
def test_a_folder_that_cannot_be_is_refused_beside_the_field(
    job: IndexingJob, pictures: Path, tmp_path: Path, folder: str, expected: str
) -> None:
    page = open_page()
    page.text_input(key="folder_to_add").set_value(folder.format(tmp=tmp_path))
    page.button[0].click().run()
    assert expected in page.error[0].value.replace("\\", "")
    assert job.state is None


def test_a_library_is_shown_with_folders_and_model(
    job: IndexingJob, use_gallery: Path, gallery: Path
) -> None:
    page = open_page()
    assert {metric.label: metric.value for metric in page.metric} | {"On the disk": ""} == {
        "Pictures": "12",
        "Files": "12",
        "Could not be read": "0",
        "On the disk": "",
    }
    assert list(page.dataframe[0].value["Folder"]) == [str(gallery)]
    assert any("starter" in text.value for text in page.markdown)
    assert not page.exception


def test_failures_are_listed_with_reasons_and_tried_again(
    job: IndexingJob, pictures: Path, own_library: Path, draw_picture: Callable[[int], Image.Image]
) -> None:
    broken = pictures / "broken.png"
    broken.write_bytes((pictures / "0.png").read_bytes()[:200])
    job.start(own_library, [pictures])
    job.wait(SECONDS_AT_MOST)
    page = open_page()
    failures = page.dataframe[1].value
    assert list(failures["File"]) == [str(broken)]
    assert "truncated" in failures["Why"][0]
    shutil.copy(pictures / "1.png", broken)
    next(button for button in page.button if button.label == "Try them again").click().run()
    job.wait(SECONDS_AT_MOST)
    page.run()
    assert len(page.dataframe) == 1
    assert job.state is not None
    assert job.state.summary is not None
    assert job.state.summary["failed"] == 0


def test_what_stops_a_run_is_told(job: IndexingJob, tmp_path: Path, own_library: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    job.start(own_library, [empty])
    job.wait(SECONDS_AT_MOST)
    page = open_page()
    assert "empty" in page.error[0].value
    assert any(button.label == "Go on" for button in page.button)


def test_pausing_keeps_what_was_done_and_going_on_does_the_rest(
    job: IndexingJob, tmp_path: Path, own_library: Path, draw_picture: Callable[[int], Image.Image]
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    large = io.BytesIO()
    draw_picture(0).resize((1600, 1200)).save(large, "PNG", compress_level=1)
    # More than are on their way at once, whatever the number of cores.
    number = 6 * Encoder.load("starter").batch_size
    for index in range(number):
        (folder / f"{index:04}.png").write_bytes(large.getvalue() + f"{index}".encode())
    job.start(own_library, [folder])
    with pytest.raises(AlreadyIndexingError, match="already"):
        job.start(own_library, [folder])
    while (
        job.state is not None
        and job.state.is_running
        and not (job.state.progress and job.state.progress.done)
    ):
        job.wait(0.05)
    job.pause()
    assert job.state is not None
    assert job.state.is_stopping
    job.wait(SECONDS_AT_MOST)
    summary = job.state.summary
    assert summary is not None
    assert summary["interrupted"]
    assert 0 < summary["indexed"] < number
    page = open_page()
    assert "Paused" in page.info[0].value
    next(button for button in page.button if button.label == "Go on").click().run()
    job.wait(SECONDS_AT_MOST)
    assert job.state.summary is not None
    assert job.state.summary["indexed"] == number - summary["indexed"]


def test_a_process_that_dies_is_told(job: IndexingJob, pictures: Path, own_library: Path) -> None:
    job.start(own_library, [pictures])
    process = job._process
    assert process is not None
    process.kill()
    job.wait(SECONDS_AT_MOST)
    assert job.state is not None
    assert (job.state.is_running, job.state.error) == (False, DIED)


def press(page: AppTest, label: str) -> AppTest:
    """Press the button of this label."""
    return next(button for button in page.button if button.label == label).click().run()


def test_a_change_of_model_is_told_first_and_made_when_agreed(
    job: IndexingJob, pictures: Path, own_library: Path, other_model: Path
) -> None:
    job.start(own_library, [pictures], model="starter")
    job.wait(SECONDS_AT_MOST)
    page = open_page()
    page.radio(key="other_model").set_value("another one").run()
    page.text_input(key="other_model_name").set_value(str(other_model)).run()
    press(page, "See what it takes")
    job.wait(SECONDS_AT_MOST)
    page.run()
    told = next(text.value for text in page.markdown if text.value.startswith("Moving"))
    assert "6 pictures" in told
    assert "on the disk" in told
    assert "about 1 s" in told
    with LibraryReader.open(own_library) as reader:
        assert reader.model is not None
        assert reader.model.name == "starter"
    press(page, "Stay with starter")
    assert job.state is None
    assert [button.label for button in page.button if "Move" in button.label] == []
    job.start(own_library, (), model=str(other_model), only_predict=True)
    job.wait(SECONDS_AT_MOST)
    page.run()
    page.button[-2].click().run()
    job.wait(SECONDS_AT_MOST)
    page.run()
    assert page.success[0].value.startswith("Done")
    with LibraryReader.open(own_library) as reader:
        assert reader.model is not None
        assert reader.model.name == str(other_model)
        assert len(reader) == 6


def test_the_librarys_own_model_is_no_change_and_one_that_is_not_there_an_error(
    job: IndexingJob, pictures: Path, own_library: Path, tmp_path: Path
) -> None:
    job.start(own_library, [pictures], model="starter")
    job.wait(SECONDS_AT_MOST)
    job.start(own_library, (), model="starter", only_predict=True)
    job.wait(SECONDS_AT_MOST)
    page = open_page()
    assert any("already" in text.value for text in page.markdown)
    press(page, "All right")
    job.start(own_library, (), model=str(tmp_path / "nowhere"), only_predict=True)
    job.wait(SECONDS_AT_MOST)
    page.run()
    assert "nowhere" in page.error[0].value
    assert page.radio(key="other_model") is not None  # another can be tried


def test_a_change_that_was_cut_short_can_be_gone_on_with_or_given_up(
    job: IndexingJob, pictures: Path, own_library: Path, other_model: Path
) -> None:
    job.start(own_library, [pictures], model="starter")
    job.wait(SECONDS_AT_MOST)
    index_folders(
        own_library, [], Encoder.load(other_model), change_model=True, workers=1, should_stop=lambda: True
    )
    page = open_page()
    assert "on its way" in page.info[-1].value
    press(page, "Give it up")
    job.wait(SECONDS_AT_MOST)
    page.run()
    with LibraryReader.open(own_library) as reader:
        status = reader.status()
    assert status.next_model is None
    assert status.model is not None
    assert status.model.name == "starter"


def test_a_prediction_can_be_cancelled(
    job: IndexingJob, pictures: Path, own_library: Path, other_model: Path
) -> None:
    job.start(own_library, [pictures], model="starter")
    job.wait(SECONDS_AT_MOST)
    job.start(own_library, (), model=str(other_model), only_predict=True)
    page = open_page()
    job.pause()
    job.wait(SECONDS_AT_MOST)
    page.run()
    assert not page.error
    assert page.radio(key="other_model") is not None


@pytest.mark.parametrize(
    ("phase", "done", "rate", "left", "expected"),
    [
        ("scanning", 0, 0.0, None, (0.0, "Looking through the folders: 70 files so far")),
        ("indexing", 0, 0.0, None, (0.0, "0 of 50 · getting ready")),
        (
            "indexing",
            25,
            12.4,
            125.0,
            (0.5, "25 of 50 · 12 pictures a second · 2 min 5 s left · 1 could not be read"),
        ),
        ("finishing", 50, 12.4, None, (1.0, "Finishing")),
    ],
)
def test_progress_is_told_in_words(
    phase: str, done: int, rate: float, left: float | None, expected: tuple[float, str]
) -> None:
    job = IndexingJob()
    numbers = {"scanned": 70, "indexed": done, "unchanged": 0, "failed": int(done == 25), "skipped": 0}
    line = {
        "phase": phase,
        "done": done,
        "total": 50,
        "images_per_second": rate,
        "seconds_left": left,
        **numbers,
    }
    job._state = indexing_panel.JobState(Path("library"), ())
    job._take(json.dumps({"progress": line}))
    assert job.state is not None
    assert indexing_panel._told(job.state) == expected


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "::1"])
def test_only_this_machine_adds_folders_and_changes_the_model(
    job: IndexingJob, pictures: Path, own_library: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    may_change = host != "0.0.0.0"
    monkeypatch.setattr("app.browser.frame.st.get_option", {"server.address": host}.get)
    page = open_page()
    assert bool(page.text_input) is may_change  # before there is a library
    index_folders(own_library, [pictures], Encoder.load("starter"), workers=1)
    page = open_page()
    assert page.title[0].value == "Library"
    assert bool(page.text_input) is may_change
    assert bool(page.button) is may_change
    assert (
        any("shows the library and changes nothing" in caption.value for caption in page.caption)
        is not may_change
    )
