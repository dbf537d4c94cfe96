"""`imago doctor` for a served library: does the collection hold what it says, and does its index find what is there?"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import numpy as np

from indexer.cluster.expressions import EVERYTHING, Condition
from indexer.cluster.milvus_reader import MilvusReader, MilvusSelection, scores_of
from indexer.cluster.rows import SPREAD
from indexer.doctor import Finding
from indexer.vector_index import best

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEIGHBOURS: Final = 10
WANTED_RECALL: Final = 0.98
_MOST_COMPARED: Final = 200_000
"""Rows that are fetched and compared for the truth; of a larger collection this many, chosen by their content."""
_MOST_QUERIES: Final = 32
_SHARES: Final = (0.1, 0.01)
_NORM_TOLERANCE: Final = 0.01


def examine_served(place: str, queries: NDArray[np.float32] | None = None) -> list[Finding]:
    """Looks whether a collection is sound, and measures its index against comparing one by one.

    Args:
        place: Its address.
        queries: Vectors to measure with, float32 (n, dimension): embedded texts tell most, because texts and
            images lie apart. Without them, images of the collection are used.

    Returns:
        One finding for each thing looked at.

    Raises:
        LibraryError: It cannot be read at all; see `MilvusReader.open`.
    """
    with MilvusReader.open(place) as reader:
        manifest = reader.manifest
        findings = [
            Finding("server", False, f"Milvus {reader.server_version} answers."),
            *(
                Finding("publication", True, notice, f"imago publish --to {place}")
                for notice in reader.notices
            ),
        ]
        count = len(reader)
        if manifest.state == "complete" and count != manifest.images:
            findings.append(
                Finding(
                    "rows",
                    True,
                    f"The collection holds {count:,} rows; {manifest.images:,} were published.",
                    f"imago publish --to {place}",
                )
            )
        else:
            findings.append(
                Finding("rows", False, f"{count:,} images of {manifest.library or 'a job'}, as published.")
            )
        if manifest.copies_left_out:
            message = f"{manifest.copies_left_out:,} copies of images found no room in their rows."
            findings.append(Finding("copies", False, message))
        if count:
            findings += _measured(reader, count, queries)
        return findings


def _measured(reader: MilvusReader, count: int, queries: NDArray[np.float32] | None) -> list[Finding]:
    kind = "texts"
    if queries is None:
        kind = "images"
        queries = reader.vectors(reader.sample_ids(_MOST_QUERIES))
    queries = queries[:_MOST_QUERIES]
    share = min(1.0, _MOST_COMPARED / count)
    # In a sample, more neighbours are looked at, so that some of them are in it.
    neighbours = NEIGHBOURS if share == 1.0 else 100
    truth = _Truth(queries, neighbours)
    bad_vectors = compared = 0
    below = SPREAD if share == 1.0 else max(1, int(SPREAD * share))
    for ids, codes, spread in reader.vectors_below(below):
        norms = np.linalg.norm(codes, axis=1)
        bad_vectors += int(np.count_nonzero(~(np.abs(norms - 1) < _NORM_TOLERANCE)))
        compared += len(ids)
        truth.add(ids, codes, spread)
    findings = [
        Finding(
            "vectors",
            bad_vectors > 0,
            f"{bad_vectors:,} of {compared:,} vectors have not length 1."
            if bad_vectors
            else f"{compared:,} vectors of {reader.dimension} numbers looked at, each of length 1.",
            "Index the library anew." if bad_vectors else None,
        )
    ]
    findings.append(_recall(reader, truth, kind, limit=None, share=share, compared=compared))
    for part in _SHARES:
        limit = int(SPREAD * part)
        if limit < below and truth.candidates(limit) >= 5 * NEIGHBOURS:
            findings.append(_recall(reader, truth, kind, limit=limit, share=share, compared=compared))
    times = []
    for query in queries:
        started = time.perf_counter()
        reader.nearest(query[None], 20)
        times.append(time.perf_counter() - started)
    findings.append(
        Finding(
            "latency",
            False,
            f"median {np.median(times) * 1e3:.1f} ms for the best 20 of {count:,}, slowest of {len(times)}"
            f" {max(times) * 1e3:.1f} ms, from this machine.",
        )
    )
    return findings


def _recall(
    reader: MilvusReader, truth: _Truth, kind: str, *, limit: int | None, share: float, compared: int
) -> Finding:
    """How many of the true neighbours the index proposes, or a search behind a filter finds.

    Behind a filter the whole way counts, because few candidates are never left to the index.
    """
    expression = EVERYTHING if limit is None else f"spread < {limit}"
    chosen = MilvusSelection(reader, Condition(expression))
    found = wanted = 0
    for number, query in enumerate(truth.queries):
        if limit is None:
            ids, codes = reader.proposed(query, truth.neighbours, chosen)
            scores, ids = best(scores_of(codes, query), ids, truth.neighbours)
        else:
            (scores,), (ids,) = reader.nearest(query[None], truth.neighbours, among=chosen)
        true_scores, true_ids = truth.best(number, limit)
        if not len(true_ids):
            continue
        if share < 1.0:
            # Of the rows that were compared, those that belong among what the index says are its neighbours.
            true_ids = true_ids[true_scores > (scores[-1] if len(scores) else -np.inf)]
            found += int(np.isin(true_ids, ids).sum())
        else:
            # Whoever scores like the last true neighbour, give or take rounding, is as good as it.
            found += min(int(np.count_nonzero(scores >= true_scores[-1] - 1e-6)), len(true_ids))
        wanted += len(true_ids)
    recall = found / max(1, wanted)
    among = "" if limit is None else f" behind a filter that {100 * limit / SPREAD:.0f} % pass"
    sampled = "" if share == 1.0 else f", estimated from {compared:,} rows"
    is_problem = recall < WANTED_RECALL and wanted >= 50
    index = reader.manifest.index
    better = "hnsw" if index == "ivf_sq8" else "flat"
    return Finding(
        "recall" if limit is None else "filtered recall",
        is_problem,
        f"recall@{truth.neighbours} with the index {index} {recall:.4f} over {len(truth.queries)}"
        f" {kind}{among}{sampled}.",
        f"imago publish --to {reader.place} --index {better}" if is_problem else None,
    )


class _Truth:
    """The best rows of everything that was added, by comparing all, for each query and each part."""

    def __init__(self, queries: NDArray[np.float32], neighbours: int) -> None:
        self.queries = queries
        self.neighbours = neighbours
        self._limits = [None, *(int(SPREAD * part) for part in _SHARES)]
        self._best = {
            (number, limit): (np.empty(0, np.float32), np.empty(0, np.int64))
            for number in range(len(queries))
            for limit in self._limits
        }
        self._candidates = dict.fromkeys(self._limits, 0)

    def add(self, ids: NDArray[np.int64], codes: NDArray[np.float32], spread: NDArray[np.int64]) -> None:
        """Compares rows: ids int64 (n,), vectors float32 (n, dimension), their place in the spread int64 (n,)."""
        scores = codes @ self.queries.T
        for limit in self._limits:
            inside = np.ones(len(ids), np.bool_) if limit is None else spread < limit
            self._candidates[limit] += int(inside.sum())
            for number in range(len(self.queries)):
                old_scores, old_ids = self._best[number, limit]
                self._best[number, limit] = best(
                    np.concatenate([old_scores, scores[inside, number]]),
                    np.concatenate([old_ids, ids[inside]]),
                    self.neighbours,
                )

    def best(self, number: int, limit: int | None) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and ids of a query's neighbours within a part."""
        return self._best[number, limit]

    def candidates(self, limit: int | None) -> int:
        """How many rows of a part were compared."""
        return self._candidates[limit]
