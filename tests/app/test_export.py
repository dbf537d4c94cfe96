"""Hits as paths, JSON lines and CSV, and in folders of their own."""

import csv
import io
import json
import os
from pathlib import Path

import pytest

from app import export


@pytest.fixture
def originals(tmp_path: Path) -> list[Path]:
    """Three files, two of them with the same name and different content."""
    paths = [tmp_path / "a" / "cat.jpg", tmp_path / "b" / "cat.jpg", tmp_path / "b" / "dog.png"]
    for number, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"content %d" % number)
    os.utime(paths[0], (1_000_000_000, 1_000_000_000))
    return paths


@pytest.mark.skipif(os.name != "posix", reason="names with line breaks exist on POSIX only")
def test_paths_come_out_byte_for_byte() -> None:
    paths = [Path("/p/one\ntwo.jpg"), Path(os.fsdecode(b"/p/caf\xe9.jpg"))]
    stream = io.BytesIO()
    export.write_paths(paths, stream, nul=True)
    assert stream.getvalue() == b"/p/one\ntwo.jpg\0/p/caf\xe9.jpg\0"
    stream = io.BytesIO()
    export.write_paths(paths[1:], stream)
    assert stream.getvalue() == b"/p/caf\xe9.jpg\n"


def test_json_lines_hold_one_object_each() -> None:
    records = [{"path": "/p/a\nb.jpg", "score": 0.5}, {"path": "/p/\udce9.jpg", "score": 0.25}]
    stream = io.BytesIO()
    export.write_json_lines(records, stream)
    lines = stream.getvalue().splitlines()
    assert [json.loads(line) for line in lines] == records


def test_csv_reads_back_and_keeps_bytes() -> None:
    records = [
        {"path": 'a "b", c\nd', "score": 0.5, "is_offline": False, "date": None, "why": {"dog": 1}},
        {"path": "caf\udce9", "score": -0.25, "is_offline": True, "date": "2023", "why": []},
    ]
    stream = io.BytesIO()
    export.write_csv(records, stream)
    data = stream.getvalue()
    assert b"caf\xe9" in data
    rows = list(csv.DictReader(io.StringIO(data.decode("latin-1"), newline="")))
    assert rows == [
        {"path": 'a "b", c\nd', "score": "0.5", "is_offline": "false", "date": "", "why": '{"dog":1}'},
        {"path": "caf\xe9", "score": "-0.25", "is_offline": "true", "date": "2023", "why": "[]"},
    ]


def test_csv_of_nothing_is_nothing_and_uneven_records_are_refused() -> None:
    stream = io.BytesIO()
    export.write_csv([], stream)
    assert stream.getvalue() == b""
    with pytest.raises(ValueError, match="fields"):
        export.write_csv([{"a": 1}, {"b": 1}], stream)


def test_copies_keep_their_time_and_share_a_folder_without_overwriting(
    originals: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "hits"
    summary = export.put_into_folder(originals, folder)
    assert (summary.written, summary.already_there, summary.failed) == (3, 0, ())
    names = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert names == {"cat.jpg": b"content 0", "cat (2).jpg": b"content 1", "dog.png": b"content 2"}
    assert (folder / "cat.jpg").stat().st_mtime == 1_000_000_000

    again = export.put_into_folder(reversed(originals), folder)
    assert (again.written, again.already_there) == (0, 3)
    assert len(list(folder.iterdir())) == 3


def test_a_copy_never_replaces_another_file(originals: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "hits"
    folder.mkdir()
    (folder / "dog.png").write_bytes(b"somebody's")
    (folder / "cat.jpg").symlink_to(tmp_path / "nowhere")
    export.put_into_folder(originals[1:], folder)
    assert (folder / "dog.png").read_bytes() == b"somebody's"
    assert (folder / "dog (2).png").read_bytes() == b"content 2"
    assert not (tmp_path / "nowhere").exists()
    assert (folder / "cat (2).jpg").read_bytes() == b"content 1"


@pytest.mark.skipif(os.name != "posix", reason="links need a privilege on Windows")
def test_links_lead_to_the_originals(
    originals: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("hits")
    summary = export.put_into_folder(originals, folder, "symlink")
    assert summary.written == 3
    assert {path.readlink() for path in folder.iterdir()} == set(originals)
    assert export.put_into_folder(originals, folder, "symlink").already_there == 3


def test_a_file_that_is_gone_costs_itself_only(originals: list[Path], tmp_path: Path) -> None:
    originals[1].unlink()
    for how in ("copy", "symlink"):
        summary = export.put_into_folder(originals, tmp_path / how, how)  # type: ignore[arg-type]
        assert summary.written == 2
        ((path, reason),) = summary.failed
        assert path == originals[1]
        assert "imago index" in reason
        assert len(list((tmp_path / how).iterdir())) == 2


def test_a_file_as_the_folder_is_refused(originals: list[Path]) -> None:
    with pytest.raises(export.ExportError, match="is a file"):
        export.put_into_folder(originals[1:], originals[0])
    assert originals[0].read_bytes() == b"content 0"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_stops_and_leaves_no_half_file(
    originals: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: io.BufferedReader, copy: io.BufferedWriter, size: int) -> None:
        copy.write(source.read(3))
        with Path("/dev/full").open("wb", buffering=0) as device:
            device.write(b"x")  # what a full disk says, from one that really is

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(export.ExportError, match="full"):
        export.put_into_folder(originals, tmp_path / "hits")
    assert list((tmp_path / "hits").iterdir()) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(originals: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "hits"
    folder.mkdir(mode=0o500)
    with pytest.raises(export.ExportError, match="cannot be written"):
        export.put_into_folder(originals, folder)
