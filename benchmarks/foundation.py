"""What a first user feels: a first index, its overhead and memory, a second run, a cold search.

    make setup
    .venv/bin/python benchmarks/foundation.py FOLDER [--runs 3]

FOLDER holds photographs; about a thousand make a good measure. Everything runs in processes of its own, on a library
and a cache in a temporary folder. One run before the measured ones fills the page cache and compiles.

Decoding and the tower share the same cores, so the overhead is told in CPU seconds: what `imago index` spends beyond
what its decoder and its tower alone would.

- few: `imago index` on 64 of the pictures, which takes what every run does: interpreters, imports, compiled code read
  back for each core, scan, commit.
- decode: the decode workers' own function over every file, in one process, without its imports.
- tower: `Encoder.encode_pixels` over as many pictures in the batches of a run, without its compilation.
- overhead: of what the run spends on the other pictures, the share that is neither decode nor tower, of all it spends:
  (run - few - (decode + tower) * others / all) / run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

# More than a core takes in one call, so that all cores start.
_FEW = 64


@dataclass(frozen=True)
class Cost:
    """What one command cost, with its children."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


def run(*command: str, environment: dict[str, str]) -> Cost:
    """Run a command to its end; CPU seconds of it and its children, peak of their resident memory together."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = 0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, family_bytes(process.pid))
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, err = process.communicate()
    watcher.join()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{err.decode(errors='replace')}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(time.perf_counter() - started, cpu, peak)


def family_bytes(pid: int) -> int:
    """Memory of a process and its children. Proportional set size: pages that several share count once."""
    total = 0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for member in family:
        try:
            information = member.memory_full_info()
        except psutil.Error:
            continue
        total += getattr(information, "pss", information.rss)
    return total


PARTS = """
import sys, time
from pathlib import Path
import numpy as np
from indexer import read_pixels
from model import Encoder

encoder = Encoder.load(sys.argv[2])
files = [path for path in sorted(Path(sys.argv[1]).rglob("*")) if path.is_file()]
first = read_pixels(files[0], encoder.preprocessor)
started = time.process_time()
for path in files:
    read_pixels(path, encoder.preprocessor)
decode = time.process_time() - started
batch = np.repeat(first[None], encoder.batch_size, axis=0)
encoder.encode_pixels(batch)
started = time.process_time()
for _ in range(0, len(files), len(batch)):
    encoder.encode_pixels(batch)
print(len(files), decode, time.process_time() - started)
"""


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--model", default="starter")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        table = measure(options.folder, options.runs, Path(name), model=options.model)
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    print(f"median (least to most) of {options.runs} runs")
    for key, value in table.items():
        print(f"  {key:<36}{value}")
    print(json.dumps(table))


def measure(folder: Path, runs: int, scratch: Path, *, model: str) -> dict[str, str]:
    """Measure, in folders below `scratch`; figures by name."""
    library = scratch / "library"
    environment = os.environ | {
        "IMAGO_LIBRARY": str(library),
        "IMAGO_CACHE": str(scratch / "cache"),
        "HF_HUB_OFFLINE": "1",
    }

    def imago(*words: str) -> Cost:
        return run(sys.executable, "-m", "app", *words, environment=environment)

    few = scratch / "few"
    few.mkdir(parents=True)
    some = [path for path in sorted(folder.rglob("*")) if path.is_file()][:_FEW]
    for path in some:
        shutil.copy(path, few)
    firsts, seconds, of_few, parts = [], [], [], []
    for number in range(runs + 1):
        shutil.rmtree(library, ignore_errors=True)
        first = imago("index", str(folder), "--model", model)
        second = imago("index", str(folder))
        imago("search", "dog")
        shutil.rmtree(library)
        start = imago("index", str(few), "--model", model)
        shutil.rmtree(library)
        output = subprocess.run(
            [sys.executable, "-c", PARTS, str(folder), model],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        if number:  # the first round warms up
            firsts.append(first)
            seconds.append(second)
            of_few.append(start)
            parts.append([float(word) for word in output.split()])
    imago("index", str(folder), "--model", model)
    searches = [imago("search", "dog") for _ in range(2 * runs + 1)][1:]

    def middle(values: list[float]) -> str:
        return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    files = parts[0][0]
    others = (files - len(some)) / files
    overheads = [
        (run.cpu_seconds - start.cpu_seconds - (part[1] + part[2]) * others) / run.cpu_seconds
        for run, start, part in zip(firsts, of_few, parts, strict=True)
    ]
    return {
        "pictures": f"{files:.0f}",
        "first index, seconds": middle([cost.wall_seconds for cost in firsts]),
        "first index, images a second": middle([files / cost.wall_seconds for cost in firsts]),
        "first index, CPU seconds": middle([cost.cpu_seconds for cost in firsts]),
        "few, CPU seconds": middle([cost.cpu_seconds for cost in of_few]),
        "decode, CPU seconds": middle([part[1] for part in parts]),
        "tower, CPU seconds": middle([part[2] for part in parts]),
        "overhead": middle(overheads),
        "peak memory of all processes, GiB": middle([cost.peak_bytes / 2**30 for cost in firsts]),
        "second index, seconds": middle([cost.wall_seconds for cost in seconds]),
        "cold search, seconds": middle([cost.wall_seconds for cost in searches]),
    }


if __name__ == "__main__":
    main()
