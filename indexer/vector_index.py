"""vectors.faiss: an immutable, memory-mapped index over the vectors that the catalog holds.

The file is derived and disposable. It is written whole, beside the old one, and put in its place in one
step; it is never changed, because FAISS kills the process when a mapped index is changed. What was added
since lies in the catalog, behind the file's last `sequence`, and is searched as a second, small segment;
what is gone is masked. So adding a thousand images to a million rewrites nothing, until the drift is worth
a new file (`needs_rebuild`).

Layout: what FAISS writes for a flat index of half-precision vectors, ordered by image id
(`faiss.read_index` opens it as it is); the ids, int64; a JSON description with a CRC-32 of all before it; a
footer with the length and the CRC-32 of the JSON.

Scores are exact and do not depend on the way they were found: FAISS proposes candidates, their scores are
then computed in double precision from the stored vectors, and equal scores are ordered by id.
"""

from __future__ import annotations

import os
import struct
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.derived_file import VectorFileError, padded, read_description, replacing, verify_bytes
from indexer.paths import to_catalog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from indexer.approximate_index import ApproximateIndex
    from indexer.catalog import KnownVectorFile

    Ids = NDArray[np.int64]
    Codes = NDArray[np.float16]
    Scores = NDArray[np.float32]

FILE_VERSION = 1
# Candidates beyond k that FAISS is asked for: what its rounding may have put in the wrong order.
_MARGIN = 16
# FAISS adds up in float32: for unit vectors of up to 2,048 dimensions in 16 lanes the error stays below this.
_ROUNDING = 1e-5
# Below this many candidates, or this share of all vectors, gathering and scoring them is faster than one pass
# of FAISS over the whole index, which asks for each vector whether it is one of them.
_GATHER_LIMIT = 1_000
_GATHER_SHARE = 1 / 300
# Above this share of allowed vectors, dropping the others afterwards beats a selector.
_DENSE = 0.2
# Above this k, all scores at once are cheaper than a heap.
_HEAP_LIMIT = 4_096
# A library this small is rebuilt in a blink.
_SMALL = 20_000
_DRIFT = 0.05


@dataclass(frozen=True)
class VectorFileInfo:
    """What a vectors.faiss says of itself.

    Attributes:
        library_id: Of the catalog that it was made from.
        model_id: Row of the model in that catalog.
        generation: Counts the files made for this library.
        sequence: The last sequence of the catalog's vectors that it holds.
        dimension: Length of a vector.
        count: Number of vectors.
        faiss_bytes: Length of FAISS's part.
        checksum: CRC-32 of everything before this description.
        version: Of this layout.
    """

    library_id: str
    model_id: int
    generation: int
    sequence: int
    dimension: int
    count: int
    faiss_bytes: int = 0
    checksum: int = 0
    version: int = FILE_VERSION

    def mismatch(self, known: KnownVectorFile, model_id: int) -> str | None:
        """Why the file does not belong to a catalog with this active model; None if it does.

        A file is put in place right before the catalog notes it, so one that is a single generation ahead belongs
        to it, too. A catalog that came back from a backup gives its sequences again, to other vectors than the file
        holds: one that is ahead further, or in sequence, does not.
        """
        if self.library_id != known.library_id:
            return "it belongs to another library"
        if self.model_id != model_id:
            return "it holds the vectors of another model"
        if self.generation < known.generation:
            return "it is older than the catalog"
        if self.generation > known.generation + 1 or self.sequence > known.last_sequence:
            return "it is newer than the catalog"
        if self.generation == known.generation and known.checksum not in {None, self.checksum}:
            return "it is not the one that the catalog noted"
        return None


def needs_rebuild(base_count: int, added: int, departed: int) -> bool:
    """Whether the file has drifted so far from the catalog that a new one pays.

    A reader loads what was added since from the catalog (a thousand vectors take milliseconds) and FAISS
    computes scores that are thrown away for what has departed: 5 % of either is where a reader begins to
    feel it.
    """
    drift = added + departed
    return drift > 0 and (base_count + added <= _SMALL or drift > _DRIFT * base_count)


def write_vector_file(
    path: Path, info: VectorFileInfo, chunks: Iterable[tuple[Ids, Codes]]
) -> VectorFileInfo:
    """Writes the file beside `path`, makes sure that it is on the disk, and puts it in place.

    Args:
        path: Where the file shall be.
        info: Everything but `faiss_bytes` and `checksum`.
        chunks: Ids in ascending order and float16 vectors (n, dimension), `info.count` in all.

    Returns:
        The description as written.

    Raises:
        OSError: The disk is full or cannot be written; the old file is untouched.
    """
    with replacing(path) as file:
        file.write(_faiss_header(info.dimension, info.count))
        ids = np.empty(info.count, "<i8")
        done = 0
        for chunk_ids, codes in chunks:
            ids[done : done + len(chunk_ids)] = chunk_ids
            done += len(chunk_ids)
            file.write(np.ascontiguousarray(codes, "<f2").tobytes())
        if done != info.count:
            raise ValueError(f"{done} vectors came, {info.count} were announced")
        faiss_bytes = file.length
        file.pad()
        file.write(ids.tobytes())
        complete = replace(info, faiss_bytes=faiss_bytes, checksum=file.checksum)
        file.finish(asdict(complete))
    return complete


def read_info(path: Path) -> VectorFileInfo:
    """Reads the file's description.

    Raises:
        VectorFileError: There is no file, or it does not end as it should.
    """
    fields, length = read_description(path, FILE_VERSION)
    info = VectorFileInfo(**fields)
    if length != _covered(info):
        raise VectorFileError(f"it has {length} bytes of vectors and ids instead of {_covered(info)}")
    return info


def verify(path: Path, info: VectorFileInfo, should_stop: Callable[[], bool] | None = None) -> None:
    """Compares the file's bytes with its checksum (gigabytes a second), unless told to stop.

    Raises:
        VectorFileError: They differ.
    """
    verify_bytes(path, _covered(info), info.checksum, should_stop)


class Segment:
    """A set of vectors in memory or mapped from a file, searched by one pass of FAISS.

    Args:
        ids: int64 (n,), ascending.
        index: A FAISS index over the vectors, in the order of `ids`.
        codes: The same vectors, float16 (n, dimension).

    Attributes:
        approximate: Proposes candidates where there are too many vectors for a pass over all of them; None
            where an exact search is fast enough.
    """

    def __init__(self, ids: Ids, index: Any, codes: Codes) -> None:
        self.ids = ids
        self.codes = codes
        self.approximate: ApproximateIndex | None = None
        self._index = index

    @classmethod
    def from_codes(cls, ids: Ids, codes: Codes) -> Segment:
        """Makes a segment of vectors in memory; `ids` ascending, `codes` float16 (n, dimension)."""
        index = _flat_index(codes.shape[1])
        if len(codes):
            index.add_sa_codes(np.ascontiguousarray(codes).view(np.uint8))
        return cls(ids, index, codes)

    @classmethod
    def from_file(cls, path: Path, info: VectorFileInfo) -> Segment:
        """Maps a file; nothing is loaded until it is touched, unless FAISS cannot open it by its name.

        Raises:
            VectorFileError: It does not begin as FAISS would write it, or FAISS does not read it.
        """
        if info.count == 0:
            return cls.from_codes(np.empty(0, np.int64), np.empty((0, info.dimension), np.float16))
        faiss = _faiss()
        header = _faiss_header(info.dimension, info.count)
        try:
            with path.open("rb") as file:
                is_whole = file.read(len(header)) == header
        except OSError as error:
            raise VectorFileError(f"it cannot be read ({error.strerror})") from error
        if not is_whole:  # what FAISS would make of it, nobody knows
            raise VectorFileError("its beginning is damaged")
        ids = np.memmap(path, "<i8", "r", offset=padded(info.faiss_bytes), shape=(info.count,))
        if not faiss_can_open(path):
            shape = (info.count, info.dimension)
            return cls.from_codes(
                np.asarray(ids), np.memmap(path, "<f2", "r", offset=len(header), shape=shape)
            )
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise VectorFileError(f"FAISS does not read it ({error})") from error
        if (index.ntotal, index.d) != (info.count, info.dimension):
            raise VectorFileError(f"FAISS finds {index.ntotal} x {index.d} in it")
        raw = faiss.rev_swig_ptr(index.codes.data(), info.count * info.dimension * 2)
        codes = raw.view("<f2").reshape(info.count, info.dimension)
        return cls(np.asarray(ids), index, codes)

    def __len__(self) -> int:
        return len(self.ids)

    def positions(self, ids: Ids) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where ids lie in this segment: positions int64 (n,), and which of them are valid, bool (n,)."""
        if not len(self.ids):
            return np.zeros(len(ids), np.int64), np.zeros(len(ids), np.bool_)
        at = np.searchsorted(self.ids, ids)
        at = np.minimum(at, len(self.ids) - 1)
        return at, self.ids[at] == ids

    def mask(self, ids: Ids) -> NDArray[np.bool_]:
        """Which of the segment's vectors belong to `ids`: bool (n,)."""
        if not len(self.ids) or not len(ids):
            return np.zeros(len(self.ids), np.bool_)
        low, high = int(self.ids[0]), int(self.ids[-1])
        if high - low < 8 * len(self.ids) + 65_536:  # ids are dense: a table beats a search
            table = np.zeros(high - low + 1, np.bool_)
            if ids.min() < low or ids.max() > high:
                ids = ids[(ids >= low) & (ids <= high)]
            table[ids - low] = True
            return table if len(table) == len(self.ids) else table[self.ids - low]
        found = np.zeros(len(self.ids), np.bool_)
        at, valid = self.positions(ids)
        found[at[valid]] = True
        return found

    def nearest(
        self,
        query: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.bool_] | None,
        *,
        exact: bool = False,
    ) -> tuple[Scores, Ids]:
        """The best of this segment for one query.

        Args:
            query: float32 (dimension,).
            k: How many.
            allowed: bool (n,), which vectors may be found; None for all.
            exact: Whether to leave an approximate index aside.

        Returns:
            Scores float32 (k',) and ids int64 (k',), best first, equal scores by id; k' = min(k, allowed
            vectors).
        """
        candidates = len(self.ids) if allowed is None else int(np.count_nonzero(allowed))
        want = min(k, candidates)
        if want <= 0:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        at: NDArray[np.int64] | None = None
        if candidates <= max(_GATHER_LIMIT, _GATHER_SHARE * len(self.ids)):
            at = np.arange(len(self.ids)) if allowed is None else np.flatnonzero(allowed)
        elif self.approximate is not None and not exact:
            at = self.approximate.propose(query, want, candidates, allowed)
        if at is None:
            at = self._propose(query, want, candidates, allowed)
        return self._best(query, at, want)

    def _propose(
        self, query: NDArray[np.float32], want: int, candidates: int, allowed: NDArray[np.bool_] | None
    ) -> NDArray[np.int64]:
        """Positions among which the best `want` surely are."""
        faiss = _faiss()
        faiss.omp_set_num_threads(1)  # a single query gains nothing from more, and loses on busy cores
        queries = query[None]
        parameters = None
        rounding = _rounding(query)
        if allowed is not None:
            if candidates > _DENSE * len(self.ids):
                kept = self._propose_dense(query, want, candidates, allowed, rounding)
                if kept is not None:
                    return kept
            selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
            parameters = faiss.SearchParameters(sel=selector)
        fetch = min(want + max(_MARGIN, want // 8), candidates)
        if fetch > _HEAP_LIMIT:
            _, scores, at = self._index.range_search(queries, -np.finfo(np.float32).max, params=parameters)
            floor = np.partition(scores, len(scores) - want)[len(scores) - want]
            return np.asarray(at[scores >= floor - 2 * rounding], np.int64)
        proposed, at = self._index.search(queries, fetch, params=parameters)
        if fetch == candidates:
            return np.asarray(at[0], np.int64)
        # What was not fetched scores at most the last fetched score, give or take rounding. Unless the last
        # one wanted is safely above, equal or almost equal scores straddle the end of the list: fetch all
        # of them.
        exact = np.sort(self._exact(query, at[0]))[::-1]
        last_wanted = float(exact[want - 1])
        if last_wanted - float(proposed[0, -1]) > rounding:
            return np.asarray(at[0], np.int64)
        _, _, at_range = self._index.range_search(queries, last_wanted - 2 * rounding, params=parameters)
        return np.asarray(at_range, np.int64)

    def _propose_dense(
        self,
        query: NDArray[np.float32],
        want: int,
        candidates: int,
        allowed: NDArray[np.bool_],
        rounding: float,
    ) -> NDArray[np.int64] | None:
        """Searches as if everything were allowed, for more than is wanted, and drops what is not.

        A selector that skips every other vector makes FAISS twice as slow as one that skips none: the
        processor cannot foresee where it reads next. If the allowed ones are spread like the others, this
        finds enough.

        Returns:
            Positions among which the best `want` surely are, or None if this did not find enough.
        """
        fetch = int(1.5 * (want + _MARGIN) * len(self.ids) / candidates) + _MARGIN
        if fetch > min(_HEAP_LIMIT, len(self.ids)):
            return None
        proposed, at = self._index.search(query[None], fetch)
        kept = at[0][allowed[at[0]]]
        if len(kept) < want:
            return None
        exact = np.sort(self._exact(query, kept))[::-1]
        if float(exact[want - 1]) - float(proposed[0, -1]) <= rounding:
            return None
        return np.asarray(kept, np.int64)

    def _exact(self, query: NDArray[np.float32], at: NDArray[np.int64]) -> Scores:
        """Inner products at the positions `at` in double precision, rounded once: float32 (n,)."""
        scores = np.empty(len(at), np.float32)
        wide = query.astype(np.float64)
        for start in range(0, len(at), 4096):
            block = decoded(self.codes[at[start : start + 4096]]).astype(np.float64)
            # Along the last axis NumPy adds each row by itself, so a score does not depend on its neighbours.
            scores[start : start + 4096] = (block * wide).sum(axis=1)
        return scores

    def _best(self, query: NDArray[np.float32], at: NDArray[np.int64], want: int) -> tuple[Scores, Ids]:
        if len(at) > want + _MARGIN:
            at = at[_roughly_best(query, self.codes[at], want)]
        scores = self._exact(query, at)
        ids = np.asarray(self.ids[at], np.int64)
        return best(scores, ids, want)


def faiss_can_open(path: Path) -> bool:
    """Whether FAISS can be given a path: it takes UTF-8, which Windows then reads as the encoding of its region."""
    if os.name == "nt":
        return str(path).isascii()
    return isinstance(to_catalog(str(path)), str)


def decoded(codes: Codes) -> NDArray[np.float32]:
    """Vectors in single precision, float32 (n, dimension); ten times as fast as NumPy."""
    decoded: NDArray[np.float32] = _flat_index(codes.shape[1]).sa_decode(
        np.ascontiguousarray(codes).view(np.uint8)
    )
    return decoded


def _roughly_best(query: NDArray[np.float32], codes: Codes, want: int) -> NDArray[np.int64]:
    """Rows among which the best `want` surely are: what is clearly out in single precision is left out."""
    index = _flat_index(codes.shape[1])
    index.add_sa_codes(np.ascontiguousarray(codes).view(np.uint8))
    _faiss().omp_set_num_threads(1)
    scores, at = index.search(query[None], want + _MARGIN)
    if scores[0, want - 1] - scores[0, -1] <= 2 * _rounding(query):
        return np.arange(len(codes))
    rows: NDArray[np.int64] = at[0]
    return rows


def _rounding(query: NDArray[np.float32]) -> float:
    return _ROUNDING * max(1.0, float(np.linalg.norm(query)))


def _flat_index(dimension: int) -> Any:
    faiss = _faiss()
    return faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)


def best(scores: Scores, ids: Ids, k: int) -> tuple[Scores, Ids]:
    """The `k` best of scored ids, best first, equal scores by id."""
    order = np.lexsort((ids, -scores))[:k]
    return scores[order], ids[order]


def _faiss_header(dimension: int, count: int) -> bytes:
    """The bytes before the vectors in what FAISS writes for a flat half-precision index.

    Taken from FAISS itself for an empty index, with the two counts filled in; so a million vectors stream
    from the catalog into the file without lying in memory. `Segment.from_file` sees whether FAISS agrees.
    """
    header = bytearray(_faiss().serialize_index(_flat_index(dimension)).tobytes())
    struct.pack_into("<q", header, 8, count)  # after the four-letter code and the dimension
    struct.pack_into("<Q", header, len(header) - 8, count * dimension * 2)  # length of the codes
    return bytes(header)


def _covered(info: VectorFileInfo) -> int:
    """How many bytes the checksum covers: FAISS's part and the ids."""
    return padded(info.faiss_bytes) + 8 * info.count


def _faiss() -> Any:
    import faiss

    return faiss
