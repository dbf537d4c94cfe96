"""Where examples come from. Opening a source reads its words and remembers where each image lies; no image is read.

The kinds, and what each expects:

- `captions`: a TSV file with a header, or a JSON lines file, or a folder that holds one such file. Each line names an
  image (`file`, `file_name`, `filename`, `image` or `path`) and has a text (`caption`, `captions`, `text`, `texts`,
  `name` or `names`; JSON lists are several). Lines of the same image are put together.
- `coco`: a JSON file with `images` (`id`, `file_name`, perhaps `split`) and `annotations` (`image_id`, `caption`).
- `folders`: a folder of folders, each named for what its images show. Names before a comma, and "_" for a space:
  `golden_retriever, dog`. With `split`, the folder of that name within holds them.
- `parquet`: a file, or a folder of them, with image bytes (`image`; also the struct with `bytes` that the `datasets`
  library writes) and a text column as for captions, one row an image. Numbers of that library's `ClassLabel` become
  the names that stand in the file.
- `webdataset`: tar files whose members `KEY.jpg` (or png, webp, gif, bmp, tif, heic, avif) and `KEY.txt`, `KEY.json` or
  `KEY.cls` make one example. A JSON member is read as a line of `captions` is.

Columns called `name`, `names`, `label`, `labels` or `cls` hold names, which go through templates; the others captions.
"""

from __future__ import annotations

import csv
import json
import tarfile
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from model.training.errors import TrainingDataError
from model.training.vocabulary import normalise

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    import numpy.typing as npt

    from model.training.config import SourceConfig, SourceKind

# The same that an index takes (`indexer.formats`), so that what can be searched can be learnt from.
IMAGE_SUFFIXES = frozenset(
    [
        *(".jpg", ".jpeg", ".jpe", ".jfif"),
        *(".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".dib"),
        *(".heic", ".heif", ".hif", ".avif"),
    ]
)
_IMAGE_COLUMNS = ("file", "file_name", "filename", "image", "path")
_CAPTION_COLUMNS = ("caption", "captions", "text", "texts")
_NAME_COLUMNS = ("names", "name", "labels", "label", "cls")

_SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})

# Of fewer images of a class none is held out for validation.
_LEAST_TO_HOLD_OUT = 5

# How many files stand together where images lie in files of their own and the grouping costs nothing.
_FILES_IN_A_BLOCK = 4096

# If none of so many is there, the folder is the wrong one.
_FILES_LOOKED_FOR = 100


@dataclass(frozen=True)
class FilePlace:
    """An image in a file, or in a stretch of one.

    Attributes:
        path: the file.
        offset_bytes: where it starts.
        size_bytes: how long it is; None for the whole file.
    """

    path: Path
    offset_bytes: int = 0
    size_bytes: int | None = None

    def read(self) -> bytes:
        """The image's bytes; OSError if the file cannot be read or is too short."""
        if self.size_bytes is None:
            return self.path.read_bytes()
        with self.path.open("rb") as file:
            file.seek(self.offset_bytes)
            content = file.read(self.size_bytes)
        if len(content) < self.size_bytes:
            raise OSError(f"{self.path} ends within an image")
        return content


@dataclass(frozen=True)
class RowPlace:
    """An image in a row of a Parquet file.

    Attributes:
        path: the file.
        group: the row group's number.
        row: within the row group.
        column: that holds the bytes.
    """

    path: Path
    group: int
    row: int
    column: str


@dataclass(frozen=True)
class Entry:
    """One image and what is said about it.

    Attributes:
        names: of a thing, the best first; or:
        captions: whole sentences.
        place: where the image's bytes lie.
        origin: for people: which file, which row.
    """

    names: tuple[str, ...]
    captions: tuple[str, ...]
    place: FilePlace | RowPlace
    origin: str


@dataclass(frozen=True)
class Source:
    """Entries in an order that is the same each time they are opened.

    Attributes:
        title: for people.
        entries: the examples.
        blocks: the numbers (start, end) of entries that are best read together.
        block_bytes: memory that each block's images take while it is open.
        without_text: rows that were left out because nothing is said about their image.
    """

    title: str
    entries: tuple[Entry, ...]
    blocks: tuple[tuple[int, int], ...]
    block_bytes: tuple[int, ...]
    without_text: int

    def keep(self, wanted: npt.NDArray[np.bool_]) -> Source:
        """The same source with only the entries for which `wanted` (len(entries),) is true."""
        before = np.concatenate([[0], np.cumsum(wanted)])
        kept = [
            ((int(before[start]), int(before[end])), size)
            for (start, end), size in zip(self.blocks, self.block_bytes, strict=True)
            if before[end] > before[start]
        ]
        return Source(
            self.title,
            tuple(entry for entry, stays in zip(self.entries, wanted, strict=True) if stays),
            tuple(block for block, _ in kept),
            tuple(size for _, size in kept),
            self.without_text,
        )

    @property
    def has_captions(self) -> bool:
        """Whether whole sentences are said about the images."""
        return any(entry.captions for entry in self.entries)


ImageContent = bytes | FilePlace | OSError
"""An image's bytes, or where a file has them, or why they cannot be had."""


def read_images(entries: Sequence[Entry]) -> list[ImageContent]:
    """What some entries' images consist of, in their order.

    Rows of one Parquet row group are read together. Files are not read yet: whoever decodes them does, in parallel and
    without holding them in memory.
    """
    images: list[ImageContent] = [
        entry.place if isinstance(entry.place, FilePlace) else b"" for entry in entries
    ]
    groups: dict[tuple[Path, int, str], list[tuple[int, int]]] = defaultdict(list)
    for position, entry in enumerate(entries):
        if isinstance(entry.place, RowPlace):
            groups[entry.place.path, entry.place.group, entry.place.column].append(
                (position, entry.place.row)
            )
    for (path, group, column), wanted in groups.items():
        contents = _read_rows(path, group, column, [row for _, row in wanted])
        for (position, _), content in zip(wanted, contents, strict=True):
            images[position] = content
    return images


def open_source(config: SourceConfig) -> Source:
    """Open a source by its settings.

    Raises:
        TrainingDataError: it is not there, not of its kind, or holds no image with a text.
    """
    kind = config.kind or _guess_kind(config.path)
    if config.images is not None and kind not in {"captions", "coco"}:
        raise TrainingDataError(
            f"{config.path} is of the kind {kind}, which has its images within: leave out `images` ({config.images})"
        )
    entries, blocks, without_text = _READERS[kind](config)
    renames = {normalise(label): names for label, names in config.rename.items()}
    entries = [_clean(entry, renames) for entry in entries]
    said = np.array([bool(entry.names or entry.captions) for entry in entries], bool)
    without_text += int((~said).sum())
    if not said.any():
        reason = f"all {without_text} rows lack a text" if without_text else "it is empty"
        split = f" with {config.split_column} {config.split!r}" if config.split is not None else ""
        raise TrainingDataError(f"{config.path} ({kind}) has no image with a text{split}: {reason}")
    _refuse_numbers(config.path, entries)
    source = Source(
        config.path.name,
        tuple(entries),
        tuple(block for block, _ in blocks),
        tuple(size for _, size in blocks),
        without_text,
    )
    if not said.all():
        source = source.keep(said)
    count = len(source.entries)
    if config.limit is not None and config.limit < count:
        wanted = np.zeros(count, bool)
        wanted[np.linspace(0, count - 1, config.limit).round().astype(int)] = True
        source = source.keep(wanted)
    return source


_Blocks = list[tuple[tuple[int, int], int]]
_Opened = tuple[list[Entry], _Blocks, int]


def _clean(entry: Entry, renames: Mapping[str, tuple[str, ...]]) -> Entry:
    if not entry.names:
        return entry
    # A name may be nothing but an underscore, and what it is renamed to nothing at all.
    names = tuple(dict.fromkeys(name for name in map(normalise, entry.names) if name))
    if names:
        names = tuple(name for name in map(normalise, renames.get(names[0], names)) if name)
    return Entry(names, (), entry.place, entry.origin)


def _refuse_numbers(path: Path, entries: Sequence[Entry]) -> None:
    """A text tower learns nothing of "a photo of a 7" that anybody would ask for."""
    names = dict.fromkeys(entry.names[0] for entry in entries if entry.names)
    if names and all(name.isdecimal() for name in names):
        some = ", ".join(list(names)[:3])
        raise TrainingDataError(
            f"{path} calls what its images show by numbers ({some}): call it by names, or say with `rename` what the "
            f'numbers mean, such as rename = {{"{next(iter(names))}" = ["rose"]}}'
        )


def _is_pattern(path: Path) -> bool:
    return any(letter in path.name for letter in "*?[") and not path.exists()


def _guess_kind(path: Path) -> SourceKind:
    """Tell the kind from the path; TrainingDataError with the choices where it does not tell."""
    suffix = path.suffix.lower()
    if suffix == ".tar" or _is_pattern(path):
        return "webdataset"
    if not path.exists():
        raise TrainingDataError(f"there is no file or folder {path}")
    if path.is_file():
        by_suffix: dict[str, SourceKind] = {
            ".parquet": "parquet",
            ".tsv": "captions",
            ".jsonl": "captions",
            ".json": "coco",
        }
        if suffix in by_suffix:
            return by_suffix[suffix]
    else:
        inside = sorted(path.iterdir())
        suffixes = {item.suffix.lower() for item in inside if item.is_file()}
        if ".parquet" in suffixes:
            return "parquet"
        if ".tar" in suffixes:
            return "webdataset"
        if suffixes & {".tsv", ".jsonl"}:
            return "captions"
        if any(item.is_dir() for item in inside):
            return "folders"
    raise TrainingDataError(
        f"{path}: cannot tell what kind of data this is. Expected a captions file (.tsv, .jsonl), COCO's .json, "
        ".parquet, .tar, a folder with one of them, or a folder of class folders; or say which with `kind`"
    )


def _file_blocks(count: int) -> _Blocks:
    return [
        ((start, min(start + _FILES_IN_A_BLOCK, count)), 0) for start in range(0, count, _FILES_IN_A_BLOCK)
    ]


# Captions


@dataclass(frozen=True)
class _Columns:
    """Which fields of a record hold what."""

    image: tuple[str, ...]
    captions: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, config: SourceConfig) -> _Columns:
        image = (config.image_column,) if config.image_column else _IMAGE_COLUMNS
        text = config.text_column
        if text is None:
            return cls(image, _CAPTION_COLUMNS, _NAME_COLUMNS)
        return cls(image, (), (text,)) if text in _NAME_COLUMNS else cls(image, (text,), ())

    def words(self, record: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names and captions of a record; at most one of the two is not empty, and captions go first."""
        for column in self.captions:
            if captions := _strings(record.get(column)):
                return (), captions
        for column in self.names:
            if names := _strings(record.get(column)):
                return names, ()
        return (), ()


def _strings(value: Any) -> tuple[str, ...]:
    """A text, or a list of them (COCO's `{"raw": ...}` too), without what is empty."""
    if value is None:
        return ()
    items = value if isinstance(value, list | tuple) else [value]
    raw = [item.get("raw") if isinstance(item, dict) else item for item in items]
    texts = [str(item) for item in raw if item is not None]
    return tuple(" ".join(text.split()) for text in texts if text.strip())


def _open_captions(config: SourceConfig) -> _Opened:
    path = config.path
    if path.is_dir():
        files = sorted(item for item in path.iterdir() if item.suffix.lower() in {".tsv", ".jsonl"})
        if len(files) != 1:
            names = ", ".join(item.name for item in files) or "none"
            raise TrainingDataError(
                f"{path} should hold one captions file (.tsv or .jsonl), it holds {names}"
            )
        path = files[0]
    elif not path.is_file():
        raise TrainingDataError(f"there is no captions file {path}")
    columns = _Columns.of(config)
    folder = config.images or path.parent
    lines: dict[str, int] = {}
    words: dict[str, tuple[dict[str, None], dict[str, None]]] = defaultdict(lambda: ({}, {}))
    known: dict[str, None] = {}
    for line, record in _records(path):
        known.update(dict.fromkeys(record))
        if config.split is not None and record.get(config.split_column) != config.split:
            continue
        file = next((str(record[column]) for column in columns.image if record.get(column)), None)
        if file is None:
            raise TrainingDataError(
                f"{path}, line {line}: names no image. Expected one of the columns {', '.join(columns.image)}; "
                f"there are {', '.join(map(str, record))}"
            )
        lines.setdefault(file, line)
        for all_words, some_words in zip(words[file], columns.words(record), strict=True):
            all_words.update(dict.fromkeys(some_words))
    entries = []
    for file, line in lines.items():
        file_names, file_captions = map(tuple, words[file])
        if file_names or file_captions:
            place = FilePlace(folder / file)
            origin = f"{path.name}, line {line}: {file}"
            entries.append(Entry(() if file_captions else file_names, file_captions, place, origin))
    _check_columns(path, config, known)
    _check_files(path, folder, lines if entries else ())
    return entries, _file_blocks(len(entries)), len(lines) - len(entries)


def _check_columns(path: Path, config: SourceConfig, known: Collection[str]) -> None:
    """Refuse columns that the settings name and that are not among the `known` of a file that has any."""
    asked = {"text_column": config.text_column}
    if config.split is not None:
        asked["split_column"] = config.split_column
    for setting, column in asked.items():
        if known and column is not None and column not in known:
            raise TrainingDataError(
                f"{path} has no {column!r} ({setting}); there are {', '.join(map(str, known))}"
            )


def _check_files(path: Path, folder: Path, files: Collection[str]) -> None:
    """Refuse a folder that has none of the first images that a file names."""
    some = list(files)[:_FILES_LOOKED_FOR]
    if some and not any((folder / file).is_file() for file in some):
        raise TrainingDataError(
            f"{path} names images such as {some[0]!r}, but {folder} has none of them: say with `images` where they are"
        )


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines of a TSV or JSON lines file with their numbers, from 1."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".tsv":
                # Captions hold quotation marks that open nothing.
                rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
                for row in rows:
                    row.pop(None, None)  # fields beyond the header's
                    yield rows.line_num, row
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        raise TrainingDataError(
                            f"{path}, line {number}: expected a JSON object, got {line[:60]!r}"
                        )
                    yield number, record
    except json.JSONDecodeError as error:
        raise TrainingDataError(f"{path} is no JSON lines file: {error}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TrainingDataError(f"{path} cannot be read: {error}") from error


def _open_coco(config: SourceConfig) -> _Opened:
    path = config.path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = dict.fromkeys(key for image in content["images"] for key in image)
        every = {image["id"] for image in content["images"]}
        images = {
            image["id"]: str(image["file_name"])
            for image in content["images"]
            if config.split is None or image.get(config.split_column) == config.split
        }
        captions: dict[Any, list[str]] = {number: [] for number in every}
        for annotation in content["annotations"]:
            captions[annotation["image_id"]] += _strings(annotation.get("caption"))
    except OSError as error:
        raise TrainingDataError(f"{path} cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingDataError(
            f"{path} is not a COCO captions file ({error!r}): expected `images` with id and file_name, and "
            "`annotations` with image_id and caption"
        ) from error
    if config.split is not None:
        _check_columns(path, replace(config, text_column=None), known)
    folder = config.images or path.parent
    entries = [
        Entry((), tuple(captions[number]), FilePlace(folder / file), f"{path.name}, image {number}: {file}")
        for number, file in images.items()
        if captions[number]
    ]
    _check_files(path, folder, images.values())
    return entries, _file_blocks(len(entries)), len(images) - len(entries)


# Class folders


def _open_folders(config: SourceConfig) -> _Opened:
    path = config.path
    if not path.is_dir():
        raise TrainingDataError(f"there is no folder {path}")
    if config.split is not None:
        if not (path / config.split).is_dir():
            there = ", ".join(folder.name for folder in _folders_in(path)) or "none"
            raise TrainingDataError(f"{path} has no folder for the split {config.split!r}; there are {there}")
        path = path / config.split
    folders = _folders_in(path)
    if folders and all(item.name.lower() in _SPLIT_NAMES and _folders_in(item) for item in folders):
        proposed = next((item for item in folders if item.name.lower().startswith("train")), folders[0])
        raise TrainingDataError(
            f"{path} holds splits ({', '.join(item.name for item in folders)}), not classes: choose one of them with "
            f"`split`, or name its folder, such as {proposed}"
        )
    entries = []
    for folder in folders:
        names = tuple(name.strip() for name in folder.name.split(",") if name.strip())
        entries += [
            Entry(names, (), FilePlace(file), str(file.relative_to(path)))
            for file in sorted(folder.rglob("*"))
            if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()
        ]
    return entries, _file_blocks(len(entries)), 0


def _folders_in(path: Path) -> list[Path]:
    return sorted(item for item in path.iterdir() if item.is_dir() and not item.name.startswith("."))


# Parquet


def _open_parquet(config: SourceConfig) -> _Opened:
    from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]

    files = sorted(config.path.rglob("*.parquet")) if config.path.is_dir() else [config.path]
    columns = _Columns.of(config)
    entries: list[Entry] = []
    blocks: _Blocks = []
    without_text = 0
    for path in files:
        try:
            file = parquet.ParquetFile(path)
            there = file.schema_arrow.names
            image = next((name for name in columns.image if name in there), None)
            words = [name for name in (*columns.captions, *columns.names) if name in there]
            if image is None or not words:
                raise TrainingDataError(
                    f"{path} lacks a column with images ({', '.join(columns.image)}) or with texts "
                    f"({', '.join((*columns.captions, *columns.names))}); there are {', '.join(there)}. "
                    "Name them with `image_column` and `text_column`"
                )
            has_split = config.split is not None
            if has_split and config.split_column not in there:
                raise TrainingDataError(
                    f"{path} has no column {config.split_column!r} to choose {config.split!r} by"
                )
            wanted = [*words, config.split_column] if has_split else words
            labels = _class_labels(file.schema_arrow.metadata)
            for group in range(file.num_row_groups):
                start = len(entries)
                records = file.read_row_group(group, columns=wanted).to_pylist()
                for row, record in enumerate(records):
                    if has_split and record[config.split_column] != config.split:
                        continue
                    for column in record.keys() & labels.keys():
                        record[column] = _named(record[column], labels[column])
                    names, captions = columns.words(record)
                    if not names and not captions:
                        without_text += 1
                        continue
                    place = RowPlace(path, group, row, image)
                    entries.append(Entry(names, captions, place, f"{path.name}, group {group}, row {row}"))
                if len(entries) > start:
                    blocks.append(
                        ((start, len(entries)), int(file.metadata.row_group(group).total_byte_size))
                    )
        except (OSError, ArrowException) as error:
            raise TrainingDataError(f"{path} cannot be read as Parquet: {error}") from error
    return entries, blocks, without_text


def _class_labels(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """What the numbers of a column mean, as the `datasets` library notes it in a file."""
    labels: dict[str, list[str]] = {}
    with suppress(KeyError, TypeError, ValueError, AttributeError):  # noted by nobody, or in another way
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        for column, feature in features.items():
            names = feature.get("feature", feature).get("names")
            if isinstance(names, list):
                labels[column] = [str(name) for name in names]
    return labels


def _named(value: Any, names: list[str]) -> Any:
    """A number, or several, as names; what has no name, as the -1 of what nobody labelled, is nothing."""
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


def _read_rows(path: Path, group: int, column: str, rows: list[int]) -> list[ImageContent]:
    from pyarrow import ArrowException, parquet

    try:
        values = parquet.ParquetFile(path).read_row_group(group, columns=[column]).column(0).take(rows)
    except (OSError, ArrowException) as error:
        return [OSError(f"{path}, row group {group}: {error}")] * len(rows)
    images: list[ImageContent] = []
    for value in values.to_pylist():
        content = value.get("bytes") if isinstance(value, dict) else value
        images.append(content if isinstance(content, bytes) else OSError("the row holds no image bytes"))
    return images


# WebDataset


def _open_webdataset(config: SourceConfig) -> _Opened:
    path = config.path
    if path.is_dir():
        files = sorted(path.glob("*.tar"))
    elif _is_pattern(path):
        files = sorted(path.parent.glob(path.name))
    else:
        files = [path]
    if not files:
        raise TrainingDataError(f"{path} matches no tar file")
    columns = _Columns.of(config)
    entries: list[Entry] = []
    without_text = 0
    for file in files:
        found, lacking = _open_tar(file, columns, config)
        entries += found
        without_text += lacking
    return entries, _file_blocks(len(entries)), without_text


def _open_tar(path: Path, columns: _Columns, config: SourceConfig) -> tuple[list[Entry], int]:
    """Walk through one tar file's headers, reading the words and leaving out the images."""
    places: dict[str, FilePlace] = {}
    records: dict[str, dict[str, Any]] = defaultdict(dict)
    try:
        # Only plain tars: in a compressed one no image could be reached without reading all before it.
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                name = PurePosixPath(member.name)
                stem, _, suffix = name.name.partition(".")
                key = str(name.parent / stem)
                suffix = f".{suffix.lower()}"
                if suffix in IMAGE_SUFFIXES:
                    places[key] = FilePlace(path, member.offset_data, member.size)
                elif suffix in {".txt", ".json", ".cls"}:
                    stream = archive.extractfile(member)
                    content = stream.read().decode("utf-8") if stream is not None else ""
                    if suffix == ".json":
                        records[key] |= json.loads(content)
                    else:
                        records[key]["caption" if suffix == ".txt" else "cls"] = content.strip()
    except (OSError, tarfile.TarError, ValueError, TypeError) as error:
        raise TrainingDataError(
            f"{path} cannot be read as a plain tar of examples ({error}). If it is compressed, unpack it to .tar first"
        ) from error
    entries = []
    for key, place in places.items():
        if config.split is not None and records[key].get(config.split_column) != config.split:
            continue
        names, captions = columns.words(records[key])
        if names or captions:
            entries.append(Entry(names, captions, place, f"{path.name}: {key}"))
        else:
            entries.append(Entry((), (), place, ""))
    kept = [entry for entry in entries if entry.origin]
    return kept, len(entries) - len(kept)


_READERS: dict[SourceKind, Callable[[SourceConfig], _Opened]] = {
    "captions": _open_captions,
    "coco": _open_coco,
    "folders": _open_folders,
    "parquet": _open_parquet,
    "webdataset": _open_webdataset,
}


def held_out(source: Source, share: float) -> npt.NDArray[np.bool_]:
    """Which entries are kept from training for validation: boolean (len(entries),), the same each time.

    Every name that has a few entries gives its share and at least one, so that no class is trained on but never
    validated, or the other way round. Which entries of a name are taken depends on their order only.
    """
    chosen = np.zeros(len(source.entries), bool)
    if share == 0:
        return chosen
    by_name: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, entry in enumerate(source.entries):
        by_name[entry.names].append(number)
    for numbers in by_name.values():
        count = min(max(1, round(len(numbers) * share)), len(numbers) - 1)
        if len(numbers) >= _LEAST_TO_HOLD_OUT:
            step = len(numbers) / count
            chosen[[numbers[int((index + 0.5) * step)] for index in range(count)]] = True
    return chosen


def spread(count: int, limit: int) -> Iterable[int]:
    """At most `limit` of the numbers below `count`, evenly spread and shuffled once and for all."""
    numbers = np.random.default_rng(0).permutation(count)[:limit]
    return (int(number) for number in np.sort(numbers))
