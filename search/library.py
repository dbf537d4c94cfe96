"""`Library`: open an indexed library and ask it for images.

    with Library.open(path) as library:
        for hit in library.search("a red car", k=20):
            print(hit.path, hit.score)

The model is loaded on the first query that needs it; an image of the library as a query needs none, because
its vector is stored already.
"""

from __future__ import annotations

import numbers
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

import model
from indexer.errors import ModelMismatchError
from indexer.filters import InFolder, Not
from indexer.reading import open_reader
from model.registry import ALIASES
from search import query as language
from search.cutoff import CUT, base_of, hit_probabilities, sigmoid_probabilities
from search.embedding import QueryVectors
from search.errors import QueryError
from search.grouping import (
    Comparison,
    distinct_files,
    find_groups,
    fold_near_duplicates,
    limits_of,
    recall_fingerprints,
)
from search.nulls import Nulls
from search.ordering import SORT_KEYS
from search.paging import Key, hits_until, page_after, read_page
from search.ranking import LESS_LIKE_WEIGHT, MORE_LIKE_WEIGHT, Contribution, Mixture, mix

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from numpy.typing import NDArray
    from PIL import Image

    from indexer import ImageRecord
    from indexer.filters import Filter
    from indexer.reading import Reader, Selection
    from search.embedding import QueryEncoder
    from search.grouping import DuplicateGroup, Fingerprints, Kind, Limits
    from search.ordering import Order

DEFAULT_HITS: Final = 20
_FIRST_LOOK: Final = 256
"""How many of the best images are judged first; four times as many while the cut lies beyond them."""
_BEYOND_PAGE: Final = 16
"""Hits ranked beyond a page that goes on from another: as many may have come before it since."""
_FOLDED_AT_MOST: Final = 5000
"""Hits beyond are not looked through for near-duplicates: nobody pages that far, and pairs grow quadratically."""

AnyQuery = str | Path | int | language.Query
"""A query besides a Pillow image: text in the query language, an image file, an id, or a parsed query."""


@dataclass(frozen=True)
class Hit:
    """One image that answers a query.

    Attributes:
        path: Where one present copy of the image lies.
        score: Cosine between the query's vector and the image's, -1 to 1. Compare it within one query only.
            1 for each hit of a query that has filters only.
        id: The image's number in this library; stays the same while its content does.
        probability: That the image is there because of the query and not by chance, 0 to 1; see
            `search.cutoff`. None where it cannot be told: only filters were given, the library is tiny, or the
            model is known to say too little and no cut was asked for.
        copies: How many files hold exactly this image.
        folded: Ids of near-duplicates that were folded into this hit, best first.
        why: What each term adds, in the order of the query; empty unless asked for.
    """

    path: Path
    score: float
    id: int
    probability: float | None = None
    copies: int = 1
    folded: tuple[int, ...] = ()
    why: tuple[Contribution, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a library answers to a query.

    Attributes:
        hits: The page that was asked for.
        total: Number of hits on all pages, near-duplicates that are folded not counted.
        candidates: Number of images that fit the filters.
        is_cut: Whether hits had to pass the cut.
        query: The query, saved queries put in; `search.query.format_query` makes text of it.
        next_page: What to pass as `page` for the hits that follow, None after the last.
        closest: Where nothing fits, the images that come closest all the same, for those who want to see them.
    """

    hits: tuple[Hit, ...]
    total: int
    candidates: int
    is_cut: bool
    query: language.Query
    next_page: str | None = None
    closest: tuple[Hit, ...] = ()

    @property
    def nothing_fits(self) -> bool:
        """Whether images were looked at and none of them looks like the query."""
        return self.is_cut and self.total == 0 and self.candidates > 0


@dataclass(frozen=True)
class _Ranked:
    """The images that answer, in order of relevance."""

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    probabilities: NDArray[np.float64] | None


class Library:
    """A library that is open for searching; a context manager. Never writes to the library.

    Safe to use from several threads.
    """

    def __init__(
        self,
        reader: Reader,
        encoder: QueryEncoder | None = None,
        *,
        saved: Callable[[str], str | None] | None = None,
        fetch: Callable[[str], bytes] | None = None,
    ):
        """Search through `reader`; `Library.open` is the usual way in, and tells the arguments.

        Raises:
            indexer.errors.ModelMismatchError: `encoder` is not the model that the library was made with.
        """
        self._reader = reader
        self._encoder: QueryEncoder | None = None
        self._saved = saved
        self._fetch = fetch
        self._lock = threading.RLock()
        self._vectors = QueryVectors(reader, lambda: self.encoder, fetch)
        self._nulls = Nulls(reader, lambda: self.encoder)
        self._limits: tuple[NDArray[np.float32], Limits] | None = None
        self._fingerprints: Fingerprints = {}
        if encoder is not None:
            self._use_encoder(encoder)

    @classmethod
    def open(
        cls,
        path: str | Path,
        encoder: QueryEncoder | None = None,
        *,
        saved: Callable[[str], str | None] | None = None,
        fetch: Callable[[str], bytes] | None = None,
    ) -> Library:
        """Open the library at `path`.

        Args:
            path: The library's folder, or the address of a served one, `milvus://HOST:PORT/COLLECTION`.
            encoder: The model to embed queries with. Without it the library's own model is loaded, on the
                first query that needs one.
            saved: From the name of a saved query to its text or None, such as `search.saved.SavedQueries(path).get`;
                those of the person who runs this where not given.
            fetch: From the address of a picture to its bytes, `search.fetch.fetch_image` or the like. Queries may
                hold addresses only where it is given.

        Raises:
            indexer.errors.LibraryError: No library there, a damaged one, or one that a newer version made.
            indexer.errors.ModelMismatchError: `encoder` is not the model that the library was made with.
        """
        reader = open_reader(path)
        try:
            return cls(reader, encoder, saved=saved, fetch=fetch)
        except BaseException:
            reader.close()
            raise

    def __enter__(self) -> Library:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the library's files; closing twice is harmless."""
        self._reader.close()

    def refresh(self) -> bool:
        """Look at the library anew if it has changed since it was opened; whether it had."""
        if not self._reader.refresh():
            return False
        self._nulls.forget()
        with self._lock:
            if self._encoder is not None:
                try:
                    self._use_encoder(self._encoder)
                except ModelMismatchError:
                    self._vectors.forget()
                    raise
        return True

    @property
    def reader(self) -> Reader:
        """The open reader: status, failures, and what is known about each image."""
        return self._reader

    @property
    def encoder(self) -> QueryEncoder:
        """The model that queries are embedded with; loaded now if no query has needed it yet.

        Raises:
            QueryError: The library is empty, so it has no model yet.
            model.errors.ModelError: The library's model cannot be found or read.
            indexer.errors.ModelMismatchError: What was found under its name is another model by now.
        """
        with self._lock:
            if self._encoder is None:
                return self._use_encoder(model.Encoder.load(self._model_name()))
            # The library may have moved to another model since: its vectors are no others' to be compared with.
            return self._use_encoder(self._encoder)

    # Asking

    def search(
        self,
        query: AnyQuery | Image.Image,
        k: int = DEFAULT_HITS,
        **options: Any,
    ) -> list[Hit]:
        """The `k` images that fit `query` best, best first; equal scores in the order of their ids.

        Args:
            query: Text in the query language (docs/query-language.md); or the path of an image file, in this
                library or not; or a decoded image; or the id of an image in this library. An image that is in the
                library is among its own results.
            k: How many images at most; more than the library holds gives all of them.
            **options: Those of `answer`; but here nothing is cut unless `all_hits=False` is said.

        Raises:
            QueryError: A query that cannot be understood, or a `k` that is no positive whole number.
            QueryImageError: An image file that is not there or cannot be decoded.
            indexer.errors.ImageGoneError: No image in this library has that id.
            model.errors.ModelError: The library's model cannot be loaded.
            indexer.errors.ModelMismatchError: The model is not the one that the library was made with.
        """
        return list(self.answer(query, k, **{"all_hits": True, **options}).hits)

    def similar(self, image: str | Path | Image.Image | int, k: int = DEFAULT_HITS) -> list[Hit]:
        """The `k` images that look most like `image`, however much that is.

        An image named by its id, or by a path at which this library knows it, is left out of its own results:
        that it resembles itself is no news. A picture from elsewhere whose exact content is in the library
        comes first in its results, because "do I have this one already?" is a question people ask this way.

        Args:
            image: An id, the path of an image file, or a decoded image.
            k: How many images at most.

        Raises:
            QueryError: A `k` that is no positive whole number.
            QueryImageError, indexer.errors.ImageGoneError, model.errors.ModelError,
            indexer.errors.ModelMismatchError: As for `search`.
        """
        k = checked_count(k)
        if isinstance(image, str):
            image = Path(image)
        if isinstance(image, Path):
            stored = self._vectors.stored_id(image)
            if stored is not None:
                if self._reader.find(image.expanduser()) == stored:
                    image = stored
                else:
                    hits = self.search(stored, k=k + 1, all_hits=True)
                    return sorted(hits, key=lambda hit: hit.id != stored)[:k]
        hits = self.search(image, k=k + 1, all_hits=True)
        itself = int(image) if isinstance(image, numbers.Integral) else None
        return [hit for hit in hits if hit.id != itself][:k]

    def answer(
        self,
        query: AnyQuery | Image.Image,
        k: int = DEFAULT_HITS,
        *,
        all_hits: bool | None = None,
        order: Order = "relevance",
        descending: bool | None = None,
        offset: int = 0,
        page: str | None = None,
        fold: bool = False,
        explain: bool = False,
        more_like: Sequence[int] = (),
        less_like: Sequence[int] = (),
        uploads: Mapping[str, bytes | Image.Image] | None = None,
        among: Sequence[int] | NDArray[np.int64] | None = None,
    ) -> Answer:
        """Search with everything that can be asked for.

        Args:
            query: As for `search`.
            k: How many hits on this page.
            all_hits: Whether to leave the cut out; otherwise hits of a query with words in it are cut where they
                are more likely wrong than right, and none may be left. None: cut, unless the model is known to
                say too little (`model.registry.Alias.can_say_no`). Queries made of pictures alone are never
                cut: what resembles a picture most is worth seeing, however little it does.
            order: `relevance`, or `date`, `name` or `size` within what passed the cut. A query with filters only
                has no relevance; its images come by date.
            descending: Newest, largest or last name first. None: dates and sizes descend, names ascend.
            offset: How many hits to skip: page n of a snapshot of the library.
            page: `next_page` of the answer before, with all other arguments unchanged. Unlike `offset` it neither
                repeats nor skips an image when the library changed between two pages.
            fold: Whether to fold near-duplicates (re-encoded, resized, slightly cropped) into the best hit of each.
            explain: Whether hits tell what each term adds.
            more_like: Ids of images that are right: the query moves towards them.
            less_like: Ids of images that are wrong: the query moves away from them.
            uploads: Pictures for `upload:NAME` in the query, by name: bytes of a file, or decoded.
            among: Ids of the images to search among, a part of the map for instance; None for all.

        Raises:
            QueryError, QueryImageError, indexer.errors.ImageGoneError, model.errors.ModelError,
            indexer.errors.ModelMismatchError: As for `search`.
        """
        k = checked_count(k)
        offset = _checked_offset(offset)
        wanted, uploads = self._parsed(query, dict(uploads or {}))
        wanted = _with_feedback(wanted, more_like, less_like)
        candidates = self._candidates(wanted.filters)
        if among is not None:
            every = self._reader.ids() if candidates is None else candidates
            candidates = np.intersect1d(every, np.asarray(among, np.int64))
        count = len(self._reader) if candidates is None else len(candidates)
        if order not in {"relevance", *SORT_KEYS}:
            raise QueryError(f"There is no order {order!r}: take relevance, {', '.join(SORT_KEYS)}.")
        has_text = any(isinstance(term.target, language.Text) for term in wanted.terms)
        if all_hits is None:
            all_hits = not self._can_say_no()
        is_cut = has_text and not all_hits
        mixture: Mixture | None = None
        if wanted.terms:
            vectors = self._vectors.of_terms(wanted, uploads)
            mixture = mix(vectors, [term.weight for term in wanted.terms], self._nulls.sampled().vectors)
            # Without a cut or another order to establish, no more is ranked than will be shown.
            is_short = not is_cut and order == "relevance" and not fold
        else:
            is_short = False
            if order == "relevance":
                order = "date"
        place = None if page is None else read_page(page, order)
        many = offset + k if place is None else place.hits_before + k + _BEYOND_PAGE

        def arrange(at_most: int) -> tuple[_Ranked, list[Key], dict[int, tuple[int, ...]]]:
            if mixture is None:
                everything = self._reader.ids() if candidates is None else np.asarray(candidates, np.int64)
                ranked = _Ranked(everything, np.ones(len(everything), np.float32), None)
            else:
                ranked = self._rank(
                    wanted, mixture, candidates, count, is_cut=is_cut, at_most=at_most if is_short else None
                )
            keys = self._sort_keys(ranked, order, descending)
            if order != "relevance":
                ranked = _reordered(ranked, keys)
                keys = sorted(keys)
            return self._folded(ranked, keys) if fold else (ranked, keys, {})

        ranked, keys, folded = arrange(many)
        start = offset
        if place is not None:
            start = hits_until(place, keys)
            while is_short and start + k > len(keys) and many < count:
                many *= 4  # the library has grown in front of the page
                ranked, keys, folded = arrange(many)
                start = hits_until(place, keys)
        total = count if is_short else len(ranked.ids)
        stop = min(start + k, len(ranked.ids))
        hits = self._hits(ranked, slice(start, stop), folded)
        if explain and mixture is not None and hits:
            hits = self._explained(hits, wanted, mixture)
        more = stop < total and stop > start
        next_page = page_after(order, keys[stop - 1], stop) if more else None
        closest: list[Hit] = []
        if is_cut and not total and count and mixture is not None:
            near = self._rank(wanted, mixture, candidates, count, is_cut=False, at_most=k)
            closest = self._hits(near, slice(k), {})
        return Answer(tuple(hits), total, count, is_cut, wanted, next_page, tuple(closest))

    def duplicates(
        self, kind: Kind = "near", *, progress: Callable[[int, int], None] | None = None
    ) -> list[DuplicateGroup]:
        """Groups of images that show one picture, the largest first, each with the best copy proposed.

        Args:
            kind: `exact`, `near` or `similar`; see `search.grouping`.
            progress: Called now and then with images done and images in all.
        """
        ids = self._reader.ids()
        records = self._reader.images(ids)
        groups = find_groups(
            records,
            self._reader.vectors(ids),
            self.comparison(records if kind != "exact" else ()),
            kind=kind,
            progress=progress,
        )
        return self._with_paths(groups)

    def _with_paths(self, groups: list[DuplicateGroup]) -> list[DuplicateGroup]:
        """The groups with the files of members that lie in several places.

        A file that the library knows by several names (a link, another spelling, a second mount) is no copy of itself.
        """
        copied = {
            record.id: record.path
            for group in groups
            for record in (group.best, *group.others)
            if record.copies > 1
        }
        paths = {
            image_id: distinct_files(dict.fromkeys([first, *all_paths]))
            for (image_id, first), all_paths in zip(
                copied.items(), self._reader.paths(list(copied)), strict=True
            )
        }

        def counted(record: ImageRecord) -> ImageRecord:
            found = paths.get(record.id)
            return record if found is None else replace(record, path=found[0], copies=len(found))

        complete = [
            replace(
                group,
                best=counted(group.best),
                others=tuple(counted(record) for record in group.others),
                paths={
                    record.id: paths[record.id]
                    for record in (group.best, *group.others)
                    if len(paths.get(record.id, ())) > 1
                },
            )
            for group in groups
        ]
        exact = [group for group in complete if group.kind == "exact" and group.best.copies > 1]
        return [
            *sorted(exact, key=lambda group: (-group.best.copies, group.best.id)),
            *(group for group in complete if group.kind != "exact"),
        ]

    def _can_say_no(self) -> bool:
        identity = self._reader.model
        alias = ALIASES.get(identity.name) if identity is not None else None
        return alias is None or alias.can_say_no

    def comparison(self, records: Sequence[ImageRecord]) -> Comparison:
        """What decides which of these images are near-duplicates of one another."""
        recall_fingerprints(self._reader, records, self._fingerprints)
        # Before the lock: whoever holds that of `Nulls` may want this one next.
        sample = self._nulls.sampled().vectors
        with self._lock:
            if self._limits is None or self._limits[0] is not sample:
                self._limits = sample, limits_of(sample, len(self._reader))
            return Comparison(self._limits[1], self._fingerprints)

    # From what was asked to a query

    def _parsed(
        self, query: Any, uploads: dict[str, bytes | Image.Image]
    ) -> tuple[language.Query, dict[str, bytes | Image.Image]]:
        """The query, saved queries put in, and the pictures that came with it."""
        allow_urls = self._fetch is not None
        if isinstance(query, bool):
            query = None  # an int to Python, no id to anybody
        elif isinstance(query, str):
            query = language.parse(query, allow_urls=allow_urls)
        elif isinstance(query, Path):
            query = _single(language.ImagePath(str(query)))
        elif isinstance(query, numbers.Integral):
            query = _single(language.ImageId(int(query)))
        elif hasattr(query, "getexif"):  # what every Pillow image has; asking so keeps Pillow's import lazy
            uploads = {**uploads, "": query}
            query = _single(language.ImageUpload(""))
        if not isinstance(query, language.Query):
            raise QueryError(f"A query is words, a path, an image or an id, not {type(query).__name__}.")
        if any(isinstance(term.target, language.Saved) for term in query.terms):
            query = language.expand(query, self._saved or _own_saved_queries(), allow_urls=allow_urls)
        if not query.terms and not query.filters:
            raise QueryError("The query is empty: say what to look for.", query=query.source)
        return query, uploads

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of texts, float32 (n, dimension), remembered for queries to come.

        Raises:
            QueryError, model.errors.ModelError, indexer.errors.ModelMismatchError: As for `search`.
        """
        vectors = self._vectors.of_texts(texts)
        return np.stack([vectors[text] for text in texts]) if texts else np.empty((0, 0), np.float32)

    def remembers(self, text: str) -> bool:
        """Whether a query with this text would find its vector in memory. Never waits."""
        return self._vectors.remembers(text)

    # From vectors to hits

    def select(self, filters: Sequence[Filter]) -> Selection:
        """The images that fit all filters, in no order of relevance."""
        return self._reader.select([_with_whole_paths(each) for each in filters])

    def _candidates(self, filters: Sequence[Filter]) -> Selection | None:
        """The ids of the images that fit, ascending; None for all."""
        return self.select(filters) if filters else None

    def _rank(
        self,
        query: language.Query,
        mixture: Mixture,
        candidates: Selection | None,
        count: int,
        *,
        is_cut: bool,
        at_most: int | None,
    ) -> _Ranked:
        """The images that answer, best first: those above the cut, or the `at_most` best (None: all)."""
        null = self._nulls.of(query, mixture) if is_cut or self._can_say_no() else None
        base = base_of(self._nulls.sampled().vectors @ mixture.direction) if null is not None else 0.0

        def look(many: int) -> _Ranked:
            scores, ids = self._reader.nearest(mixture.direction[None, :], many, among=candidates)
            if null is None:
                return _Ranked(ids[0], scores[0], None)
            probabilities = hit_probabilities(scores[0], images=max(1, count), base=base, null=null)
            # What the model says of a pair it says of one text. Of several terms it says nothing: their mixture is
            # no text, and what it says of each need not fall with their common rank.
            if len(query.terms) == 1 and isinstance(query.terms[0].target, language.Text):
                probabilities = np.maximum(probabilities, self._sigmoid(scores[0]))
            return _Ranked(ids[0], scores[0], probabilities)

        if not is_cut:
            wanted = count if at_most is None else min(at_most, count)
            if null is None:
                return look(wanted)
            # Probabilities are learnt from no fewer than the first look, so that they do not depend on k.
            return _first(look(max(wanted, min(_FIRST_LOOK, count))), wanted)
        many = min(_FIRST_LOOK, count)
        while True:
            ranked = look(many)
            if ranked.probabilities is None:
                return ranked  # a tiny library, all of which was looked at
            passing = int(np.count_nonzero(ranked.probabilities >= CUT))
            # The lower half being out shows that the cut was found; a fit to too few could still lie.
            if passing <= many // 2 or many >= count:
                return _first(ranked, passing)
            many = min(many * 4, count)

    def _sigmoid(self, scores: NDArray[np.float32]) -> NDArray[np.float64]:
        """What the model itself says of the pairs, 0 where it was not trained to say anything."""
        scale, bias = self.encoder.logit_scale, self.encoder.logit_bias
        if scale is None or bias is None:
            return np.zeros(len(scores))
        return sigmoid_probabilities(scores, logit_scale=scale, logit_bias=bias)

    def _sort_keys(self, ranked: _Ranked, order: Order, descending: bool | None) -> list[Key]:
        """What hits are ordered by, in the order of `ranked`; ascending keys are the order of the answer."""
        if order == "relevance":
            return [
                Key(-score, image_id)
                for score, image_id in zip(ranked.scores.tolist(), ranked.ids.tolist(), strict=True)
            ]
        key_of = SORT_KEYS[order]
        down = order != "name" if descending is None else descending
        return [Key(key_of(record), record.id, down) for record in self._reader.images(ranked.ids)]

    def _folded(
        self, ranked: _Ranked, keys: list[Key]
    ) -> tuple[_Ranked, list[Key], dict[int, tuple[int, ...]]]:
        many = min(len(ranked.ids), _FOLDED_AT_MOST)
        records = self._reader.images(ranked.ids[:many])
        groups = fold_near_duplicates(
            records, self._reader.vectors(ranked.ids[:many]), self.comparison(records)
        )
        leaders = [group[0] for group in groups] + list(range(many, len(ranked.ids)))
        folded = {records[group[0]].id: tuple(records[i].id for i in group[1:]) for group in groups}
        return _taken(ranked, leaders), [keys[i] for i in leaders], folded

    def _hits(self, ranked: _Ranked, which: slice, folded: Mapping[int, tuple[int, ...]]) -> list[Hit]:
        records = self._reader.images(ranked.ids[which])
        chances = ranked.probabilities
        probabilities = [None] * len(records) if chances is None else chances[which].tolist()
        return [
            Hit(
                path=record.path,
                score=float(score),
                id=record.id,
                probability=probability,
                copies=record.copies,
                folded=folded.get(record.id, ()),
            )
            for record, score, probability in zip(records, ranked.scores[which], probabilities, strict=True)
        ]

    def _explained(self, hits: list[Hit], query: language.Query, mixture: Mixture) -> list[Hit]:
        labels = [language.format_query(_single(term.target)) for term in query.terms]
        vectors = self._reader.vectors(np.asarray([hit.id for hit in hits], np.int64))
        reasons = mixture.contributions(labels, vectors)
        return [replace(hit, why=why) for hit, why in zip(hits, reasons, strict=True)]

    # The model

    def _model_name(self) -> str:
        identity = self._reader.model
        if identity is None:
            raise QueryError("This library is empty: add images with 'imago index FOLDER' first.")
        return identity.name

    def _use_encoder(self, encoder: QueryEncoder) -> QueryEncoder:
        stored = self._reader.model
        if stored is not None and not stored.is_same_model(encoder.identity):
            raise ModelMismatchError(self._reader.place, stored, encoder.identity)
        self._encoder = encoder
        return encoder


def checked_count(k: Any) -> int:
    """`k` as a positive int.

    Raises:
        QueryError: It is none.
    """
    if isinstance(k, bool) or not isinstance(k, numbers.Integral) or k < 1:
        raise QueryError(f"The number of hits must be a whole number of at least 1, not {k!r}.")
    return int(k)


def _checked_offset(offset: Any) -> int:
    if isinstance(offset, bool) or not isinstance(offset, numbers.Integral) or offset < 0:
        raise QueryError(f"The number of hits to skip must be a whole number of at least 0, not {offset!r}.")
    return int(offset)


def _single(target: language.Target) -> language.Query:
    return language.Query((language.Term(target),))


def _with_feedback(query: language.Query, more: Sequence[int], less: Sequence[int]) -> language.Query:
    """The query with terms for the images that were marked as right and as wrong."""
    both = set(more) & set(less)
    if both:
        raise QueryError(f"The image {min(both)} is marked as right and as wrong: decide for one.")
    if less and not more and not query.terms:
        raise QueryError("Only images that are wrong are marked: say as well what to look for.")
    marked = [(language.ImageId(int(i)), MORE_LIKE_WEIGHT / len(more)) for i in more]
    marked += [(language.ImageId(int(i)), -LESS_LIKE_WEIGHT / len(less)) for i in less]
    return replace(query, terms=(*query.terms, *(language.Term(target, weight) for target, weight in marked)))


def _own_saved_queries() -> Callable[[str], str | None]:
    from search.saved import SavedQueries

    return SavedQueries().lookup()


def _with_whole_paths(wanted: Filter) -> Filter:
    """The filter with folders that start with `~` or `.` made absolute."""
    if isinstance(wanted, Not):
        return Not(_with_whole_paths(wanted.filter))
    if not isinstance(wanted, InFolder):
        return wanted
    folders = []
    for folder in wanted.folders:
        start = folder.replace("\\", "/").partition("/")[0]
        if start.startswith("~"):
            try:
                folders.append(str(Path(folder).expanduser()))
            except RuntimeError:
                folders.append(folder)
        else:
            folders.append(str(Path(folder).resolve()) if start in {".", ".."} else folder)
    return InFolder(tuple(folders))


def _first(ranked: _Ranked, count: int) -> _Ranked:
    return _taken(ranked, slice(count))


def _taken(ranked: _Ranked, which: slice | list[int]) -> _Ranked:
    chances = ranked.probabilities
    return _Ranked(ranked.ids[which], ranked.scores[which], None if chances is None else chances[which])


def _reordered(ranked: _Ranked, keys: list[Key]) -> _Ranked:
    return _taken(ranked, sorted(range(len(keys)), key=keys.__getitem__))
