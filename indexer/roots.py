"""Letting go of folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from indexer.catalog import Catalog
from indexer.catalog_file import translated
from indexer.derived_file import FileInUseError
from indexer.errors import LibraryNotFoundError, NotInLibraryError
from indexer.lock import writer_lock
from indexer.paths import CATALOG_NAME, display_path, relative_to_root, spellings_of
from indexer.upkeep import (
    NOT_RENEWED,
    delete_stale_thumbnails,
    renew_approximate_index,
    renew_vector_file,
    usable_vector_file,
)

if TYPE_CHECKING:
    from indexer.catalog import KnownRoot


@dataclass(frozen=True, slots=True)
class ForgetSummary:
    """What was forgotten.

    Attributes:
        files: Files that the library no longer knows.
        image_ids: Images that are no longer in it: all that no other file holds.
        will_return: True if the path is still there inside a folder that the library looks after: the next
            run over that folder finds it again.
        notices: Sentences that people should read.
    """

    files: int
    image_ids: list[int]
    will_return: bool
    notices: tuple[str, ...] = ()


def forget(library_path: Path | str, path: Path | str) -> ForgetSummary:
    """Takes a folder, or one file, out of a library at once, vectors, thumbnails and all; no picture is touched.

    What is merely deleted from the disk is kept in the catalog for a while, in case it comes back
    (`indexer.pipeline.KEEP_GONE_DAYS`). This is for what shall not.

    Args:
        library_path: The library's folder.
        path: A root, or anything below one; it need not exist any more.

    Raises:
        NotInLibraryError: The library knows nothing there.
        LibraryNotFoundError: There is no library.
        LibraryLockedError: Another process writes it.
    """
    library = Path(library_path).expanduser().absolute()
    if not (library / CATALOG_NAME).exists():
        raise LibraryNotFoundError(f"There is no library at {display_path(library)}.")
    given = Path(path).expanduser().absolute()
    with writer_lock(library), Catalog.open(library) as catalog, translated(library):
        with catalog.transaction():
            catalog.overwrite_deleted()
            for spelling in spellings_of(given):
                whole, rows = _known_at(catalog, spelling)
                if whole or rows:
                    break
            else:
                raise NotInLibraryError(
                    f"The library knows nothing at {display_path(given)}. `imago roots` lists its folders."
                )
            held = catalog.images_of(rows)
            catalog.remove_files(rows)
            for root in whole:
                catalog.remove_root(root.id)
            catalog.settle(held)
            image_ids = catalog.purge(held)
        delete_stale_thumbnails(catalog)
        active = catalog.model("active")
        notices: tuple[str, ...] = ()
        if active is not None and image_ids:
            base, _ = usable_vector_file(catalog, active)
            try:
                base = renew_vector_file(catalog, active, base, force=True)
                renew_approximate_index(catalog, base, lambda _done, _total: False, may_build=False)
            except FileInUseError:
                notices = (f"{NOT_RENEWED} Until then it holds the vectors of what was forgotten.",)
        will_return = not whole and given.exists()
    return ForgetSummary(len(rows), sorted(image_ids), will_return, notices)


def _known_at(catalog: Catalog, path: str) -> tuple[list[KnownRoot], list[int]]:
    """The roots that lie at or below a path, and the files known there, which may lie below a root around it."""
    roots = catalog.roots()
    whole = [root for root in roots if relative_to_root(root.path, path) is not None]
    inside = [(root, "") for root in whole]
    if not inside:
        inside = [(root, prefix) for root in roots if (prefix := relative_to_root(path, root.path))]
    return whole, [row for root, prefix in inside for row in catalog.files_below(root.id, prefix)]
