"""Figures on matrices small enough to check by hand."""

import numpy as np
import pytest

from model.training.metrics import accuracy, ranks, recall

SCORES = np.array([[0.9, 0.1, 0.2], [0.3, 0.4, 0.4], [0.1, 0.8, 0.5], [0.2, 0.2, 0.2]], np.float32)


def test_accuracy_counts_rows_whose_label_scores_highest() -> None:
    assert (
        accuracy(SCORES, np.array([0, 1, 1, 2])) == 0.75
    )  # the last row is a tie that the first column wins


def test_ranks_count_from_one_and_put_the_wanted_last_among_equals() -> None:
    np.testing.assert_array_equal(ranks(SCORES, np.array([1, 1, 2, 0])), [3, 2, 2, 3])


def test_what_is_no_number_is_never_right() -> None:
    scores = np.full((2, 3), np.nan, np.float32)
    assert accuracy(scores, np.array([0, 0])) == 0
    np.testing.assert_array_equal(ranks(scores, np.array([0, 0])), [3, 3])


@pytest.mark.parametrize(("k", "expected"), [(1, 0.0), (2, 0.5), (3, 1.0)])
def test_recall_is_the_share_within_the_first_k(k: int, expected: float) -> None:
    assert recall(np.array([3, 2, 2, 3]), k) == expected
