"""The map of a library: what is alike lies together, groups have names, and it lives through changes."""

import base64
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from search import QueryError, layout
from search.layout import Group, Layout

DIMENSION = 24
CLUSTERS = 4


class FakeReader:
    """A library of vectors in clusters; ids are not positions."""

    def __init__(self, path: Path, count: int = 120) -> None:
        self.path = self.place = path
        self.model = None
        random = np.random.default_rng(3)
        self.centres = _unit(random.standard_normal((CLUSTERS, DIMENSION)))
        self.cluster_of = np.arange(count) % CLUSTERS
        noise = 0.08 * random.standard_normal((count, DIMENSION))
        self._vectors = _unit(self.centres[self.cluster_of] + noise)
        self._ids = np.arange(count, dtype=np.int64) * 3 + 5

    def ids(self) -> NDArray[np.int64]:
        return self._ids

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._vectors[np.searchsorted(self._ids, ids)]

    def keep_only(self, rows: NDArray[np.int64]) -> None:
        self._ids, self._vectors = self._ids[rows], self._vectors[rows]
        self.cluster_of = self.cluster_of[rows]

    def add(self, cluster: int, image_id: int) -> None:
        self._ids = np.append(self._ids, image_id)
        self._vectors = np.concatenate([self._vectors, self.centres[cluster : cluster + 1]])
        self.cluster_of = np.append(self.cluster_of, cluster)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeReader:
    monkeypatch.setenv("IMAGO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(layout, "can_lay_out_well", lambda: False)  # the test of t-SNE turns it on again
    return FakeReader(tmp_path / "library")


def tower(reader: FakeReader, names: Sequence[str]):
    """A text tower that knows one word for each cluster, and says the same of all others."""

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        rows = np.full((len(texts), DIMENSION), 0.1)
        for row, text in enumerate(texts):
            for name, centre in zip(names, reader.centres, strict=True):
                if text == f"a photo of {name}":
                    rows[row] = centre
        return _unit(rows)

    return embed


@pytest.mark.parametrize("is_good", [True, False])
def test_what_is_alike_lies_together(
    reader: FakeReader, monkeypatch: pytest.MonkeyPatch, is_good: bool
) -> None:
    if is_good:
        pytest.importorskip("openTSNE", reason="the extra explore is not installed")
        monkeypatch.setattr(layout, "can_lay_out_well", lambda: True)
    made = layout.lay_out(reader, None)
    assert made.method == ("tsne" if is_good else "pca")
    assert np.array_equal(made.ids, reader.ids())
    assert (made.positions.min(), made.positions.max()) == (1, layout.EXTENT - 2) or not is_good
    everything = np.array([[0, 0], [4095, 0], [4095, 4095], [0, 4095]])
    assert np.array_equal(made.inside(everything), made.ids)
    places = made.positions.astype(float)
    middles = np.stack([places[reader.cluster_of == cluster].mean(axis=0) for cluster in range(CLUSTERS)])
    distances = np.linalg.norm(places[:, None] - middles[None], axis=2)
    assert (distances.argmin(axis=1) == reader.cluster_of).mean() > 0.95
    assert {group.name for group in made.groups} == {""}


def test_groups_are_named_by_the_text_tower_and_no_name_stands_twice(reader: FakeReader) -> None:
    names = ["dog", "car", "beach", "piano"]
    made = layout.lay_out(reader, tower(reader, names))
    first = [group.name for group in made.groups]
    assert len(first) == len(set(first)) >= CLUSTERS
    assert set(names) <= set(first)
    for group_number, group in enumerate(made.groups):
        members = made.ids[made.group_of == group_number]
        assert group.count == len(members)
        assert group.cover in members
        if group.name in names:
            clusters = reader.cluster_of[np.searchsorted(reader.ids(), members)]
            assert np.bincount(clusters).argmax() == names.index(group.name)
    assert [group.count for group in made.groups] == sorted((g.count for g in made.groups), reverse=True)


def test_two_groups_that_a_word_fits_share_it_out() -> None:
    means = np.array([[1.0, 0.0, 0.2], [0.9, 0.1, 0.2], [0.0, 1.0, 0.2]], np.float32)
    words = {"a photo of dog": [1.0, 0.0, 0.0], "a photo of car": [0.0, 1.0, 0.0]}

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([words.get(text, [0.1, 0.1, 0.1]) for text in texts], np.float32)

    named = layout.group_names(means, means.mean(axis=0), embed)
    assert (named[0][0], named[2][0]) == ("dog", "car")
    assert named[1][0] not in {"dog", "car"}
    assert all(len(words) == 3 for words in named)


def test_the_same_library_gets_the_same_map(reader: FakeReader) -> None:
    one, other = layout.lay_out(reader, None), layout.lay_out(reader, None)
    assert one.name == other.name
    assert np.array_equal(one.positions, other.positions)


@pytest.mark.parametrize("count", [1, 2, 5, 29])
def test_tiny_libraries_have_a_map(reader: FakeReader, count: int) -> None:
    reader.keep_only(np.arange(count))
    made = layout.lay_out(reader, tower(reader, ["dog", "car", "beach", "piano"]))
    assert made.method == "pca"
    assert len(made.ids) == sum(group.count for group in made.groups) == count


def test_pictures_that_are_all_the_same_have_a_map(reader: FakeReader) -> None:
    reader._vectors[:] = reader._vectors[0]
    made = layout.lay_out(reader, None)
    assert len(made.ids) == 120
    assert sum(group.count for group in made.groups) == 120


def test_a_changed_library_keeps_its_map_with_new_pictures_beside_their_like(reader: FakeReader) -> None:
    made = layout.lay_out(reader, None)
    old_place = {int(i): tuple(place) for i, place in zip(made.ids, made.positions.tolist(), strict=True)}
    gone = int(made.ids[7])
    reader.keep_only(np.delete(np.arange(120), 7))
    reader.add(2, 9_000)
    assert made.drift(reader.ids()) == pytest.approx(2 / 121)
    now = layout.updated(made, reader)
    assert now.name == made.name
    assert np.array_equal(now.ids, reader.ids())
    assert gone not in now.ids
    for image_id, place in zip(now.ids[:-1], now.positions[:-1].tolist(), strict=True):
        assert tuple(place) == old_place[int(image_id)]
    like = now.positions[:-1][reader.cluster_of[:-1] == 2].astype(int)
    assert np.abs(like - now.positions[-1].astype(int)).max(axis=1).min() <= 6
    assert sum(group.count for group in now.groups) == 120


def test_a_large_library_has_all_its_pictures_on_the_map(
    reader: FakeReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "MOST_LAID_OUT", 40)
    made = layout.lay_out(reader, None)
    assert np.array_equal(made.ids, reader.ids())
    for group in range(len(made.groups)):
        clusters = reader.cluster_of[made.group_of == group]
        assert np.bincount(clusters).max() / len(clusters) > 0.9


def test_a_map_is_kept_by_library_and_name(reader: FakeReader, tmp_path: Path) -> None:
    assert layout.kept(reader) is None
    first = layout.lay_out(reader, tower(reader, ["dog", "car", "beach", "piano"]))
    layout.keep(reader, first)
    reader.keep_only(np.arange(60))
    second = layout.lay_out(reader, None)
    layout.keep(reader, second)
    newest, older = layout.kept(reader), layout.kept(reader, first.name)
    assert newest is not None
    assert older is not None
    assert (newest.name, older.name) == (second.name, first.name)
    assert older.groups == first.groups
    assert np.array_equal(older.ids, first.ids)
    assert np.array_equal(older.positions, first.positions)
    assert np.array_equal(older.group_of, first.group_of)
    assert layout.kept(FakeReader(tmp_path / "other")) is None
    assert layout.kept(reader, "../secret") is None


@pytest.mark.parametrize("data", [b"", b"no layout", b"PK\x03\x04 half"])
def test_what_is_no_map_is_not_read(data: bytes) -> None:
    with pytest.raises(ValueError, match="no layout"):
        Layout.from_bytes(data)


def square() -> Layout:
    """Nine pictures on a grid, in two groups."""
    places = [(x, y) for y in (100, 200, 300) for x in (100, 200, 300)]
    return Layout(
        "abc",
        "pca",
        np.arange(9, dtype=np.int64),
        np.array(places, np.uint16),
        np.array([0] * 6 + [1] * 3, np.int16),
        (Group("dog", (), 6, 100, 100, 0), Group("cat", (), 3, 100, 300, 6)),
    )


def polygon_to_text(polygon: NDArray[np.int64]) -> str:
    """As explore_map.js writes it."""
    x, y = polygon.T
    packed = np.stack([x >> 4, (x & 15) << 4 | y >> 8, y & 255], axis=1).astype(np.uint8)
    return base64.urlsafe_b64encode(packed.tobytes()).decode()


def test_a_part_of_the_map_is_a_group_or_what_lies_in_a_polygon() -> None:
    made = square()
    assert made.region("g1").tolist() == [6, 7, 8]
    around = np.array([[50, 50], [250, 50], [250, 150], [50, 150]])
    assert made.region("p" + polygon_to_text(around)).tolist() == [0, 1]
    bow_tie = np.array([[90, 120], [310, 290], [310, 120], [90, 290]])  # open above and below its knot
    assert made.inside(bow_tie).tolist() == [3, 5]


def test_a_polygon_comes_back_from_its_text() -> None:
    corners = np.array([[0, 0], [4095, 0], [4095, 4095], [17, 2049]])
    assert layout.polygon_from_text(polygon_to_text(corners)).tolist() == corners.tolist()


@pytest.mark.parametrize(
    "text", ["", "g", "g2", "g99999", "x", "p", "pAAA", "p!!!!", "p" + "AAAA" * 400, "g-1", "g²"]
)
def test_what_names_no_part_is_refused(text: str) -> None:
    with pytest.raises(QueryError, match="map"):
        square().region(text)


def test_k_means_finds_separate_groups() -> None:
    points = np.concatenate([np.zeros((5, 2)), np.full((3, 2), 9.0), np.full((2, 2), -7.0)]).astype(
        np.float32
    )
    found = layout.k_means(points, 3)
    assert [len(set(found[part])) for part in (slice(5), slice(5, 8), slice(8, 10))] == [1, 1, 1]
    assert len(set(found.tolist())) == 3
