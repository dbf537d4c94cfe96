"""Which images are the same picture: exact copies, near-duplicates, and merely similar ones, told apart.

- exact: the same bytes. The library keeps one image for them and knows the copies.
- near: the same picture re-encoded, resized, slightly cropped or brightened, or shots of one burst. The model's
  vectors propose (they see through crops), a difference hash of the pixels confirms (it tells two dogs apart).
- similar: vectors closer than all but one pair in ten thousand of this library; the same scene, most likely.

How close vectors of different pictures come depends on the model, so the limits for cosines are quantiles over
pairs of this very library. The limits for hashes were measured on 400 photographs: of 79,800 pairs of different
ones none differed in fewer than 13 of 64 bits, while re-encoding and halving left 99 % within 5, quality 10 and
cropping 2 % on each side within 11, and cropping 5 % left 95 % within 16.

Groups form around their best copy, and each member is close to it: chains, where the last has nothing to do with
the first, cannot arise. Nothing is ever deleted here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from indexer.decode import DecodeLimits, open_image, read_file, shrink_while_decoding
from indexer.fingerprint import difference_hash
from search.ordering import moment_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from indexer import ImageRecord
    from indexer.reading import Reader

Kind = Literal["exact", "near", "similar"]
Fingerprints = dict[str, int | None]
"""Difference hashes by the content's hash, None for pictures that cannot be decoded now."""

CLOSE_BITS: Final = 10
"""Hashes this close are the same picture, if the vectors agree at all."""
CROPPED_BITS: Final = 16
"""Hashes of a cropped picture; here the vectors must agree closely. Among 499,500 pairs of different photographs none
did, with the weakest model; up to 20 bits three did, all of them skies over meadows."""
BURST_SECONDS: Final = 2.0
"""Shots of one camera within this time and with close vectors are a burst."""
_AGREEING_QUANTILE: Final = 0.99
_CLOSE_QUANTILE: Final = 0.9999
_PROPOSED_PER_IMAGE: Final = 10
"""In large libraries a hundredth of all pairs is too many to look at: vectors agree, then, from where about this many
others are left for each image."""
_FEWEST_FOR_QUANTILES: Final = 50
_SAMPLE_FOR_QUANTILES: Final = 2000
_HASH_LIMITS: Final = DecodeLimits(time_limit_seconds=20.0)
_BLOCK: Final = 1024
"""Rows of the matrix of cosines made at a time: with 100,000 images they take 0.4 GB."""


@dataclass(frozen=True)
class Limits:
    """Cosines from which on vectors agree at all, and closely."""

    agreeing: float
    close: float


@dataclass(frozen=True)
class DuplicateGroup:
    """Images that show one picture.

    Attributes:
        kind: How they are alike.
        best: The copy to keep if only one is kept: most pixels, then most bytes.
        others: The rest, most alike first. Empty for `exact`, whose copies are files of one image.
        cosines: Of each of `others` with `best`.
        paths: All files of each of these images that more than one holds, by its id; first the one to keep.
    """

    kind: Kind
    best: ImageRecord
    others: tuple[ImageRecord, ...]
    cosines: tuple[float, ...]
    paths: Mapping[int, tuple[Path, ...]] = field(default_factory=dict)


def distinct_files(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Paths without those that lead to a file already named, which are links, other spellings, or second mounts of it.

    Args:
        paths: At least one. Of those that lead to one file, the first that leads there without a link stands for it.
    """
    found: dict[object, Path] = {}
    for path in paths:
        try:
            file = path.stat()
        except (OSError, ValueError):  # on a disk that is away
            found[path] = path
            continue
        key = (file.st_dev, file.st_ino) if file.st_ino else path
        if key not in found or (_is_linked(found[key]) and not _is_linked(path)):
            found[key] = path
    return tuple(found.values())


def _is_linked(path: Path) -> bool:
    return os.path.realpath(path) != str(path)


def limits_of(sample: NDArray[np.float32], images: int | None = None) -> Limits:
    """Learn how close different pictures come.

    Args:
        sample: Vectors of images of a library, float32 (m, dimension).
        images: How many the library holds, if that is more than the sample.
    """
    images = max(len(sample), images or 0)
    if len(sample) < _FEWEST_FOR_QUANTILES:
        return Limits(agreeing=0.85, close=0.95)
    if len(sample) > _SAMPLE_FOR_QUANTILES:
        sample = sample[np.linspace(0, len(sample) - 1, _SAMPLE_FOR_QUANTILES).astype(np.int64)]
    cosines = (sample @ sample.T)[np.triu_indices(len(sample), 1)]
    # The highest quantile that a sample of two million pairs can still tell is one in a hundred thousand.
    quantiles = [
        min(0.9999, max(_AGREEING_QUANTILE, 1 - _PROPOSED_PER_IMAGE / images)),
        min(0.99999, max(_CLOSE_QUANTILE, 1 - 1 / images)),
    ]
    agreeing, close = np.quantile(cosines, quantiles)
    # A library of nothing but copies must not raise the limits out of the reach of copies.
    return Limits(agreeing=min(float(agreeing), 0.95), close=min(float(close), 0.985))


def hash_of_file(path: Path) -> int | None:
    """The difference hash of an image file, None where it cannot be read or decoded now."""
    try:
        file = read_file(str(path), _HASH_LIMITS)
        image = open_image(file.data, file.format)
        shrink_while_decoding(image, 72)
        width, height = image.size
        return None if width * height > _HASH_LIMITS.max_pixels else difference_hash(image)
    except Exception:  # noqa: BLE001  (decoders of hostile bytes raise anything; no hash is an answer)
        return None


class Comparison:
    """Decides whether two images are near-duplicates, hashing files only when vectors propose it."""

    def __init__(
        self, limits: Limits, fingerprints: Fingerprints, read: Callable[[Path], int | None] = hash_of_file
    ):
        self.limits = limits
        self._fingerprints = fingerprints
        self._read = read

    def is_near(self, one: ImageRecord, other: ImageRecord, cosine: float) -> bool:
        """Whether two images with this cosine show the same picture."""
        if cosine < self.limits.agreeing:
            return False
        if cosine >= self.limits.close and self._is_burst(one, other):
            return True
        first, second = self._hash(one), self._hash(other)
        if first is None or second is None:
            return False
        bits = (first ^ second).bit_count()
        return bits <= CLOSE_BITS or (bits <= CROPPED_BITS and cosine >= self.limits.close)

    def of_close_pairs(self) -> Comparison:
        """The same for pairs whose vectors agree closely; others are never near to it."""
        return Comparison(Limits(self.limits.close, self.limits.close), self._fingerprints, self._read)

    def _hash(self, record: ImageRecord) -> int | None:
        if record.content_hash not in self._fingerprints:
            self._fingerprints[record.content_hash] = self._read(record.path)
        return self._fingerprints[record.content_hash]

    @staticmethod
    def _is_burst(one: ImageRecord, other: ImageRecord) -> bool:
        if one.taken_at is None or other.taken_at is None or one.camera_model != other.camera_model:
            return False
        return abs((moment_of(one) - moment_of(other)).total_seconds()) <= BURST_SECONDS


def recall_fingerprints(reader: Reader, records: Sequence[ImageRecord], fingerprints: Fingerprints) -> None:
    """Add what indexing found of these images; only libraries that older versions made lack some."""
    unknown = [record for record in records if fingerprints.get(record.content_hash) is None]
    known = reader.difference_hashes([record.id for record in unknown])
    for record in unknown:
        if record.id in known:
            fingerprints[record.content_hash] = known[record.id]


def fold_near_duplicates(
    records: Sequence[ImageRecord], vectors: NDArray[np.float32], comparison: Comparison
) -> list[list[int]]:
    """Group hits around the first of each group.

    Args:
        records: In the order of the answer.
        vectors: Theirs, float32 (n, dimension).
        comparison: Decides on pairs.

    Returns:
        Positions in `records`: each group begins with its first hit, groups stand in the order of these.
    """
    return _groups_around(
        vectors,
        comparison.limits.agreeing,
        lambda i, j, cosine: comparison.is_near(records[i], records[j], cosine),
    )


def find_groups(
    records: Sequence[ImageRecord],
    vectors: NDArray[np.float32],
    comparison: Comparison,
    *,
    kind: Kind,
    progress: Callable[[int, int], None] | None = None,
) -> list[DuplicateGroup]:
    """All groups of one kind, largest first.

    Args:
        records: Images of a library.
        vectors: Theirs, float32 (n, dimension), unit norm.
        comparison: Decides on pairs.
        kind: `near` does not tell exact copies (they are one image), `similar` does not repeat what is near.
        progress: Called now and then with images done and images in all.
    """
    if kind == "exact":
        exact = [DuplicateGroup("exact", record, (), ()) for record in records if record.copies > 1]
        return sorted(exact, key=lambda group: (-group.best.copies, group.best.id))
    order = sorted(range(len(records)), key=lambda i: _quality(records[i]))
    ordered = [records[i] for i in order]
    matrix = vectors[order]

    def belongs(i: int, j: int, cosine: float) -> bool:
        near = comparison.is_near(ordered[i], ordered[j], cosine)
        return near if kind == "near" else not near and cosine >= comparison.limits.close

    limit = comparison.limits.agreeing if kind == "near" else comparison.limits.close
    groups = []
    for best, *others in _groups_around(matrix, limit, belongs, progress):
        if not others:
            continue
        cosines = matrix[others] @ matrix[best]
        alike = sorted(range(len(others)), key=lambda i: (-cosines[i], ordered[others[i]].id))
        groups.append(
            DuplicateGroup(
                kind,
                ordered[best],
                tuple(ordered[others[i]] for i in alike),
                tuple(float(cosines[i]) for i in alike),
            )
        )
    return sorted(groups, key=lambda group: (-len(group.others), group.best.id))


def _quality(record: ImageRecord) -> tuple[int, int, int]:
    """Ascending: the best copy first."""
    return -record.width_pixels * record.height_pixels, -record.size_bytes, record.id


def _groups_around(
    vectors: NDArray[np.float32],
    limit: float,
    belongs: Callable[[int, int, float], bool],
    progress: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """Let each row that no earlier one has taken take all later ones that belong to it."""
    count = len(vectors)
    is_taken = np.zeros(count, np.bool_)
    groups = []
    for start in range(0, count, _BLOCK):
        block = slice(start, min(start + _BLOCK, count))
        cosines = vectors[block] @ vectors[start:].T
        for i in range(block.start, block.stop):
            if is_taken[i]:
                continue
            group = [i]
            row = cosines[i - start, i - start + 1 :]
            for j in (np.flatnonzero(row >= limit) + i + 1).tolist():
                if not is_taken[j] and belongs(i, j, float(row[j - i - 1])):
                    is_taken[j] = True
                    group.append(j)
            groups.append(group)
        if progress is not None:
            progress(block.stop, count)
    return groups
