"""What can go wrong with a library, each with its own type.

Every message says what was wrong, with which value, and what to do. Only `app/` turns them into lines on a
screen; nothing below it prints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from model.identity import ModelIdentity


class LibraryError(Exception):
    """Base of everything that this package raises on purpose."""


class LibraryNotFoundError(LibraryError):
    """There is no library at the path that was named."""


class LibraryLockedError(LibraryError):
    """Another process writes this library now."""


class LibraryDamagedError(LibraryError):
    """The catalog cannot be read as what it should be; it is left exactly as it was found."""


class LibraryTooNewError(LibraryError):
    """The library was made by a newer version of Imago."""


class LibraryNotWritableError(LibraryError):
    """The library or its folder cannot be written."""


class ModelMismatchError(LibraryError):
    """The library was made with another model than the one in hand.

    Attributes:
        library_model: The identity of the model whose vectors the library holds.
        given_model: The identity of the model that was offered.
    """

    def __init__(
        self, library_path: Path | str, library_model: ModelIdentity, given_model: ModelIdentity
    ) -> None:
        self.library_model = library_model
        self.given_model = given_model
        same_name = library_model.name == given_model.name
        detail = " (same name, other weights or preprocessing)" if same_name else ""
        if "://" in str(library_path):
            super().__init__(
                f"The collection {library_path} holds vectors of the model {_describe(library_model)}, not of"
                f" {_describe(given_model)}{detail}. Ask it with its own model, or publish to another collection."
            )
            return
        super().__init__(
            f"The library {library_path} holds vectors of the model {_describe(library_model)}, not of"
            f" {_describe(given_model)}{detail}. Go on with its own model:"
            f" `imago index --model {library_model.name}`; move the library to the other one:"
            f" `imago index --model {given_model.name} --yes`; or name another library with `--library`."
        )


class DiskFullError(LibraryError):
    """The disk has no room left for what should be written."""


class NothingToIndexError(LibraryError):
    """None of the folders exists, can be read, or holds an image."""


class NotInLibraryError(LibraryError):
    """The library knows nothing at a path."""


class ImageGoneError(LibraryError, KeyError):
    """An image id that the library does not know (any more).

    Attributes:
        image_ids: The ids that are not there.
    """

    def __init__(self, image_ids: list[int]) -> None:
        self.image_ids = image_ids
        shown = ", ".join(str(image_id) for image_id in image_ids[:5])
        more = f" and {len(image_ids) - 5} more" if len(image_ids) > 5 else ""
        super().__init__(f"No image with the id {shown}{more} is in this library (any more).")

    def __str__(self) -> str:
        return str(self.args[0])


class DecoderStartError(LibraryError):
    """The processes that decode images do not start."""


def _describe(identity: ModelIdentity) -> str:
    revision = f" ({identity.revision[:12]})" if identity.revision else ""
    return f"{identity.name}{revision}"
