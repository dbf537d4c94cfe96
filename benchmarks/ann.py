"""The approximate index: how it was chosen, and what it does with millions of vectors.

    python -m benchmarks.ann kinds --vectors 500000 --folder /tmp/ann
    python -m benchmarks.ann index --vectors 10000000 --folder /tmp/ann

`kinds` compares kinds of FAISS index over the same cells: build time, size, latency and how many of the ten nearest
are among the candidates. `index` builds the library's own index (`indexer.approximate_index`) over a vectors.faiss
and measures it as a reader uses it: against exact search, for texts and for images, under filters, after changes.

The vectors are synthetic, with what makes real ones hard: a spectrum in which few directions matter most, clusters in
clusters of very different sizes, and texts in a cone of their own that share only part of their content with images
(the modality gap). `--images` and `--texts` take real ones instead (.npy, float32, a row each). The texts that the
index is built with are not those that it is measured with.

Prints Markdown, and JSON with `--json`. The folder keeps what was made; a second run measures again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUERIES = 100
BUILD_QUERIES = 100
CHUNK = 50_000
K = 10
SHARES = (0.9, 0.5, 0.1, 0.05, 0.01, 0.005, 0.001, 1e-4, 1e-5)


class Space:
    """Where synthetic images and texts lie."""

    def __init__(self, dimension: int, topics: int = 400, clusters: int = 20_000) -> None:
        random = np.random.default_rng(7)
        spread = (np.arange(dimension) + 1.0) ** -0.45
        self.spread = (spread / np.linalg.norm(spread)).astype(np.float32)
        self.rotation = np.linalg.qr(random.standard_normal((dimension, dimension)))[0].astype(np.float32)
        topic = random.standard_normal((topics, dimension)) * self.spread
        own = random.standard_normal((clusters, dimension)) * self.spread
        self.clusters = (0.75 * topic[random.integers(0, topics, clusters)] + 0.66 * own).astype(np.float32)
        sizes = (np.arange(clusters) + 20.0) ** -0.8
        random.shuffle(sizes)
        self.sizes = sizes / sizes.sum()
        gap = random.standard_normal((2, dimension)).astype(np.float32)
        self.image_gap, other = gap / np.linalg.norm(gap, axis=1, keepdims=True)
        self.text_gap = 0.45 * self.image_gap + 0.9 * other

    def _contents(self, random: np.random.Generator, count: int) -> np.ndarray:
        chosen = random.choice(len(self.clusters), count, p=self.sizes)
        noise = random.standard_normal((count, len(self.spread)), dtype=np.float32) * self.spread
        return self.clusters[chosen] + 0.7 * noise

    def images(self, random: np.random.Generator, count: int) -> np.ndarray:
        """Unit vectors, float32 (count, dimension)."""
        return unit(self.image_gap + 0.82 * self._contents(random, count) @ self.rotation)

    def texts(self, random: np.random.Generator, count: int) -> np.ndarray:
        """Unit vectors, float32 (count, dimension); half of what a text says is in no image."""
        besides = random.standard_normal((count, len(self.spread)), dtype=np.float32) * self.spread
        return unit(self.text_gap + 0.5 * (self._contents(random, count) + besides) @ self.rotation)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


class Data:
    """Vectors to index, and queries of both kinds."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        random = np.random.default_rng(2)
        self._given = None
        if arguments.images is not None:
            images = np.load(arguments.images)[: arguments.vectors]
            images = images[random.permutation(len(images))]
            texts = np.load(arguments.texts)
            texts = texts[random.permutation(len(texts))]
            self.image_queries, self._given = images[:QUERIES], images[QUERIES:]
            self.count, self.dimension = self._given.shape
        else:
            self._space = Space(arguments.dimension)
            self.count, self.dimension = arguments.vectors, arguments.dimension
            texts = self._space.texts(random, QUERIES + BUILD_QUERIES)
            self.image_queries = self._space.images(random, QUERIES)
        self.text_queries = texts[: min(QUERIES, arguments.queries)]
        self.image_queries = self.image_queries[: arguments.queries]
        self.build_queries = texts[QUERIES : QUERIES + BUILD_QUERIES]

    def chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Ids and half-precision vectors, for `write_vector_file`."""
        random = np.random.default_rng(1)
        for start in range(0, self.count, CHUNK):
            size = min(CHUNK, self.count - start)
            vectors = (
                self._space.images(random, size) if self._given is None else self._given[start : start + size]
            )
            yield np.arange(start + 1, start + size + 1), vectors.astype(np.float16)


def open_segment(folder: Path, data: Data):
    """vectors.faiss, made if it is not there: its description, and mapped."""
    from indexer.vector_index import Segment, VectorFileInfo, read_info, write_vector_file

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vectors.faiss"
    if not path.exists():
        write_vector_file(
            path, VectorFileInfo("benchmark", 1, 1, data.count, data.dimension, data.count), data.chunks()
        )
    info = read_info(path)
    return info, Segment.from_file(path, info)


def latencies_ms(call: Callable[[np.ndarray], object], queries: np.ndarray) -> np.ndarray:
    call(queries[0])
    times = []
    for query in queries:
        started = time.perf_counter()
        call(query)
        times.append((time.perf_counter() - started) * 1e3)
    return np.asarray(times)


def measure(segment, queries: np.ndarray, allowed: np.ndarray | None = None, *ks: int) -> dict[str, float]:
    """Recall@10 against exact search over the same vectors, and latency."""
    recalls = []
    for query in queries:
        _, exact = segment.nearest(query, K, allowed, exact=True)
        _, found = segment.nearest(query, K, allowed)
        recalls.append(len(np.intersect1d(found, exact)) / max(1, len(exact)))
    times = latencies_ms(lambda query: segment.nearest(query, K, allowed), queries)
    longer = {
        f"p50 ms, k = {k}": float(
            np.median(latencies_ms(lambda query, k=k: segment.nearest(query, k, allowed), queries))
        )
        for k in ks
    }
    return longer | {
        "recall": float(np.mean(recalls)),
        "worst": float(np.min(recalls)),
        "p50 ms": float(np.median(times)),
        "p95 ms": float(np.quantile(times, 0.95)),
    }


def index(arguments: argparse.Namespace) -> list[dict[str, object]]:
    from indexer import approximate_index
    from indexer.vector_index import decoded

    data = Data(arguments)
    rows: list[dict[str, object]] = []

    def add(what: str, **figures: object) -> None:
        rows.append({"what": what, **figures})
        print(rows[-1], file=sys.stderr, flush=True)

    started = time.perf_counter()
    info, segment = open_segment(arguments.folder, data)
    add(
        "vectors.faiss",
        seconds=time.perf_counter() - started,
        MB=(arguments.folder / "vectors.faiss").stat().st_size / 1e6,
    )
    path = arguments.folder / "vectors.ann"
    if not path.exists():
        started = time.perf_counter()
        shown = [started]

        def watch(done: int, total: int) -> bool:
            if time.perf_counter() - shown[0] > 20:
                shown[0] = time.perf_counter()
                print(f"  {shown[0] - started:.0f} s: {done:,} of {total:,}", file=sys.stderr, flush=True)
            return False

        approximate_index.build(path, info, segment, data.build_queries, watch)
        add(
            "building",
            seconds=time.perf_counter() - started,
            **{"processor seconds": time.process_time(), "peak MB": peak_mb()},
        )
    started = time.perf_counter()
    segment.approximate = approximate_index.ApproximateIndex.from_file(path, info)
    add(
        "vectors.ann", seconds=time.perf_counter() - started, MB=path.stat().st_size / 1e6, memory_MB=own_mb()
    )
    described = segment.approximate.info
    add(
        f"{described.cells} cells, of which {described.probes[0][1]} are visited; recall as built",
        recall=described.recall,
    )
    rough = decoded(segment.codes[:: max(1, info.count // 20_000)]) @ data.text_queries[-1]
    add("text, all", **measure(segment, data.text_queries, None, 100, 1024))
    add("image, all", **measure(segment, data.image_queries))
    times = latencies_ms(
        lambda query: segment.nearest(query, K, None, exact=True), data.text_queries[: arguments.exact]
    )
    add("text, all, exact", **{"p50 ms": float(np.median(times))})
    few = data.text_queries[: arguments.filtered]
    for share in SHARES:
        if share * info.count >= 1:
            allowed = np.random.default_rng(5).random(info.count) < share
            add(f"text, {share:.3%} allowed", **measure(segment, few, allowed))
    for share in (0.5, 0.1):
        limit = np.quantile(rough, share)
        allowed = np.concatenate(
            [
                decoded(segment.codes[start : start + CHUNK]) @ data.text_queries[-1] < limit
                for start in range(0, info.count, CHUNK)
            ]
        )
        add(f"text, the {share:.0%} farthest from a text allowed", **measure(segment, few, allowed))
    return rows


def kinds(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """All over the same cells, so that only the codes differ."""
    import faiss

    from indexer.approximate_index import cells_for
    from indexer.vector_index import decoded

    data = Data(arguments)
    info, segment = open_segment(arguments.folder, data)
    vectors, d, cells = decoded(segment.codes), info.dimension, cells_for(info.count)
    random = np.random.default_rng(0)
    sample = vectors[random.choice(info.count, min(info.count, 50 * cells), replace=False)]
    clustering = faiss.Kmeans(d, cells, niter=8, spherical=True, seed=0, max_points_per_centroid=50)
    clustering.train(sample)
    queries = {"text": data.text_queries, "image": data.image_queries}
    exact = {
        kind: np.stack([segment.nearest(query, K, None)[1] for query in some]) - 1
        for kind, some in queries.items()
    }
    ip, quantizer = faiss.METRIC_INNER_PRODUCT, faiss.ScalarQuantizer

    def product(parts: int, residual: bool) -> Callable[[object], object]:
        def make(coarse: object) -> object:
            made = faiss.IndexIVFPQFastScan(coarse, d, cells, parts, 4, ip)
            made.by_residual = residual
            return made

        return make

    makers = {
        "IVF, SQfp16": lambda coarse: faiss.IndexIVFScalarQuantizer(coarse, d, cells, quantizer.QT_fp16, ip),
        "IVF, SQ8": lambda coarse: faiss.IndexIVFScalarQuantizer(coarse, d, cells, quantizer.QT_8bit, ip),
        "IVF, SQ4": lambda coarse: faiss.IndexIVFScalarQuantizer(coarse, d, cells, quantizer.QT_4bit, ip),
        f"IVF, PQ{d // 8}x4 fast scan, residual": product(d // 8, True),
        f"IVF, PQ{d // 4}x4 fast scan": product(d // 4, False),
        f"IVF, PQ{d // 4}x4 fast scan, residual": product(d // 4, True),
        f"IVF, PQ{d // 2}x4 fast scan, residual": product(d // 2, True),
        "IVF, RaBitQ": lambda coarse: faiss.IndexIVFRaBitQ(coarse, d, cells, ip),
        "IVF, RaBitQ fast scan": lambda coarse: faiss.IndexIVFRaBitQFastScan(coarse, d, cells, ip),
        "IVF, RaBitQ fast scan, 2 bits": lambda coarse: faiss.IndexIVFRaBitQFastScan(
            coarse, d, cells, ip, 32, True, 2
        ),
    }
    rows: list[dict[str, object]] = []
    for name, make in makers.items():
        coarse = faiss.IndexFlatIP(d)
        coarse.add(clustering.centroids)
        faiss.omp_set_num_threads(os.cpu_count() or 1)
        started = time.perf_counter()
        made = make(coarse)
        made.own_fields = False
        made.train(sample)
        made.add(vectors)
        row: dict[str, object] = {"what": name, "build s": time.perf_counter() - started}
        row["bytes a vector"] = len(faiss.serialize_index(made)) / info.count
        faiss.omp_set_num_threads(1)
        for visited in (cells // 64, cells // 16):
            made.nprobe = visited
            for kind, some in queries.items():
                for fetch in (256, 2048):
                    found = [made.search(query[None], fetch)[1][0] for query in some]
                    hits = [
                        len(np.intersect1d(one, wanted))
                        for one, wanted in zip(found, exact[kind], strict=True)
                    ]
                    row[f"{kind}: of {fetch} from {visited} cells"] = float(np.mean(hits)) / K
            times = latencies_ms(lambda query, made=made: made.search(query[None], 2048), data.text_queries)
            row[f"p50 ms, {visited} cells"] = float(np.median(times))
        allowed = random.random(info.count) < 0.1
        chosen = faiss.SearchParametersIVF(
            sel=faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little")), nprobe=cells // 16
        )
        if "RaBitQ" in name:
            chosen = faiss.IVFRaBitQSearchParameters()
            chosen.sel = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
            chosen.nprobe = cells // 16
        hits = []
        for query in data.text_queries[: arguments.filtered]:
            _, wanted = segment.nearest(query, K, allowed)
            hits.append(
                len(np.intersect1d(made.search(query[None], 2048, params=chosen)[1][0], wanted - 1))
                / len(wanted)
            )
        row["text, 10 % allowed"] = float(np.mean(hits))
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    return rows


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def own_mb() -> int | None:
    """Memory of this process that is not mapped from a file."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    return next(int(line.split()[1]) // 1024 for line in status.read_text().splitlines() if "RssAnon" in line)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["index", "kinds"])
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--images", type=Path, help="real image vectors (.npy)")
    parser.add_argument("--texts", type=Path, help="real text vectors (.npy)")
    parser.add_argument("--queries", type=int, default=QUERIES, help="queries of each kind, 100 at most")
    parser.add_argument("--filtered", type=int, default=30, help="queries for each filter")
    parser.add_argument("--exact", type=int, default=10, help="queries to time an exact search with")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = {"index": index, "kinds": kinds}[arguments.what](arguments)
    if arguments.json:
        print(json.dumps({"machine": platform.platform(), "rows": rows}, indent=2))
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for row in rows:
        cells = [row.get(column, "") for column in columns]
        print(f"| {' | '.join(f'{cell:,.4g}' if isinstance(cell, float) else str(cell) for cell in cells)} |")


if __name__ == "__main__":
    main()
