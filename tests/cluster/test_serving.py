"""A library published to a real server answers as the folder does, and whatever can go wrong has its own line."""

from __future__ import annotations

import json
import random
import time
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pytest
from cluster_fakes import HOSTILE, hostile_library, index_drawn, synthetic_library
from indexer_fakes import FakeEncoder, draw, identity
from test_selection import filters_to_try

from indexer import LibraryReader, forget, index_folders
from indexer.catalog import Catalog, KnownMount
from indexer.cluster import publishing
from indexer.cluster.address import MilvusAddress
from indexer.cluster.collection import PublishedCollection
from indexer.cluster.connection import MilvusConnection
from indexer.cluster.errors import (
    CollectionForeignError,
    CollectionNotFoundError,
    CollectionReplacedError,
    CollectionUnfinishedError,
    PublisherBusyError,
    ServerUnreachableError,
)
from indexer.cluster.lease import HeldLease, Lease
from indexer.cluster.measure import examine_served
from indexer.cluster.milvus_reader import MilvusReader, MilvusSelection
from indexer.cluster.publishing import publish
from indexer.errors import ImageGoneError, LibraryError, ModelMismatchError
from indexer.filters import CameraContains, InFolder, NameMatches, NearPlace, Not, TakenBetween
from indexer.reading import open_reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from indexer.reading import Reader


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return hostile_library(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def twins(hostile: tuple[Path, Path], milvus) -> Iterator[tuple[LibraryReader, Reader]]:
    """The same library twice: its folder, and served."""
    place = f"{milvus.place}/twins"
    publish(hostile[0], place)
    with LibraryReader.open(hostile[0]) as local, open_reader(place) as served:
        yield local, served


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, milvus) -> tuple[Path, str]:
    """A library of 6,000 vectors, enough for an index to be asked, and its address."""
    library = synthetic_library(tmp_path_factory.mktemp("many") / "library", 6000)
    place = f"{milvus.place}/many"
    publish(library, place)
    return library, place


def open_collection(place: str) -> PublishedCollection:
    return PublishedCollection(MilvusConnection.open(MilvusAddress.parse(place), ""))


def assert_same(library: Path, place: str) -> None:
    """The folder and the collection hold the same images with the same vectors and records."""
    with LibraryReader.open(library) as local, open_reader(place) as served:
        ids = local.ids()
        assert served.ids().tolist() == ids.tolist()
        assert len(served) == len(ids)
        assert served.images(ids) == local.images(ids)
        assert [set(paths) for paths in served.paths(ids)] == [set(paths) for paths in local.paths(ids)]
        np.testing.assert_array_equal(served.vectors(ids), local.vectors(ids))
        assert served.model == local.model
        assert served.notices == []


# the same answers


def test_everything_known_of_an_image_arrives(
    hostile: tuple[Path, Path], twins: tuple[LibraryReader, Reader], milvus
) -> None:
    local, served = twins
    assert_same(hostile[0], f"{milvus.place}/twins")
    assert served.sample_ids(7).tolist() == local.sample_ids(7).tolist()
    assert [(root.path, root.files) for root in served.roots()] == [
        (root.path, root.files) for root in local.roots()
    ]
    there, here = served.status(), local.status()
    assert (there.images, there.files, there.failed) == (here.images, here.files, here.failed)
    for record in local.images(local.ids()):
        assert served.find(record.path) == record.id
        assert served.find_content(record.path) == record.id
    assert served.find(hostile[1] / "nowhere.png") is None
    assert served.find(hostile[1]) is None
    with pytest.raises(ImageGoneError):
        served.images([10**6])
    with pytest.raises(ImageGoneError):
        served.vectors([10**6])


def test_every_filter_chooses_the_same_images(
    hostile: tuple[Path, Path], twins: tuple[LibraryReader, Reader]
) -> None:
    local, served = twins
    photos = hostile[1]
    tried = filters_to_try(photos)
    for text in HOSTILE:
        tried += [InFolder((text,)), InFolder((str(photos / text),)), NameMatches((text,))]
        tried += [NameMatches((f"{text}*",)), NameMatches((f"*{text[-1]}?*.png",)), CameraContains((text,))]
    tried += [
        CameraContains(("",)),
        NameMatches(("",)),
        NameMatches(("*copy*", "img")),
        NameMatches(("\udcff",)),
    ]
    tried += [NearPlace(89.9, -170.0, 50), NearPlace(0.5, -179.99, 30), NearPlace(48.86, 2.34, 0)]
    tried += [NearPlace(0, 0, 20_100), NearPlace(10.0, 10.0, 15_000), TakenBetween(None, None)]
    tried.append(TakenBetween(datetime(1, 1, 1), datetime(9999, 1, 1)))
    total = len(local.ids())
    telling = 0
    for wanted in [*tried, *map(Not, tried), Not(Not(tried[0]))]:
        expected = np.asarray(local.select([wanted]))
        found = served.select([wanted])
        assert np.asarray(found).tolist() == expected.tolist(), wanted
        assert len(found) == len(expected), wanted
        telling += 0 < len(expected) < total
    assert telling > 100  # most of them tell images apart
    chance = random.Random(3)
    for _ in range(40):
        several = [chance.choice([each, Not(each)]) for each in chance.sample(tried, 3)]
        assert np.asarray(served.select(several)).tolist() == np.asarray(local.select(several)).tolist()


def test_a_pattern_does_not_reach_from_one_name_of_an_image_to_another(
    tmp_path: Path, collection: str
) -> None:
    library, photos = tmp_path / "library", tmp_path / "photos"
    draw(photos / "1start.png", 1)
    (photos / "2end.png").write_bytes((photos / "1start.png").read_bytes())
    index_drawn(library, photos, range(2, 5))
    publish(library, collection)
    across, one = NameMatches(("1start*end.png",)), NameMatches(("1start*.png",))
    with LibraryReader.open(library) as local, open_reader(collection) as served:
        for wanted in (across, Not(across), one, Not(one)):
            assert np.asarray(served.select([wanted])).tolist() == np.asarray(local.select([wanted])).tolist()
        assert len(served.select([across])) == 0
        assert len(served.select([Not(across)])) == 4


def test_facets_are_counted_alike(twins: tuple[LibraryReader, Reader]) -> None:
    local, served = twins
    assert served.facets() == local.facets()
    assert list(served.facets().folders) == list(local.facets().folders)
    some = local.ids()[::3]
    assert served.facets(some, {"cameras", "shapes"}) == local.facets(some, {"cameras", "shapes"})
    assert served.facets(some[:0]) == local.facets(some[:0])


def test_searching_behind_filters_gives_the_same_answers(
    hostile: tuple[Path, Path], twins: tuple[LibraryReader, Reader]
) -> None:
    local, served = twins
    queries = local.vectors(local.ids()[:3])
    for filters in ([], [InFolder(("rome",))], [NearPlace(0.5, 180.0, 20)], [NameMatches(("*copy*",))]):
        among = local.select(filters) if filters else None
        there = served.select(filters) if filters else None
        for k in (1, 5, 1000):
            expected, found = local.nearest(queries, k, among=among), served.nearest(queries, k, among=there)
            np.testing.assert_array_equal(found[1], expected[1])
            np.testing.assert_array_equal(found[0], expected[0])
    listed = np.asarray([5, 3, 10**6], np.int64)
    np.testing.assert_array_equal(
        served.nearest(queries, 9, among=listed)[1], local.nearest(queries, 9, among=listed)[1]
    )
    assert served.nearest(queries, 0)[1].shape == (3, 0)
    with pytest.raises(LibraryError, match="shape"):
        served.nearest(np.zeros((1, 3), np.float32), 1)


def test_an_index_proposes_and_true_scores_decide(many: tuple[Path, str]) -> None:
    library, place = many
    with LibraryReader.open(library) as local, MilvusReader.open(place) as served:
        queries = local.vectors(local.ids()[::500]) + 0.1
        expected = local.nearest(queries, 20)
        found = served.nearest(queries, 20)
        hits = sum(len(set(a) & set(b)) for a, b in zip(found[1].tolist(), expected[1].tolist(), strict=True))
        assert hits >= 0.98 * expected[1].size
        # Whatever was found has the score that it has in the folder, and exact is exact.
        for scores, ids, query in zip(*found, queries, strict=True):
            at = local.nearest(query[None], 6000)
            where = {int(image_id): score for image_id, score in zip(at[1][0], at[0][0], strict=True)}
            assert [where[int(image_id)] for image_id in ids] == scores.tolist()
            assert sorted(zip(-scores, ids, strict=True)) == list(zip(-scores, ids, strict=True))
        exact = served.nearest(queries[:2], 50, exact=True)
        np.testing.assert_array_equal(exact[1], local.nearest(queries[:2], 50)[1])
        # A filter that half of the images pass goes through the index; k stays full.
        wide = served.select([NameMatches(("*1*",))])
        assert len(wide) > 2000
        _, ids = served.nearest(queries[:3], 200, among=wide)
        assert ids.shape == (3, 200)
        assert np.isin(ids, np.asarray(wide)).all()
        narrow = served.select([InFolder(("3",))])
        assert isinstance(narrow, MilvusSelection)
        assert served.nearest(queries[:1], 700, among=narrow)[1].shape == (1, 600)


def test_doctor_measures_the_index_and_sees_what_is_missing(many: tuple[Path, str], milvus) -> None:
    _, place = many
    findings = {finding.name: finding for finding in examine_served(place)}
    assert {"server", "rows", "vectors", "recall", "filtered recall", "latency"} <= set(findings)
    assert not any(finding.is_problem for finding in findings.values()), findings
    recall = float(findings["recall"].message.split()[5])
    assert recall >= 0.98
    library = synthetic_library(milvus_folder(milvus) / "holes", 50, seed=4)
    holes = f"{milvus.place}/holes"
    publish(library, holes)
    open_collection(holes).connection.delete("holes", [7])
    assert any(finding.is_problem and finding.name == "rows" for finding in examine_served(holes))


def milvus_folder(milvus) -> Path:
    return milvus._folder.parent


# up to date, however it went


def test_only_what_changed_travels(tmp_path: Path, collection: str) -> None:
    library, photos = tmp_path / "library", tmp_path / "photos"
    index_drawn(library, photos, range(12))
    first = publish(library, collection)
    assert (first.written, first.deleted, first.unchanged) == (12, 0, 0)
    assert_same(library, collection)
    again = publish(library, collection)
    assert (again.written, again.deleted, again.unchanged, again.blocks_looked_at) == (0, 0, 12, 0)
    (photos / "0.png").unlink()
    (photos / "1.png").rename(photos / "moved.png")
    (photos / "copy.png").write_bytes((photos / "2.png").read_bytes())
    draw(photos / "3.png", 333)
    index_drawn(library, photos, range(20, 22))
    second = publish(library, collection)
    # New: 3 (anew), 20, 21; changed: moved, copied. Gone: 0, and what 3 was.
    assert (second.written, second.deleted, second.unchanged) == (5, 2, 8)
    assert_same(library, collection)


def test_a_disk_below_a_root_that_is_away_is_away_there_too(tmp_path: Path, collection: str) -> None:
    library, photos = tmp_path / "library", tmp_path / "photos"
    for seed in (50, 51):
        draw(photos / "card" / f"{seed}.png", seed)
    index_drawn(library, photos, range(3))
    (photos / "copy.png").write_bytes((photos / "card" / "50.png").read_bytes())
    index_drawn(library, photos, range(3))
    publish(library, collection)
    assert_same(library, collection)
    with Catalog.open(library) as catalog, catalog.transaction():
        (root,) = catalog.roots()
        catalog.set_mounts(root.id, {"card": KnownMount(1, is_online=False)})
    assert publish(library, collection).written == 2
    assert_same(library, collection)
    with open_reader(collection) as served:
        assert served.images([served.find(photos / "copy.png")])[0].path == photos / "copy.png"
        assert served.images([served.find(photos / "card" / "51.png")])[0].is_offline


def test_a_publisher_that_is_killed_is_gone_on_with(
    tmp_path: Path, collection: str, child: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    library = synthetic_library(tmp_path / "library", 600)
    process = child("publish_slowly", library, collection, 60)
    for line in process.stdout:
        if int(line.split()[0]) > 250:
            break
    process.kill()
    process.wait()
    with pytest.raises(CollectionUnfinishedError):
        open_reader(collection)
    with pytest.raises(PublisherBusyError, match=r"process \d+ on"):
        publish(library, collection)
    mine = open_collection(collection)
    left = Lease.read(mine)
    assert left is not None
    assert left.pid == process.pid
    mine.write_page(
        "lease", json.dumps({**asdict(left), "until": time.time() - 1})
    )  # as if a minute had passed
    with pytest.raises(CollectionUnfinishedError, match="never filled to its end"):
        open_reader(collection)
    monkeypatch.setattr(publishing, "BLOCK_IDS", 64)
    done = publish(library, collection)
    assert done.unchanged > 250  # not written again
    assert done.images == 600
    assert_same(library, collection)


def test_an_update_that_is_stopped_says_so_and_answers_meanwhile(tmp_path: Path, collection: str) -> None:
    library, photos = tmp_path / "library", tmp_path / "photos"
    index_drawn(library, photos, range(5))
    publish(library, collection)
    with open_reader(collection) as served:
        index_drawn(library, photos, range(5, 8))
        stopped = publish(library, collection, should_stop=lambda: True)
        assert stopped.interrupted
        time.sleep(1.1)
        assert served.refresh()
        (notice,) = served.notices
        assert "did not come to its end" in notice
        assert "imago publish" in notice
        assert len(served.nearest(served.vectors([1]), 3)[1][0]) == 3
        publish(library, collection)
        time.sleep(1.1)
        assert served.refresh()
        assert served.notices == []
        assert len(served) == 8
    assert_same(library, collection)


def test_an_update_that_was_cut_short_and_taken_back_is_looked_at_again(
    tmp_path: Path, collection: str
) -> None:
    library, photos = tmp_path / "library", tmp_path / "photos"
    index_drawn(library, photos, range(4))
    publish(library, collection)
    (photos / "0.png").rename(tmp_path / "away.png")
    index_drawn(library, photos, range(7, 8))
    stops = iter([False, True])
    cut = publish(library, collection, should_stop=lambda: next(stops, True))
    assert (cut.interrupted, cut.deleted, cut.written) == (True, 1, 0)
    (tmp_path / "away.png").rename(photos / "0.png")
    (photos / "7.png").unlink()
    index_folders(library, [photos], FakeEncoder(), workers=1)
    assert (
        publish(library, collection).written == 1
    )  # though the library is what it was when all was complete
    assert_same(library, collection)


def test_two_publishers_at_once(tmp_path: Path, collection: str) -> None:
    library = synthetic_library(tmp_path / "library", 40)
    publish(library, collection)
    held = open_collection(collection)
    with HeldLease(held):
        with pytest.raises(
            PublisherBusyError, match=r"Another publisher is writing .*process \d+ on .*since 20"
        ):
            publish(library, collection)
        with pytest.raises(PublisherBusyError), HeldLease(open_collection(collection)):
            pass
    assert Lease.read(held) is None
    with HeldLease(held, seconds=0.2) as first:
        time.sleep(0.3)
        with HeldLease(open_collection(collection)), pytest.raises(PublisherBusyError):
            first.keep()  # it ran out, and another took over
    assert publish(library, collection).unchanged == 40


def test_a_collection_belongs_to_one_library_and_one_model(tmp_path: Path, collection: str) -> None:
    library, photos = tmp_path / "library", tmp_path / "photos"
    index_drawn(library, photos, range(3))
    publish(library, collection)
    with pytest.raises(CollectionForeignError, match="holds the library"):
        publish(synthetic_library(tmp_path / "other", 5, dimension=16), collection)
    other = FakeEncoder(identity=identity("other", weights="d4"))
    index_folders(library, [photos], other, workers=1, change_model=True)
    with pytest.raises(ModelMismatchError, match=r"collection milvus://.*model fake, not of other"):
        publish(library, collection)
    with open_reader(collection) as served:
        assert len(served) == 3


def test_collections_of_others_are_left_alone(tmp_path: Path, collection: str) -> None:
    library = synthetic_library(tmp_path / "library", 5)
    with pytest.raises(CollectionNotFoundError, match="There is no collection"):
        open_reader(collection)
    theirs = MilvusConnection.open(MilvusAddress.parse(collection), "")
    name = theirs.address.collection
    theirs.call("create_collection", name, dimension=4)
    for attempt in (lambda: open_reader(collection), lambda: publish(library, collection)):
        with pytest.raises(CollectionForeignError, match="was not made by `imago publish`"):
            attempt()
    assert theirs.count(name) == 0
    # One of ours under a page of ours, but with another schema.
    publish(library, collection + "2")
    mine = open_collection(collection + "2")
    mine.connection.call("drop_collection", mine.name)
    mine.connection.call("create_collection", mine.name, dimension=4)
    with pytest.raises(CollectionForeignError, match="publication is missing"):
        open_reader(collection + "2")


def test_a_collection_that_goes_or_changes_under_a_reader(tmp_path: Path, collection: str) -> None:
    library = synthetic_library(tmp_path / "library", 30)
    publish(library, collection)
    mine = open_collection(collection)
    with open_reader(collection) as served:
        query = served.vectors([1])
        mine.connection.call("drop_collection", mine.name)
        for question in (lambda: served.nearest(query, 3), lambda: served.images([1])):
            with pytest.raises(CollectionNotFoundError, match="There is no collection"):
                question()
        publish(library, collection)
        with pytest.raises(CollectionReplacedError, match="Open it again"):
            served.nearest(query, 3)
        time.sleep(1.1)
        assert served.refresh()
        assert served.nearest(query, 3)[1].shape == (1, 3)
    assert_same(library, collection)


def test_a_server_that_goes_away_and_comes_back(tmp_path: Path, own_milvus) -> None:
    library = synthetic_library(tmp_path / "library", 3000)
    place = f"{own_milvus.place}/photos"
    publish(library, place)
    with open_reader(place) as served:
        query = served.vectors([1])
        before = served.nearest(query, 10)
        own_milvus.kill()
        for question in (
            lambda: served.nearest(query, 10),
            lambda: served.images([1]),
            lambda: open_reader(place),
        ):
            with pytest.raises(ServerUnreachableError, match="does not answer") as caught:
                question()
            assert "\n" not in str(caught.value)
        with pytest.raises(ServerUnreachableError):
            publish(library, place)
        own_milvus.start()
        until = time.monotonic() + 30
        while True:
            try:
                after = served.nearest(query, 10)
                break
            except ServerUnreachableError:
                assert time.monotonic() < until
                time.sleep(0.2)
        np.testing.assert_array_equal(after[1], before[1])
        np.testing.assert_array_equal(after[0], before[0])
    assert_same(library, place)


@pytest.mark.parametrize("kind", ["ivf_sq8", "flat"])
def test_another_index_takes_the_place_of_the_first(tmp_path: Path, collection: str, kind: str) -> None:
    library = synthetic_library(tmp_path / "library", 2500)
    publish(library, collection)
    done = publish(library, collection, index=kind)
    assert done.written == 0
    with LibraryReader.open(library) as local, MilvusReader.open(collection) as served:
        assert served.manifest.index == kind
        query = local.vectors([9]) + 0.05
        found, expected = served.nearest(query, 20), local.nearest(query, 20)
        assert len(set(found[1][0].tolist()) & set(expected[1][0].tolist())) >= 18


def test_a_library_that_was_emptied_empties_its_collection(tmp_path: Path, collection: str) -> None:
    library, photos = tmp_path / "library", tmp_path / "photos"
    library.mkdir()
    with Catalog.open(library):
        pass
    with pytest.raises(LibraryError, match="no images to publish"):
        publish(library, collection)
    index_drawn(library, photos, range(3))
    publish(library, collection)
    forget(library, photos)
    done = publish(library, collection)
    assert (done.deleted, done.images) == (3, 0)
    with open_reader(collection) as served:
        assert len(served) == 0
        assert served.nearest(np.ones((1, 16), np.float32), 5)[1].shape == (1, 0)
