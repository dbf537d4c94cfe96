"""What docs/scale.md is reckoned from: bytes of an image at each stage, and what one core does in a second.

    .venv-cluster/bin/python -m benchmarks.scale [--photos FOLDER] [--images 20000] [--milvus milvus://HOST:PORT/NEW]

Vectors have 512 numbers, as those of a ViT-B/32, whose tower runs with random weights (they cost the same as any).
Pictures are made here: noise that was enlarged, in JPEG of quality 90; real ones are measured besides where a folder is
named. Each figure is the median of three. The server's figures are those of the server that is named.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.speed import Bench
from indexer.catalog import Catalog
from indexer.decode import DecodeLimits, Metadata
from indexer.decode_worker import handle
from indexer.lock import writer_lock
from indexer.upkeep import renew_vector_file
from model import ImagePreprocessor, ModelIdentity

DIMENSION = 512
ROUNDS = 3


def median_of(measure) -> float:
    return statistics.median(measure() for _ in range(ROUNDS))


def photograph(path: Path, width: int, height: int, seed: int) -> Path:
    """A picture with detail at all scales, about as large in JPEG as a photograph of its size."""
    chance = np.random.default_rng(seed)
    coarse = Image.fromarray(chance.integers(0, 256, (height // 16, width // 16, 3), np.uint8))
    picture = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    fine = chance.integers(-12, 13, (height // 2, width // 2, 3), np.int16)
    picture = picture + np.kron(fine, np.ones((2, 2, 1), np.int16))
    Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(path, quality=90)
    return path


def decoding(paths: list[Path]) -> dict[str, float]:
    """Reading, hashing, decoding and preparing for a tower of 224 pixels, on one core."""
    preprocessor = ImagePreprocessor.from_config(
        {"do_resize": True, "size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": 224}
    )

    def once() -> float:
        started = time.perf_counter()
        for path in paths:
            handle(str(path), preprocessor, DecodeLimits(), hash_only=False, may_be_heavy=True)
        return (time.perf_counter() - started) / len(paths)

    seconds = median_of(once)
    size = sum(path.stat().st_size for path in paths) / len(paths)
    return {"images_per_core_second": 1 / seconds, "milliseconds": seconds * 1e3, "file_bytes": size}


def towers(scratch: Path) -> dict[str, float]:
    """The tower of a ViT-B/32 on one core, as a worker of its own runs it."""
    bench = Bench(scratch, 1, None, 0)
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    command = [sys.executable, "-m", "benchmarks.tower", str(bench.base), "--batch", "16", "--calls", "4"]
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    done = subprocess.run(
        [*pinned, *command], env=bench.environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.strip().splitlines()[-1] if "\n{" not in done.stdout else done.stdout)


def library_of(path: Path, images: int) -> Path:
    """Rows and clustered vectors, written through the catalog; paths of ordinary length."""
    chance = np.random.default_rng(0)
    centres = chance.standard_normal((500, DIMENSION)).astype(np.float32)
    path.mkdir()
    with writer_lock(path), Catalog.open(path) as catalog:
        identity = ModelIdentity("synthetic", None, "a" * 64, "b" * 64, DIMENSION)
        with catalog.transaction():
            model = catalog.add_model(identity, "active")
            root = catalog.add_root("/data/photographs/team")
            for i in range(images):
                vector = centres[i % 500] + 1.2 * chance.standard_normal(DIMENSION).astype(np.float32)
                vector /= np.linalg.norm(vector)
                moment = f"2024-{1 + i % 12:02d}-{1 + i % 28:02d}T12:34:56"
                metadata = Metadata(4000, 3000, moment, "Google", "Pixel 8", 48.8566, 2.3522)
                content = hashlib.sha256(str(i).encode()).digest()
                image_id = catalog.add_image(content, 4_500_000 + i, "jpeg", metadata)
                catalog.add_vector(image_id, model.id, vector)
                name = f"2024/{1 + i % 12:02d}/PXL_{20240101123456000 + i}.jpg"
                stat = (4_500_000 + i, 1_700_000_000_000_000_000 + i, i)
                catalog.put_file(root.id, name, stat, "indexed", image_id=image_id, read_ns=0)
        renew_vector_file(catalog, model, None)
    return path


def sizes(library: Path, images: int, scratch: Path) -> dict[str, float]:
    """Bytes of an image: in the library's files, in Parquet, as a row that travels, in an index in memory."""
    from pyarrow import parquet as _  # noqa: F401  (said here, should it be missing)

    from indexer import LibraryReader
    from indexer.cluster.job import EmbeddedFile
    from indexer.cluster.parquet import ParquetSink
    from indexer.cluster.publishing import BLOCK_IDS
    from indexer.cluster.rows import Copy, PublishedImage, row_of
    from indexer.cluster.sources import Source

    found = {name: (library / name).stat().st_size / images for name in ("catalog.db", "vectors.faiss")}
    with LibraryReader.open(library) as reader:
        ids = reader.ids()
        records, vectors = reader.images(ids), reader.vectors(ids)
        identity = reader.model
    # A tower gives all 24 bits of a number; those of a library have eleven, which compress too well.
    vectors = vectors + 1e-6 * np.random.default_rng(1).standard_normal(vectors.shape).astype(np.float32)
    sink = ParquetSink(scratch / "parquet", identity)
    with sink:
        for record, vector in zip(records, vectors, strict=True):
            metadata = {
                name: getattr(record, name)
                for name in (
                    "width_pixels", "height_pixels", "taken_at", "camera_make", "camera_model", "latitude", "longitude",
                )
            }  # fmt: skip
            source = Source(str(record.path), record.size_bytes, int(record.modified_seconds * 1e9))
            sink.add(EmbeddedFile(source, "indexed", None, record.content_hash, "jpeg", metadata, vector))
        sink.flush()
    shards = sum(path.stat().st_size for path in (scratch / "parquet").glob("*.parquet"))
    row = row_of(
        PublishedImage(
            *(
                1,
                records[0].content_hash,
                4_500_000,
                4000,
                3000,
                "jpeg",
                records[0].taken_at,
                "Google",
                "Pixel 8",
            ),
            *(48.8566, 2.3522, str(records[0].taken_at)),
            (Copy(str(records[0].path), True, 1_700_000_000_000_000_000),),
        )
    )
    import faiss

    index = faiss.IndexHNSWFlat(DIMENSION, 32, faiss.METRIC_INNER_PRODUCT)
    part = vectors[: min(images, 10_000)]
    started = time.perf_counter()
    index.add(part)
    building = (time.perf_counter() - started) / len(part)
    columns = sum(len(value) if isinstance(value, str) else 8 for value in row.values())
    return {
        **found,
        "parquet": shards / images,
        "row_columns": columns,
        "row_vector": DIMENSION * 4,
        "hnsw_memory": len(faiss.serialize_index(index)) / len(part),
        "hnsw_build_ms_two_threads": building * 1e3,
        "ids_in_block": BLOCK_IDS,
    }


@dataclass
class Served:
    """What one server did."""

    publish_rows_per_second: float
    publish_again_seconds: float
    search_ms: float
    filtered_search_ms: float


def serving(library: Path, place: str, images: int) -> Served:
    """Publishing and searching, from this machine."""
    from indexer.cluster.milvus_reader import MilvusReader
    from indexer.cluster.publishing import publish
    from indexer.filters import TakenBetween

    first = publish(library, place)
    again = publish(library, place)
    with MilvusReader.open(place) as reader:
        queries = reader.vectors(reader.sample_ids(20)) + 0.02
        from datetime import datetime

        chosen = reader.select([TakenBetween(datetime(2024, 3, 1), datetime(2024, 9, 1))])
        len(chosen)

        def timed(**options) -> float:
            times = []
            for query in queries:
                started = time.perf_counter()
                reader.nearest(query[None].astype(np.float32), 20, **options)
                times.append(time.perf_counter() - started)
            return statistics.median(times) * 1e3

        return Served(images / first.seconds, again.seconds, timed(), timed(among=chosen))


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--photos", type=Path)
    arguments.add_argument("--images", type=int, default=20_000)
    arguments.add_argument("--milvus", metavar="PLACE")
    options = arguments.parse_args()
    found: dict[str, object] = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    }
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        found["decode 12 megapixels"] = decoding(
            [photograph(scratch / f"large{i}.jpg", 4000, 3000, i) for i in range(4)]
        )
        found["decode 0.5 megapixels"] = decoding(
            [photograph(scratch / f"small{i}.jpg", 832, 624, i) for i in range(16)]
        )
        if options.photos is not None:
            real = sorted(path for path in options.photos.iterdir() if path.suffix in {".jpg", ".jpeg"})[:200]
            found["decode real"] = decoding(real)
        found["tower"] = towers(scratch)
        library = library_of(scratch / "library", options.images)
        found["bytes of an image"] = sizes(library, options.images, scratch)
        if options.milvus:
            found["served"] = vars(serving(library, options.milvus, options.images))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
