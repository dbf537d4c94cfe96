"""The derived index against brute force, and what damage to its file does."""

from __future__ import annotations

import dataclasses

import faiss
import numpy as np
import pytest
from indexer_fakes import in_chunks

from indexer import vector_index
from indexer.catalog import KnownVectorFile
from indexer.vector_index import (
    Segment,
    VectorFileError,
    VectorFileInfo,
    needs_rebuild,
    read_info,
    verify,
    write_vector_file,
)

DIMENSION = 24


def clustered(count, seed=0):
    """Unit vectors, half precision, in clusters, with exact repetitions (the hard case for order)."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((20, DIMENSION))
    vectors = centres[random.integers(0, 20, count)] + 0.3 * random.standard_normal((count, DIMENSION))
    repeated = random.random(count) < 0.3
    vectors[repeated] = vectors[random.integers(0, max(1, count // 50), int(repeated.sum()))]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float16)


def queries(count, seed=1):
    vectors = np.random.default_rng(seed).standard_normal((count, DIMENSION))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def brute_force(ids, codes, query, k, allowed=None):
    scores = (codes.astype(np.float64) * query.astype(np.float64)).sum(axis=1).astype(np.float32)
    if allowed is not None:
        ids, scores = ids[allowed], scores[allowed]
    order = np.lexsort((ids, -scores))[:k]
    return scores[order], ids[order]


@pytest.fixture(params=["memory", "file"])
def make_segment(request, tmp_path):
    def make(ids, codes):
        if request.param == "memory":
            return Segment.from_codes(ids, codes)
        info = VectorFileInfo("library", 1, 1, 7, DIMENSION, len(ids))
        info = write_vector_file(tmp_path / "vectors.faiss", info, in_chunks(ids, codes, 1000))
        return Segment.from_file(tmp_path / "vectors.faiss", info)

    return make


@pytest.mark.parametrize("count", [0, 1, 5, 999, 6000])
def test_nearest_equals_brute_force(make_segment, count):
    ids = np.cumsum(np.random.default_rng(2).integers(1, 4, count)).astype(np.int64)
    codes = clustered(count)
    segment = make_segment(ids, codes)
    for query in [*queries(4), *codes[:2].astype(np.float32)]:
        for k in (0, 1, 5, 15, 100, 4500, count, count + 3):
            scores, found = segment.nearest(query, k, None)
            expected_scores, expected = brute_force(ids, codes, query, k)
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(scores, expected_scores)


@pytest.mark.parametrize("selectivity", [0.0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.9, 0.999, 1.0])
def test_filtered_nearest_equals_brute_force(make_segment, selectivity):
    count = 6000
    ids = np.arange(1, count + 1, dtype=np.int64)
    codes = clustered(count)
    segment = make_segment(ids, codes)
    random = np.random.default_rng(3)
    for query in queries(3):
        for allowed in (
            random.random(count) < selectivity,
            # The worst case for a filter: only what is farthest from the query.
            np.argsort(np.argsort(codes.astype(np.float32) @ query)) < selectivity * count,
        ):
            for k in (1, 5, 15, 700, count):
                scores, found = segment.nearest(query, k, allowed)
                expected_scores, expected = brute_force(ids, codes, query, k, allowed)
                np.testing.assert_array_equal(found, expected)
                np.testing.assert_array_equal(scores, expected_scores)


def test_many_equal_scores_are_ordered_by_id(make_segment):
    codes = np.repeat(clustered(5, 9), 600, axis=0)
    ids = np.arange(10, 10 + len(codes), dtype=np.int64)
    segment = make_segment(ids, codes)
    query = codes[600].astype(np.float32)
    _, found = segment.nearest(query, 20, None)
    np.testing.assert_array_equal(found, brute_force(ids, codes, query, 20)[1])
    assert set(np.diff(found)) == {1}


def test_a_score_does_not_depend_on_its_neighbours(make_segment):
    codes = clustered(5000)
    ids = np.arange(5000, dtype=np.int64)
    segment = make_segment(ids, codes)
    (query,) = queries(1)
    scores, found = segment.nearest(query, 50, None)
    for score, image_id in zip(scores, found, strict=True):
        alone, _ = segment.nearest(query, 1, ids == image_id)
        assert alone[0] == score


def test_faiss_reads_the_file_as_it_is(tmp_path):
    codes = clustered(300)
    info = VectorFileInfo("library", 1, 1, 7, DIMENSION, 300)
    write_vector_file(tmp_path / "v", info, in_chunks(np.arange(300), codes))
    index = faiss.read_index(str(tmp_path / "v"))
    assert (index.ntotal, index.d) == (300, DIMENSION)
    np.testing.assert_allclose(index.reconstruct_n(0, 300), codes.astype(np.float32), atol=0)


class TestFile:
    @pytest.fixture
    def written(self, tmp_path):
        path = tmp_path / "vectors.faiss"
        info = VectorFileInfo("library", 3, 5, 99, DIMENSION, 100)
        return path, write_vector_file(path, info, in_chunks(np.arange(100), clustered(100)))

    def test_description(self, written):
        path, info = written
        assert read_info(path) == info
        verify(path, info)
        assert (info.library_id, info.model_id, info.generation, info.sequence, info.count) == (
            "library",
            3,
            5,
            99,
            100,
        )

    def test_every_flipped_bit_is_found(self, written):
        path, _ = written
        whole = path.read_bytes()
        random = np.random.default_rng(0)
        for at in [0, 8, 40, len(whole) - 1, len(whole) - 60, *random.integers(0, len(whole), 60)]:
            broken = bytearray(whole)
            broken[at] ^= 1 << int(random.integers(0, 8))
            path.write_bytes(broken)
            with pytest.raises(VectorFileError):
                verify(path, read_info(path))

    def test_every_truncation_is_found(self, written):
        path, _ = written
        whole = path.read_bytes()
        for length in [0, 1, 19, 20, 100, len(whole) // 2, len(whole) - 20, len(whole) - 1]:
            path.write_bytes(whole[:length])
            with pytest.raises(VectorFileError):
                verify(path, read_info(path))

    def test_missing(self, tmp_path):
        with pytest.raises(VectorFileError, match="it is missing"):
            read_info(tmp_path / "vectors.faiss")

    def test_a_failed_writing_leaves_the_old_file(self, written):
        path, info = written

        def chunks():
            yield np.arange(50), clustered(50)
            raise OSError(28, "No space left on device")

        with pytest.raises(OSError, match="No space"):
            write_vector_file(path, dataclasses.replace(info, generation=6), chunks())
        assert read_info(path) == info
        verify(path, info)
        assert [file.name for file in path.parent.iterdir()] == ["vectors.faiss"]

    def test_a_mapped_file_can_be_replaced(self, written):
        path, info = written
        segment = Segment.from_file(path, info)
        before = segment.nearest(queries(1)[0], 5, None)
        write_vector_file(
            path, dataclasses.replace(info, generation=6), in_chunks(np.arange(100), clustered(100, 5))
        )
        np.testing.assert_array_equal(segment.nearest(queries(1)[0], 5, None)[0], before[0])

    def test_mismatch(self, written):
        _, info = written

        def mismatch(
            library_id="library", generation=5, checksum=info.checksum, last_sequence=99, model_id=3
        ):
            return info.mismatch(KnownVectorFile(library_id, generation, checksum, last_sequence), model_id)

        assert mismatch() is None
        assert mismatch(checksum=None) is None  # noted by a former version
        assert mismatch(generation=4, checksum=1) is None  # in its place, and not noted yet
        assert "another library" in mismatch(library_id="other")
        assert "another model" in mismatch(model_id=2)
        assert "older" in mismatch(generation=6)
        assert "newer" in mismatch(generation=3)
        assert "newer" in mismatch(generation=4, last_sequence=98)
        assert "not the one" in mismatch(checksum=1)


def test_the_header_made_by_hand_is_the_one_faiss_writes():
    codes = clustered(7)
    index = faiss.IndexScalarQuantizer(DIMENSION, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.add_sa_codes(codes.view(np.uint8))
    assert (
        faiss.serialize_index(index).tobytes() == vector_index._faiss_header(DIMENSION, 7) + codes.tobytes()
    )


@pytest.mark.parametrize(
    ("base", "added", "departed", "expected"),
    [(100, 0, 0, False), (100, 1, 0, True), (1_000_000, 1_000, 0, False), (1_000_000, 1_000, 60_000, True)],
)
def test_needs_rebuild(base, added, departed, expected):
    assert needs_rebuild(base, added, departed) is expected
