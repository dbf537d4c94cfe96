"""From what a query names to vectors: words, files, uploads, addresses, and images of the library."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from indexer.errors import ImageGoneError
from search.errors import QueryError, QueryImageError, QueryImageNotFoundError
from search.images import UPLOAD, is_file, query_pixels
from search.query import ImageId, ImagePath, ImageUpload, ImageUrl, Text, texts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from PIL import Image

    from indexer.decode import Preprocessor
    from indexer.reading import Reader
    from model import ModelIdentity
    from search.query import Query, Term

_TEXTS_KEPT: Final = 1024


class QueryEncoder(Protocol):
    """What searching needs of a model; `model.Encoder` is one."""

    @property
    def identity(self) -> ModelIdentity:
        """Names the model."""

    @property
    def preprocessor(self) -> Preprocessor:
        """Makes the tower's pixels."""

    @property
    def logit_scale(self) -> float | None:
        """Factor of a cosine in the model's own judgement of a text and a picture; None if it has none."""

    @property
    def logit_bias(self) -> float | None:
        """What is added; None for a model that gives no probability of a pair."""

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeds texts: float32 (n, dimension) of unit norm."""

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Embeds Pillow images: float32 (n, dimension) of unit norm."""

    def encode_pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeds uint8 (n, height, width, 3): float32 (n, dimension) of unit norm."""


class QueryVectors:
    """Makes the vectors of queries to one library, and remembers those of texts. Safe to use from several threads."""

    def __init__(
        self,
        reader: Reader,
        encoder: Callable[[], QueryEncoder],
        fetch: Callable[[str], bytes] | None,
    ):
        """Prepare; the model is asked for when a query needs it.

        Args:
            reader: Of the library.
            encoder: Gives the model, loading it at the first call.
            fetch: From the address of a picture to its bytes; None where addresses are switched off.
        """
        self._reader = reader
        self._encoder = encoder
        self._fetch = fetch
        self._lock = threading.Lock()
        self._texts: OrderedDict[str, NDArray[np.float32]] = OrderedDict()

    def forget(self) -> None:
        """Embed texts anew: the library has moved to another model."""
        with self._lock:
            self._texts.clear()

    def of_terms(self, query: Query, uploads: Mapping[str, bytes | Image.Image]) -> NDArray[np.float32]:
        """One vector of unit norm for each term, float32 (terms, dimension)."""
        by_text = self.of_texts(texts_of(query))
        vectors = []
        for term in query.terms:
            target = term.target
            if isinstance(target, Text):
                vectors.append(by_text[target.text])
            elif isinstance(target, ImageId):
                vectors.append(self._stored_vector(target.id))
            elif isinstance(target, ImagePath):
                vectors.append(self._file_vector(Path(target.path), is_typed=bool(query.source)))
            elif isinstance(target, ImageUpload):
                vectors.append(self._upload_vector(target.name, uploads, query, term))
            elif isinstance(target, ImageUrl) and self._fetch is not None:
                vectors.append(self._bytes_vector(self._fetch(target.url), target.url))
            else:
                raise QueryError(
                    "This query holds an address, and addresses are switched off.",
                    query=query.source,
                    column=term.column,
                    length=term.length,
                )
        return np.stack(vectors).astype(np.float32)

    def remembers(self, text: str) -> bool:
        """Whether a query with this text would find its vector in memory. Never waits."""
        return text in self._texts

    def of_texts(self, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Vectors of texts, those of late queries from memory."""
        if not texts:
            return {}
        with self._lock:
            known = {text: self._texts[text] for text in texts if text in self._texts}
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            # Outside the lock: an encoder may gather the texts of many threads into one call.
            known.update(zip(new, self._encoder().encode_texts(new), strict=True))
        with self._lock:
            for text in texts:
                self._texts[text] = known[text]
                self._texts.move_to_end(text)
            while len(self._texts) > _TEXTS_KEPT:
                self._texts.popitem(last=False)
        return known

    def _stored_vector(self, image_id: int) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = self._reader.vectors(np.asarray([image_id], np.int64))[0]
        return vector / max(float(np.linalg.norm(vector)), 1e-12)  # half precision leaves it a little off 1

    def stored_id(self, path: Path) -> int | None:
        """The id of the image with this file's content, where the library holds it."""
        try:
            path = path.expanduser()
            stored = self._reader.find_content(path) if is_file(path) else None
            if stored is not None:
                self._reader.vectors(np.asarray([stored], np.int64))
        except (OSError, RuntimeError, ImageGoneError):
            return None  # decoding will say what is wrong with the file
        return stored

    def _file_vector(self, path: Path, *, is_typed: bool) -> NDArray[np.float32]:
        """A file's vector: the stored one where the library holds this very content, else embedded now.

        Args:
            path: The file.
            is_typed: Whether it comes from the text of a query, where it may not be meant as a path.
        """
        stored = self.stored_id(path)
        if stored is not None:
            return self._stored_vector(stored)
        try:
            path = path.expanduser()
        except RuntimeError as error:  # "~stranger" with no such user
            raise QueryImageError(f"There is no image file {path}: {error}") from error
        try:
            pixels = query_pixels(path, self._encoder().preprocessor)
        except QueryImageNotFoundError as error:
            if not is_typed:
                raise
            raise QueryImageNotFoundError(
                f"{error} A path with spaces needs quotes around it; to look for words that begin like a path, write "
                '"\\./words".'
            ) from error
        return _row(self._encoder().encode_pixels(pixels[None]), str(path))

    def _upload_vector(
        self,
        name: str,
        uploads: Mapping[str, bytes | Image.Image],
        query: Query,
        term: Term,
    ) -> NDArray[np.float32]:
        if name not in uploads:
            raise QueryError(
                f"No picture named {name} came with this query.",
                query=query.source,
                column=term.column,
                length=term.length,
            )
        picture = uploads[name]
        label = f"{UPLOAD} {name}".strip()
        if isinstance(picture, bytes | bytearray | memoryview):
            return self._bytes_vector(bytes(picture), label)
        return _row(self._encoder().encode_images([picture]), label)

    def _bytes_vector(self, data: bytes, label: str) -> NDArray[np.float32]:
        pixels = query_pixels(data, self._encoder().preprocessor, name=label)
        return _row(self._encoder().encode_pixels(pixels[None]), label)


def _row(vectors: NDArray[np.float32], label: str) -> NDArray[np.float32]:
    row: NDArray[np.float32] = vectors[0]
    if not np.isfinite(row).all():
        raise QueryImageError(f"The model makes no valid vector of {label}. Search with another picture.")
    return row
