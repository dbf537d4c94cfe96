"""How a library of a million images answers: latency, memory, filters, small changes.

    python -m benchmarks.library_scale --images 1000000 --dimension 512 --folder /tmp/scale

Makes a library of synthetic clustered vectors (no pictures are decoded or embedded), written through the same code as
an indexing run writes, and measures reading it. Scores are compared with brute force over the same vectors. Prints a
Markdown table, and JSON with `--json`. Shared machines are noisy: compare rows, do not quote absolutes.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

REPEATS = 15
K = 20
CHUNK = 20_000


def clustered(random: np.random.Generator, centres: np.ndarray, count: int) -> np.ndarray:
    """Unit vectors around centres, float32 (count, dimension)."""
    vectors = centres[random.integers(0, len(centres), count)]
    vectors = vectors + 0.7 * random.standard_normal(vectors.shape, dtype=np.float32) / np.sqrt(
        vectors.shape[1]
    )
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def centres_of(dimension: int) -> np.ndarray:
    centres = np.random.default_rng(7).standard_normal((2_000, dimension), dtype=np.float32)
    return centres / np.linalg.norm(centres, axis=1, keepdims=True)


def fill(library: Path, first: int, count: int, dimension: int) -> None:
    """Adds images `first` .. `first + count` with their vectors, as an indexing run commits them."""
    from indexer.catalog import Catalog
    from indexer.decode import Metadata
    from indexer.lock import writer_lock
    from indexer.upkeep import renew_vector_file, usable_vector_file
    from model.identity import ModelIdentity

    library.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(first)
    centres = centres_of(dimension)
    with writer_lock(library), Catalog.open(library) as catalog:
        with catalog.transaction():
            model = catalog.model("active") or catalog.add_model(
                ModelIdentity("synthetic", None, "00" * 32, "00" * 32, dimension), "active"
            )
            root = (catalog.roots() or [catalog.add_root("/synthetic")])[0]
        for start in range(first, first + count, CHUNK):
            numbers = range(start, min(start + CHUNK, first + count))
            vectors = clustered(random, centres, len(numbers))
            with catalog.transaction():
                for number, vector in zip(numbers, vectors, strict=True):
                    image_id = catalog.add_image(number.to_bytes(32, "big"), 1000, "jpeg", Metadata(640, 480))
                    catalog.add_vector(image_id, model.id, vector)
                    catalog.put_file(
                        root.id,
                        f"{number // 1000}/{number}.jpg",
                        (1000, 1, number),
                        "indexed",
                        image_id=image_id,
                        read_ns=1,
                    )
        base, _ = usable_vector_file(catalog, model)
        renew_vector_file(catalog, model, base)


def remove(library: Path, image_ids: range) -> None:
    from indexer.catalog import Catalog
    from indexer.lock import writer_lock
    from indexer.upkeep import renew_vector_file, usable_vector_file

    with writer_lock(library), Catalog.open(library) as catalog:
        with catalog.transaction():
            catalog.remove_files(image_ids)  # in this library files and images have the same numbers
            catalog.settle(image_ids)
        model = catalog.model("active")
        base, _ = usable_vector_file(catalog, model)
        renew_vector_file(catalog, model, base)


def median_ms(call, repeats: int = REPEATS) -> tuple[float, float]:
    """Median and spread (half the distance of the quartiles), after one call that is not counted."""
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append((time.perf_counter() - started) * 1e3)
    low, middle, high = np.percentile(times, [25, 50, 75])
    return float(middle), float(high - low) / 2


def read(library: Path, dimension: int, *, brute: bool) -> list[tuple[str, str]]:
    """What a reader measures; runs in a process of its own, so that its memory is its own."""
    from indexer import LibraryReader

    random = np.random.default_rng(99)
    queries = clustered(random, centres_of(dimension), 64)
    rows = []
    started = time.perf_counter()
    with LibraryReader.open(library) as reader:
        opened = time.perf_counter()
        reader.nearest(queries[:1], K)
        rows += [
            ("open", f"{(opened - started) * 1e3:.0f} ms"),
            (
                "first query (checksum of vectors.faiss included)",
                f"{(time.perf_counter() - started) * 1e3:.0f} ms",
            ),
        ]
        step = iter(range(10**9))
        count = len(reader)
        ids = reader.ids()
        middle, spread = median_ms(lambda: reader.nearest(queries[next(step) % 64][None], K))
        rows.append((f"query, all {count:,}", f"{middle:.1f} ± {spread:.1f} ms"))
        middle, spread = median_ms(lambda: reader.nearest(queries[next(step) % 64][None], 1024))
        rows.append(("query, all, k = 1,024, as searches with a cut ask", f"{middle:.1f} ± {spread:.1f} ms"))
        for share in (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 0.9):
            among = np.sort(random.choice(ids, max(1, int(share * count)), replace=False))
            middle, spread = median_ms(
                lambda among=among: reader.nearest(queries[next(step) % 64][None], K, among=among)
            )
            rows.append((f"query, filter lets {share:.3%} through", f"{middle:.1f} ± {spread:.1f} ms"))
        anonymous = memory_mib("RssAnon")
        rows.append(
            (
                "memory of the process: own / mapped from vectors.faiss",
                f"{anonymous} / {memory_mib('RssFile')} MiB",
            )
        )
        rows.append(
            (
                "peak memory of the process, mapped pages included",
                f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB",
            )
        )
        if brute:
            vectors = reader.vectors(ids)
            wrong = 0
            for query in queries[:20]:
                exact = (vectors @ query).astype(np.float64)
                top = np.argpartition(-exact, K * 2)[: K * 2]
                exact_top = (
                    (vectors[top].astype(np.float64) * query.astype(np.float64))
                    .sum(axis=1)
                    .astype(np.float32)
                )
                expected = ids[top][np.lexsort((ids[top], -exact_top))][:K]
                wrong += reader.nearest(query[None], K)[1][0].tolist() != expected.tolist()
            rows.append(("answers that differ from brute force", f"{wrong} of 20"))
    return rows


def memory_mib(kind: str) -> int:
    for line in (
        Path("/proc/self/status").read_text().splitlines() if Path("/proc/self/status").exists() else []
    ):
        if line.startswith(kind):
            return int(line.split()[1]) // 1024
    return 0


def in_own_process(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    command = [sys.executable, "-m", "benchmarks.library_scale", "--read", "--folder", str(arguments.folder)]
    command += ["--dimension", str(arguments.dimension), *(["--brute"] if arguments.brute else [])]
    return [
        tuple(row) for row in json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument(
        "--folder", type=Path, required=True, help="where the library is made, or was made before"
    )
    parser.add_argument(
        "--brute", action="store_true", help="compare with brute force (needs memory for all vectors)"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--read", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    library = arguments.folder / "library"
    if arguments.read:
        print(json.dumps(read(library, arguments.dimension, brute=arguments.brute)))
        return
    rows = []
    if not (library / "catalog.db").exists():
        started = time.perf_counter()
        fill(library, 0, arguments.images, arguments.dimension)
        rows.append(
            (f"writing {arguments.images:,} rows and vectors.faiss", f"{time.perf_counter() - started:.0f} s")
        )
    rows.append(("catalog.db", f"{(library / 'catalog.db').stat().st_size / 2**20:.0f} MiB"))
    rows.append(("vectors.faiss", f"{(library / 'vectors.faiss').stat().st_size / 2**20:.0f} MiB"))
    rows += in_own_process(arguments)
    started = time.perf_counter()
    fill(library, 10**9 + int(time.time()), 1000, arguments.dimension)
    rows.append(("adding 1,000 vectors", f"{time.perf_counter() - started:.1f} s"))
    started = time.perf_counter()
    first = int(np.random.default_rng().integers(1, max(2, arguments.images - 2000)))
    remove(library, range(first, first + 1000))
    rows.append(("removing 1,000", f"{time.perf_counter() - started:.1f} s"))
    rows += [
        (f"then: {name}", value)
        for name, value in in_own_process(arguments)
        if "query, all" in name or "open" in name or "brute" in name
    ]
    if arguments.json:
        print(
            json.dumps({"machine": platform.platform(), "cpu": platform.processor(), "rows": rows}, indent=2)
        )
        return
    print(
        f"{arguments.images:,} x {arguments.dimension}, k = {K}, medians of {REPEATS} ± half the quartile distance\n"
    )
    print("| What | Measured |\n| --- | --- |")
    for name, value in rows:
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
