"""How well the cut tells what a library shows from what it does not, on photographs with captions.

    .venv/bin/python benchmarks/cutoff.py FOLDER [CAPTIONS] [--split test] [--half reporting] [--model starter] [--json]

FOLDER holds the photographs, CAPTIONS what `imago eval` takes; without, FOLDER holds a folder for each class. The
library is the folder; nothing is written. Questions are asked of `search.cutoff`, each with what is asked for present
and with it removed from the library:

- captions: a caption of each image. Present: is that image among the hits? Removed: are there hits all the same? An
  answer to a removed caption need not be wrong: of a hundred dogs on grass, ninety-nine are left.
- things: words that captions of several images use ("dog", "bicycle"). Relevant are the images with the word in two
  or more of their captions; removed are all with the word in any. Here an answer to what was removed is wrong, as far
  as captions tell.
- classes: the name of each class, present and with all its images removed.

The constants of the cut are chosen on one half of the images (`--half tuning --levels 0.5 0.65 0.8`) and reported on
the other (`--half reporting`): an image belongs to the half that the checksum of its name says, with all its captions.

Precision and recall are of hits; `answered` is the share of queries with a hit. The last table is of calibration: of
the hits that are given a probability, the share that is relevant.
"""

from __future__ import annotations

import argparse
import json
import re
import zlib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from model import Encoder
from search.cutoff import (
    BASE,
    CUT,
    LEVEL,
    NEUTRAL_TEXTS,
    Null,
    base_of,
    hit_probabilities,
    measure_null,
)
from search.evaluation import embed_texts, read_captions, read_classes
from search.images import query_pixels

FEWEST_IMAGES = 5
"""With a word; with fewer, precision and recall of the word are left to chance."""
_NO_THINGS = (
    "a an the in on of with and is are to at his her their its it from by for as while that who near into over up down "
    "out off one two three four several some other another each both him he she they there through behind along "
    "front across next top side large small big young old white black red blue green yellow brown orange dark little "
    "wearing standing sitting running walking looking playing jumping holding being has have colored covered very "
    "looks stands sits runs walks plays jumps holds wears together outside around under towards onto above back many "
    "group something what be against past between beside air just about"
)
NO_THINGS = frozenset(_NO_THINGS.split())


def probabilities(scores: np.ndarray, null: Null) -> np.ndarray:
    """Of each image, in their order, float64 (images,)."""
    order = np.argsort(-scores, kind="stable")
    found = np.empty(len(scores))
    found[order] = hit_probabilities(scores[order], images=len(scores), base=base_of(scores), null=null)
    return found


def rate(part: float, whole: float) -> float | None:
    return round(float(part) / float(whole), 3) if whole else None


def is_in_half(file: str, half: str | None) -> bool:
    """Whether an image belongs to a half; None for both."""
    return half is None or (zlib.crc32(file.encode()) % 2 == 0) == (half == "tuning")


def measure(
    images: np.ndarray,
    queries: np.ndarray,
    relevant: np.ndarray,
    removed: np.ndarray,
    neutral: np.ndarray,
    *,
    level: float = LEVEL,
) -> dict[str, Any]:
    """Ask each query of the whole library, and of the library without what it is about.

    Args:
        images: float32 (images, dimension).
        queries: float32 (queries, dimension).
        relevant: bool (queries, images).
        removed: bool (queries, images): what to take away for the second question.
        neutral: float32 (texts, dimension).
        level: See `search.cutoff.LEVEL`.
    """
    whole = measure_null(neutral @ images.T, level)
    given, right = [], []
    answered = answered_rightly = answered_removed = 0
    hits_removed = []
    for query, fits, gone in zip(queries, relevant, removed, strict=True):
        scores = images @ query
        chances = probabilities(scores, whole)
        given.append(chances)
        right.append(fits)
        answered += bool((chances >= CUT).any())
        answered_rightly += bool((fits & (chances >= CUT)).any())
        left = images[~gone]
        few = probabilities(left @ query, measure_null(neutral @ left.T, level))
        hits_removed.append(np.count_nonzero(few >= CUT))
        answered_removed += hits_removed[-1] > 0
    chances, fits = np.concatenate(given), np.concatenate(right)
    passed = chances >= CUT
    bands = [(low / 10, low / 10 + 0.2) for low in (0, 2, 4, 6, 8)]
    return {
        "queries": len(queries),
        "relevant_images_per_query": round(float(relevant.sum(1).mean()), 1),
        "precision": rate(np.count_nonzero(passed & fits), np.count_nonzero(passed)),
        "precision_by_chance": round(float(fits.mean()), 4),
        "recall": rate(np.count_nonzero(passed & fits), np.count_nonzero(fits)),
        "hits_per_query": round(float(np.count_nonzero(passed)) / len(queries), 1),
        "answered": rate(answered, len(queries)),
        "answered_with_a_right_hit": rate(answered_rightly, len(queries)),
        "answered_when_removed": rate(answered_removed, len(queries)),
        "hits_per_query_when_removed": round(float(np.mean(hits_removed)), 1),
        "calibration": [
            {
                "probability": f"{low:.1f} to {high:.1f}",
                "images": int(np.count_nonzero(among)),
                "relevant": rate(np.count_nonzero(fits[among]), np.count_nonzero(among)),
            }
            for low, high in bands
            if (among := (chances >= low) & ((chances < high) | (high >= 1))).any()
        ],
    }


def things_in(texts: dict[str, list[str]]) -> list[str]:
    """Words that two or more captions of at least FEWEST_IMAGES images use, commonest first."""
    images_with: Counter[str] = Counter()
    for captions in texts.values():
        uses: Counter[str] = Counter()
        for caption in captions:
            uses.update({singular(word) for word in re.findall(r"[a-z]{3,}", caption.lower())})
        images_with.update(word for word, times in uses.items() if times >= 2)
    return [
        word for word, times in images_with.most_common() if times >= FEWEST_IMAGES and word not in NO_THINGS
    ]


def singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("captions", type=Path, nargs="?")
    parser.add_argument("--split")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--things", type=int, default=100, help="the commonest words to ask for")
    parser.add_argument("--half", choices=["tuning", "reporting"], help="only these images")
    parser.add_argument(
        "--levels", type=float, nargs="+", default=[LEVEL], help="to compare on the tuning half"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    encoder = Encoder.load(options.model)
    neutral = embed_texts(NEUTRAL_TEXTS, encoder)
    if options.captions is None:
        classes = {
            name: [file for file in files if is_in_half(file.name, options.half)]
            for name, files in read_classes(options.folder).items()
        }
        classes = {name: files for name, files in classes.items() if files}
        images = embed_files([path for files in classes.values() for path in files], encoder)
        labels = np.repeat(np.arange(len(classes)), [len(files) for files in classes.values()])
        fits = np.arange(len(classes))[:, None] == labels
        questions = {"classes": (embed_texts(list(classes), encoder), fits, fits)}
    else:
        texts = defaultdict(list)
        for caption in read_captions(options.captions, options.split):
            if is_in_half(caption.file, options.half):
                texts[caption.file].append(caption.text)
        files = sorted(texts)
        images = embed_files([options.folder / file for file in files], encoder)
        itself = np.eye(len(files), dtype=np.bool_)
        first = embed_texts([texts[file][0] for file in files], encoder)
        words = things_in(texts)[: options.things]
        said = [[re.findall(r"[a-z]+", text.lower()) for text in texts[file]] for file in files]
        uses = np.array([[sum(word in map(singular, t) for t in each) for each in said] for word in words])
        questions = {
            "captions": (first, itself, itself),
            "things": (embed_texts(words, encoder), uses >= 2, uses >= 1),
        }

    reports = []
    for level in options.levels:
        measured = {
            name: measure(images, *question, neutral, level=level) for name, question in questions.items()
        }
        constants = {"cut": CUT, "level": level, "base": BASE}
        reports.append(
            {"model": options.model, "half": options.half, "images": len(images), **constants, **measured}
        )
        if not options.json:
            show(reports[-1], list(questions))
    if options.json:
        print(json.dumps(reports if len(reports) > 1 else reports[0], indent=2))


def show(report: dict[str, Any], names: list[str]) -> None:
    half = f", {report['half']} half" if report["half"] else ""
    print(
        f"{report['images']} images{half}, model {report['model']}, hits from a probability of {report['cut']}, "
        f"level {report['level']}"
    )
    for name in names:
        print(f"\n{name}")
        for key, value in report[name].items():
            if key != "calibration":
                print(f"  {key.replace('_', ' '):30} {value}")
        for band in report[name]["calibration"]:
            print(f"  given {band['probability']}: {band['images']:7} images, relevant {band['relevant']}")
    print()


def embed_files(paths: list[Path], encoder: Encoder) -> np.ndarray:
    """Vectors of image files, float32 (images, dimension)."""
    parts = []
    for start in range(0, len(paths), 64):
        pixels = [query_pixels(path, encoder.preprocessor) for path in paths[start : start + 64]]
        parts.append(encoder.encode_pixels(np.stack(pixels)))
    return np.concatenate(parts)


if __name__ == "__main__":
    main()
