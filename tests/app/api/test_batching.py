"""Texts of many threads in few calls of the tower."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from app.api.batching import MAXIMUM_TEXTS, WORTHWHILE_TEXTS, BatchingEncoder


def ask_while_busy(
    front: BatchingEncoder, tower: Any, first: list[str], others: list[list[str]]
) -> list[Future[np.ndarray]]:
    """Let one call into the tower, and the others arrive while it is under way."""
    pool = ThreadPoolExecutor(len(others) + 1)
    answers = [pool.submit(front.encode_texts, first)]
    assert tower.entered.wait(30)
    for number, texts in enumerate(others):
        answers.append(pool.submit(front.encode_texts, texts))
        deadline = time.monotonic() + 30
        while len(front._waiting) <= number and time.monotonic() < deadline:
            time.sleep(0.001)
    pool.shutdown(wait=False)
    return answers


def test_those_who_wait_go_together(counting_encoder: Any) -> None:
    sizes: list[int] = []
    front = BatchingEncoder(counting_encoder, sizes.append)
    first = ["bb", "ccc", "dddd", "a" * 5]
    answers = ask_while_busy(
        front, counting_encoder, ["a"], [first, ["a" * 6], ["bb", "a" * 7, "a" * 8, "a" * 9]]
    )
    counting_encoder.gate.set()
    assert [answer.result(30)[:, 0].tolist() for answer in answers] == [[1], [2, 3, 4, 5], [6], [2, 7, 8, 9]]
    assert [[len(text) for text in call] for call in counting_encoder.calls] == [
        [1],
        [2, 3, 4, 5, 6, 7, 8, 9],
    ]
    assert sizes == [1, WORTHWHILE_TEXTS]


def test_a_few_go_one_by_one_because_the_tower_pads_them_to_many(counting_encoder: Any) -> None:
    front = BatchingEncoder(counting_encoder)
    answers = ask_while_busy(front, counting_encoder, ["a"], [["bb"], ["ccc", "dddd"]])
    counting_encoder.gate.set()
    assert [answer.result(30)[:, 0].tolist() for answer in answers] == [[1], [2], [3, 4]]
    assert counting_encoder.calls == [["a"], ["bb"], ["ccc"], ["dddd"]]


def test_a_call_takes_no_more_than_the_tower_does_in_one_piece(counting_encoder: Any) -> None:
    front = BatchingEncoder(counting_encoder)
    large = [str(number) for number in range(MAXIMUM_TEXTS + 5)]
    others = [
        ["x" * number for number in range(100, 120)],
        ["y" * number for number in range(200, 220)],
        large,
    ]
    answers = ask_while_busy(front, counting_encoder, ["a"], others)
    counting_encoder.gate.set()
    for answer, texts in zip(answers[1:], others, strict=True):
        assert answer.result(30)[:, 0].tolist() == [len(text) for text in texts]
    assert [len(call) for call in counting_encoder.calls] == [1, 20, 20, len(large)]


def test_an_error_reaches_everybody_and_does_not_stay(counting_encoder: Any) -> None:
    front = BatchingEncoder(counting_encoder)
    counting_encoder.error = RuntimeError("tower down")
    answers = ask_while_busy(front, counting_encoder, ["a"], [["b"], ["c"]])
    counting_encoder.gate.set()
    for answer in answers:
        with pytest.raises(RuntimeError, match="tower down"):
            answer.result(30)
    counting_encoder.error = None
    assert front.encode_texts(["bbb"]).tolist() == [[3]]


def test_a_text_that_is_asked_for_twice_goes_through_once(counting_encoder: Any) -> None:
    counting_encoder.gate.set()
    front = BatchingEncoder(counting_encoder)
    assert front.encode_texts(["cat!", "dog", "cat!"])[:, 0].tolist() == [4, 3, 4]
    assert counting_encoder.calls == [["cat!"], ["dog"]]


def test_no_texts_give_no_rows(counting_encoder: Any) -> None:
    assert BatchingEncoder(counting_encoder).encode_texts([]).shape == (0, 1)
    assert counting_encoder.calls == []


def test_everything_else_is_the_encoders_own(counting_encoder: Any) -> None:
    front = BatchingEncoder(counting_encoder)
    assert front.dimension == 1
    with pytest.raises(AttributeError):
        _ = front.no_such_thing


def test_many_threads_all_get_their_own_answer(counting_encoder: Any) -> None:
    counting_encoder.gate.set()
    front = BatchingEncoder(counting_encoder)
    barrier = threading.Barrier(16)

    def ask(number: int) -> bool:
        barrier.wait(30)
        texts = ["x" * (number * 20 + more) for more in range(20)]
        return all(front.encode_texts([text])[0, 0] == len(text) for text in texts)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(16)))
