"""The `imago` command, over real folders, a real library and the model in the package."""

import contextlib
import csv
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app import output
from app.cli import imago
from app.failures import run_and_translate
from app.thumbnails import thumbnail
from indexer import LibraryReader
from indexer.paths import thumbnail_path
from model.registry import ALIASES, STARTER_FOLDER
from search import Answer, Hit, parse

Run = Callable[..., "Outcome"]


class Outcome:
    """What a command printed and how it ended."""

    def __init__(self, exit_code: int, out: str, err: str) -> None:
        self.exit_code, self.out, self.err = exit_code, out, err

    @property
    def json(self) -> dict[str, object]:
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in this process, as its entry point does."""

    def run(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["imago", *map(str, arguments)])
        exit_code = run_and_translate(imago)
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return Outcome(exit_code, captured.out, captured.err)

    return run


def test_index_then_search_then_similar(run: Run, pictures: Path, own_library: Path) -> None:
    summary = run("index", pictures, "--json").json
    assert (summary["indexed"], summary["failed"], summary["model"]) == (6, 0, "starter")

    found = run("search", "a dog", "-n", "3", "--json").json
    hits = found["hits"]
    assert isinstance(hits, list)
    assert len(hits) == 3
    assert {"path", "score", "id"} <= set(hits[0])
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)

    outside = own_library.parent / "elsewhere.png"
    shutil.copy(pictures / "4.png", outside)
    for image in (pictures / "4.png", outside):
        best = run("similar", image, "-n", "1", "--json").json["hits"][0]  # type: ignore[index]
        assert Path(best["path"]).name == "4.png"
        assert best["score"] == pytest.approx(1.0, abs=1e-3)


def test_the_summary_says_what_happened_and_what_to_type_next(
    run: Run, pictures: Path, own_library: Path
) -> None:
    (pictures / "broken.jpg").write_bytes((pictures / "0.png").read_bytes()[:200])
    (pictures / "notes.txt").write_text("no picture")
    first = run("index", pictures)
    assert first.exit_code == 0
    for expected in ("indexed", "failed", "broken.jpg", str(own_library), "starter", "search 'a dog'"):
        assert expected in first.out
    second = run("index", pictures, "--json").json
    assert (second["indexed"], second["unchanged"]) == (0, 6)


def test_search_prints_scores_and_paths_only(run: Run, pictures: Path) -> None:
    run("index", pictures)
    lines = run("search", "a dog", "-n", "2").out.splitlines()
    assert len(lines) == 2
    for line in lines:
        score, path = line.split("  ", 1)
        assert -1 <= float(score) <= 1
        assert Path(path).is_file()


def test_status_counts_and_lists_failures(run: Run, pictures: Path, own_library: Path) -> None:
    (pictures / "broken.jpg").write_bytes((pictures / "0.png").read_bytes()[:200])
    run("index", pictures)
    status = run("status", "--json").json
    assert (status["images"], status["failed"], status["model"]) == (6, 1, "starter")
    assert status["library"] == str(own_library)
    text = run("status").out
    assert "broken.jpg" in text
    assert "starter" in text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["search", "dog"], "index"),
        (["status"], "index"),
        (["index", "{tmp}/missing"], "missing"),
        (["index", "{tmp}/empty", "--model", "starter"], "empty"),
        (["index", "{tmp}/pictures", "--model", "no-such-model"], "no-such-model"),
        (["similar", "{tmp}/missing.png"], "index"),
    ],
)
def test_bad_input_is_one_line_with_a_way_out(
    run: Run, pictures: Path, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    (tmp_path / "empty").mkdir()
    outcome = run(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert outcome.exit_code == 1
    assert outcome.out == ""
    assert expected in outcome.err
    assert outcome.err.startswith("imago: ")


@pytest.mark.parametrize("query", ["", "   "])
def test_an_empty_query_is_refused(run: Run, pictures: Path, query: str) -> None:
    run("index", pictures)
    outcome = run("search", query)
    assert outcome.exit_code == 1
    assert "empty" in outcome.err


def test_a_library_moves_to_another_model_only_when_agreed(run: Run, pictures: Path, tmp_path: Path) -> None:
    run("index", pictures, "--model", "starter")
    other = tmp_path / "other-model"
    shutil.copytree(STARTER_FOLDER, other)
    settings = json.loads((other / "preprocessor_config.json").read_text())
    (other / "preprocessor_config.json").write_text(json.dumps(settings | {"image_mean": [0.4, 0.4, 0.4]}))
    refused = run("index", pictures, "--model", other)
    assert refused.exit_code == 1
    assert "--yes" in refused.err
    assert run("status", "--json").json["model"] == "starter"
    moved = run("index", "--model", other, "--yes")
    assert moved.exit_code == 0
    assert run("status", "--json").json["model"] == str(other)
    assert run("similar", pictures / "3.png", "-n", "1").out.rstrip().endswith("3.png")


def test_hits_for_pipes(run: Run, pictures: Path, tmp_path: Path) -> None:
    run("index", pictures)
    paths = run("search", "a dog", "--format", "paths").out.splitlines()
    assert sorted(paths) == sorted(str(path) for path in pictures.iterdir())
    assert run("search", "a dog", "-0").out == "".join(f"{path}\0" for path in paths)
    lines = run("search", "a dog", "--format", "jsonl").out.splitlines()
    assert [json.loads(line)["path"] for line in lines] == paths
    assert run("search", "a dog", "--format", "csv").out.startswith("path,score,id,")
    copied = run("search", "a dog", "-n", "2", "--copy-to", tmp_path / "found")
    assert copied.exit_code == 0
    assert {path.name for path in (tmp_path / "found").iterdir()} == {Path(path).name for path in paths[:2]}


def test_tables_have_the_columns_that_were_asked_for(
    run: Run, pictures: Path, draw_picture: Callable[[int], Image.Image]
) -> None:
    draw_picture(1).resize((640, 480)).save(pictures / "1-large.png")
    run("index", pictures)
    table = run("search", "a dog", "--fold", "--why", "--format", "csv").out.splitlines()
    assert table[0].endswith(",folded,why")
    folded = [row["folded"] for row in csv.DictReader(table)]
    assert sorted(len(json.loads(ids)) for ids in folded) == [0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("number", ["0", "-1", "99999999999999999999"])
def test_a_picture_that_cannot_be_is_refused(run: Run, pictures: Path, number: str) -> None:
    run("index", pictures)
    refused = run("search", "a dog", "--more-like", number)
    assert refused.exit_code == 2
    assert "--more-like" in refused.err


def test_duplicates_name_every_file(run: Run, pictures: Path) -> None:
    run("index", pictures)  # what the library knew first comes first
    shutil.copy(pictures / "2.png", pictures / "copy of 2.png")
    with Image.open(pictures / "2.png") as picture:
        picture.resize((320, 240)).save(pictures / "larger.png")
    assert run("index", pictures).exit_code == 0
    exact = run("duplicates", "--kind", "exact")
    assert exact.out.splitlines()[0].startswith(f"* {pictures / '2.png'}  ")
    assert exact.out.splitlines()[1] == f"  = {pictures / 'copy of 2.png'}"
    (group,) = run("duplicates", "--json").json["groups"]
    assert group["best"]["paths"] == [str(pictures / "larger.png")]
    assert [other["paths"] for other in group["others"]] == [
        [str(pictures / "2.png"), str(pictures / "copy of 2.png")]
    ]


def test_what_comes_closest_is_a_hint_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    closest = tuple(Hit(Path(f"/p/{number}.jpg"), 0.3 - number / 100, number) for number in range(1, 6))
    answer = Answer((), 0, 9, is_cut=True, query=parse("a zebra"), closest=closest)
    output.explain_no_hits(answer, Path("/library"))
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "imago: nothing here looks like that; --all shows what comes closest:",
        *(f"  {hit.score:.4f}  {hit.path}" for hit in closest[:3]),
    ]


def test_a_library_that_was_emptied_says_so(run: Run, pictures: Path, tmp_path: Path) -> None:
    run("index", pictures)
    run("forget", pictures)
    assert run("search", "a dog").err == (
        "imago: the library holds no pictures now\nAdd some: imago index FOLDER\n"
    )
    assert run("search", "a dog type:png").err == "imago: no picture in the library fits the filters\n"


def test_what_to_type_next_names_a_library_that_is_not_the_usual_one(
    run: Run, pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for number in range(output.FAILURES_SHOWN + 1):
        (pictures / f"broken{number}.png").write_bytes((pictures / "0.png").read_bytes()[:200])
    other = tmp_path / "an other"
    for library, option in ((None, ""), (other, f" --library '{other}'")):
        said = run("index", pictures, *(() if library is None else ("--library", library))).out.splitlines()
        assert f"    ... and 1 more: imago status{option}" in said
        assert said[-2:] == [f"Next: imago search 'a dog'{option}", f"  or: imago app{option}"]
    with LibraryReader.open(other) as reader:
        status = reader.status()
    output.print_status(replace(status, next_model=status.model), [])
    assert f"go on with: imago index --model starter --library '{other}'\n" in capfd.readouterr().out
    run("forget", pictures, "--library", other)
    assert run("search", "dog", "--library", other).err.endswith(
        f": imago index FOLDER --library '{other}'\n"
    )
    nothing = Answer((), 0, 0, is_cut=True, query=parse("dog"))
    output.explain_no_hits(nothing, "milvus://host/pictures")  # there `imago index` cannot add any
    assert capfd.readouterr().err == "imago: the library holds no pictures now\n"


def test_roots_and_forget(run: Run, pictures: Path) -> None:
    run("index", pictures)
    assert str(pictures) in run("roots").out
    assert run("forget", pictures / "0.png", "--json").json == {
        "files": 1,
        "images": 1,
        "will_return": True,
        "notices": [],
    }
    assert run("status", "--json").json["images"] == 5
    assert run("forget", pictures.parent / "elsewhere").exit_code == 1
    assert (pictures / "0.png").is_file()


def test_what_is_forgotten_leaves_no_thumbnail(run: Run, pictures: Path, own_library: Path) -> None:
    run("index", pictures)
    thumbnails = {}
    for path in pictures.iterdir():
        content_hash = hashlib.sha256(path.read_bytes()).hexdigest()
        assert thumbnail(path, content_hash, own_library) is not None
        thumbnails[path.name] = thumbnail_path(own_library, content_hash)
    assert all(path.is_file() for path in thumbnails.values())
    assert run("forget", pictures / "0.png").exit_code == 0
    assert [name for name, path in thumbnails.items() if not path.exists()] == ["0.png"]


def test_saved_queries(run: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGO_QUERIES", str(tmp_path / "queries.json"))
    run("index", pictures)
    assert run("save", "pets", "dog + cat").exit_code == 0
    assert run("saved").out == "@pets  dog + cat\n"
    assert run("save", "pets", "horse").exit_code == 1
    both = [run("search", query, "--format", "paths").out for query in ("@pets", "dog + cat")]
    assert both[0] == both[1] != ""
    assert run("saved", "--delete", "pets").exit_code == 0
    assert run("search", "@pets").exit_code == 1


def test_models_lists_every_alias(run: Run) -> None:
    listed = run("models", "--json").json["models"]
    assert isinstance(listed, list)
    assert {model["name"] for model in listed} == set(ALIASES)
    assert next(model for model in listed if model["name"] == "starter")["is_on_disk"]
    assert all(name in run("models").out for name in ALIASES)


def test_an_error_in_a_query_points_at_its_column(run: Run, pictures: Path) -> None:
    run("index", pictures)
    outcome = run("search", "dog colour:red")
    assert outcome.exit_code == 1
    assert "dog colour:red" in outcome.err
    assert "    ^" in outcome.err


def test_the_api_needs_a_token_beyond_this_machine(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMAGO_API_TOKEN", raising=False)
    outcome = run("serve", "--host", "0.0.0.0")
    assert outcome.exit_code == 1
    assert "IMAGO_API_TOKEN" in outcome.err


@pytest.mark.skipif(os.name == "nt", reason="pipes end otherwise there")
@pytest.mark.parametrize("form", ["text", "paths", "json"])
def test_a_reader_that_goes_away_is_no_failure(run: Run, pictures: Path, form: str) -> None:
    run("index", pictures)
    reading, writing = os.pipe()
    os.close(reading)
    try:
        command = [sys.executable, "-m", "app", "search", "a dog", "--format", form]
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_usage_errors_leave_with_2(run: Run) -> None:
    assert run("search").exit_code == 2
    assert run("search", "dog", "-n", "0").exit_code == 2
    assert run("no-such-command").exit_code == 2


def test_every_command_has_help_and_stands_in_the_readme(run: Run) -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    assert len(imago.commands) >= 5
    for name, command in imago.commands.items():
        outcome = run(name, "--help")
        assert outcome.exit_code == 0
        assert command.help
        assert f"imago {name}" in readme or f"make {name}" in readme, name


def test_help_shows_one_example_a_line(run: Run) -> None:
    for name, start in (
        ("search", '  imago search "a dog on the beach"'),
        ("eval", "  imago eval FOLDER --classes "),
    ):
        said = run(name, "--help").out
        assert "\\b" not in said
        assert any(line.startswith(start) for line in said.splitlines()), said


@pytest.mark.parametrize("query", ["-in:raw dog", "-near:48,2,10km", "- dog"])
def test_a_query_that_looks_like_an_option_is_told_how(run: Run, query: str) -> None:
    outcome = run("search", query)
    assert outcome.exit_code == 2
    assert "imago search -- '-in:raw dog'" in outcome.err
    assert "imago search --" not in run("status", "-x").err


@pytest.mark.skipif(os.name != "posix", reason="closes the output as a shell of POSIX does")
@pytest.mark.parametrize(
    "words", ["index", "search dog --all", "search dog --all --format csv", "status --json"]
)
def test_a_closed_output_is_no_defect(run: Run, pictures: Path, words: str) -> None:
    run("index", pictures)
    command = f"{shlex.quote(sys.executable)} -m app {words} >&-"
    outcome = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (outcome.returncode, "defect" in outcome.stderr) == (0, False), outcome.stderr


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_ctrl_c_while_it_starts_shows_no_traceback() -> None:
    program = (
        "import sys, types\n"
        "class Slow(types.ModuleType):\n"
        "    def __getattr__(self, name): raise KeyboardInterrupt\n"
        "sys.modules['app.cli'] = Slow('app.cli')\n"
        "from app.__main__ import main\n"
        "main()\n"
    )
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stderr) == (130, "imago: stopped\n")


def test_a_defect_is_named_without_a_traceback(
    run: Run, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("index", pictures)

    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("search.Library.open", fail)
    outcome = run("search", "dog")
    assert outcome.exit_code == 1
    assert "RuntimeError: boom" in outcome.err
    assert "IMAGO_DEBUG" in outcome.err


@pytest.mark.skipif(os.name != "posix", reason="paths that are no UTF-8 exist on POSIX only")
def test_paths_that_are_no_utf8_are_printed_byte_for_byte(pictures: Path, own_library: Path) -> None:
    strange = os.fsencode(pictures) + b"/caf\xe9.png"
    try:
        shutil.move(pictures / "0.png", strange)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    command = [sys.executable, "-m", "app"]
    subprocess.run([*command, "index", str(pictures)], check=True, capture_output=True)
    found = subprocess.run(
        [*command, "similar", os.fsdecode(strange), "-n", "1"], check=True, capture_output=True
    )
    assert found.stdout.rstrip().endswith(b"/caf\xe9.png")


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_ctrl_c_keeps_what_was_done_and_says_how_to_go_on(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    # Enough for a run that is longer than the two seconds until it writes down what is done.
    count = 6000
    pixels = np.random.default_rng(0).integers(0, 256, (count, 60, 80, 3), dtype=np.uint8)
    for number in range(count):
        Image.fromarray(pixels[number]).save(folder / f"{number:04}.png", compress_level=0)
    command = [sys.executable, "-m", "app", "index", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while _indexed(run) == 0 and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    assert process.returncode == 130
    assert "Run the same command again" in out
    kept = _indexed(run)
    assert 0 < kept < count
    summary = run("index", folder, "--json").json
    assert (summary["unchanged"], summary["indexed"]) == (kept, count - kept)


def _indexed(run: Run) -> int:
    outcome = run("status", "--json")
    return int(str(outcome.json["images"])) if outcome.exit_code == 0 else 0


def test_eval_measures_retrieval_and_classes(run: Run, pictures: Path, tmp_path: Path) -> None:
    lines = ["file\tcaption\tsplit"]
    lines += [f"{seed}.png\tpicture number {seed}\t{'test' if seed < 4 else 'train'}" for seed in range(6)]
    captions = tmp_path / "captions.tsv"
    captions.write_text("\n".join(lines), encoding="utf-8")
    report = run("eval", pictures, "--captions", captions, "--split", "test", "--json").json
    assert (report["images"], report["captions"], report["model"]) == (4, 4, "starter")
    assert report["text_to_image"]["recall_at_5"] == 1.0  # type: ignore[index]
    assert "R@1" in run("eval", pictures, "--captions", captions).out
    classes = tmp_path / "classes"
    for name in ("dog", "car"):
        (classes / name).mkdir(parents=True)
        shutil.copy(pictures / "0.png", classes / name)
    assert run("eval", classes, "--classes", "--json").json["accuracy"] == 0.5
    assert run("eval", pictures).exit_code == 2
    assert run("eval").exit_code == 2
    run("index", pictures)
    report = run("eval", "--index", "--captions", captions, "--json").json
    assert (report["recall"], report["queries"], report["images"], report["k"]) == (1.0, 6, 6, 10)
    assert "recall at 10  1.0000" in run("eval", "--index").out
    assert run("eval", pictures, "--index").exit_code == 2


def test_train_says_what_it_needs(run: Run, pictures: Path, tmp_path: Path) -> None:
    assert run("train", "--out", tmp_path / "model").exit_code == 2
    missing = run("train", "--data", tmp_path / "none", "--model", "starter", "--out", tmp_path / "model")
    assert missing.exit_code == 1
    assert "none" in missing.err
    rooted = run(
        "train", "--data", pictures, "--model", "starter", "--out", tmp_path, "--data-root", tmp_path
    )
    assert rooted.exit_code == 2
    assert "--data-root is for the paths in --config" in rooted.err


def test_the_command_line_starts_without_anything_heavy() -> None:
    code = (
        "import sys, app.cli; heavy = {'numpy', 'PIL', 'jax', 'rich', 'sqlite3', 'streamlit', 'uvicorn'}; "
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_doctor_examines_and_recovers(run: Run, pictures: Path, own_library: Path, tmp_path: Path) -> None:
    run("index", pictures)
    healthy = run("doctor")
    assert healthy.exit_code == 0
    assert "PROBLEM" not in healthy.out
    catalog = own_library / "catalog.db"
    content = bytearray(catalog.read_bytes())
    content[:100] = bytes(100)
    catalog.write_bytes(content)
    ill = run("doctor")
    assert ill.exit_code == 1
    assert "--recover" in ill.out
    saved = run("doctor", "--recover", tmp_path / "saved", "--json")
    assert saved.exit_code in {0, 1}
    assert catalog.read_bytes() == bytes(content)


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_watch_indexes_what_is_added(
    pictures: Path, draw_picture: Callable[[int], Image.Image], run: Run
) -> None:
    command = [sys.executable, "-m", "app", "index", str(pictures), "--watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        _wait_for(lambda: _indexed(run) == 6)
        draw_picture(99).save(pictures / "99.png")
        _wait_for(lambda: _indexed(run) == 7)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    assert process.returncode == 0
    assert "1 indexed" in out


def _wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_profile_tells_where_the_time_of_an_index_run_went(run: Run, pictures: Path) -> None:
    said = run("index", pictures, "--profile").out
    stages = ("scan", "read and hash", "decode", "preprocess", "tower", "catalog", "vector index")
    for stage in stages:
        assert re.search(rf"^  {stage} +[\d,.]+ s of work +\d+% of the run$", said, re.MULTILINE), stage
    counted = run("index", pictures, "--json").json["stage_seconds"]
    assert "scan" in counted
    assert "tower" not in counted  # nothing was new


def said_on_a_terminal(*arguments: str | Path, stream: str = "stderr") -> str:
    ours, theirs = os.openpty()
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: theirs}
    process = subprocess.Popen([sys.executable, "-m", "app", *arguments], **streams)
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while piece := os.read(ours, 4096):
            said += piece
    os.close(ours)
    assert process.wait() == 0
    return said.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals of this kind")
def test_on_a_terminal_a_first_use_says_what_it_waits_for(
    run: Run, pictures: Path, own_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("index", pictures)
    monkeypatch.setenv("IMAGO_CACHE", str(tmp_path / "cache"))
    notice = "Compiling the model for this machine, which is kept for the next time."
    assert notice in said_on_a_terminal("search", "dog")
    assert notice not in said_on_a_terminal("search", "cat")
    (tmp_path / "cache").rename(tmp_path / "another")
    assert run("search", "dog").err == ""  # to other programs it says nothing


@pytest.mark.skipif(
    sys.platform == "win32", reason="Windows has no such names, nor pseudo-terminals of this kind"
)
def test_the_name_of_a_file_gives_a_terminal_no_orders(run: Run, pictures: Path) -> None:
    hostile = "\x1b]0;evil\x07\x1b[2J.png"
    (pictures / "0.png").rename(pictures / hostile)
    (pictures / f"broken{hostile}").write_bytes((pictures / "1.png").read_bytes()[:200])
    run("index", pictures)
    for command, name in ((["search", "type:png"], hostile), (["status"], f"broken{hostile}")):
        assert f"{pictures}/{name}" in run(*command).out  # other programs get it as it is
        said = said_on_a_terminal(*command, stream="stdout")
        assert f"{pictures}/" + name.encode("unicode_escape").decode() in said
        assert "\x1b" not in said
