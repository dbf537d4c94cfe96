"""The cut: on made-up scores with a known answer, and on the library of colours."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search import cutoff
from search.cutoff import (
    CUT,
    NEUTRAL_TEXTS,
    Null,
    base_of,
    hit_probabilities,
    measure_null,
    sigmoid_probabilities,
)


def neutral_scores(images: int, seed: int = 0) -> np.ndarray:
    """Neutral queries: normal scores whose bulk lies elsewhere for each query."""
    random = np.random.default_rng(seed)
    return random.normal(0.1, 0.03, (64, images)) + random.normal(0, 0.05, (64, 1))


@cache
def null_of(images: int) -> Null:
    return measure_null(neutral_scores(images))


def judged(scores: np.ndarray, images: int) -> np.ndarray:
    null = null_of(images)
    best = -np.sort(-scores)
    return hit_probabilities(best, images=len(scores), base=base_of(scores), null=null)


def test_the_neutral_texts_are_many_and_different() -> None:
    assert len(NEUTRAL_TEXTS) == len(set(NEUTRAL_TEXTS)) > 100


@pytest.mark.parametrize("images", [100, 1000, 20_000])
@pytest.mark.parametrize("shift", [-0.3, 0.0, 0.3])
def test_a_query_like_any_other_has_no_hits(images: int, shift: float) -> None:
    random = np.random.default_rng(7)
    hits = np.array(
        [np.count_nonzero(judged(random.normal(0.1, 0.03, images) + shift, images) >= CUT) for _ in range(40)]
    )
    # LEVEL lets a query pass whose luckiest images are among the luckiest third, with few hits then.
    assert np.mean(hits > 0) <= 0.6
    assert np.mean(hits > max(3, images // 100)) <= 0.15


@pytest.mark.parametrize("images", [100, 1000, 20_000])
@pytest.mark.parametrize("right", [3, 30])
@pytest.mark.parametrize("shift", [-0.3, 0.0, 0.3])
def test_images_that_stand_out_are_the_hits(images: int, right: int, shift: float) -> None:
    random = np.random.default_rng(3)
    scores = random.normal(0.1, 0.03, images)
    scores[:right] = random.normal(0.35, 0.02, right)
    probabilities = judged(scores + shift, images)
    assert np.count_nonzero(probabilities >= CUT) == pytest.approx(right, abs=1)
    assert probabilities[0] > 0.75


def test_what_most_of_a_library_shows_still_stands_out() -> None:
    random = np.random.default_rng(5)
    scores = random.normal(0.1, 0.03, 1000)
    scores[:700] += 0.25
    assert np.count_nonzero(judged(scores, 1000) >= CUT) == pytest.approx(700, abs=30)


def test_probabilities_mean_what_they_say() -> None:
    """Hits of a mixture: among those given about p, about a share of p is right."""
    random = np.random.default_rng(11)
    given_: list[np.ndarray] = []
    right_: list[np.ndarray] = []
    for _ in range(40):
        is_right = np.arange(2000) < 60
        scores = np.where(is_right, random.normal(0.18, 0.03, 2000), random.normal(0.1, 0.03, 2000))
        order = np.argsort(-scores)
        given_.append(judged(scores, 2000))
        right_.append(is_right[order])
    chance, right = np.concatenate(given_), np.concatenate(right_)
    for low in (0.3, 0.5, 0.7):
        among = (chance >= low) & (chance < low + 0.2)
        assert among.sum() > 50
        assert right[among].mean() == pytest.approx(low + 0.1, abs=0.2)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=60),
    st.integers(0, 1000),
    st.floats(-1, 1),
    st.sampled_from([2, 60, 199, 200, 400]),
)
def test_probabilities_never_rise_and_stay_in_bounds(
    scores: list[float], more: int, base: float, images: int
) -> None:
    null = null_of(images)
    chances = hit_probabilities(-np.sort(-np.array(scores)), images=len(scores) + more, base=base, null=null)
    assert len(chances) == len(scores)
    assert ((chances >= 0) & (chances <= 1)).all()
    assert (np.diff(chances) <= 1e-12).all()


def test_no_hits_and_constant_scores() -> None:
    null = measure_null(np.full((5, 60), 0.2))
    assert len(hit_probabilities(np.zeros(0), images=1, base=0.0, null=null)) == 0
    assert (hit_probabilities(np.full(60, 0.2), images=60, base=0.2, null=null) < CUT).all()


def test_pairs_that_are_left_out_do_not_count() -> None:
    scores = neutral_scores(300)
    with_themselves = scores.copy()
    with_themselves[np.arange(64), np.arange(64)] = np.nan
    a, b = measure_null(scores), measure_null(with_themselves)
    at = np.linspace(-0.05, 0.15, 9)
    np.testing.assert_allclose(a.expected_share(at, 0.0), b.expected_share(at, 0.0), atol=0.02)


def test_the_tail_goes_on_beyond_the_sample() -> None:
    null = measure_null(neutral_scores(4096))
    base = 0.08
    shares = null.expected_share(np.array([0.2, 0.25, 0.3, 0.4]), base)
    assert (np.diff(shares) < 0).all()
    assert shares[-1] < 1e-6 < shares[0]


def test_the_closest_falling_sequence() -> None:
    found = cutoff._not_increasing(np.array([1.0, 3.0, 2.0, 0.0, 1.0, 0.5]), np.ones(6, np.int64))
    np.testing.assert_allclose(found, [2, 2, 2, 0.5, 0.5, 0.5])
    found = cutoff._not_increasing(np.array([1.0, 3.0, 2.0]), np.array([3, 1, 4]))
    np.testing.assert_allclose(found, [14 / 8] * 3)


@pytest.mark.parametrize("hits", [1, 2, 1023, 1024, 1025, 1030, 5000, 100_000])
def test_blocks_cover_all_hits_once(hits: int) -> None:
    ends = cutoff._block_ends(hits)
    assert ends[-1] == hits
    assert (np.diff(ends, prepend=0) >= 1).all()
    assert len(ends) <= 2500


def test_blocks_change_little(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    scores = -np.sort(-np.concatenate([random.normal(0.25, 0.05, 3000), random.normal(0.1, 0.03, 17_000)]))
    null = null_of(1000)

    def judge() -> np.ndarray:
        return hit_probabilities(scores, images=20_000, base=base_of(scores), null=null)

    coarse = judge()
    monkeypatch.setattr(cutoff, "_SINGLE_HITS", 100_000)
    fine = judge()
    assert np.count_nonzero(coarse >= CUT) == pytest.approx(np.count_nonzero(fine >= CUT), rel=0.01)
    assert np.abs(coarse - fine).mean() < 0.005


def test_the_sigmoid() -> None:
    found = sigmoid_probabilities(np.array([0.1, 0.2]), logit_scale=100.0, logit_bias=-10.0)
    np.testing.assert_allclose(found, [0.5, 1 / (1 + np.exp(-10))])
    assert sigmoid_probabilities(np.array([1e9, -1e9]), logit_scale=1e9, logit_bias=0.0).tolist() == [
        pytest.approx(1),
        pytest.approx(0),
    ]
