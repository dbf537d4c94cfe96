"""A map of a library: what looks alike lies together, and groups have names.

Vectors are reduced to their 50 main directions (PCA), laid out in the plane, and grouped (k-means). Where openTSNE is
installed (the extra `explore`) the plane is made by t-SNE on a graph of nearest neighbours; for many pictures with an
exaggeration of 4 kept to the end, which draws what UMAP draws (Boehm, Berens and Kobak, "Attraction-repulsion spectrum
in neighbor embeddings", 2022), from compiled wheels, without a compiler at run time. Without it the two main directions
are the plane: honest, but crowded.

A layout is made once and kept in the user's cache folder; a library that has changed a little keeps it, with what is
new placed beside what it resembles.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from model.cache import keep_newest, read_entry, write_entry
from search.errors import QueryError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from indexer.reading import Reader

EXTENT: Final = 4096
"""Positions are whole numbers from 0 to 4095 on the longer side: finer than any screen, and short in an address."""
MOST_LAID_OUT: Final = 150_000
"""Of larger libraries an evenly spread part is laid out, and all others are placed beside what they resemble."""
DRIFT: Final = 0.05
"""A layout is made anew when this share of the pictures is new or gone."""

_DIRECTIONS: Final = 50
_PERPLEXITY: Final = 15
"""About as many neighbours as UMAP looks at."""
FEWEST_FOR_TSNE: Final = 30
_MOST_GROUPS: Final = 40
_WORDS_OF_A_GROUP: Final = 3
_KEPT: Final = 12
_KIND: Final = "layouts"
_BLOCK: Final = 4096
_MOST_COMPARED: Final = 20_000
_MOST_COMPARED_EXACTLY: Final = 5_000
_FEW: Final = 5_000
_ITERATIONS_AT_ONCE: Final = 25
_MOST_VERTICES: Final = 256
_FORMAT: Final = 1
_ACROSS: Final = 1.6
"""Width of the map over its height: that of most screens. Distances across and down mean nothing of their own."""
_EVERYDAY: Final = (
    "sunset", "night sky", "snow", "forest", "garden", "street", "city skyline", "beach", "mountains", "sea", "river",
    "lake", "waterfall", "field", "desert", "road", "park", "room", "kitchen", "office", "shop", "restaurant", "stage",
    "people", "portrait", "selfie", "group of people", "children playing", "crowd", "baby", "man", "woman", "wedding",
    "party", "concert", "sports", "football", "swimming", "skiing", "cycling", "running", "climbing", "surfing",
    "dog", "cat", "bird", "horse", "cow", "sheep", "fish", "butterfly", "insect", "animals", "flower", "tree", "leaves",
    "car", "bus", "train", "bicycle", "motorcycle", "boat", "ship", "airplane", "truck", "bridge", "tower", "castle",
    "church", "house", "building", "staircase", "door", "window", "statue", "monument", "fountain", "fireworks",
    "food", "cake", "fruit", "vegetables", "pizza", "coffee", "wine", "bread", "drinks", "dinner table",
    "book", "computer", "telephone", "camera", "clock", "lamp", "chair", "sofa", "bed", "toys", "ball", "guitar",
    "piano", "clothes", "shoes", "hat", "jewellery", "painting", "drawing", "map", "text document", "receipt",
    "screenshot", "sign", "graffiti", "pattern", "sky with clouds", "water", "rain", "fog", "hot air balloon",
)  # fmt: skip
"""What people would call their pictures. The words of the everyday vocabulary are too fine for groups: it knows twenty
breeds of dogs, and a group is of dogs."""


@dataclass(frozen=True)
class Group:
    """Pictures that are alike.

    Attributes:
        name: The word that fits it better than all other groups; '' if no text tower was at hand.
        words: Other words that fit, best first.
        count: How many pictures.
        x: Where the middle of its pictures lies, 0 to `EXTENT` - 1.
        y: The same, downwards.
        cover: Id of the picture that is most like the others.
    """

    name: str
    words: tuple[str, ...]
    count: int
    x: int
    y: int
    cover: int


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each picture of a library lies.

    Attributes:
        name: Names this layout in addresses; stays when pictures are added to it.
        method: `tsne`, or `pca` where openTSNE is not installed or the library is tiny.
        ids: Ascending, int64 (n,).
        positions: uint16 (n, 2), x to the right and y downwards, below `EXTENT`.
        group_of: Index into `groups`, int16 (n,).
        groups: Largest first.
    """

    name: str
    method: Literal["tsne", "pca"]
    ids: NDArray[np.int64]
    positions: NDArray[np.uint16]
    group_of: NDArray[np.int16]
    groups: tuple[Group, ...] = field(default=())

    def drift(self, ids: NDArray[np.int64]) -> float:
        """The share of pictures that are new or gone, 0 to 1, in a library that holds `ids` now."""
        same = len(np.intersect1d(self.ids, ids, assume_unique=True))
        either = len(self.ids) + len(ids) - same
        return 1 - same / either if either else 0.0

    def to_bytes(self) -> bytes:
        """What `from_bytes` reads."""
        about = {
            "format": _FORMAT,
            "name": self.name,
            "method": self.method,
            "groups": [
                [group.name, list(group.words), group.count, group.x, group.y, group.cover]
                for group in self.groups
            ],
        }
        file = io.BytesIO()
        np.savez_compressed(
            file,
            about=np.frombuffer(json.dumps(about).encode(), np.uint8),
            ids=self.ids,
            positions=self.positions,
            group_of=self.group_of,
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Layout:
        """Read a layout.

        Raises:
            ValueError: These bytes are none, or of another version.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                about: dict[str, Any] = json.loads(arrays["about"].tobytes())
                layout = cls(
                    name=str(about["name"]),
                    method="tsne" if about["method"] == "tsne" else "pca",
                    ids=arrays["ids"].astype(np.int64),
                    positions=arrays["positions"].astype(np.uint16),
                    group_of=arrays["group_of"].astype(np.int16),
                    groups=tuple(
                        Group(name, tuple(words), count, x, y, cover)
                        for name, words, count, x, y, cover in about["groups"]
                    ),
                )
        except Exception as error:
            raise ValueError(f"no layout: {error}") from error
        count = len(layout.ids)
        shapes = layout.positions.shape == (count, 2) and layout.group_of.shape == (count,)
        if about["format"] != _FORMAT or not shapes:
            raise ValueError("a layout of another version")
        return layout

    def inside(self, polygon: NDArray[np.int64]) -> NDArray[np.int64]:
        """The ids of the pictures within a polygon, ascending; int64 (vertices, 2), even-odd rule."""
        x, y = self.positions[:, 0].astype(np.float64), self.positions[:, 1].astype(np.float64)
        is_inside: NDArray[np.bool_] = np.zeros(len(self.ids), np.bool_)
        for (x1, y1), (x2, y2) in zip(polygon.tolist(), np.roll(polygon, -1, axis=0).tolist(), strict=True):
            if y1 == y2:
                continue
            crosses = (y1 > y) != (y2 > y)
            is_inside ^= crosses & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
        return self.ids[is_inside]

    def region(self, text: str) -> NDArray[np.int64]:
        """The ids of the pictures in a part of the map, ascending.

        Args:
            text: `g3` for the fourth group, or `p` and a polygon as `polygon_from_text` reads it.

        Raises:
            QueryError: It names no part of this map.
        """
        if text.startswith("g") and text[1:].isascii() and text[1:].isdigit():
            number = int(text[1:5])
            if number < len(self.groups):
                ids: NDArray[np.int64] = self.ids[self.group_of == number]
                return ids
        elif text.startswith("p"):
            return self.inside(polygon_from_text(text[1:]))
        raise QueryError(f"{text[:20]!r} is no part of the map: choose one there anew.")


def polygon_from_text(text: str) -> NDArray[np.int64]:
    """Read a polygon as the page writes it into its address: three bytes a vertex, in Base64.

    Returns:
        Vertices within `EXTENT`, int64 (vertices, 2).

    Raises:
        QueryError: The text is none.
    """
    try:
        data = base64.b64decode(text, altchars=b"-_", validate=True)
    except ValueError:
        data = b""
    if not data or len(data) % 3 or not 3 <= len(data) // 3 <= _MOST_VERTICES:
        raise QueryError("This part of the map cannot be read: draw around the pictures anew.")
    packed: NDArray[np.int64] = np.frombuffer(data, np.uint8).reshape(-1, 3).astype(np.int64)
    a, b, c = packed.T
    vertices: NDArray[np.int64] = np.stack([a << 4 | b >> 4, (b & 15) << 8 | c], axis=1)
    return vertices


# -- Making a layout ----------------------------------------------------------------------------------------


def can_lay_out_well() -> bool:
    """Whether openTSNE is installed; without importing it, which takes seconds."""
    import importlib.util

    return importlib.util.find_spec("openTSNE") is not None


def lay_out(
    reader: Reader,
    embed_texts: Callable[[Sequence[str]], NDArray[np.float32]] | None,
    *,
    progress: Callable[[str, float], None] = lambda _step, _share: None,
) -> Layout:
    """Make a layout of all pictures of a library. Takes minutes for 100,000.

    Args:
        reader: The library.
        embed_texts: The text tower of the library's model, unit vectors float32 (n, dimension), to name the groups;
            None leaves them without names.
        progress: Called with what is being done and how far the whole is, 0 to 1.
    """
    every = reader.ids()
    ids = every
    if len(every) > MOST_LAID_OUT:
        ids = every[np.linspace(0, len(every) - 1, MOST_LAID_OUT).astype(np.int64)]
    progress("reading the vectors", 0.0)
    vectors = reader.vectors(ids)
    reduced = principal_components(vectors, _DIRECTIONS)
    is_spread = reduced[:, :1].std() > 1e-6 if len(reduced) else False  # else all pictures are the same one
    is_good = bool(can_lay_out_well() and len(ids) >= FEWEST_FOR_TSNE and is_spread)
    progress("laying out", 0.05)
    if is_good:
        plane = _tsne_plane(reduced, lambda share: progress("laying out", 0.05 + 0.75 * share))
    else:
        plane = _main_plane(reduced)
    positions = _on_map(plane)
    progress("naming the groups", 0.85)
    group_of, groups = _described(ids, vectors, reduced, positions, embed_texts)
    name = hashlib.sha256(ids.tobytes() + positions.tobytes()).hexdigest()[:12]
    layout = Layout(name, "tsne" if is_good else "pca", ids, positions, group_of, groups)
    progress("placing the others", 0.95)
    return updated(layout, reader)


def updated(layout: Layout, reader: Reader) -> Layout:
    """The layout with the pictures that the library holds now.

    Those that are gone leave it, those that are new lie beside the one that they resemble most.
    """
    ids = reader.ids()
    if np.array_equal(ids, layout.ids):
        return layout
    is_old = np.isin(layout.ids, ids, assume_unique=True)
    old_ids, old_positions, old_groups = layout.ids[is_old], layout.positions[is_old], layout.group_of[is_old]
    new = np.setdiff1d(ids, old_ids, assume_unique=True)
    if not len(old_ids):
        new = new[:0]  # another library altogether: nothing here tells where its pictures belong
    near = np.empty(len(new), np.int64)
    if len(new):
        base = np.linspace(0, len(old_ids) - 1, min(len(old_ids), _MOST_COMPARED)).astype(np.int64)
        vectors = reader.vectors(old_ids[base])
        for start in range(0, len(new), _BLOCK):
            block = reader.vectors(new[start : start + _BLOCK])
            near[start : start + _BLOCK] = base[np.argmax(block @ vectors.T, axis=1)]
    positions = np.concatenate([old_positions, old_positions[near]])
    # Beside, not upon: a step of a few units that is the same each time.
    steps = np.stack([new * 7 % 13 - 6, new * 5 % 11 - 5], axis=1)
    positions[len(old_ids) :] = np.clip(old_positions[near].astype(np.int64) + steps, 1, EXTENT - 2)
    group_of = np.concatenate([old_groups, old_groups[near]])
    every = np.concatenate([old_ids, new])
    order = np.argsort(every)
    counts = np.bincount(group_of, minlength=len(layout.groups)).tolist()
    groups = tuple(replace(group, count=count) for group, count in zip(layout.groups, counts, strict=True))
    return replace(
        layout, ids=every[order], positions=positions[order], group_of=group_of[order], groups=groups
    )


def principal_components(vectors: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """The coordinates along the main directions, main first: float32 (n, at most `count`)."""
    if not len(vectors):
        return np.zeros((0, count), np.float32)
    mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    dimension = vectors.shape[1]
    spread = np.zeros((dimension, dimension))
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK] - mean
        spread += block.T @ block
    _, directions = np.linalg.eigh(spread)
    main = directions[:, ::-1][:, :count].astype(np.float32)
    # A direction and its opposite are equally good: the larger half of each points the same way on every machine.
    main *= np.where(main[np.abs(main).argmax(axis=0), np.arange(main.shape[1])] < 0, -1, 1).astype(
        np.float32
    )
    return np.concatenate(
        [(vectors[start : start + _BLOCK] - mean) @ main for start in range(0, len(vectors), _BLOCK)]
    )


def _tsne_plane(reduced: NDArray[np.float32], progress: Callable[[float], None]) -> NDArray[np.float64]:
    from openTSNE import TSNEEmbedding, affinity, initialization

    count = len(reduced)
    cores = 1 if count <= _MOST_COMPARED_EXACTLY else -1  # for little work threads cost more than they do
    affinities = affinity.PerplexityBasedNN(
        reduced,
        perplexity=min(_PERPLEXITY, (count - 1) / 3),
        method="annoy" if count > _MOST_COMPARED_EXACTLY else "exact",
        n_jobs=cores,
        random_state=0,
    )
    progress(0.3)
    plane = TSNEEmbedding(
        initialization.rescale(reduced[:, :2].astype(np.float64)),
        affinities,
        negative_gradient_method="fft" if count > _MOST_COMPARED_EXACTLY else "bh",
        n_jobs=cores,
        random_state=0,
    )
    done = 0
    # UMAP's pull makes knots of a few hundred pictures; many need it, or their islands run into each other.
    lasting = 1 if count < _FEW else 4
    for iterations, exaggeration, momentum in ((125, 12, 0.5), (300, lasting, 0.8)):
        for _ in range(iterations // _ITERATIONS_AT_ONCE):
            # The step that Belkina et al. (2019) found to fit any size.
            plane.optimize(
                n_iter=_ITERATIONS_AT_ONCE,
                exaggeration=exaggeration,
                momentum=momentum,
                learning_rate=max(count / exaggeration, 50),
                inplace=True,
            )
            done += _ITERATIONS_AT_ONCE
            progress(0.3 + 0.7 * done / 425)
    return np.asarray(plane, np.float64)


def _main_plane(reduced: NDArray[np.float32]) -> NDArray[np.float64]:
    """The two main directions."""
    plane = np.zeros((len(reduced), 2))
    plane[:, : reduced.shape[1]] = reduced[:, :2]
    return plane


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coordinates half by value and half by rank: a few odd pictures far out must not squeeze all others."""
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable") / max(len(values) - 1, 1)
    reach = float(np.ptp(values)) or 1.0
    spread: NDArray[np.float64] = (values - values.min()) / reach + ranks
    return spread


def _on_map(plane: NDArray[np.float64]) -> NDArray[np.uint16]:
    """A plane as positions on the map, stretched to fill it, the wider side across."""
    if not len(plane):
        return np.zeros((0, 2), np.uint16)
    plane = np.stack([_spread(plane[:, 0]), _spread(plane[:, 1])], axis=1)
    low, high = plane.min(axis=0), plane.max(axis=0)
    if high[1] - low[1] > high[0] - low[0]:
        plane, low, high = plane[:, ::-1], low[::-1], high[::-1]
    reach = np.where(high > low, high - low, 1.0)
    # No picture lies on the very edge: a polygon around the whole map must hold all.
    size = np.array([EXTENT - 3, round((EXTENT - 3) / _ACROSS)])
    middle = (EXTENT - 1 - size) / 2
    positions: NDArray[np.uint16] = np.rint((plane - low) / reach * size + middle).astype(np.uint16)
    return positions


# -- Groups -------------------------------------------------------------------------------------------------


def groups_for(count: int) -> int:
    """How many groups help to find one's way among so many pictures: 6 of 60, 19 of 1,000, 40 of 10,000."""
    return int(np.clip(round(1.2 * count**0.4), 1, _MOST_GROUPS)) if count else 0


def k_means(points: NDArray[np.float32], groups: int) -> NDArray[np.int16]:
    """Which group each point belongs to, int16 (n,); no group is empty. The same for the same points.

    Lloyd's iterations from the seeds of Arthur and Vassilvitskii ("k-means++", 2007), learnt on at most 20,000 points.
    """
    if groups <= 1 or len(points) <= groups:
        return np.minimum(np.arange(len(points)), max(groups - 1, 0)).astype(np.int16)
    random = np.random.default_rng(0)
    sample = points[np.linspace(0, len(points) - 1, min(len(points), _MOST_COMPARED)).astype(np.int64)]
    seeds = [sample[random.integers(len(sample))]]
    nearest = np.full(len(sample), np.inf)
    while len(seeds) < groups:
        nearest = np.minimum(nearest, np.square(sample - seeds[-1]).sum(axis=1))
        total = nearest.sum()
        if not total > 0:
            break  # fewer different points than groups
        seeds.append(sample[random.choice(len(sample), p=nearest / total)])
    centres = np.stack(seeds)
    for _ in range(30):
        group_of = _nearest_centre(sample, centres)
        filled = np.bincount(group_of, minlength=len(centres))
        sums = np.zeros_like(centres)
        np.add.at(sums, group_of, sample)
        centres = np.where(filled[:, None] > 0, sums / np.maximum(filled, 1)[:, None], centres)
    group_of = _nearest_centre(points, centres)
    _, group_of = np.unique(group_of, return_inverse=True)
    return group_of.astype(np.int16)


def _nearest_centre(points: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.int64]:
    half = np.square(centres).sum(axis=1) / 2
    found = np.empty(len(points), np.int64)
    for start in range(0, len(points), _BLOCK):
        found[start : start + _BLOCK] = np.argmax(points[start : start + _BLOCK] @ centres.T - half, axis=1)
    return found


def _described(
    ids: NDArray[np.int64],
    vectors: NDArray[np.float32],
    reduced: NDArray[np.float32],
    positions: NDArray[np.uint16],
    embed_texts: Callable[[Sequence[str]], NDArray[np.float32]] | None,
) -> tuple[NDArray[np.int16], tuple[Group, ...]]:
    """Groups, the largest first, and which one each picture belongs to."""
    given = k_means(reduced, groups_for(len(ids)))
    counts = np.bincount(given, minlength=int(given.max(initial=-1)) + 1)
    order = np.argsort(-counts, kind="stable")
    rank = np.empty(len(order), np.int16)
    rank[order] = np.arange(len(order))
    group_of = rank[given]
    members = [np.flatnonzero(group_of == number) for number in range(len(order))]
    means = np.stack([vectors[rows].mean(axis=0) for rows in members]) if members else vectors[:0]
    names = group_names(means, vectors.mean(axis=0), embed_texts) if members and embed_texts else None
    groups = []
    for number, rows in enumerate(members):
        x, y = np.median(positions[rows].astype(np.float64), axis=0)
        # The picture nearest to the middle of all: a median may lie between two islands.
        nearest = rows[np.argmin(np.square(positions[rows] - np.array([x, y])).sum(axis=1))]
        words = names[number] if names else ("",)
        groups.append(
            Group(
                name=words[0],
                words=words[1:],
                count=len(rows),
                x=int(positions[nearest, 0]),
                y=int(positions[nearest, 1]),
                cover=int(ids[rows[np.argmax(vectors[rows] @ means[number])]]),
            )
        )
    return group_of, tuple(groups)


def group_names(
    means: NDArray[np.float32],
    middle: NDArray[np.float32],
    embed_texts: Callable[[Sequence[str]], NDArray[np.float32]],
) -> list[tuple[str, ...]]:
    """Three words for each group, best first; no two groups have the same first word.

    What all pictures have in common says nothing about a group, nor does what all words have in common: both are
    subtracted before they are compared.

    Args:
        means: The mean vector of each group, float32 (groups, dimension).
        middle: The mean of all vectors, float32 (dimension,).
        embed_texts: Unit vectors float32 (n, dimension) of texts.
    """
    words, same = _vocabulary()
    texts = embed_texts([f"a photo of {word}" for word in words])
    texts = _of_unit_norm(texts - texts.mean(axis=0))
    fits = _of_unit_norm(means - middle) @ texts.T
    # The best fitting pair of all is named first, so that a group does not take the word that fits another better.
    first: dict[int, int] = {}
    taken: set[str] = set()
    for pair in np.argsort(-fits, axis=None, kind="stable").tolist():
        group, word = divmod(pair, len(words))
        if group not in first and same[words[word]] not in taken:
            first[group] = word
            taken.add(same[words[word]])
            if len(first) == len(means):
                break
    named = []
    for group in range(len(means)):
        chosen = [words[first[group]]] if group in first else [""]
        used = {same[word] for word in chosen if word}
        for word in np.argsort(-fits[group], kind="stable").tolist():
            if len(chosen) == _WORDS_OF_A_GROUP:
                break
            if same[words[word]] not in used:
                chosen.append(words[word])
                used.add(same[words[word]])
        named.append(tuple(chosen))
    return named


def _vocabulary() -> tuple[list[str], dict[str, str]]:
    """Words for what pictures show, and for each the one that stands for all of its meaning."""
    from model.training.vocabulary import EVERYDAY_NAME, Vocabulary

    everyday = Vocabulary.load(EVERYDAY_NAME)
    words = dict.fromkeys(_EVERYDAY)
    for parents in everyday.broader.values():
        words.update(dict.fromkeys(parents))
    return list(words), {word: min(everyday.names(word)) for word in words}


def _of_unit_norm(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    normed: NDArray[np.float32] = (rows / lengths).astype(np.float32)
    return normed


# -- Keeping it ---------------------------------------------------------------------------------------------


def keep(reader: Reader, layout: Layout) -> None:
    """Keep a layout as the library's newest, in the user's cache folder; searching never writes into a library."""
    data = layout.to_bytes()
    # Under its own name, too: addresses that name a part of it go on working when there is a newer one.
    write_entry(_KIND, f"{_key(reader)}-{layout.name}", data)
    write_entry(_KIND, _key(reader), data)
    keep_newest(_KIND, _KEPT)


def kept(reader: Reader, name: str | None = None) -> Layout | None:
    """The newest layout kept for a library, or the one of this name; None if there is none."""
    if name is not None and not (name.isascii() and name.isalnum()):
        return None
    data = read_entry(_KIND, _key(reader) if name is None else f"{_key(reader)}-{name}")
    if data is None:
        return None
    try:
        return Layout.from_bytes(data)
    except ValueError:
        return None


def _key(reader: Reader) -> str:
    identity = reader.model
    model = "" if identity is None else identity.weights_fingerprint + identity.preprocessing_fingerprint
    return hashlib.sha256(f"{reader.place}\0{model}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
