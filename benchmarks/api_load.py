"""How the API bears many clients at once: answers a second, errors, median and 99th percentile of the waiting time.

    make setup
    .venv/bin/python benchmarks/api_load.py [--images 100000] [--clients 50] [--seconds 60]

A library of so many images is made in a temporary folder through the indexer's own catalog: random vectors in
clusters, as those of real pictures lie, and rows without files, because a search reads none. The server is a
process of its own on a free loopback port; the clients are coroutines of this process, so they share the
machine's cores with it. Each client sends its next query as soon as it has its answer. No query is sent twice, so
no cache answers any. The server's own start, compilation included, is not measured. What other processes took of
the cores meanwhile is told, because nothing can be said of a machine that was busy with something else.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import numpy as np
import psutil

from indexer.catalog import Catalog
from indexer.decode import Metadata
from indexer.lock import writer_lock
from indexer.upkeep import renew_vector_file
from model import Encoder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from model import ModelIdentity

ROWS_PER_COMMIT = 10_000
CLUSTERS = 1_000
ADJECTIVES = [
    "red",
    "green",
    "blue",
    "old",
    "new",
    "small",
    "large",
    "wet",
    "dry",
    "bright",
    "dark",
    "wooden",
    "golden",
    "quiet",
    "busy",
    "empty",
]
NOUNS = [
    "dog",
    "cat",
    "car",
    "boat",
    "tree",
    "house",
    "bird",
    "horse",
    "bridge",
    "flower",
    "child",
    "street",
    "table",
    "train",
    "mountain",
    "bicycle",
]
PLACES = [
    "beach",
    "forest",
    "city",
    "garden",
    "kitchen",
    "field",
    "river",
    "station",
    "market",
    "roof",
    "snow",
    "night",
    "desert",
    "lake",
]


def make_library(path: Path, images: int, identity: ModelIdentity) -> None:
    """Write a library of `images` rows without files."""
    random = np.random.default_rng(0)
    dimension = identity.dimension
    common = random.standard_normal(dimension)  # real embeddings lie in a cone
    centres = random.standard_normal((CLUSTERS, dimension)) + common
    path.mkdir(parents=True)
    with writer_lock(path), Catalog.open(path) as catalog:
        with catalog.transaction():
            model = catalog.add_model(identity, "active")
            root = catalog.add_root(str(path.parent / "pictures"))
        for start in range(0, images, ROWS_PER_COMMIT):
            count = min(ROWS_PER_COMMIT, images - start)
            vectors = centres[random.integers(CLUSTERS, size=count)] + random.standard_normal(
                (count, dimension)
            )
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            with catalog.transaction():
                for number, vector in enumerate(vectors.astype(np.float32), start):
                    digest = hashlib.sha256(str(number).encode()).digest()
                    image_id = catalog.add_image(digest, 1_000_000, "jpeg", Metadata(4000, 3000))
                    catalog.add_vector(image_id, model.id, vector)
                    catalog.put_file(
                        root.id,
                        f"{number % 100:02}/{number:07}.jpg",
                        (1_000_000, number * 10**9, number + 1),
                        "indexed",
                        image_id=image_id,
                        read_ns=number * 10**9,
                    )
        renew_vector_file(catalog, model, None)


@dataclass
class Outcome:
    """What the clients met."""

    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


async def client(number: int, host: str, port: int, until: float, outcome: Outcome) -> None:
    """Ask one query after the other over one connection."""
    reader, writer = await asyncio.open_connection(host, port)
    asked = 0
    while time.perf_counter() < until:
        started = time.perf_counter()
        writer.write(
            f"GET /v1/search?q={quote(query(number, asked))}&k=20 HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
        )
        asked += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            match = re.search(rb"content-length: (\d+)", head)
            body = await reader.readexactly(int(match[1]) if match else 0)
            outcome.seconds.append(time.perf_counter() - started)
            if not head.startswith(b"HTTP/1.1 200") or "hits" not in json.loads(body):
                outcome.errors.append(head.split(b"\r\n")[0].decode() + " " + body[:200].decode())
        except (OSError, asyncio.IncompleteReadError) as error:
            outcome.errors.append(repr(error))
            reader, writer = await asyncio.open_connection(host, port)
    writer.close()
    await writer.wait_closed()


def query(number: int, asked: int) -> str:
    """Words that no other client and no other moment asks for."""
    adjective = ADJECTIVES[asked % len(ADJECTIVES)]
    noun = NOUNS[number % len(NOUNS)]
    place = PLACES[(asked // len(ADJECTIVES)) % len(PLACES)]
    return f"a {adjective} {noun} at the {place} {number} {asked}"


@contextmanager
def server(library: Path) -> Iterator[tuple[psutil.Process, str, int]]:
    """Serve the library; gives the process, host and port."""
    command = [sys.executable, "-m", "app", "serve", "--port", "0", "--library", str(library)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://\S+", line)
        if found is None:
            sys.exit(f"the server did not start: {line}{process.stderr.read()}")
        address = urlsplit(found.group())
        try:
            yield psutil.Process(process.pid), str(address.hostname), int(address.port or 0)
        finally:
            process.terminate()
            process.wait(60)


def machine_seconds() -> float:
    """Processor time that all processes took since the machine started."""
    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0.0))


async def load(host: str, port: int, clients: int, seconds: float) -> Outcome:
    """Let the clients ask for so long."""
    outcome = Outcome()
    until = time.perf_counter() + seconds
    await asyncio.gather(*(client(number, host, port, until, outcome) for number in range(clients)))
    return outcome


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--model", default="starter")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "library"
        started = time.perf_counter()
        make_library(library, options.images, Encoder.load(options.model).identity)
        print(
            f"library of {options.images:,} images in {time.perf_counter() - started:.1f} s", file=sys.stderr
        )
        with server(library) as (process, host, port):
            # First answers: caches of the system, statistics of the library, programs for texts in company.
            asyncio.run(load(host, port, options.clients, 3.0))
            cpu, mine, everything = process.cpu_times(), time.process_time(), machine_seconds()
            outcome = asyncio.run(load(host, port, options.clients, options.seconds))
            after, everything = process.cpu_times(), machine_seconds() - everything
            mine = time.process_time() - mine
            memory = process.memory_info().rss
    waited = np.sort(outcome.seconds) * 1000
    busy = (after.user + after.system - cpu.user - cpu.system) / options.seconds
    others = everything / options.seconds - busy - mine / options.seconds
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{platform.processor() or platform.machine()}, {cores} cores shared by server and clients")
    print(
        f"{options.images:,} images, model {options.model}, {options.clients} clients, {options.seconds:g} s"
    )
    print(f"{len(waited):,} answers, {len(waited) / options.seconds:.0f}/s, {len(outcome.errors)} errors")
    p50, p90, p99 = np.percentile(waited, [50, 90, 99])
    print(f"waited: p50 {p50:.0f} ms, p90 {p90:.0f} ms, p99 {p99:.0f} ms, longest {waited[-1]:.0f} ms")
    print(
        f"server: {busy:.2f} cores busy, {memory / 2**20:.0f} MiB; clients: {mine / options.seconds:.2f} cores"
    )
    print(f"other processes: {max(0.0, others):.2f} cores")
    for error in sorted(set(outcome.errors))[:5]:
        print(f"error: {error}")
    sys.exit(1 if outcome.errors else 0)


if __name__ == "__main__":
    main()
