"""Texts of many requests in few calls of the tower."""

import asyncio
import threading
from typing import Any

import numpy as np

from app.api.batching import MAXIMUM_TEXTS, TextBatcher


class Memory:
    """A library as far as the batcher knows it: what it embeds it remembers; it waits to be let through."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.gate = threading.Event()
        self.error: Exception | None = None
        self.known: set[str] = set()

    def remembers(self, text: str) -> bool:
        return text in self.known

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        self.calls.append(list(texts))
        assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        self.known.update(texts)
        return np.zeros((len(texts), 1), np.float32)


async def ask_while_busy(
    batcher: TextBatcher, memory: Any, others: list[list[str]]
) -> list[asyncio.Task[None]]:
    """Let one call into the tower, and the others arrive while it is under way; then let all through."""
    tasks = [asyncio.create_task(batcher.embed(memory, ["first"]))]
    while not memory.calls:
        await asyncio.sleep(0.001)
    tasks += [asyncio.create_task(batcher.embed(memory, texts)) for texts in others]
    await asyncio.sleep(0)
    memory.gate.set()
    return tasks


def run(batcher: TextBatcher, memory: Memory, others: list[list[str]]) -> None:
    async def ask() -> None:
        await asyncio.wait_for(asyncio.gather(*await ask_while_busy(batcher, memory, others)), 30)

    asyncio.run(ask())


def test_those_who_wait_go_together_and_each_text_once() -> None:
    sizes: list[int] = []
    memory = Memory()
    run(TextBatcher(sizes.append), memory, [["a", "b"], ["c"], ["b", "d"]])
    assert memory.calls == [["first"], ["a", "b", "c", "d"]]
    assert sizes == [1, 4]


def test_a_call_takes_no_more_than_the_tower_does_in_one_piece() -> None:
    memory = Memory()
    others = [[f"{letter}{number}" for number in range(20)] for letter in "ab"]
    large = [str(number) for number in range(MAXIMUM_TEXTS + 5)]
    run(TextBatcher(), memory, [*others, large])
    assert memory.calls == [["first"], *others, large]


def test_libraries_are_not_mixed() -> None:
    old, new = Memory(), Memory()
    new.gate.set()

    async def ask() -> None:
        batcher = TextBatcher()
        tasks = await ask_while_busy(batcher, old, [["a"]])
        tasks.append(asyncio.create_task(batcher.embed(new, ["b"])))  # type: ignore[arg-type]
        await asyncio.wait_for(asyncio.gather(*tasks), 30)

    asyncio.run(ask())
    assert (old.calls, new.calls) == ([["first"], ["a"]], [["b"]])


def test_an_error_is_left_to_the_search_and_does_not_stay() -> None:
    memory = Memory()
    memory.error = RuntimeError("tower down")
    batcher = TextBatcher()
    run(batcher, memory, [["a"]])
    memory.error = None
    run(batcher, memory, [])
    assert memory.calls == [["first"], ["a"], ["first"]]


def test_what_is_remembered_asks_nothing_of_the_tower() -> None:
    memory = Memory()
    memory.known = {"cat"}
    asyncio.run(TextBatcher().embed(memory, ["cat"]))  # type: ignore[arg-type]
    asyncio.run(TextBatcher().embed(memory, []))  # type: ignore[arg-type]
    assert memory.calls == []


def test_a_client_that_goes_leaves_the_others_their_turn() -> None:
    memory = Memory()

    async def ask() -> None:
        tasks = await ask_while_busy(TextBatcher(), memory, [["a"], ["b"]])
        tasks[1].cancel()
        memory.gate.set()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)
        assert isinstance(results[1], asyncio.CancelledError)
        assert results[2] is None

    asyncio.run(ask())
    assert "b" in memory.known
