"""The approximate index: its candidates against exact search, its file under damage, its place in a library's life."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from indexer_fakes import draw, in_chunks

from indexer import DiskFullError, LibraryReader, examine, forget
from indexer import approximate_index as module
from indexer.approximate_index import ApproximateIndex, BuildStoppedError, build, cells_for, read_info, update
from indexer.derived_file import VectorFileError
from indexer.vector_index import Segment, VectorFileInfo, write_vector_file

DIMENSION = 32
COUNT = 12_000


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def images_and_texts(seed=0):
    """Images in clusters, half precision, and texts in a cone of their own that share half of what images show."""
    random = np.random.default_rng(seed)
    spread = (np.arange(DIMENSION) + 1.0) ** -0.5
    clusters = random.standard_normal((60, DIMENSION)) * spread
    image_cone, text_cone = 2 * unit(random.standard_normal((2, DIMENSION)))

    def contents(size):
        return (
            clusters[random.integers(0, 60, size)] + 0.6 * random.standard_normal((size, DIMENSION)) * spread
        )

    images = unit(image_cone + contents(COUNT + 1_000))
    words = unit(text_cone + contents(60) + 0.5 * random.standard_normal((60, DIMENSION)) * spread)
    return images.astype(np.float16), words.astype(np.float32)


def go_on(_done, _total):
    return False


def write(path, ids, codes, generation=1):
    info = VectorFileInfo("library", 1, generation, 7, DIMENSION, len(ids))
    info = write_vector_file(path, info, in_chunks(ids, codes))
    return info, Segment.from_file(path, info)


def recall(segment, queries, allowed=None, k=10):
    shares = []
    for query in queries:
        _, exact = segment.nearest(query, k, allowed, exact=True)
        _, found = segment.nearest(query, k, allowed)
        assert len(found) == len(exact)
        shares.append(len(np.intersect1d(found, exact)) / len(exact))
    return np.mean(shares)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An index built with half of the texts: its folder, the description of vectors.faiss, the other texts."""
    folder = tmp_path_factory.mktemp("approximate")
    images, texts = images_and_texts()
    info, segment = write(folder / "vectors.faiss", np.arange(1, COUNT + 1) * 2, images[:COUNT])
    build(folder / "vectors.ann", info, segment, texts[:30], go_on)
    return folder, info, texts[30:]


@pytest.fixture
def segment(made, monkeypatch):
    """Searched with so few candidates that few thousand vectors are many."""
    folder, info, _ = made
    monkeypatch.setattr(module, "_CANDIDATES", 256)
    monkeypatch.setattr(module, "_ROUND", 128)
    monkeypatch.setattr("indexer.vector_index._GATHER_LIMIT", 20)
    mapped = Segment.from_file(folder / "vectors.faiss", info)
    mapped.approximate = ApproximateIndex.from_file(folder / "vectors.ann", info)
    return mapped


class TestAnswers:
    def test_texts_find_what_exact_search_finds(self, segment, made):
        texts = made[2]
        assert segment.approximate.info.cells_to_visit(10) < segment.approximate.info.cells
        assert segment.approximate.propose(texts[0], 10, COUNT, None).shape == (256,)
        assert recall(segment, texts) >= 0.98

    def test_fewer_visits_find_less(self, segment, made, monkeypatch):
        """So that the test above is known to be able to fail."""
        monkeypatch.setattr(module.ApproximateInfo, "cells_to_visit", lambda *_: 1)
        assert recall(segment, made[2]) < 0.9

    @pytest.mark.parametrize("share", [0.9999, 0.9, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.003, 0.0005])
    def test_filters_lose_nothing(self, segment, made, share):
        texts = made[2]
        random = np.random.default_rng(3)
        assert recall(segment, texts, random.random(COUNT) < share) >= 0.98
        far = segment.codes.astype(np.float32) @ texts[0]
        assert recall(segment, texts, far <= np.quantile(far, share)) >= 0.97

    def test_nothing_is_found_that_is_not_allowed(self, segment, made):
        allowed = np.random.default_rng(4).random(COUNT) < 0.3
        for query in made[2]:
            _, found = segment.nearest(query, 30, allowed)
            assert allowed[segment.positions(found)[0]].all()

    def test_a_longer_list_begins_with_the_shorter_one(self, segment, made):
        for query in made[2]:
            _, five = segment.nearest(query, 5, None)
            _, fifteen = segment.nearest(query, 15, None)
            np.testing.assert_array_equal(five, fifteen[:5])

    def test_scores_are_those_of_an_exact_search(self, segment, made):
        for query in made[2]:
            scores, found = segment.nearest(query, 10, None)
            for score, image_id in zip(scores, found, strict=True):
                alone, _ = segment.nearest(query, 1, segment.ids == image_id)
                assert alone[0] == score

    @pytest.mark.parametrize("k", [0, 1, 33, 200, 4000, COUNT, COUNT + 5])
    def test_any_k(self, segment, made, k):
        scores, found = segment.nearest(made[2][0], k, None)
        assert len(found) == len(set(found.tolist())) == min(k, COUNT)
        assert (np.diff(scores) <= 0).all()
        if k:
            exact = segment.nearest(made[2][0], k, None, exact=True)[1]
            assert len(np.intersect1d(found, exact)) >= 0.95 * len(exact)


class TestFile:
    def test_description(self, made):
        folder, info, _ = made
        described = read_info(folder / "vectors.ann")
        assert described.mismatch(info) is None
        assert (described.count, described.cells) == (COUNT, cells_for(COUNT))
        assert described.recall >= 0.98
        size = (folder / "vectors.ann").stat().st_size
        assert size < COUNT * (DIMENSION / 8 + 16) + described.cells * DIMENSION * 8 + 20_000

    def test_every_flipped_bit_and_truncation_is_found(self, made, tmp_path):
        folder, info, _ = made
        whole = (folder / "vectors.ann").read_bytes()
        random = np.random.default_rng(0)
        for at in [0, 9, len(whole) - 1, len(whole) - 60, *random.integers(0, len(whole), 40)]:
            broken = bytearray(whole)
            broken[at] ^= 1 << int(random.integers(0, 8))
            (tmp_path / "v").write_bytes(broken)
            with pytest.raises(VectorFileError):
                ApproximateIndex.from_file(tmp_path / "v", info)
        for length in [0, 1, 25, len(whole) // 2, len(whole) - 1]:
            (tmp_path / "v").write_bytes(whole[:length])
            with pytest.raises(VectorFileError):
                ApproximateIndex.from_file(tmp_path / "v", info)

    def test_one_of_another_vector_file_is_refused(self, made, tmp_path):
        folder, _, _ = made
        other, _ = write(tmp_path / "v", np.arange(COUNT), images_and_texts(seed=5)[0][:COUNT])
        with pytest.raises(VectorFileError, match=r"another vectors\.faiss"):
            ApproximateIndex.from_file(folder / "vectors.ann", other)

    @pytest.mark.parametrize("stop_at", [0, 5, 9])
    def test_a_stopped_build_leaves_the_old_file(self, made, tmp_path, stop_at):
        folder, info, texts = made
        path = tmp_path / "vectors.ann"
        path.write_bytes(b"old")
        calls = []

        def watch(*step):
            calls.append(step)
            return len(calls) > stop_at

        with pytest.raises(BuildStoppedError):
            build(path, info, Segment.from_file(folder / "vectors.faiss", info), texts, watch)
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]

    def test_update_keeps_the_cells(self, made, tmp_path, monkeypatch):
        """A tenth gone, a tenth new, some of the new ones with old ids, as of images that came back."""
        folder, _, texts = made
        images, _ = images_and_texts()
        random = np.random.default_rng(6)
        old_ids = np.arange(1, COUNT + 1) * 2
        stays = random.random(COUNT) > 0.1
        ids = np.concatenate(
            [old_ids[stays], np.arange(1, 1_000, 2), np.arange(2 * COUNT + 1, 2 * COUNT + 501)]
        )
        codes = np.concatenate([images[:COUNT][stays], images[COUNT:]])
        order = np.argsort(ids)
        info, segment = write(tmp_path / "vectors.faiss", ids[order], codes[order], generation=2)
        path = tmp_path / "vectors.ann"
        path.write_bytes((folder / "vectors.ann").read_bytes())
        before = read_info(path)
        after = update(path, info, segment, go_on)
        assert (after.cells, after.trained_count, after.probes) == (
            before.cells,
            before.trained_count,
            before.probes,
        )
        segment.approximate = ApproximateIndex.from_file(path, info)
        assert segment.approximate.is_complete()
        monkeypatch.setattr(module, "_CANDIDATES", 256)
        monkeypatch.setattr(module, "_ROUND", 128)
        assert recall(segment, texts) >= 0.98
        for at in (0, 7, len(ids) - 1):  # each is found by its own vector
            _, found = segment.nearest(segment.codes[at].astype(np.float32), 3, None)
            assert segment.ids[at] in found


class TestLibrary:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        monkeypatch.setattr(module, "MINIMUM_VECTORS", 30)
        monkeypatch.setattr(module, "_CANDIDATES", 16)
        monkeypatch.setattr(module, "_ROUND", 8)
        monkeypatch.setattr(module, "_LARGEST_SHARE", 1.0)
        monkeypatch.setattr("indexer.vector_index._GATHER_LIMIT", 4)
        monkeypatch.setattr("indexer.vector_index._SMALL", 0)

    @pytest.fixture
    def paths(self, photos):
        return [draw(photos / f"{number:03}.png", number) for number in range(60)]

    def test_it_is_made_kept_and_given_up(self, index, check, paths, library, photos):
        index()
        assert not (library / "vectors.ann").exists()
        index(approximate=True)
        assert (library / "vectors.ann").exists()
        with LibraryReader.open(library) as reader:
            assert reader.is_approximate
            assert reader.status().index.startswith("approximate, 60 vectors in ")
            assert reader.notices == []
        check(paths)
        before = (library / "vectors.ann").read_bytes()
        index()  # remembered, and nothing to do
        assert (library / "vectors.ann").read_bytes() == before
        index(approximate=False)
        assert not (library / "vectors.ann").exists()
        with LibraryReader.open(library) as reader:
            assert not reader.is_approximate
            assert reader.status().index == "exact, 60 vectors"
            assert reader.notices == []

    def test_a_large_library_gets_one_by_itself(self, index, paths, library, monkeypatch):
        monkeypatch.setattr(module, "_EXACT_BYTES", 60 * 16 * 2 - 1)
        index()
        assert (library / "vectors.ann").exists()
        index(approximate=False)
        assert not (library / "vectors.ann").exists()

    def test_new_and_gone_pictures_need_no_new_file(self, index, check, paths, library, photos):
        index(approximate=True)
        before = (library / "vectors.ann").read_bytes()
        paths.pop().unlink()
        paths.append(draw(photos / "new.png", 900))
        index()
        assert (library / "vectors.ann").read_bytes() == before
        with LibraryReader.open(library) as reader:
            assert reader.status().index.endswith("; 1 newer ones exactly")
        check(paths)

    def test_it_follows_a_new_vector_file(self, index, check, paths, library, photos):
        index(approximate=True)
        for path in paths[:10]:
            path.unlink()
        paths = [*paths[10:], *(draw(photos / f"new {number}.png", 900 + number) for number in range(10))]
        index()
        check(paths)
        with LibraryReader.open(library) as reader:
            assert reader.is_approximate
            assert reader.status().index.startswith("approximate, 60 vectors")
        assert not any(finding.is_problem for finding in examine(library))

    def test_what_is_forgotten_is_taken_out(self, index, paths, library):
        index(approximate=True)
        with LibraryReader.open(library) as reader:
            count = len(reader)
        forget(library, paths[0])
        assert read_info(library / "vectors.ann").count == count - 1

    def test_what_is_forgotten_is_taken_out_of_a_damaged_one_too(self, index, paths, library):
        index(approximate=True)
        (library / "vectors.ann").write_bytes(b"damaged")
        forget(library, paths[0])
        assert not (library / "vectors.ann").exists()

    @pytest.mark.usefixtures("paths")
    def test_an_open_reader_takes_to_it_and_leaves_it(self, index, library):
        index()
        with LibraryReader.open(library) as reader:
            assert not reader.is_approximate
            index(approximate=True)
            assert reader.refresh()
            assert reader.is_approximate
            index(approximate=False)
            assert reader.refresh()
            assert not reader.is_approximate

    @pytest.mark.usefixtures("paths")
    def test_it_is_said_if_there_are_too_few(self, index, monkeypatch):
        monkeypatch.setattr("indexer.pipeline.MINIMUM_VECTORS", 1_000)
        assert "fewer than 1,000 images" in index(approximate=True).notices[0]

    def test_damage_is_said_and_mended(self, index, check, paths, library):
        index(approximate=True)
        whole = (library / "vectors.ann").read_bytes()
        for damaged in (whole[: len(whole) // 2], whole[:300] + bytes([whole[300] ^ 1]) + whole[301:], None):
            if damaged is None:
                (library / "vectors.ann").unlink()
            else:
                (library / "vectors.ann").write_bytes(damaged)
            with LibraryReader.open(library) as reader:
                assert not reader.is_approximate
                assert reader.nearest(reader.vectors([3]), 60)[1].shape == (1, 60)
                assert [notice[:28] for notice in reader.notices] == ["vectors.ann is not usable: i"]
            (problem,) = (finding for finding in examine(library) if finding.is_problem)
            assert (problem.name, "imago index" in problem.remedy) == ("approximate index", True)
            index()
            check(paths)

    def test_vectors_that_turn_out_damaged_while_it_answers(self, index, check, paths, library, monkeypatch):
        """Millions of vectors are checked while the index answers already."""
        from indexer import reader as reader_module

        verify, may_go_on = reader_module.verify, threading.Event()

        def verify_late(*arguments):
            may_go_on.wait()
            verify(*arguments)

        monkeypatch.setattr(reader_module, "verify", verify_late)
        index(approximate=True)
        whole = bytearray((library / "vectors.faiss").read_bytes())
        whole[1_000] ^= 4
        (library / "vectors.faiss").write_bytes(whole)
        with LibraryReader.open(library) as reader:
            assert (len(reader), reader.is_approximate, reader.notices) == (60, True, [])
            may_go_on.set()
            while not reader.notices:
                time.sleep(0.01)
            assert "do not fit its checksum" in reader.notices[0]
            assert (len(reader), reader.is_approximate) == (60, False)
        index()
        check(paths)

    def test_a_build_that_is_stopped_does_no_harm(self, index, check, paths, library):
        index()
        phases = []
        summary = index(
            approximate=True,
            progress=lambda progress: phases.append(progress.phase),
            should_stop=lambda: "building index" in phases,
        )
        assert summary.interrupted
        assert not (library / "vectors.ann").exists()
        with LibraryReader.open(library) as reader:
            assert "it is missing" in reader.notices[0]
            assert len(reader) == 60
        index()
        check(paths)
        assert (library / "vectors.ann").exists()

    def test_a_full_disk_is_said(self, index, paths, monkeypatch):
        index()

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(module, "_write", full)
        with pytest.raises(DiskFullError):
            index(approximate=True)

    @pytest.mark.usefixtures("paths")
    def test_texts_are_asked_for_only_when_one_is_built(self, index, library):
        asked = []

        def texts():
            asked.append(True)
            return np.eye(16, dtype=np.float32)

        index(text_vectors=texts)
        assert asked == []
        index(text_vectors=texts, approximate=True)
        assert read_info(library / "vectors.ann").queries == "texts"
        index(text_vectors=texts)
        assert asked == [True]
