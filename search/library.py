"""`Library`: open an indexed library and ask it for images.

    with Library.open(path) as library:
        for hit in library.search("a red car", k=20):
            print(hit.path, hit.score)

The model is loaded on the first query that needs it; an image of the library as a query needs none, because
its vector is stored already.
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import indexer
import model
from indexer.errors import ModelMismatchError
from search.errors import QueryError, QueryImageError
from search.images import is_file, query_pixels

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray
    from PIL import Image

    from indexer import LibraryReader
    from model import Encoder

DEFAULT_HITS = 20


@dataclass(frozen=True)
class Hit:
    """One image that answers a query.

    Attributes:
        path: Where one present copy of the image lies.
        score: Cosine between the query's vector and the image's, -1 to 1. Compare it within one query only.
        id: The image's number in this library; stays the same while its content does.
    """

    path: Path
    score: float
    id: int


class Library:
    """A library that is open for searching; a context manager. Never writes to the library."""

    def __init__(self, reader: LibraryReader, encoder: Encoder | None = None):
        """Search through `reader`; `Library.open` is the usual way in.

        Raises:
            indexer.errors.ModelMismatchError: `encoder` is not the model that the library was made with.
        """
        self._reader = reader
        self._encoder: Encoder | None = None
        if encoder is not None:
            self._use_encoder(encoder)

    @classmethod
    def open(cls, path: str | Path, encoder: Encoder | None = None) -> Library:
        """Open the library at `path`.

        Args:
            path: The library's folder.
            encoder: The model to embed queries with. Without it the library's own model is loaded, on the
                first query that needs one.

        Raises:
            indexer.errors.LibraryError: No library there, a damaged one, or one that a newer version made.
            indexer.errors.ModelMismatchError: `encoder` is not the model that the library was made with.
        """
        reader = indexer.LibraryReader.open(Path(path))
        try:
            return cls(reader, encoder)
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

    @property
    def reader(self) -> LibraryReader:
        """The open reader: status, failures, and what is known about each image."""
        return self._reader

    @property
    def encoder(self) -> Encoder:
        """The model that queries are embedded with; loaded now if no query has needed it yet.

        Raises:
            QueryError: The library is empty, so it has no model yet.
            model.errors.ModelError: The library's model cannot be found or read.
            indexer.errors.ModelMismatchError: What was found under its name is another model by now.
        """
        if self._encoder is None:
            return self._use_encoder(model.Encoder.load(self._model_name()))
        return self._encoder

    def search(self, query: str | Path | Image.Image | int, k: int = DEFAULT_HITS) -> list[Hit]:
        """The `k` images that fit `query` best, best first; equal scores in the order of their ids.

        Args:
            query: Words; or the path of an image file, in this library or not; or a decoded image; or the id
                of an image in this library. An image that is in the library is among its own results.
            k: How many images at most; more than the library holds gives all of them.

        Raises:
            QueryError: An empty query, or a `k` that is no positive whole number.
            QueryImageError: The image file is not there or cannot be decoded.
            indexer.errors.ImageGoneError: No image in this library has that id.
            model.errors.ModelError: The library's model cannot be loaded.
            indexer.errors.ModelMismatchError: The model is not the one that the library was made with.
        """
        k = checked_count(k)
        vector, _ = self._vector(query)
        return self._nearest(vector, k)

    def similar(self, image: str | Path | Image.Image | int, k: int = DEFAULT_HITS) -> list[Hit]:
        """The `k` images that look most like `image`.

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
        vector, itself = self._vector(Path(image) if isinstance(image, str) else image)
        if itself is None:
            return self._nearest(vector, k)
        return [hit for hit in self._nearest(vector, k + 1) if hit.id != itself][:k]

    def _nearest(self, vector: NDArray[np.float32], k: int) -> list[Hit]:
        scores, ids = self._reader.nearest(vector[None, :], k)
        records = self._reader.images(ids[0])
        return [
            Hit(path=record.path, score=float(score), id=int(image_id))
            for record, score, image_id in zip(records, scores[0], ids[0], strict=True)
        ]

    def _vector(self, query: Any) -> tuple[NDArray[np.float32], int | None]:
        """The query's vector, float32 (dimension,), and the id of the image of this library that it names."""
        if isinstance(query, str):
            if not query.strip():
                raise QueryError("The query is empty: say what to look for.", query=query)
            return self.encoder.encode_texts([query])[0], None
        if isinstance(query, bool) or query is None:
            raise QueryError(f"A query is words, a path, an image or an id, not {query!r}.")
        if isinstance(query, numbers.Integral):
            image_id = int(query)
            return self._reader.vectors(np.asarray([image_id], dtype=np.int64))[0], image_id
        if isinstance(query, Path):
            return self._file_vector(query)
        if not hasattr(query, "getexif"):  # what every Pillow image has; asking so keeps Pillow's import lazy
            raise QueryError(f"A query is words, a path, an image or an id, not a {type(query).__name__}.")
        return self.encoder.encode_images([query])[0], None

    def _file_vector(self, path: Path) -> tuple[NDArray[np.float32], int | None]:
        """A file's vector: the stored one where the library holds this very content, else embedded now."""
        try:
            path = path.expanduser()
        except RuntimeError as error:  # "~stranger" with no such user
            raise QueryImageError(f"There is no image file {path}: {error}") from error
        try:
            stored = self._reader.find_content(path) if is_file(path) else None
        except OSError:
            stored = None  # decoding will say what is wrong with the file
        if stored is None:
            return self.encoder.encode_pixels(query_pixels(path, self.encoder.preprocessor)[None])[0], None
        vector: NDArray[np.float32] = self._reader.vectors(np.asarray([stored], dtype=np.int64))[0]
        return vector, stored if self._reader.find(path) == stored else None

    def _model_name(self) -> str:
        identity = self._reader.model
        if identity is None:
            raise QueryError("This library is empty: add images with 'imago index FOLDER' first.")
        return identity.name

    def _use_encoder(self, encoder: Encoder) -> Encoder:
        stored = self._reader.model
        if stored is not None and not stored.is_same_model(encoder.identity):
            raise ModelMismatchError(self._reader.path, stored, encoder.identity)
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
