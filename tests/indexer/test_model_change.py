"""Moving a library to another model: beside the old vectors, resumable, switched at once."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from indexer_fakes import FakeEncoder, draw, identity

from indexer import LibraryReader, ModelMismatchError, predict_model_change
from indexer.catalog_file import translated


@pytest.fixture
def other():
    return FakeEncoder(identity=identity("other", "c3", 24))


def draw_old(path, seed):
    """A picture that is older than the clock's ticks: when nothing has changed, no run opens it."""
    os.utime(draw(path, seed), (1_000_000_000 + seed, 1_000_000_000 + seed))
    return path


@pytest.fixture
def paths(photos, index):
    drawn = [draw_old(photos / f"{number:02}.png", number) for number in range(20)]
    index()
    return drawn


def test_the_switch_while_the_old_file_is_held_open(index, library, paths, other, held_open):
    with held_open():
        (notice,) = index(encoder=other, change_model=True).notices
    assert "could not be renewed" in notice
    with LibraryReader.open(library) as reader:
        assert (reader.model, len(reader)) == (other.identity, 20)
    index(encoder=other)
    check_with(library, other, paths)


def models_of_vectors(library):
    with closing(sqlite3.connect(library / "catalog.db")) as catalog:
        return dict(catalog.execute("SELECT model_id, count(*) FROM vectors GROUP BY model_id"))


def check_with(library, encoder, paths):
    from indexer import read_pixels

    with LibraryReader.open(library) as reader:
        assert reader.notices == []
        assert reader.model == encoder.identity
        assert len(reader) == len(paths)
        for path in paths:
            fresh = encoder.encode_pixels(read_pixels(path, encoder.preprocessor)[None])
            np.testing.assert_array_equal(reader.vectors([reader.find(path)]), fresh.astype(np.float16))
            assert reader.nearest(fresh, 1)[1][0, 0] == reader.find(path)


def test_a_change_embeds_everything_and_switches(index, paths, library, other):
    with LibraryReader.open(library) as reader:
        ids = reader.ids().tolist()
    summary = index(encoder=other, change_model=True)
    assert (summary.embedded, summary.indexed, summary.unchanged, summary.notices) == (20, 20, 0, [])
    check_with(library, other, paths)
    with LibraryReader.open(library) as reader:
        assert reader.ids().tolist() == ids  # an image keeps its number
        assert reader.status().next_model is None
    assert models_of_vectors(library) == {2: 20}
    assert index(encoder=other).unchanged == 20


def test_the_old_model_answers_until_the_switch_and_the_change_goes_on_later(
    index, encoder, paths, library, other
):
    other.seconds_per_batch = 0.01
    summary = index(encoder=other, change_model=True, should_stop=lambda: len(other.batches) >= 2)
    assert summary.interrupted
    check_with(library, encoder, paths)
    with LibraryReader.open(library) as reader:
        assert reader.status().next_model == other.identity
    done = models_of_vectors(library)[2]
    assert 0 < done < 20
    draw(paths[0], 99)
    assert index().indexed == 1  # the old model goes on working as ever
    check_with(library, encoder, paths)
    summary = index(encoder=other)  # no need to ask for the change again
    assert summary.embedded == 20 - done + (done > 0)
    check_with(library, other, paths)


@pytest.mark.parametrize("gives_up", [False, True])
def test_what_a_change_found_new_is_found_by_the_old_model_after_a_run_of_its_own(
    index, paths, library, other, gives_up
):
    encoder = FakeEncoder()
    new = draw_old(paths[0].with_name("000 new.png"), 77)  # the first in the order of names
    index(encoder=other, change_model=True, should_stop=lambda: len(other.batches) >= 2)
    check_with(library, encoder, paths)  # not yet
    summary = index(change_model=gives_up)
    assert summary.embedded == 1
    check_with(library, encoder, [*paths, new])
    assert index().embedded == 0


def test_a_run_that_gives_a_change_up_and_is_stopped_forgets_nothing(index, encoder, paths, library, other):
    new = draw_old(paths[0].with_name("000 new.png"), 77)
    index(encoder=other, change_model=True, should_stop=lambda: len(other.batches) >= 2)
    assert index(change_model=True, should_stop=lambda: True).interrupted
    assert index().embedded == 1
    check_with(library, encoder, [*paths, new])


def test_a_change_can_be_given_up(index, encoder, paths, library, other):
    index(encoder=other, change_model=True, should_stop=lambda: len(other.batches) >= 2)
    summary = index(change_model=True)
    assert "given up" in summary.notices[0]
    index()
    assert set(models_of_vectors(library)) == {1}
    with pytest.raises(ModelMismatchError):
        index(encoder=other)
    check_with(library, encoder, paths)


def test_a_change_covers_all_roots_and_makes_up_for_those_that_were_away(
    index, photos, tmp_path, library, other
):
    first, second = draw(photos / "a.png", 1), draw(tmp_path / "disk" / "b.png", 2)
    index(photos, tmp_path / "disk")
    (tmp_path / "disk").rename(tmp_path / "unplugged")
    summary = index(photos, encoder=other, change_model=True)
    assert summary.offline_roots == [tmp_path / "disk"]
    assert "no vector of this model yet" in summary.notices[0]
    check_with(library, other, [first])
    (tmp_path / "unplugged").rename(tmp_path / "disk")
    summary = index(all_known=True, encoder=other)
    assert (summary.embedded, summary.notices) == (1, [])
    check_with(library, other, [first, second])


def test_a_kill_between_the_switch_and_the_new_file(index, paths, library, other, monkeypatch):
    class Killed(BaseException):
        pass

    calls = []

    def die_the_second_time(*arguments):
        calls.append(arguments)
        if len(calls) == 2:  # the first writes the new file, the second puts it in place
            raise Killed
        return translated(*arguments)

    monkeypatch.setattr("indexer.upkeep.translated", die_the_second_time)
    with pytest.raises(Killed):
        index(encoder=other, change_model=True)
    monkeypatch.undo()
    with LibraryReader.open(library) as reader:
        assert reader.model == other.identity
        assert len(reader) == 20
        assert "another model" in reader.notices[0] or "older" in reader.notices[0]
    index(encoder=other)
    check_with(library, other, paths)
    assert set(models_of_vectors(library)) == {2}
    assert sorted(path.name for path in library.iterdir()) == ["catalog.db", "vectors.faiss", "writer.lock"]


def test_an_empty_library_takes_any_model(index, photos, other):
    from indexer import NothingToIndexError

    (photos / "a.txt").touch()
    with pytest.raises(NothingToIndexError):
        index()
    draw(photos / "a.png", 1)
    assert index(encoder=other).indexed == 1


def test_the_prediction_counts_what_is_left_to_do(index, paths, photos, library, other):
    draw(photos / "copy of 0.png", 0)
    index()
    prediction = predict_model_change(library, other)
    assert prediction.images == 20
    assert prediction.bytes_needed == 20 * (2 * 24 * 2 + 64)
    assert prediction.seconds > 0
    assert prediction.from_model.name == "fake"
    other.batches.clear()
    index(encoder=other, change_model=True, should_stop=lambda: len(other.batches) >= 2)
    assert 0 < predict_model_change(library, other).images < 20
    index(encoder=other)
    assert predict_model_change(library, other) is None
