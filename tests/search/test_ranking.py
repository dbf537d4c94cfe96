"""Putting terms together: equal say, hand-checked directions, and contributions that add up."""

from __future__ import annotations

import numpy as np
import pytest

from search.errors import QueryError
from search.ranking import mix, mix_alike


def unit(*values: float) -> np.ndarray:
    vector = np.array(values, np.float32)
    return vector / np.linalg.norm(vector)


NO_SAMPLE = np.zeros((0, 3), np.float32)


def random_images(count: int = 200) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32) * [1.0, 0.1, 0.5]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_one_term_is_its_own_direction() -> None:
    vector = unit(1, 2, 3)
    np.testing.assert_array_equal(mix(vector[None], [2.0], random_images()).direction, vector)


def test_without_a_library_terms_are_summed_as_they_are() -> None:
    found = mix(np.stack([unit(1, 0, 0), unit(0, 1, 0)]), [2.0, -1.0], NO_SAMPLE).direction
    np.testing.assert_allclose(found, unit(2, -1, 0), atol=1e-6)


def test_terms_have_equal_say_however_much_they_vary() -> None:
    images = random_images()
    both = mix(np.stack([unit(1, 0, 0), unit(0, 1, 0)]), [1.0, 1.0], images)
    scores = images @ both.vectors.T
    # By hand: the first axis varies more, so the second is amplified by the ratio.
    spread = scores.std(0)
    np.testing.assert_allclose(both.direction, unit(1 / spread[0], 1 / spread[1], 0), atol=1e-5)
    rank = images @ both.direction
    first, second = (abs(np.corrcoef(rank, column)[0, 1]) for column in scores.T)
    assert first == pytest.approx(second, abs=0.05)


def test_contributions_add_up_to_the_rank() -> None:
    images = random_images()
    mixture = mix(np.stack([unit(1, 0, 0), unit(0, 1, 1)]), [2.0, -0.5], images)
    shares = np.array(
        [sum(part.share for part in parts) for parts in mixture.contributions(["a", "b"], images)]
    )
    assert np.corrcoef(shares, images @ mixture.direction)[0, 1] == pytest.approx(1, abs=1e-5)
    part = mixture.contributions(["a", "b"], images[:1])[0][1]
    assert (part.term, part.weight) == ("b", -0.5)
    assert part.score == pytest.approx(float(images[0] @ unit(0, 1, 1)), abs=1e-6)


def test_terms_that_cancel_out_are_refused() -> None:
    with pytest.raises(QueryError, match="cancel one another out"):
        mix(np.stack([unit(1, 2, 3), unit(1, 2, 3)]), [1.0, -1.0], random_images())


def test_the_same_arithmetic_with_other_parts() -> None:
    images = random_images()
    parts = np.stack([unit(1, 0, 0), unit(0, 1, 0)])
    mixture = mix(parts, [1.0, -2.0], images)
    np.testing.assert_allclose(mix_alike(mixture, parts[None])[0], mixture.direction, atol=1e-6)
