"""Decoding processes that crash, hang, and do not start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from indexer_fakes import HostilePreprocessor, SmallPreprocessor, draw

from indexer import DecodeLimits, LibraryReader, decode_pool
from indexer.decode_pool import DecodePool
from indexer.errors import DecoderStartError

posix = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


def answers_of(pool, paths):
    for number, path in enumerate(paths):
        pool.submit(number, str(path))
    found = {}
    deadline = time.monotonic() + 60
    while len(found) < len(paths):
        assert time.monotonic() < deadline
        for answer in pool.collect(0.2):
            assert answer.task not in found
            found[answer.task] = answer
    return [found[number] for number in range(len(paths))]


def test_answers_come_for_every_file(tmp_path):
    paths = [draw(tmp_path / f"{number}.png", number) for number in range(40)]
    (tmp_path / "a.txt").write_text("no image")
    (tmp_path / "b.jpg").write_text("no image")
    paths += [tmp_path / "a.txt", tmp_path / "b.jpg", tmp_path / "missing.png"]
    with DecodePool(SmallPreprocessor(), DecodeLimits(), 2) as pool:
        answers = answers_of(pool, paths)
        assert pool.open_tasks == 0
    assert [answer.status for answer in answers] == ["image"] * 40 + ["skipped", "failed", "vanished"]
    assert answers[7].pixels.shape == (8, 8, 3)
    assert answers[7].fields["metadata"]["width_pixels"] == 32


@pytest.mark.parametrize(("files", "expected"), [(12, [8, 9, 10, 11, 12, 13]), (3, [3, 4])])
def test_who_collects_is_woken_for_a_handful_of_answers_or_the_last(tmp_path, files, expected):
    paths, woken = [str(draw(tmp_path / f"{number}.png", number)) for number in range(files)], []
    with DecodePool(
        SmallPreprocessor(), DecodeLimits(), 1, on_answer=lambda: woken.append(pool._events.qsize())
    ) as pool:
        for number, path in enumerate(paths):
            pool.submit(number, path)
        deadline = time.monotonic() + 60
        while len(woken) < len(expected) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert woken == expected  # the first says that the worker is ready
        assert len(pool.collect(0)) == files


@posix
def test_a_crash_costs_one_file(tmp_path):
    paths = [draw(tmp_path / f"{number}.png", number) for number in range(20)]
    draw(paths[3], 1, (13, 10))
    draw(paths[4], 1, (13, 11))
    draw(paths[19], 1, (13, 12))
    with DecodePool(HostilePreprocessor(), DecodeLimits(), 1) as pool:
        answers = answers_of(pool, paths)
    bad = [number for number, answer in enumerate(answers) if answer.status != "image"]
    assert bad == [3, 4, 19]
    assert {answers[number].status for number in bad} == {"died"}
    assert answers[3].reason == "the decoder crashed on the file"


@posix
@pytest.mark.parametrize("own_timer", [True, False])
def test_a_hang_costs_one_file_and_the_time_limit(tmp_path, monkeypatch, own_timer):
    paths = [draw(tmp_path / f"{number}.png", number) for number in range(6)]
    draw(paths[2], 1, (17, 10))
    # Where the pool is to be first, as on Windows, which has no timer that ends the worker, it must be so by seconds.
    seconds, grace = (1.0, 100.0) if own_timer else (6.0, -3.0)
    monkeypatch.setattr(decode_pool, "_GRACE_SECONDS", grace)
    with DecodePool(HostilePreprocessor(), DecodeLimits(time_limit_seconds=seconds), 1) as pool:
        answers = answers_of(pool, paths)
    assert [answer.status for answer in answers] == ["image"] * 2 + ["hung"] + ["image"] * 3
    assert answers[2].reason == f"decoding took longer than {seconds:g} s"


@pytest.mark.parametrize("is_ready", [False, True])
def test_time_in_which_nobody_looked_is_not_the_workers(tmp_path, monkeypatch, is_ready):
    """As after Ctrl-Z and fg, or a commit that took long: the workers are sound, only nobody heard them."""
    clock = SimpleNamespace(passed=0.0, monotonic=lambda: time.monotonic() + clock.passed)
    monkeypatch.setattr(decode_pool, "time", clock)
    paths = [draw(tmp_path / f"{number}.png", number) for number in range(20)]
    with DecodePool(SmallPreprocessor(), DecodeLimits(), 1) as pool:
        if is_ready:
            assert [answer.status for answer in answers_of(pool, paths[:1])] == ["image"]
        workers = list(pool._workers)
        for number, path in enumerate(paths):
            pool.submit(number, str(path))
        found = []
        while len(found) < len(paths):
            clock.passed += 1000
            found += pool.collect(0.2)
        assert {answer.status for answer in found} == {"image"}
        assert pool._workers == workers


@posix
def test_a_worker_killed_from_outside_is_replaced(tmp_path):
    paths = [draw(tmp_path / f"{number}.png", number) for number in range(4)]
    with DecodePool(SmallPreprocessor(), DecodeLimits(), 1) as pool:
        assert [answer.status for answer in answers_of(pool, paths)] == ["image"] * 4
        os.kill(pool._workers[0].process.pid, signal.SIGKILL)
        time.sleep(0.2)
        assert sum(answer.status == "image" for answer in answers_of(pool, paths)) >= 3


def test_workers_that_do_not_start_are_an_error_with_their_last_words(tmp_path, monkeypatch):
    monkeypatch.setattr(decode_pool, "_BOOTSTRAP", "import sys; sys.exit('no decoder today')")
    with (
        DecodePool(SmallPreprocessor(), DecodeLimits(), 2) as pool,
        pytest.raises(DecoderStartError, match="no decoder today"),
    ):
        answers_of(pool, [draw(tmp_path / "a.png", 1)])


@posix
def test_workers_end_with_their_parent(tmp_path):
    code = (
        f"import sys, os, time; sys.path[:0] = {sys.path!r}\n"
        "from indexer.decode_pool import DecodePool\n"
        "from indexer import DecodeLimits\n"
        "from indexer_fakes import SmallPreprocessor\n"
        "pool = DecodePool(SmallPreprocessor(), DecodeLimits(), 1)\n"
        "print(pool._workers[0].process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    parent = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False, text=True)
    worker = int(parent.stdout)
    deadline = time.monotonic() + 30
    while is_alive(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_workers_import_neither_jax_nor_the_callers_main_module(tmp_path):
    script = tmp_path / "script.py"
    picture = draw(tmp_path / "a.png", 1)
    script.write_text(
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "print('main')\n"
        "from indexer.decode_pool import DecodePool\n"
        "from indexer import DecodeLimits\n"
        "from indexer_fakes import SmallPreprocessor\n"
        "pool = DecodePool(SmallPreprocessor(), DecodeLimits(), 1)\n"  # no guard against a second import
        f"pool.submit(0, {str(picture)!r})\n"
        "while not (answers := pool.collect(1)): pass\n"
        "print(answers[0].status); pool.close()\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, check=True, text=True)
    assert done.stdout.split() == ["main", "image"]
    probe = (
        "import sys, indexer.decode_worker, model.preprocess;"
        "print([name for name in ('jax', 'faiss', 'sqlite3') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"


@posix
def test_a_run_with_hostile_files_quarantines_them(index, check, photos, encoder, library):
    encoder.preprocessor = HostilePreprocessor()
    good = [draw(photos / f"{number}.png", number) for number in range(5)]
    crash, hang = draw(photos / "crash.png", 1, (13, 10)), draw(photos / "hang.png", 1, (17, 10))
    limits = DecodeLimits(time_limit_seconds=1.0)
    summary = index(limits=limits)
    assert {failure.path: failure.reason for failure in summary.failed} == {
        crash: "the decoder crashed on the file",
        hang: "decoding took longer than 1 s",
    }
    check(good)
    summary = index(limits=limits)  # not tried again: this would take a second
    assert [failure.is_new for failure in summary.failed] == [False, False]
    draw(crash, 2)
    summary = index(limits=limits)
    assert (summary.indexed, [failure.path for failure in summary.failed]) == (1, [hang])
    with LibraryReader.open(library) as reader:
        assert [failure.path for failure in reader.failures()] == [hang]


def test_heavy_images_wait_until_they_may(tmp_path, index, photos, check):
    paths = [draw(photos / f"{number}.png", number, (7_000, 6_000)) for number in range(2)]
    paths.append(draw(photos / "small.png", 5))
    with DecodePool(SmallPreprocessor(), DecodeLimits(), 1) as pool:
        assert [answer.status for answer in answers_of(pool, paths)] == ["heavy", "heavy", "image"]
        pool.submit(0, str(paths[0]), may_be_heavy=True)
        while not (found := pool.collect(1)):
            pass
        assert found[0].status == "image"
    assert index(workers=2).indexed == 3
    check(paths)


def is_alive(process_id):
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        try:
            os.kill(process_id, 0)
        except ProcessLookupError:
            return False
        return not Path("/proc/self").exists()
