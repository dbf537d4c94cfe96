"""vectors.ann: which few thousand of millions of vectors are worth scoring for a query.

An inverted file of FAISS over the vectors of vectors.faiss: k-means cuts the library into cells, a query
visits the cells whose centres it is nearest to, and compares itself with a 4-bit product code of each vector
there. What comes out are candidates only. Their scores are computed from the half-precision vectors like
those of an exact search, so a score never depends on how an image was found, and codes of an eighth of a
vector's size are enough. docs/ann.md has the kinds of index that were tried and why this one stayed.

Words and pictures lie in different cones of the space, so how many cells a query must visit is not guessed:
building measures it with embedded texts against an exact search of the same library
(`ApproximateInfo.probes`). A filter makes the wanted images lie deeper in the order of all, and the number of
cells grows with that depth; where few images are allowed, all of them are scored and no index is asked.

Like vectors.faiss, the file is derived, immutable and replaced whole. It belongs to exactly one vectors.faiss,
whose positions are its labels. When that file is written anew, the cells are kept: what has gone is taken
out, what is left gets its new position, what is new is added (`update`). Only a library that has grown
several times over is cut into cells again (`is_outgrown`).

Layout: what FAISS writes; the image ids in the order of vectors.faiss, int64; a JSON description with a
CRC-32 of all before it; a footer as in vectors.faiss.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.derived_file import VectorFileError, padded, read_description, replacing, verify_bytes
from indexer.vector_index import decoded, faiss_can_open
from model.machine import available_cores

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from indexer.vector_index import Codes, Ids, Segment, VectorFileInfo

    # Told how many vectors are done, and out of how many; says whether to stop.
    Watcher = Callable[[int, int], bool]

FILE_VERSION = 1
# In the catalog: whether to have one. Not there as long as only size decides.
APPROXIMATE_SETTING = "approximate_index"
MINIMUM_VECTORS = 1_000  # below, an exact search costs less than choosing cells
# Bytes of vectors that an exact search reads within 60 ms on one core of a common machine (docs/ann.md).
_EXACT_BYTES = 1_250_000_000
_BLOCK_ROWS = 32_768
_BUFFER_BYTES = 1 << 20
# Cells: about four times the square root of the number of vectors, as FAISS recommends. No more than this,
# because comparing each vector with each centre is most of a build.
_MOST_CELLS = 4_096
_TRAINING_ROWS_PER_CELL = 50
_TRAINING_ROUNDS = 8
_CODE_TRAINING_ROWS = 65_536
_DIMENSIONS_PER_CODE = 4  # half a byte for each four numbers: an eighth of a half-precision vector
# How many candidates are handed on to be scored exactly, for up to `_ROUND` wanted ones. One number for all of
# them: then a longer list of hits begins with the shorter one.
_ROUND = 1_024
_CANDIDATES = 2_048
# Beyond this share of all that may be found, an exact search is as fast.
_LARGEST_SHARE = 1 / 16
# What cells must cover of the truly nearest, measured when the index is built; what the codes lose comes on top.
_TARGET_COVERAGE = 0.995
_DEPTHS = (10, 100, 1_000)
_ROUNDING = 1e-9  # of exp(log(n))
_STAND_INS = 64
# A filter may leave only what is equally far from the query: then visits are doubled until that many of the best
# candidates stay the same.
_SETTLED = 64
_SETTLED_SHARE = 0.95
_NEARLY_ALL = 0.95  # what has gone since the file was made is no filter
_SAMPLE_ROWS = 1 << 18  # of positions, to tell in which cells a filter's images lie
_GROWTH = 4


class BuildStoppedError(Exception):
    """Somebody asked to stop; nothing was changed."""


@dataclass(frozen=True)
class ApproximateInfo:
    """What a vectors.ann says of itself.

    Attributes:
        library_id: Of the catalog that it was made from.
        model_id: Row of the model in that catalog.
        base_checksum: CRC-32 of the vectors.faiss that it belongs to.
        count: Number of vectors in it, those of that file.
        dimension: Length of a vector.
        trained_count: Number of vectors when the cells were made.
        cells: Number of cells.
        probes: How many cells must be visited so that the best so many of all are found: pairs of depth and
            number, ascending.
        recall: Share of the ten nearest that was found for the queries it was measured with, when the cells were made.
        faiss_bytes: Length of FAISS's part.
        checksum: CRC-32 of everything before this description.
        queries: What these queries were, `texts` or `images`.
        version: Of this layout.
    """

    library_id: str
    model_id: int
    base_checksum: int
    count: int
    dimension: int
    trained_count: int
    cells: int
    probes: tuple[tuple[int, int], ...]
    recall: float
    faiss_bytes: int = 0
    checksum: int = 0
    queries: str = "texts"
    version: int = FILE_VERSION

    def mismatch(self, base: VectorFileInfo) -> str | None:
        """Why the file does not belong to a vectors.faiss; None if it does."""
        if (self.library_id, self.base_checksum, self.count) != (base.library_id, base.checksum, base.count):
            return "it belongs to another vectors.faiss"
        return None

    def cells_to_visit(self, depth: float) -> int:
        """How many cells hold the best `depth` of all vectors, between the measured depths along a power law."""
        depths, cells = zip(*self.probes, (max(self.count, self.probes[-1][0] + 1), self.cells), strict=True)
        along = float(np.interp(math.log(depth), np.log(depths), np.log(cells)))
        return min(self.cells, math.ceil(math.exp(along) - _ROUNDING))

    def is_outgrown(self, count: int) -> bool:
        """Whether a library of `count` vectors has grown so much that its cells are too few."""
        return self.cells < _MOST_CELLS and count > _GROWTH * self.trained_count


class ApproximateIndex:
    """Proposes candidates.

    Args:
        index: A FAISS inverted file whose labels are positions in vectors.faiss.
        info: Its description.
    """

    def __init__(self, index: Any, info: ApproximateInfo) -> None:
        self.info = info
        self._index = index
        self._stride = max(1, info.count // _SAMPLE_ROWS)
        self._cells_of_sample = _cells_of(index, info)[:: self._stride]

    @classmethod
    def from_file(cls, path: Path, base: VectorFileInfo) -> ApproximateIndex:
        """Reads and checks the file, which then lies in memory (FAISS does not map this kind).

        Args:
            path: The file.
            base: Of the vectors.faiss that it must belong to.

        Raises:
            VectorFileError: It is missing, damaged, or belongs to another.
        """
        info = read_info(path)
        if wrong := info.mismatch(base):
            raise VectorFileError(wrong)
        verify(path, info)
        return cls(_read_index(path, info), info)

    def describe(self) -> str:
        """A line for people."""
        info = self.info
        return (
            f"{info.count:,} vectors in {info.cells:,} cells, of which a search visits"
            f" {info.cells_to_visit(_DEPTHS[0]):,};"
            f" recall@{_DEPTHS[0]} {info.recall:.3f} with {info.queries} when built"
        )

    def is_complete(self) -> bool:
        """Whether every position is in exactly one cell."""
        labels = np.concatenate([_labels(self._index, cell) for cell in range(self.info.cells)])
        return np.array_equal(np.sort(labels), np.arange(self.info.count))

    def propose(
        self,
        query: NDArray[np.float32],
        want: int,
        candidates: int,
        allowed: NDArray[np.bool_] | None,
    ) -> NDArray[np.int64] | None:
        """Positions among which the best `want` of what is allowed most probably are.

        Args:
            query: float32 (dimension,).
            want: How many are wanted, at most `candidates`.
            candidates: How many are allowed.
            allowed: bool (n,), which ones; None for all.

        Returns:
            int64 (m,), at least `want`; None where an exact search is no slower.
        """
        wanted = _ROUND * 4 ** max(0, math.ceil(math.log(want / _ROUND, 4)))
        fetch = min(_CANDIDATES // _ROUND * wanted, candidates)
        if fetch > _LARGEST_SHARE * candidates:
            return None
        faiss = _faiss()
        faiss.omp_set_num_threads(1)
        depth = max(1, wanted // _ROUND) * _DEPTHS[0] * self.info.count / candidates
        parameters = faiss.SearchParametersIVF(nprobe=self.info.cells_to_visit(depth))
        if allowed is not None:
            parameters.nprobe = self._cells_holding(query, allowed, parameters.nprobe / self.info.cells)
            parameters.sel = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        best: NDArray[np.int64] | None = None
        while True:
            _, found = self._index.search(query[None], fetch, params=parameters)
            positions: NDArray[np.int64] = found[0][found[0] >= 0]
            is_all = parameters.nprobe >= self.info.cells
            is_settled = candidates >= _NEARLY_ALL * self.info.count or (
                best is not None
                and len(np.intersect1d(best, positions[:_SETTLED])) >= _SETTLED_SHARE * len(best)
            )
            if is_all or (is_settled and len(positions) >= want):
                return positions if len(positions) >= want else None
            best = positions[:_SETTLED]
            parameters.nprobe = min(self.info.cells, 2 * parameters.nprobe)

    def _cells_holding(self, query: NDArray[np.float32], allowed: NDArray[np.bool_], share: float) -> int:
        """How many cells, nearest first, hold a share of what is allowed.

        Without a filter that is a share of the cells. What a filter lets through may all lie far from the
        query, in cells that the same number of visits would never reach. Counted on a sample.
        """
        held = np.bincount(self._cells_of_sample[allowed[:: self._stride]], minlength=self.info.cells)
        _, order = self._index.quantizer.search(query[None], self.info.cells)
        covered = np.cumsum(held[order[0]])
        return int(np.searchsorted(covered, share * covered[-1])) + 1


def wants_approximate(setting: bool | None, count: int, dimension: int) -> bool:
    """Whether a library should have an approximate index.

    Args:
        setting: What was chosen (`choose_approximate`); None for nothing.
        count: Number of its vectors.
        dimension: Their length.
    """
    if count < MINIMUM_VECTORS or setting is False:
        return False
    return bool(setting) or 2 * dimension * count > _EXACT_BYTES


def build(
    path: Path,
    base: VectorFileInfo,
    segment: Segment,
    queries: NDArray[np.float32] | None,
    watch: Watcher,
) -> ApproximateInfo:
    """Makes vectors.ann for a vectors.faiss.

    Memory stays bounded: beside the index itself, a sample of some dozen vectors for each cell.

    Args:
        path: Where the file shall be.
        base: Of the vectors.faiss.
        segment: That file, mapped.
        queries: Embedded texts to measure with, float32 (q, dimension); vectors of the library stand in if None.
        watch: Told how far it is.

    Raises:
        BuildStoppedError: `watch` said so.
        OSError: The disk is full or cannot be written; an old file is untouched.
    """
    codes = segment.codes
    faiss = _faiss()
    faiss.omp_set_num_threads(available_cores())
    random = np.random.default_rng(0)
    cells = cells_for(base.count)
    index = _trained(codes, cells, random, watch)
    _add(index, codes, np.arange(base.count), watch)
    info = ApproximateInfo(
        library_id=base.library_id,
        model_id=base.model_id,
        base_checksum=base.checksum,
        count=base.count,
        dimension=base.dimension,
        trained_count=base.count,
        cells=cells,
        probes=((_DEPTHS[0], cells),),
        recall=1.0,
        queries="images" if queries is None else "texts",
    )
    if queries is None:
        queries = decoded(
            codes[np.sort(random.choice(base.count, min(base.count, _STAND_INS), replace=False))]
        )
    info = _measured(index, info, codes, queries, watch)
    return _write(path, index, info, segment.ids)


def update(path: Path, base: VectorFileInfo, segment: Segment, watch: Watcher) -> ApproximateInfo:
    """Brings vectors.ann in step with a new vectors.faiss: same cells, other vectors.

    Args:
        path: A vectors.ann of an earlier vectors.faiss of the same library and model.
        base: Of the new vectors.faiss.
        segment: That file, mapped.
        watch: Told how far it is.

    Raises:
        VectorFileError: The file cannot be used; build a new one.
        BuildStoppedError: `watch` said so.
        OSError: The disk is full or cannot be written; the old file is untouched.
    """
    faiss = _faiss()
    ids, info = segment.ids, read_info(path)
    if (info.library_id, info.model_id) != (base.library_id, base.model_id):
        raise VectorFileError("it belongs to another library or model")
    verify(path, info)
    index = _read_index(path, info)
    faiss.omp_set_num_threads(available_cores())
    old_ids = np.fromfile(path, "<i8", info.count, offset=padded(info.faiss_bytes))
    at = np.minimum(np.searchsorted(ids, old_ids), max(0, len(ids) - 1))
    stays = ids[at] == old_ids if len(ids) else np.zeros(len(old_ids), np.bool_)
    index.remove_ids(faiss.IDSelectorBitmap(np.packbits(~stays, bitorder="little")))
    for cell in range(info.cells):
        labels = _labels(index, cell)
        labels[:] = at[labels]
    is_new = np.ones(len(ids), np.bool_)
    is_new[at[stays]] = False
    _add(index, segment.codes, np.flatnonzero(is_new), watch)
    info = replace(info, base_checksum=base.checksum, count=base.count)
    return _write(path, index, info, ids)


def read_info(path: Path) -> ApproximateInfo:
    """Reads the file's description.

    Raises:
        VectorFileError: There is no file, or it does not end as it should.
    """
    fields, covered = read_description(path, FILE_VERSION)
    info = ApproximateInfo(**{**fields, "probes": tuple(map(tuple, fields["probes"]))})
    if covered != padded(info.faiss_bytes) + 8 * info.count:
        raise VectorFileError("it has not the length that it states")
    return info


def verify(path: Path, info: ApproximateInfo) -> None:
    """Compares the file's bytes with its checksum.

    Raises:
        VectorFileError: They differ.
    """
    verify_bytes(path, padded(info.faiss_bytes) + 8 * info.count, info.checksum)


def cells_for(count: int) -> int:
    """How many cells so many vectors are cut into: a power of two near 4 sqrt(count), within limits."""
    return int(min(_MOST_CELLS, max(16, 2 ** round(math.log2(4 * math.sqrt(max(1, count)))))))


def _trained(codes: Codes, cells: int, random: np.random.Generator, watch: Watcher) -> Any:
    """An empty index with its cells: spherical k-means, because a query chooses cells by inner product."""
    faiss = _faiss()
    count, dimension = codes.shape
    rows = min(count, _TRAINING_ROWS_PER_CELL * cells)
    sample = decoded(codes[np.sort(random.choice(count, rows, replace=False))])
    centres = None
    for _ in range(_TRAINING_ROUNDS):  # one at a time, so that it can be stopped
        if watch(0, count):
            raise BuildStoppedError
        rounds = faiss.Kmeans(
            dimension,
            cells,
            niter=1,
            spherical=True,
            seed=0,
            min_points_per_centroid=1,
            max_points_per_centroid=_TRAINING_ROWS_PER_CELL,
        )
        rounds.train(sample, init_centroids=centres)
        centres = rounds.centroids
    quantizer = faiss.IndexFlatIP(dimension)
    quantizer.add(centres)
    index = faiss.IndexIVFPQFastScan(
        quantizer, dimension, cells, _code_parts(dimension), 4, faiss.METRIC_INNER_PRODUCT
    )
    quantizer.this.disown()
    index.own_fields = True
    index.by_residual = True
    index.pq.cp.min_points_per_centroid = 1
    index.train(sample[random.permutation(rows)[:_CODE_TRAINING_ROWS]])
    return index


def _add(index: Any, codes: Codes, positions: NDArray[np.int64], watch: Watcher) -> None:
    for start in range(0, len(positions), _BLOCK_ROWS):
        if watch(start, len(positions)):
            raise BuildStoppedError
        part = positions[start : start + _BLOCK_ROWS]
        index.add_with_ids(decoded(codes[part]), part)


def _measured(
    index: Any, info: ApproximateInfo, codes: Codes, queries: NDArray[np.float32], watch: Watcher
) -> ApproximateInfo:
    """Finds out how many cells queries must visit, and what is found then."""
    depths = [depth for depth in _DEPTHS if depth <= info.count]
    nearest = _exact_positions(codes, queries, depths[-1], watch)
    # The rank of every cell for every query, and so of the cell that holds each of the truly nearest.
    cell_of = _cells_of(index, info)
    _, order = index.quantizer.search(queries, info.cells)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(info.cells)[None, :], axis=1)
    needed = 1 + np.take_along_axis(rank, cell_of[nearest], axis=1)
    probes: list[tuple[int, int]] = []
    for depth in depths:
        cells = int(np.quantile(needed[:, :depth], _TARGET_COVERAGE, method="higher"))
        probes.append((depth, max(cells, probes[-1][1] if probes else 1)))
    info = replace(info, probes=tuple(probes))
    proposals = ApproximateIndex(index, info)
    hits = []
    for query, wanted in zip(queries, nearest[:, : depths[0]], strict=True):
        found = proposals.propose(query, depths[0], info.count, None)
        hits.append(depths[0] if found is None else len(np.intersect1d(found, wanted)))
    return replace(info, recall=round(float(np.mean(hits)) / depths[0], 4))


def _exact_positions(
    codes: Codes, queries: NDArray[np.float32], depth: int, watch: Watcher
) -> NDArray[np.int64]:
    """Positions of the truly nearest, int64 (q, depth), best first."""
    faiss = _faiss()
    best = faiss.ResultHeap(len(queries), depth, keep_max=True)
    for start in range(0, len(codes), _BLOCK_ROWS):
        if watch(start, len(codes)):
            raise BuildStoppedError
        part = decoded(codes[start : start + _BLOCK_ROWS])
        scores, at = faiss.knn(queries, part, min(depth, len(part)), metric=faiss.METRIC_INNER_PRODUCT)
        best.add_result(scores, at + start)
    best.finalize()
    return np.asarray(best.I, np.int64)


def _write(path: Path, index: Any, info: ApproximateInfo, ids: Ids) -> ApproximateInfo:
    faiss = _faiss()
    with replacing(path) as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write, _BUFFER_BYTES))
        faiss_bytes = file.length
        file.pad()
        file.write(np.ascontiguousarray(ids, "<i8").tobytes())
        complete = replace(info, faiss_bytes=faiss_bytes, checksum=file.checksum)
        file.finish(asdict(complete))
    return complete


def _read_index(path: Path, info: ApproximateInfo) -> Any:
    faiss = _faiss()
    try:
        if faiss_can_open(path):
            index = faiss.read_index(str(path))
        else:
            with path.open("rb") as file:
                index = faiss.read_index(faiss.PyCallbackIOReader(file.read, _BUFFER_BYTES))
    except RuntimeError as error:
        raise VectorFileError(f"FAISS does not read it ({error})") from error
    if (index.ntotal, index.d) != (info.count, info.dimension):
        raise VectorFileError(f"FAISS finds {index.ntotal} x {index.d} in it")
    return index


def _cells_of(index: Any, info: ApproximateInfo) -> NDArray[np.uint16]:
    """The cell of each vector, uint16 (n,)."""
    cells = np.empty(info.count, np.uint16)
    for cell in range(info.cells):
        cells[_labels(index, cell)] = cell
    return cells


def _labels(index: Any, cell: int) -> NDArray[np.int64]:
    """The labels of a cell's vectors, int64 (n,), as they lie in the index: writing to them changes it."""
    faiss = _faiss()
    size = index.invlists.list_size(cell)
    if not size:
        return np.empty(0, np.int64)
    labels: NDArray[np.int64] = faiss.rev_swig_ptr(index.invlists.get_ids(cell), size)
    return labels


def _code_parts(dimension: int) -> int:
    """How many parts a vector is cut into, each of which gets half a byte."""
    return next(
        parts for parts in range(max(1, dimension // _DIMENSIONS_PER_CODE), 0, -1) if dimension % parts == 0
    )


def _faiss() -> Any:
    import faiss

    return faiss
