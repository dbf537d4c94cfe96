"""Ray with simulated machines: what dies in the middle loses nothing and doubles nothing."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest
from cluster_fakes import DeadlyEncoder, HostileEncoder, no_encoder, noting_encoder, other_encoder
from indexer_fakes import FakeEncoder, draw
from PIL import Image

from indexer import LibraryReader, index_folders
from indexer.cluster.address import MilvusAddress
from indexer.cluster.crew import Crew
from indexer.cluster.embedding import RayEmbedding
from indexer.cluster.errors import CollectionForeignError, JobError
from indexer.cluster.job import run_job
from indexer.cluster.milvus_sink import MilvusSink
from indexer.cluster.parquet import ParquetSink, path_of
from indexer.cluster.publishing import publish
from indexer.cluster.sources import list_sources
from indexer.cluster.worker import Worker
from indexer.decode import DecodeLimits
from indexer.errors import LibraryLockedError, ModelMismatchError, NothingToIndexError
from indexer.filters import InFolder, NameMatches
from indexer.reading import open_reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDERS = [
    Path(__file__).parent,
    Path(__file__).parent.parent / "indexer",
    Path(__file__).parent.parent / "search",
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    """A head that does not work, and one machine with one core that does."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, FOLDERS))  # workers import the stand-ins
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """Sixty pictures, one of them twice, and one that is none."""
    photos = tmp_path / "photos"
    for seed in range(60):
        draw(photos / f"{seed % 3}" / f"{seed}.png", seed)
    (photos / "copy of 7.png").write_bytes((photos / "1" / "7.png").read_bytes())
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return photos


def options(load: Callable[[], FakeEncoder] = FakeEncoder, **more: object) -> dict[str, object]:
    return {
        "load": load,
        "encoder": FakeEncoder(),
        "limits": DecodeLimits(time_limit_seconds=2),
        "cores": 1,
        **more,
    }


def assert_as_indexed_here(library: Path, drawn: Path, tmp_path: Path) -> None:
    """The same images, files and vectors as a run without Ray makes."""
    index_folders(tmp_path / "here", [drawn], FakeEncoder(), workers=1)
    with LibraryReader.open(library) as there, LibraryReader.open(tmp_path / "here") as here:
        expected = {record.content_hash: record for record in here.images(here.ids())}
        found = {record.content_hash: record for record in there.images(there.ids())}
        assert sorted(found) == sorted(expected)
        assert len(there.ids()) == len(here.ids()) == 60
        assert there.status().files == here.status().files == 61
        assert there.status().failed == 1
        for content, record in expected.items():
            assert found[content].copies == record.copies
            np.testing.assert_array_equal(there.vectors([found[content].id]), here.vectors([record.id]))


def rows_of(folder: Path) -> list[dict[str, object]]:
    from pyarrow import parquet

    return [row for shard in folder.glob("rows-*.parquet") for row in parquet.read_table(shard).to_pylist()]


# a machine, a driver, a worker, a file


def test_a_machine_that_is_killed_in_the_middle(cluster, drawn: Path, tmp_path: Path) -> None:
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    notes = tmp_path / "notes"
    notes.mkdir()
    killed = []

    def kill_once(progress: object) -> None:
        # Both work, and whoever works has more in hand.
        if not killed and len(list(notes.iterdir())) == 2:
            assert (notes / second.node_id).exists()
            killed.append(True)
            # The raylet first, then all that it had started: a machine does not die in good order.
            (raylet,) = (psutil.Process(each.process.pid) for each in second.all_processes["raylet"])
            everything = [raylet, *raylet.children(recursive=True)]
            for process in everything:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)

    load = partial(noting_encoder, str(notes))
    elsewhere = RayEmbedding(cluster.address, load, cores=1, batch_files=4)
    summary = index_folders(
        tmp_path / "library", [drawn], FakeEncoder(), elsewhere=elsewhere, progress=kill_once
    )
    cluster.remove_node(second)
    # Until the cluster has noticed, it would send the next test's workers there.
    cluster.wait_for_nodes(timeout=60)
    assert killed
    assert elsewhere.deaths >= 1
    assert (summary.indexed, summary.embedded) == (61, 60)
    assert [failure.reason for failure in summary.failed] == ["the file begins like PNG, but is damaged"]
    assert_as_indexed_here(tmp_path / "library", drawn, tmp_path)


def test_a_driver_that_is_killed_goes_on(
    cluster, drawn: Path, tmp_path: Path, child: Callable[..., object]
) -> None:
    library = tmp_path / "library"
    process = child("index_on_ray", library, drawn, cluster.address)
    for line in process.stdout:
        if int(line) >= 4:  # committed, which is every two seconds
            break
    process.kill()
    process.wait()
    with LibraryReader.open(library) as reader:
        kept = len(reader)
    assert 0 < kept < 60
    elsewhere = RayEmbedding(cluster.address, FakeEncoder, cores=1)
    summary = index_folders(library, [drawn], FakeEncoder(), elsewhere=elsewhere)
    assert summary.embedded == 60 - kept
    assert_as_indexed_here(library, drawn, tmp_path)


def test_files_that_crash_and_hang_decoders_cost_themselves(cluster, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for seed in range(10):
        draw(photos / f"{seed}.png", seed)
    draw(photos / "crash.png", 50, (13, 9))
    draw(photos / "hang.png", 51, (17, 9))
    sink = ParquetSink(tmp_path / "out", FakeEncoder().identity)
    summary = run_job([str(photos)], sink, cluster.address, **options(HostileEncoder))
    assert summary.embedded == 10
    assert summary.worker_deaths == 0
    assert {failure.path.name: failure.reason for failure in summary.failed} == {
        "crash.png": "the decoder crashed on the file",
        "hang.png": "decoding took longer than 2 s",
    }


def test_a_file_that_kills_workers_does_not_stop_the_job(cluster, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for seed in range(6):
        draw(photos / f"{seed}.png", seed)
    Image.new("RGB", (20, 20), "white").save(photos / "deadly.png")
    sink = ParquetSink(tmp_path / "out", FakeEncoder().identity)
    summary = run_job([str(photos)], sink, cluster.address, **options(DeadlyEncoder))
    assert summary.embedded == 6
    assert summary.worker_deaths >= 3
    (failure,) = summary.failed
    assert failure.path.name == "deadly.png"
    assert failure.reason == "3 workers died while they had the file"
    statuses = {Path(path_of(row["path"])).name: row["status"] for row in rows_of(tmp_path / "out")}
    assert statuses["deadly.png"] == "died"
    assert len(statuses) == 7


def test_files_beside_one_that_kills_workers_are_not_blamed(cluster, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for seed in range(8):
        draw(photos / f"{seed}.png", seed)
    Image.new("RGB", (20, 20), "white").save(photos / "0-deadly.png")
    # One file in a batch and two batches with an actor: whatever is beside the deadly one sees its actors die.
    load = partial(DeadlyEncoder, seconds_per_batch=0.3)
    elsewhere = RayEmbedding(cluster.address, load, cores=1, batch_files=1)
    summary = index_folders(tmp_path / "library", [photos], FakeEncoder(), elsewhere=elsewhere)
    assert [failure.path.name for failure in summary.failed] == ["0-deadly.png"]
    assert summary.embedded == 8


# Parquet


def test_rows_in_parquet_are_those_of_a_library(cluster, drawn: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = run_job([str(drawn)], ParquetSink(out, FakeEncoder().identity), cluster.address, **options())
    assert (summary.embedded, summary.unchanged, len(summary.failed)) == (61, 0, 1)
    rows = {path_of(row["path"]): row for row in rows_of(out)}
    assert len(rows) == 62
    index_folders(tmp_path / "here", [drawn], FakeEncoder(), workers=1)
    with LibraryReader.open(tmp_path / "here") as here:
        for path, row in rows.items():
            if row["status"] != "indexed":
                assert row["vector"] is None
                assert row["reason"]
                continue
            record = here.images([here.find(path)])[0]
            assert row["content_hash"] == record.content_hash
            assert (row["width_pixels"], row["format"]) == (record.width_pixels, record.format)
            stored = here.vectors([record.id])[0]
            np.testing.assert_array_equal(
                np.float32(row["vector"]).astype(np.float16), stored.astype(np.float16)
            )
    again = run_job([str(drawn)], ParquetSink(out, FakeEncoder().identity), cluster.address, **options())
    assert (again.embedded, again.unchanged, len(again.failed)) == (0, 61, 1)  # what failed is tried again
    draw(drawn / "0" / "0.png", 900)
    (drawn / "new.png").write_bytes((drawn / "1" / "7.png").read_bytes())
    changed = run_job([str(drawn)], ParquetSink(out, FakeEncoder().identity), cluster.address, **options())
    assert (changed.embedded, changed.unchanged) == (2, 60)


def test_a_killed_job_goes_on_and_leaves_no_half_shard(
    cluster, drawn: Path, tmp_path: Path, child: Callable[..., object]
) -> None:
    out = tmp_path / "out"
    process = child("embed_on_ray", out, drawn, cluster.address)
    for line in process.stdout:
        if int(line) >= 20:
            break
    process.kill()
    process.wait()
    (out / "rows-half.unfinished").write_bytes(b"PAR1")
    before = [path_of(row["path"]) for row in rows_of(out)]
    assert 20 <= len(before) < 61
    summary = run_job([str(drawn)], ParquetSink(out, FakeEncoder().identity), cluster.address, **options())
    good_before = len(before) - sum(path.endswith("broken.png") for path in before)
    assert (summary.unchanged, summary.embedded) == (good_before, 61 - good_before)
    indexed = [path_of(row["path"]) for row in rows_of(out) if row["status"] == "indexed"]
    assert len(indexed) == len(set(indexed)) == 61
    assert not list(out.glob("*.unfinished"))


def test_objects_of_a_store_and_one_that_vanishes_after_listing(cluster, drawn: Path, tmp_path: Path) -> None:
    gone = drawn / "2" / "5.png"

    class LateSink(ParquetSink):
        """Entered when the job has listed its files."""

        def __enter__(self) -> LateSink:
            gone.unlink()
            return super().__enter__()

    (drawn / "notes.txt").write_text("no picture")
    place = f"file://{drawn}"
    summary = run_job(
        [place], LateSink(tmp_path / "out", FakeEncoder().identity), cluster.address, **options()
    )
    assert summary.embedded == 60
    rows = {path_of(row["path"]): row for row in rows_of(tmp_path / "out")}
    assert len(rows) == 62
    assert all(path.startswith(f"file://{drawn}/") for path in rows)
    vanished = rows[f"file://{gone}"]
    assert (vanished["status"], vanished["reason"]) == (
        "vanished",
        "the file went away while it was to be read",
    )
    assert sorted(failure.path.name for failure in summary.failed) == ["5.png", "broken.png"]


def test_times_that_no_row_can_hold(tmp_path: Path) -> None:
    """Listed in a folder or through a store, a file has the same time, within signed 64 bits."""
    path = draw(tmp_path / "a.png", 1)
    late = (2300 - 1970) * 31_556_952
    os.utime(path, (late, late))
    if path.stat().st_mtime != late:
        pytest.skip("the disk holds no such times")
    for place in (str(tmp_path), f"file://{tmp_path}"):
        ((source,), _) = list_sources([place])
        assert source.modified_ns == 2**63 - 1


def test_folders_that_are_not_for_this_job(cluster, drawn: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    identity = FakeEncoder().identity
    with ParquetSink(out, identity), pytest.raises(LibraryLockedError, match="Another job writes"):
        run_job([str(drawn)], ParquetSink(out, identity), cluster.address, **options())
    with (
        pytest.raises(ModelMismatchError, match="holds vectors of the model fake"),
        ParquetSink(out, other_encoder().identity),
    ):
        pass
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "data.parquet").touch()
    with pytest.raises(JobError, match="none of ours"), ParquetSink(tmp_path / "theirs", identity):
        pass
    (out / "rows-bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(JobError, match="cannot be read"), ParquetSink(out, identity):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(JobError, match="cannot be written"), ParquetSink(tmp_path / "file", identity):
        pass
    with pytest.raises(NothingToIndexError, match="no image in"):
        list_sources([str(tmp_path / "nowhere")])
    with pytest.raises(NothingToIndexError):
        list_sources(["nostore://bucket/photos"])


# straight into a collection


def test_a_job_straight_into_a_collection(cluster, drawn: Path, tmp_path: Path, collection: str) -> None:
    def run():
        sink = MilvusSink(MilvusAddress.parse(collection), "", FakeEncoder().identity, [str(drawn)])
        return run_job([str(drawn)], sink, cluster.address, **options())

    first = run()
    assert (first.embedded, first.unchanged, len(first.failed)) == (61, 0, 1)
    again = run()
    assert (again.embedded, again.unchanged) == (0, 61)
    index_folders(tmp_path / "here", [drawn], FakeEncoder(), workers=1)
    with LibraryReader.open(tmp_path / "here") as here, open_reader(collection) as served:
        assert len(served) == 60
        twin = served.find(drawn / "copy of 7.png")
        assert twin == served.find(drawn / "1" / "7.png")
        assert served.images([twin])[0].copies == 2
        query = here.vectors([here.find(drawn / "0" / "0.png")])
        scores, ids = served.nearest(query, 5)
        expected = here.nearest(query, 5)
        np.testing.assert_array_equal(scores, expected[0])
        assert [record.content_hash for record in served.images(ids[0])] == [
            record.content_hash for record in here.images(expected[1][0])
        ]
        assert len(served.select([InFolder(("photos/2",))])) == len(here.select([InFolder(("photos/2",))]))
        assert len(served.select([NameMatches(("copy*",))])) == 1
    # A file that holds another picture now, and a copy that does: nothing is left where it was.
    draw(drawn / "0" / "0.png", 901)
    draw(drawn / "copy of 7.png", 902)
    changed = run()
    assert (changed.embedded, changed.unchanged) == (2, 59)
    with open_reader(collection) as served:
        assert len(served) == 61  # 60, less what 0 was, and two new ones
        assert served.images([served.find(drawn / "1" / "7.png")])[0].copies == 1
    with pytest.raises(CollectionForeignError, match="holds the library"):
        publish(tmp_path / "here", collection)


# what cannot work says so


def test_addresses_where_there_is_no_cluster(tmp_path: Path) -> None:
    for address, why in (("nonsense", "is no address"), ("http://x/y", "is no address")):
        with (
            pytest.raises(JobError, match=why),
            Crew(address, FakeEncoder, FakeEncoder().identity, DecodeLimits(), batch_files=4),
        ):
            pass


def test_machines_that_have_another_model_or_none(cluster, drawn: Path, tmp_path: Path) -> None:
    for load, why in (
        (other_encoder, "has another model under the name fake"),
        (no_encoder, "no model here"),
    ):
        with pytest.raises(JobError, match=why) as caught:
            run_job(
                [str(drawn)],
                ParquetSink(tmp_path / why[:3], FakeEncoder().identity),
                cluster.address,
                **options(load),
            )
        assert "\n" not in str(caught.value)
    with pytest.raises(JobError, match="no machine with 64 cores"):
        run_job(
            [str(drawn)],
            ParquetSink(tmp_path / "o", FakeEncoder().identity),
            cluster.address,
            **options(cores=64),
        )


def test_a_worker_by_itself(tmp_path: Path) -> None:
    good = draw(tmp_path / "good.png", 1)
    worker = Worker(FakeEncoder, DecodeLimits(), 0)
    assert worker.start(0) == FakeEncoder().identity.to_dict()
    jobs = [
        (0, str(good), False),
        (1, str(good), True),
        (2, str(tmp_path / "gone.png"), False),
        (3, f"file://{tmp_path}/gone.png", False),
        (4, f"file://{good}", False),
        (5, "nostore://bucket/x.png", False),
    ]
    answers = {answer["task"]: answer for answer in worker.embed(jobs)}
    statuses = [answers[number]["status"] for number in range(6)]
    assert statuses == ["image", "hash", "vanished", "vanished", "image", "failed"]
    assert answers[0]["vector"] == answers[4]["vector"]
    assert np.frombuffer(answers[0]["vector"], np.float32).shape == (16,)
