"""The life of a folder: any sequence of changes, runs and kills, and after each run everything agrees.

The model of the truth is a dictionary of what lies where. Runs happen in forks of a process of their own
(`indexer_fakes.serve_runs`), so that a kill is a kill.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)
from indexer_fakes import FakeEncoder, draw, identity

from indexer import LibraryReader, read_pixels

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks")
HERE = Path(__file__).parent

NAMES = st.sampled_from(
    ["a.png", "b.png", "c.bmp", "sub/a.png", "sub/d.bmp", "sub/deep/e.png", "f\udcff.png"]
)
SEEDS = st.integers(0, 5)
WEIGHTS = st.sampled_from(["a1", "a1", "a1", "c3"])


class Server:
    """One forking process for all examples."""

    process: subprocess.Popen[str] | None = None

    @classmethod
    def run(cls, *request: object) -> int:
        import json

        if cls.process is None:
            cls.process = subprocess.Popen(
                [sys.executable, "-c", "from indexer_fakes import serve_runs; serve_runs()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])},
            )
        cls.process.stdin.write(json.dumps(request) + "\n")
        cls.process.stdin.flush()
        return int(cls.process.stdout.readline())

    @classmethod
    def stop(cls) -> None:
        if cls.process is not None:
            cls.process.communicate()
            cls.process = None


@pytest.fixture(autouse=True, scope="module")
def _server():
    yield
    Server.stop()


class Life(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.base = Path(tempfile.mkdtemp())
        self.root, self.library = self.base / "root", self.base / "library"
        self.root.mkdir()
        # A picture that no rule touches: a library is never made of nothing.
        draw(self.root / "always.png", 1000)
        self.truth: dict[str, int | None] = {"always.png": 1000}  # None: broken
        self.was_run = False  # to its end
        self.weights = "a1"
        self.kills = 0
        self.writes = 0

    def teardown(self) -> None:
        if hasattr(self, "base"):
            try:
                self.last_run()
            finally:
                shutil.rmtree(self.base)

    def last_run(self) -> None:
        """However a life went, one run later everything agrees."""
        self.run_and_check(self.weights)

    def write(self, name: str, seed: int | None) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if seed is None:
            path.write_bytes(b"\x89PNG\r\n\x1a\nbroken")
        else:
            draw(path, seed)
        # Old, or every run would open it to be sure, and another time than before, as a change brings one.
        self.writes += 1
        os.utime(path, (1_000_000_000 + self.writes, 1_000_000_000 + self.writes))
        self.truth[name] = seed

    @rule(name=NAMES, seed=SEEDS)
    def add_or_modify(self, name, seed):
        self.write(name, seed)

    @rule(name=NAMES)
    def corrupt(self, name):
        self.write(name, None)

    @rule(data=st.data(), new_name=NAMES)
    def move(self, data, new_name):
        name = data.draw(st.sampled_from(sorted(set(self.truth) - {"always.png"}) or [None]))
        if name is None or name == new_name:
            return
        (self.root / new_name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).replace(self.root / new_name)
        self.truth[new_name] = self.truth.pop(name)

    @rule(data=st.data(), new_name=NAMES, keeps_time=st.booleans())
    def copy(self, data, new_name, keeps_time):
        name = data.draw(st.sampled_from(sorted(self.truth)))
        if name == new_name:
            return
        (self.root / new_name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copy2 if keeps_time else shutil.copy)(self.root / name, self.root / new_name)
        self.truth[new_name] = self.truth[name]

    @rule(data=st.data())
    def delete(self, data):
        name = data.draw(st.sampled_from(sorted(set(self.truth) - {"always.png"}) or [None]))
        if name is not None:
            (self.root / name).unlink()
            del self.truth[name]

    @rule(data=st.data())
    def touch(self, data):
        os.utime(self.root / data.draw(st.sampled_from(sorted(self.truth))))

    @rule(events=st.integers(0, 400))
    def run_while_unplugged(self, events):
        """A change of model while the disk is away has its own test."""
        self.root.rename(self.base / "unplugged")
        code = Server.run(str(self.library), str(self.root), self.weights, events)
        assert code in ({0, -9} if self.was_run else {1, 0, -9})
        (self.base / "unplugged").rename(self.root)

    @rule(events=st.integers(1, 400), weights=WEIGHTS)
    def run_and_kill(self, events, weights):
        code = Server.run(str(self.library), str(self.root), weights, events)
        assert code in {0, -9}
        self.kills += code == -9
        if code == 0:
            self.weights = weights

    @rule(weights=WEIGHTS)
    def run(self, weights):
        self.run_and_check(weights)

    @rule(
        name=NAMES,
        seed=SEEDS,
        weights=WEIGHTS,
        change=st.sampled_from(["delete", "modify", "corrupt", "move"]),
    )
    def change_between_two_runs(self, name, seed, weights, change):
        """Lives in which nothing happens between two runs teach little, so this is likely."""
        self.write(name, seed)
        self.run_and_check(weights)
        if change == "delete":
            (self.root / name).unlink()
            del self.truth[name]
        elif change == "move":
            (self.root / name).rename(self.root / "moved.png")
            self.truth["moved.png"] = self.truth.pop(name)
        else:
            self.write(name, seed + 1 if change == "modify" else None)
        self.run_and_check(weights)

    def run_and_check(self, weights) -> None:
        code = Server.run(str(self.library), str(self.root), weights, 0)
        assert code == 0
        self.was_run = True
        self.weights = weights
        note(f"{self.kills} kills so far")
        self.check()

    def check(self) -> None:
        encoder = FakeEncoder(identity=identity(weights=self.weights))
        good = {name for name, seed in self.truth.items() if seed is not None}
        with LibraryReader.open(self.library) as reader:
            assert reader.notices == []
            assert reader.model == encoder.identity
            found = {name: reader.find(self.root / name) for name in self.truth}
            assert {name for name, image_id in found.items() if image_id is not None} == good
            assert {failure.path for failure in reader.failures()} == {
                self.root / name for name in set(self.truth) - good
            }
            by_content = {}
            for name in good:
                by_content.setdefault((self.root / name).read_bytes(), set()).add(found[name])
            assert all(len(ids) == 1 for ids in by_content.values())  # copies share one image
            ids = sorted(set(found.values()) - {None})
            assert len(ids) == len(by_content)
            assert reader.ids().tolist() == ids
            for name in good:
                fresh = encoder.encode_pixels(read_pixels(self.root / name, encoder.preprocessor)[None])
                np.testing.assert_array_equal(reader.vectors([found[name]]), fresh.astype(np.float16))
                assert reader.find_content(self.root / name) == found[name]
        with closing(sqlite3.connect(self.library / "catalog.db")) as catalog:
            assert catalog.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert catalog.execute("PRAGMA foreign_key_check").fetchall() == []
            files = catalog.execute("SELECT count(*) FROM files").fetchone()[0]
            assert files == len(self.truth)
            assert catalog.execute("SELECT count(DISTINCT model_id) FROM vectors").fetchone() == (1,)
            assert catalog.execute(
                "SELECT count(*) FROM images LEFT JOIN vectors ON image_id = images.id"
                " WHERE gone_at IS NULL AND vector IS NULL"
            ).fetchone() == (0,)
        names = {path.name for path in self.library.iterdir()}
        assert names == {"catalog.db", "vectors.faiss", "writer.lock"}

    @invariant()
    def readers_always_open(self) -> None:
        """Whatever was killed when: a library that was ever committed opens, and its vectors are consistent."""
        if not hasattr(self, "library") or not (self.library / "catalog.db").exists():
            return
        from indexer import LibraryNotFoundError

        try:
            with LibraryReader.open(self.library) as reader:
                ids = reader.ids()
                assert len(set(ids.tolist())) == len(ids)
                assert reader.vectors(ids).shape == (len(ids), reader.dimension)
                if len(ids):
                    reader.images(ids)
        except LibraryNotFoundError:
            pass


Life.TestCase.settings = settings(
    max_examples=int(os.environ.get("IMAGO_LIFE_EXAMPLES", "20")),
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
TestLife = Life.TestCase


@pytest.mark.parametrize("kills", [int(os.environ.get("IMAGO_KILLS", "8"))])
def test_a_library_survives_kill_after_kill(tmp_path, kills):
    """`IMAGO_KILLS` sets how many (`make test-faults` sets it high); between them, files change."""
    random = np.random.default_rng(1)
    root, library = tmp_path / "root", tmp_path / "library"
    seeds = {f"{number:02}.png": number for number in range(25)}
    for name, seed in seeds.items():
        draw(root / name, seed)
    killed = 0
    for number in range(20 * kills):
        code = Server.run(str(library), str(root), "a1", int(random.integers(1, 300)))
        assert code in {0, -9}
        killed += code == -9
        if killed == kills:
            break
        name = str(random.choice(sorted(seeds)))
        seeds[name] = 1000 + number
        draw(root / name, seeds[name])
    assert killed == kills
    assert Server.run(str(library), str(root), "a1", 0) == 0
    encoder = FakeEncoder()
    with LibraryReader.open(library) as reader:
        assert len(reader) == len(seeds)
        assert reader.notices == []
        for name in seeds:
            fresh = encoder.encode_pixels(read_pixels(root / name, encoder.preprocessor)[None])
            np.testing.assert_array_equal(
                reader.vectors([reader.find(root / name)]), fresh.astype(np.float16)
            )
