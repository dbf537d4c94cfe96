"""What can go wrong beyond one machine, each with its own type and one line for people."""

from __future__ import annotations

from indexer.errors import LibraryError, LibraryLockedError, LibraryNotFoundError


class AddressError(LibraryError):
    """An address that cannot be understood."""


class ClusterPackagesMissingError(LibraryError):
    """The optional packages are not installed."""

    def __init__(self, package: str) -> None:
        super().__init__(
            f"This needs the package {package}, which is not installed. Say: pip install 'imago-search[cluster]'."
        )


class ServerUnreachableError(LibraryError):
    """Nobody answers at the address, or the server went away."""


class ServerTooOldError(LibraryError):
    """The server is older than what this version was written for."""


class ServerRefusedError(LibraryError):
    """The server answers and says no, for a reason that has no type of its own."""


class CredentialsRefusedError(ServerRefusedError):
    """The server does not know the token, or the token may not do this."""


class CollectionNotFoundError(LibraryNotFoundError):
    """There is no such collection, or not any more."""


class CollectionForeignError(LibraryError):
    """The collection was not made by `imago publish`, or by another version of it, or from another library."""


class CollectionUnfinishedError(LibraryError):
    """The first publication of the collection did not come to its end."""


class CollectionReplacedError(LibraryError):
    """The collection under an open reader is not the one it was opened with."""


class CollectionTooLargeError(LibraryError):
    """Something that needs all images at once was asked of a collection that has too many for it."""


class PublisherBusyError(LibraryLockedError):
    """Another publisher writes the collection now."""


class JobError(LibraryError):
    """A job on Ray's machines cannot start, or cannot go on."""
