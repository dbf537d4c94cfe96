"""How good is a model, in figures: retrieval on images with captions, accuracy on folders of classes.

The metrics are functions of matrices and know neither files nor models:

- recall at k, text to image: the share of captions whose image is among the k images nearest to them. Image to text:
  the share of images that have one of their captions among the k nearest texts (as in the papers on CLIP).
- median rank: of the right image (of the best of the right captions), from 1.
- zero-shot accuracy: the share of images whose nearest class is the right one. A class is the mean of its name in
  each prompt template, at unit length (as in the paper on CLIP).

Equal scores count against: a model that gives the same vector to everything gets what chance would give it at worst,
not a perfect recall.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from search.errors import EvaluationError, QueryImageError
from search.images import query_pixels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from search.embedding import QueryEncoder
    from search.library import Library

RECALL_AT: Final = (1, 5, 10)
DEFAULT_TEMPLATES: Final = ("a photo of a {}",)
_IMAGES_AT_A_TIME: Final = 64
_TEXTS_AT_A_TIME: Final = 256
_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".heic", ".heif", ".avif"}
)


# -- Metrics --------------------------------------------------------------------------------------------------


def ranks_of_right_columns(scores: NDArray[np.floating], right: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each row, the rank of its best right column.

    Args:
        scores: (rows, columns), higher is nearer.
        right: Which columns are right for each row, (rows, columns), at least one in each.

    Returns:
        int64 (rows,), from 1: one more than the number of wrong columns that score at least as high.
    """
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    ranks: NDArray[np.int64] = 1 + np.count_nonzero(~right & (scores >= best), axis=1)
    return ranks


def recall_at(ranks: NDArray[np.int64], k: int) -> float:
    """The share of ranks that are at most k."""
    return float(np.mean(ranks <= k))


def accuracy(scores: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """The share of rows whose highest score, alone, stands in the column of their label.

    Args:
        scores: (rows, classes).
        labels: Column of the right class of each row, (rows,).
    """
    right = np.zeros(scores.shape, np.bool_)
    right[np.arange(len(labels)), labels] = True
    return recall_at(ranks_of_right_columns(scores, right), 1)


@dataclass(frozen=True)
class RetrievalFigures:
    """One direction of retrieval.

    Attributes:
        recall_at_1: Share of queries answered by the first hit.
        recall_at_5: Within five.
        recall_at_10: Within ten.
        median_rank: Of the right answer, from 1.
        queries: Number of queries.
    """

    recall_at_1: float
    recall_at_5: float
    recall_at_10: float
    median_rank: float
    queries: int


def figures_of(ranks: NDArray[np.int64]) -> RetrievalFigures:
    """Sum ranks up.

    Raises:
        EvaluationError: There are none.
    """
    if not len(ranks):
        raise EvaluationError("There is nothing to evaluate: no image has a caption.")
    one, five, ten = (recall_at(ranks, k) for k in RECALL_AT)
    return RetrievalFigures(one, five, ten, float(np.median(ranks)), len(ranks))


# -- Captions and classes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Caption:
    """A text that describes an image.

    Attributes:
        file: The image's path, relative to the folder of images, with `/`.
        text: What it shows.
        split: `train`, `test` or the like; None where the file of captions does not say.
    """

    file: str
    text: str
    split: str | None = None


def read_captions(path: Path, split: str | None = None) -> list[Caption]:
    """Read captions.

    Args:
        path: One of
            a TSV or CSV file with a header that names the columns `file` (or `image`, `file_name`) and `caption`
            (or `text`), and perhaps `split`;
            a file of JSON lines (`.jsonl`) with these keys, the caption perhaps a list under `captions`;
            captions as COCO publishes them (`.json`, with `images` and `annotations`).
        split: Keep the captions of this split only; those of files that know no splits are all kept.

    Raises:
        EvaluationError: The file cannot be read, has another form, or no caption is left.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise EvaluationError(
            f"The captions in {path} cannot be read: {getattr(error, 'strerror', None) or error}."
        ) from error
    try:
        if path.suffix.lower() == ".json":
            captions = list(_coco_captions(json.loads(text)))
        elif path.suffix.lower() in {".jsonl", ".ndjson"}:
            rows = (json.loads(line) for line in text.splitlines() if line.strip())
            captions = [caption for row in rows for caption in _captions_of_row(row)]
        else:
            captions = list(_table_captions(text))
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error, RecursionError) as error:
        raise EvaluationError(
            f"{path} holds no captions that can be read ({type(error).__name__}: {error}). It must be a TSV or CSV "
            "file with the columns file and caption, JSON lines with these keys, or COCO captions JSON."
        ) from error
    if split is not None:
        known = sorted({caption.split for caption in captions if caption.split is not None})
        captions = [caption for caption in captions if caption.split in {split, None}]
        if not captions:
            raise EvaluationError(f"{path} has no split {split!r}; there are: {', '.join(known) or 'none'}.")
    if not captions:
        raise EvaluationError(f"{path} holds no captions.")
    return captions


def _table_captions(text: str) -> Iterable[Caption]:
    header, _, _ = text.partition("\n")
    lines = io.StringIO(text, newline="")
    # Captions hold quotation marks as they like; only CSV uses them to hold commas together.
    if "\t" in header:
        table = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        table = csv.DictReader(lines, strict=True)
    for row in table:
        yield from _captions_of_row({key.strip().lower(): value for key, value in row.items() if key})


def _captions_of_row(row: dict[str, Any]) -> Iterable[Caption]:
    file = _one_of(row, "file", "image", "file_name", "filename")
    texts = row.get("captions")
    if texts is None:
        texts = _one_of(row, "caption", "text")
    split = row.get("split")
    for text in [texts] if isinstance(texts, str) else texts:
        if not isinstance(text, str) or not isinstance(file, str):
            raise TypeError(f"not a file and a text: {row}")
        if text.strip():
            yield Caption(file.replace("\\", "/"), text.strip(), split)


def _coco_captions(content: dict[str, Any]) -> Iterable[Caption]:
    files = {image["id"]: image["file_name"] for image in content["images"]}
    for annotation in content["annotations"]:
        yield Caption(files[annotation["image_id"]], str(annotation["caption"]).strip())


def _one_of(row: dict[str, Any], *keys: str) -> Any:
    for key in keys:
        if row.get(key) is not None:
            return row[key]
    raise KeyError(" or ".join(keys))


def read_classes(folder: Path) -> dict[str, list[Path]]:
    """The images of a folder of class folders, by the classes' names (`_` and `-` read as spaces).

    Folders whose names read alike hold one class: what it is called is all that a model is told of it.

    Raises:
        EvaluationError: The folder cannot be read, or holds fewer than two folders with images.
    """
    classes: dict[str, list[Path]] = {}
    try:
        folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        for path in folders:
            name = " ".join(path.name.replace("_", " ").replace("-", " ").split())
            classes.setdefault(name, []).extend(
                sorted(
                    file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file()
                )
            )
    except OSError as error:
        raise EvaluationError(
            f"{folder} cannot be read: {getattr(error, 'strerror', None) or error}."
        ) from error
    classes = {name: files for name, files in classes.items() if files}
    if len(classes) < 2:
        raise EvaluationError(
            f"{folder} holds {len(classes)} folders with images; zero-shot accuracy needs a folder for each class, "
            "at least two."
        )
    return classes


# -- The whole ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RetrievalReport:
    """Retrieval on a folder of images with captions.

    Attributes:
        model: Name of the model.
        images: Images with a caption that could be decoded.
        captions: Their captions.
        text_to_image: Captions as queries.
        image_to_text: Images as queries.
        failed: Files with captions that are missing or cannot be decoded, with the reason.
    """

    model: str
    images: int
    captions: int
    text_to_image: RetrievalFigures
    image_to_text: RetrievalFigures
    failed: tuple[tuple[str, str], ...]

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ClassReport:
    """Zero-shot classification on a folder of class folders.

    Attributes:
        model: Name of the model.
        images: Images that could be decoded.
        classes: Number of classes.
        accuracy: Share of images given their class.
        mean_class_accuracy: Mean over the classes of the share of their images.
        templates: The prompts that classes were named with.
        failed: Files that cannot be decoded, with the reason.
    """

    model: str
    images: int
    classes: int
    accuracy: float
    mean_class_accuracy: float
    templates: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, ready for JSON."""
        return asdict(self)


def evaluate(
    folder: Path,
    captions: Sequence[Caption],
    encoder: QueryEncoder,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> RetrievalReport:
    """Measure retrieval.

    Args:
        folder: Where the captions' files lie.
        captions: From `read_captions`.
        encoder: The model to measure.
        progress: Called now and then with images done and images in all.

    Raises:
        EvaluationError: None of the files can be decoded.
    """
    files = list(dict.fromkeys(caption.file for caption in captions))
    images, kept, failed = _embed_files([folder / file for file in files], encoder, progress)
    if not kept:
        reason = failed[0][1] if failed else "there are none"
        raise EvaluationError(
            f"None of the {len(files)} images with captions can be used, the first: {reason}"
        )
    column = {files[at]: i for i, at in enumerate(kept)}
    used = [caption for caption in captions if caption.file in column]
    texts = embed_texts([caption.text for caption in used], encoder)
    owner = np.asarray([column[caption.file] for caption in used])
    # In blocks: a hundred thousand captions by twenty thousand images do not fit into memory at once.
    text_ranks, image_ranks = [], []
    for start in range(0, len(texts), _TEXTS_AT_A_TIME):
        block = slice(start, start + _TEXTS_AT_A_TIME)
        right = owner[block, None] == np.arange(len(images))
        text_ranks.append(ranks_of_right_columns(texts[block] @ images.T, right))
    for start in range(0, len(images), _TEXTS_AT_A_TIME):
        block = slice(start, start + _TEXTS_AT_A_TIME)
        right = np.arange(len(images))[block, None] == owner
        image_ranks.append(ranks_of_right_columns(images[block] @ texts.T, right))
    return RetrievalReport(
        model=encoder.identity.name,
        images=len(images),
        captions=len(used),
        text_to_image=figures_of(np.concatenate(text_ranks)),
        image_to_text=figures_of(np.concatenate(image_ranks)),
        failed=tuple(failed),
    )


def evaluate_classes(
    folder: Path,
    encoder: QueryEncoder,
    *,
    templates: Sequence[str] = DEFAULT_TEMPLATES,
    progress: Callable[[int, int], None] | None = None,
) -> ClassReport:
    """Measure zero-shot classification.

    Args:
        folder: One folder of images for each class, named after it.
        encoder: The model to measure.
        templates: Prompts with `{}` for the class's name; a class is the mean of all of them.
        progress: Called now and then with images done and images in all.

    Raises:
        EvaluationError: Fewer than two classes, no image that can be decoded, or a template without `{}`.
    """
    if not templates or any("{}" not in template for template in templates):
        raise EvaluationError(
            f"A template needs {{}} where the name of the class goes, not {list(templates)}."
        )
    classes = read_classes(folder)
    paths = [path for files in classes.values() for path in files]
    labels = np.repeat(np.arange(len(classes)), [len(files) for files in classes.values()])
    images, kept, failed = _embed_files(paths, encoder, progress)
    if not kept:
        raise EvaluationError(f"None of the {len(paths)} images in {folder} can be decoded: {failed[0][1]}")
    labels = labels[kept]
    scores = images @ class_vectors(list(classes), templates, encoder).T
    present = np.unique(labels)
    by_class = [accuracy(scores[labels == label], labels[labels == label]) for label in present]
    return ClassReport(
        model=encoder.identity.name,
        images=len(images),
        classes=len(classes),
        accuracy=accuracy(scores, labels),
        mean_class_accuracy=float(np.mean(by_class)),
        templates=tuple(templates),
        failed=tuple(failed),
    )


def class_vectors(
    names: Sequence[str], templates: Sequence[str], encoder: QueryEncoder
) -> NDArray[np.float32]:
    """One vector of unit norm for each class, float32 (classes, dimension)."""
    prompts = [template.replace("{}", name) for name in names for template in templates]
    vectors = embed_texts(prompts, encoder).reshape(len(names), len(templates), -1).mean(axis=1)
    norms = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    result: NDArray[np.float32] = (vectors / norms).astype(np.float32)
    return result


@dataclass(frozen=True)
class IndexReport:
    """How much of what is really nearest a library's index finds.

    Attributes:
        library: Where it is.
        model: Name of its model.
        images: That can be found.
        queries: Texts that were asked.
        k: How many nearest images count.
        recall: Mean share of them that was found; 1 where the index is exact.
    """

    library: str
    model: str
    images: int
    queries: int
    k: int
    recall: float

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, ready for JSON."""
        return asdict(self)


def index_recall(library: Library, queries: Sequence[str], k: int = 10) -> IndexReport:
    """Compare what a library's index finds for queries in words with what is really nearest.

    Texts and not pictures, because an index that is fine for pictures as queries may fail for words.

    Args:
        library: Whose index to measure.
        queries: Texts, such as captions.
        k: How many nearest images count. Images that score exactly like the last one count as well.

    Raises:
        EvaluationError: No queries, or an empty library.
    """
    images = len(library.reader)
    if not queries or not images:
        raise EvaluationError("Recall of the index needs at least one query and one image.")
    vectors = embed_texts(queries, library.encoder)
    found = exact = 0
    for start in range(0, len(vectors), _TEXTS_AT_A_TIME):
        block = vectors[start : start + _TEXTS_AT_A_TIME]
        scores, _ = library.reader.nearest(block, k)
        best, _ = library.reader.nearest(block, k, exact=True)
        found += int(np.count_nonzero(scores >= best[:, -1:]))
        exact += best.size
    return IndexReport(
        library=str(library.reader.place),
        model=library.encoder.identity.name,
        images=images,
        queries=len(queries),
        k=k,
        recall=found / exact,
    )


def embed_texts(texts: Sequence[str], encoder: QueryEncoder) -> NDArray[np.float32]:
    """Vectors of any number of texts, float32 (texts, dimension)."""
    parts = [
        encoder.encode_texts(texts[start : start + _TEXTS_AT_A_TIME])
        for start in range(0, len(texts), _TEXTS_AT_A_TIME)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, encoder.identity.dimension), np.float32)


def _embed_files(
    paths: Sequence[Path], encoder: QueryEncoder, progress: Callable[[int, int], None] | None
) -> tuple[NDArray[np.float32], list[int], list[tuple[str, str]]]:
    """Vectors of files, the positions of those that have one, and why the others have none."""
    vectors, kept = [], []
    failed: list[tuple[str, str]] = []
    for start in range(0, len(paths), _IMAGES_AT_A_TIME):
        pixels = []
        for at in range(start, min(start + _IMAGES_AT_A_TIME, len(paths))):
            try:
                pixels.append(query_pixels(paths[at], encoder.preprocessor))
                kept.append(at)
            except QueryImageError as error:
                failed.append((str(paths[at]), str(error)))
        if pixels:
            vectors.append(encoder.encode_pixels(np.stack(pixels)))
        if progress is not None:
            progress(min(start + _IMAGES_AT_A_TIME, len(paths)), len(paths))
    empty = np.zeros((0, encoder.identity.dimension), np.float32)
    return (np.concatenate(vectors) if vectors else empty), kept, failed
