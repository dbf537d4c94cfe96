"""All figures of speed in one go, beside those of the peers: `make bench`.

    .venv/bin/python -m benchmarks.speed [--only NAME ...] [--rounds 3] [--out docs/speed] [--photos FOLDER]

Writes OUT.md and OUT.json with the machine's description. What is compared is measured in turns, round by round, each
engine in a process of its own, and told as the median of the rounds' ratios: machines are shared, and a ratio taken
within a minute says more than a figure. Warm-up and compilation are never measured. Weights are random, which costs the
same as any; the peers' environment (`.venv-peers`) is made by `make bench`, and without it their columns stay empty.

towers      ViT-B/32, 224 pixels, batch 32: images a second, against ONNX Runtime and PyTorch
processors  the same and `text` as on processors with fewer instructions (benchmarks/other_processors.py)
text        one short query through the text tower of the same model, warm
accuracy    the worst cosine between a photograph's or a text's vectors in this machine's precision and float32
folder      `imago index` over 12-megapixel JPEGs, whole run, against full decode and ONNX Runtime in a loop
search      `imago search` as a new process, 100,000 images, base-size model
rerun       `imago index` again over 100,000 unchanged files, and the memory of the run that embedded them
overhead    what `imago index` spends beyond decoder and tower (benchmarks/foundation.py), each picture four times
soak        the memory of a first index of half as many small pictures with the base-size model
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks.foundation import family_bytes, measure, run
from benchmarks.other_processors import PROCESSORS, environment_of
from benchmarks.pictures import copies, drawn, large_photos, small_pictures

PEERS = Path(".venv-peers/bin/python")
PEER_SCRIPTS = Path(__file__).with_name("peers")
# Enough that a run's start, a second or two, is as small a part as in a user's first index.
_LARGE_PHOTOS = 600

ENGINES = ("onnxruntime-float32", "torch-float32", "torch-bfloat16", "torch-bfloat16-compiled")


@dataclass
class Line:
    """One line of the table.

    Attributes:
        what: was measured.
        value: with its unit, and its spread.
        target: that the project set itself; empty where it is there to compare only.
    """

    what: str
    value: str
    target: str = ""


@dataclass
class Section:
    """What one section measured, when and by what."""

    command: str
    date: str
    lines: list[Line]

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Section:
        return cls(found["command"], found["date"], [Line(**line) for line in found["lines"]])


@dataclass
class Bench:
    """What the sections share."""

    scratch: Path
    rounds: int
    photos: Path | None
    images: int
    lines: list[Line] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "IMAGO_LIBRARY": str(self.scratch / "library"),
            "IMAGO_CACHE": str(self.scratch / "cache"),
            "HF_HUB_OFFLINE": "1",
        }

    @property
    def base(self) -> Path:
        """A CLIP ViT-B/32 with random weights, made at first need."""
        folder = self.scratch / "base-size"
        if not folder.exists():
            self._make_base(folder)
        return folder

    @staticmethod
    def _make_base(folder: Path) -> None:
        from flax import nnx

        from model import CLIPModel
        from model.tokenizer import clip_tokenizer

        settings = {
            "model_type": "clip",
            "projection_dim": 512,
            "text_config": {"model_type": "clip_text_model"},
            "vision_config": {"model_type": "clip_vision_model", "patch_size": 32},
        }
        CLIPModel(CLIPModel.configuration_class.from_dict(settings), rngs=nnx.Rngs(0)).save_pretrained(folder)
        clip_tokenizer(lower_case=True).save(str(folder / "tokenizer.json"))
        (folder / "preprocessor_config.json").write_text(
            json.dumps({"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 224}})
        )

    def add(self, what: str, values: list[float], unit: str, target: str = "", digits: int = 2) -> None:
        middle, low, high = statistics.median(values), min(values), max(values)
        spread = f" ({low:,.{digits}f} to {high:,.{digits}f})" if len(values) > 1 else ""
        self.lines.append(Line(what, f"{middle:,.{digits}f}{spread}{unit}", target))
        print(f"{what}: {self.lines[-1].value}   {target}", flush=True)

    def add_ratios(self, what: str, values: list[float], others: list[float], target: str) -> None:
        """Adds how many times the others the values are, round by round."""
        ratios = [value / other for value, other in zip(values, others, strict=True)]
        self.add(what, ratios, " times", target)

    def ours(self, *words: str, variables: dict[str, str] | None = None) -> dict[str, float]:
        command = [sys.executable, "-m", "benchmarks.tower", *words]
        found = _json_of(command, self.environment | (variables or {}))
        if found is None:
            sys.exit(f"{' '.join(command)} failed")
        return found

    def text_milliseconds(self, variables: dict[str, str] | None = None) -> float:
        return self.ours(str(self.base), "--texts", "--calls", "10", variables=variables)["text_p50_ms"]

    def peer(
        self, script: str, *words: str, variables: dict[str, str] | None = None
    ) -> dict[str, float] | None:
        if not PEERS.exists():
            return None
        environment = os.environ | {"HF_HUB_OFFLINE": "1"} | (variables or {})
        return _json_of([str(PEERS), str(PEER_SCRIPTS / script), *words], environment)

    def imago(self, *words: str):
        return run(sys.executable, "-m", "app", *words, environment=self.environment)


def _json_of(command: list[str], environment: dict[str, str]) -> dict[str, float] | None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def towers(bench: Bench) -> None:
    base = str(bench.base)
    figures: dict[str, list[float]] = {}
    for _ in range(bench.rounds):
        for precision in ("auto", "float32"):
            own = bench.ours(base, "--precision", precision)
            figures.setdefault(f"imago-{precision}", []).append(own["images_per_second"])
        for engine in ENGINES:
            found = bench.peer("tower.py", base, engine)
            if found is not None:
                figures.setdefault(engine, []).append(found["images_per_second"])
    for name, values in figures.items():
        bench.add(f"ViT-B/32 image tower, {name}", values, " images/s", digits=1)
    targets = {
        ("imago-auto", "torch-bfloat16-compiled"): "at least 1.25 where there is AMX or VNNI",
        ("imago-auto", "torch-bfloat16"): "",
        ("imago-auto", "onnxruntime-float32"): "at least 5 where there is AMX or VNNI",
        ("imago-float32", "onnxruntime-float32"): "at least 1 everywhere",
    }
    for (own, peer), target in targets.items():
        if peer in figures:
            bench.add_ratios(f"{own} against {peer}", figures[own], figures[peer], target)


def processors(bench: Bench) -> None:
    base = str(bench.base)
    for processor in PROCESSORS:
        try:
            variables = environment_of(processor, bench.scratch)
        except OSError as error:
            print(f"processors: left out, {error}")
            return
        own, text_milliseconds = [], []
        peers: dict[str, list[float]] = {"torch-bfloat16-compiled": [], "onnxruntime-float32": []}
        # The compiler is given the path without quotes.
        compiled = {"TORCHINDUCTOR_CACHE_DIR": str(bench.scratch / f"inductor-{processor}".replace(" ", "-"))}
        for _ in range(bench.rounds):
            own.append(bench.ours(base, variables=variables)["images_per_second"])
            text_milliseconds.append(bench.text_milliseconds(variables))
            for engine in peers:
                found = bench.peer("tower.py", base, engine, variables=variables | compiled)
                peers[engine] += [found["images_per_second"]] if found else []
        has_vnni = "VNNI" in processor
        bench.add(f"{processor}: imago-auto", own, " images/s", digits=1)
        for engine, target in (
            ("torch-bfloat16-compiled", "at least 1.25" if has_vnni else ""),
            ("onnxruntime-float32", f"at least {5 if has_vnni else 1}"),
        ):
            if peers[engine]:
                bench.add_ratios(f"{processor}: imago-auto against {engine}", own, peers[engine], target)
        bench.add(f"{processor}: text query, p50", text_milliseconds, " ms", "under 10 ms", digits=1)


def text(bench: Bench) -> None:
    values = [bench.text_milliseconds() for _ in range(bench.rounds)]
    bench.add("text query, warm, base-size text tower, p50", values, " ms", "under 10 ms", digits=1)


def accuracy(bench: Bench) -> None:
    from model import Encoder

    files = sorted((bench.photos or drawn(bench.scratch / "drawn", 64)).rglob("*.jpg"))[:256]
    texts = [
        phrase.format(thing)
        for phrase in ("{}", "a photo of a {}", "two {}s on a beach at sunset", "a red {}", "no {}, 1998")
        for thing in (
            "dog",
            "car",
            "mountain",
            "child with an umbrella",
            "passport",
            "bowl of soup",
            "Mädchen",
        )
    ]
    photographs = f"{len(files)} {'photographs' if bench.photos else 'drawn pictures'}"
    for name in (str(bench.base), "starter"):
        shown = "starter" if name == "starter" else "ViT-B/32, random weights"
        vectors: dict[str, list[np.ndarray]] = {photographs: [], f"{len(texts)} texts": []}
        for precision in ("auto", "float32"):
            encoder = Encoder.load(name, precision=precision)
            pixels = [encoder.preprocessor(Image.open(path)) for path in files]
            vectors[photographs].append(encoder.encode_pixels(np.stack(pixels)))
            vectors[f"{len(texts)} texts"].append(encoder.encode_texts(texts))
        for source, (narrow, full) in vectors.items():
            worst = float((narrow * full).sum(axis=1).min())
            what = f"worst cosine to float32, {source}, {shown}"
            bench.add(what, [worst], "", "at least 0.999", digits=6)


def folder(bench: Bench) -> None:
    photos = large_photos(bench.scratch / "large", _LARGE_PHOTOS)
    words = ("index", str(photos), "--model", str(bench.base))
    bench.imago(*words)  # compiles
    own, theirs = [], []
    for _ in range(bench.rounds):
        shutil.rmtree(bench.scratch / "library")
        own.append(bench.imago(*words).wall_seconds)
        found = bench.peer("folder.py", str(bench.base), str(photos))
        theirs += [found["seconds"]] if found else []
    megabytes = statistics.mean(path.stat().st_size for path in photos.iterdir()) / 1e6
    bench.add(
        f"{_LARGE_PHOTOS} JPEGs of 12 megapixels and {megabytes:.1f} MB, `imago index`, whole run",
        own,
        " s",
        digits=1,
    )
    if theirs:
        bench.add("the same, full decode and ONNX Runtime float32 in a loop", theirs, " s", digits=1)
        bench.add_ratios("`imago index` against that loop", theirs, own, "at least 5")
    shutil.rmtree(bench.scratch / "library")


def search(bench: Bench) -> None:
    from benchmarks.api_load import make_library
    from model import Encoder

    library = bench.scratch / "large-library"
    make_library(library, bench.images, Encoder.load(bench.base).identity)
    words = ("search", "a red car", "--library", str(library))
    bench.imago(*words)
    bench.imago(*words)
    values = [bench.imago(*words).wall_seconds for _ in range(3 * bench.rounds)]
    bench.add(f"cold `imago search`, base-size model, {bench.images:,} images", values, " s", "under 1.5 s")


def rerun(bench: Bench) -> None:
    pictures = small_pictures(bench.scratch / "small", bench.images)
    _index_watching_memory(bench, pictures, "starter", "starter")
    values = [bench.imago("index", str(pictures)).wall_seconds for _ in range(bench.rounds)]
    bench.add(f"second run over {bench.images:,} unchanged files", values, " s", "under 3 s")
    shutil.rmtree(bench.scratch / "library")


def soak(bench: Bench) -> None:
    pictures = small_pictures(bench.scratch / "soak", bench.images // 2)
    peak = _index_watching_memory(bench, pictures, str(bench.base), "base-size model")
    bench.add("peak memory of all its processes, base-size model", [peak], " GiB", "under 2.5 GiB")
    shutil.rmtree(bench.scratch / "library")


def _index_watching_memory(bench: Bench, pictures: Path, model: str, shown: str) -> float:
    """Add lines of a first index and its memory on the way; return the most of it, in GiB."""
    words = ("index", str(pictures), "--model", model)
    memory: list[float] = []
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "app", *words],
        env=bench.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    done = threading.Event()
    threading.Thread(target=lambda: (process.wait(), done.set())).start()
    while not done.wait(1):
        memory.append(family_bytes(process.pid) / 2**30)
    if process.returncode:
        sys.exit(f"imago {' '.join(words)} ended with {process.returncode}")
    seconds = time.perf_counter() - started
    count = sum(1 for _ in pictures.rglob("*.jpg"))
    bench.add(f"first index of {count:,} small pictures, {shown}", [seconds], " s", digits=0)
    for share in (0.25, 0.5, 0.75, 0.98):
        now = memory[int(share * (len(memory) - 1))]
        bench.add(f"memory of all its processes at {share:.0%} of the time, {shown}", [now], " GiB", "flat")
    return max(memory)


def overhead(bench: Bench) -> None:
    photos = copies(bench.photos or drawn(bench.scratch / "thousand", 1000), bench.scratch / "copies")
    for model in ("starter", str(bench.base)):
        found = measure(photos, bench.rounds, bench.scratch / "foundation", model=model)
        shutil.rmtree(bench.scratch / "foundation")
        name = "starter" if model == "starter" else "base-size model"
        target = {"overhead": "under 0.10", "peak memory of all processes, GiB": "under 2.5"}
        for key, value in found.items():
            if key in {"first index, images a second", *target}:
                self_target = "" if model == "starter" and "memory" in key else target.get(key, "")
                bench.lines.append(Line(f"{key}, {found['pictures']} pictures, {name}", value, self_target))
                print(f"{key}, {name}: {value}", flush=True)


SECTIONS = {
    section.__name__: section
    for section in (towers, processors, text, accuracy, folder, search, rerun, overhead, soak)
}


def machine() -> dict[str, str]:
    from model.machine import best_precision, processor_flags

    names = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx_vnni", "avx512f", "avx2")
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in _lines(Path("/proc/cpuinfo"))
            if line.startswith("model name")
        ),
        platform.processor() or platform.machine(),
    )
    return {
        "processor": processor,
        "cores": str(os.cpu_count()),
        "instructions": ", ".join(name for name in names if name in processor_flags()) or "not told",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "precision": f"{best_precision().precision}, because {best_precision().reason}",
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        **{name: version(name) for name in ("jax", "jaxlib", "flax", "faiss-cpu", "pillow")},
    }


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def markdown(sections: dict[str, Section], description: dict[str, str]) -> str:
    told = "\n".join(f"- {key}: {value}" for key, value in description.items())
    tables = []
    for name, section in sections.items():
        rows = "\n".join(f"| {line.what} | {line.value} | {line.target} |" for line in section.lines)
        tables.append(
            f"## {name}\n\n`{section.command}`, {section.date}\n\n"
            f"| What | Measured | Target |\n| --- | --- | --- |\n{rows}\n"
        )
    return (
        "# Speed, measured\n\n"
        "`make bench` measures all of it; what each line means is said in `benchmarks/speed.py`. Medians of the "
        "rounds, with the least and the most in brackets; warm-up is not measured.\n\n"
        f"{told}\n\n" + "\n".join(tables)
    )


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--out", type=Path, default=Path("docs/speed"))
    arguments.add_argument("--photos", type=Path, help="real photographs, for `accuracy` and `overhead`")
    arguments.add_argument(
        "--images", type=int, default=100_000, help="of `search` and `rerun`; `soak` takes half"
    )
    options = arguments.parse_args()
    saved = options.out.with_suffix(".json")
    known = json.loads(saved.read_text())["sections"] if saved.exists() else {}
    sections = {name: Section.from_dict(found) for name, found in known.items()}
    if not PEERS.exists():
        print("There is no .venv-peers: the peers' columns stay empty. `make bench` makes it.")
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), options.rounds, options.photos, options.images)
        os.environ["IMAGO_CACHE"] = bench.environment["IMAGO_CACHE"]
        for section in options.only:
            bench.lines = []
            SECTIONS[section](bench)
            command = f"python -m benchmarks.speed --only {section} --rounds {options.rounds}"
            command += (
                "" if options.images == arguments.get_default("images") else f" --images {options.images}"
            )
            command += f" --photos {options.photos.name}" if options.photos else ""
            sections[section] = Section(command, date.today().isoformat(), bench.lines)
            # After each, so that nothing is lost when a long run is stopped.
            _save(options.out, sections)


def _save(out: Path, sections: dict[str, Section]) -> None:
    description = machine()
    ordered = {name: sections[name] for name in SECTIONS if name in sections}
    content = {
        "machine": description,
        "sections": {name: asdict(section) for name, section in ordered.items()},
    }
    out.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")
    out.with_suffix(".md").write_text(markdown(ordered, description))


if __name__ == "__main__":
    main()
