"""Letting go of folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from indexer.catalog import Catalog, translated
from indexer.errors import LibraryNotFoundError, NotInLibraryError
from indexer.lock import writer_lock
from indexer.paths import CATALOG_NAME, display_path, relative_to_root
from indexer.upkeep import renew_approximate_index, renew_vector_file, usable_vector_file

if TYPE_CHECKING:
    from indexer.catalog import KnownRoot


@dataclass(frozen=True, slots=True)
class ForgetSummary:
    """What was forgotten.

    Attributes:
        files: Files that the library no longer knows.
        image_ids: Images that are no longer in it: all that no other file holds. Whoever keeps something
            derived from them (thumbnails) deletes it by these ids.
        will_return: True if the path is still there inside a folder that the library looks after: the next
            run over that folder finds it again.
    """

    files: int
    image_ids: list[int]
    will_return: bool


def forget(library_path: Path | str, path: Path | str) -> ForgetSummary:
    """Takes a folder, or one file, out of a library at once, vectors and all; nothing on the disk is touched.

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
    spellings = dict.fromkeys((os.path.realpath(given), str(given)))
    with writer_lock(library), Catalog.open(library) as catalog, translated(library):
        roots = catalog.roots()
        inside = [
            (root, "")
            for root in roots
            if any(relative_to_root(root.path, spelling) is not None for spelling in spellings)
        ]
        if not inside:
            inside = _below_a_root(roots, list(spellings))
        with catalog.transaction():
            catalog.overwrite_deleted()
            rows = [row for root, prefix in inside for row in catalog.files_below(root.id, prefix)]
            whole = [root for root, prefix in inside if not prefix]
            if not rows and not whole:
                raise NotInLibraryError(
                    f"The library knows nothing at {display_path(given)}. `imago roots` lists its folders."
                )
            held = catalog.images_of(rows)
            catalog.remove_files(rows)
            for root in whole:
                catalog.remove_root(root.id)
            catalog.settle(held)
            image_ids = catalog.purge(held)
        active = catalog.model("active")
        if active is not None and image_ids:
            base, _ = usable_vector_file(catalog, active)
            base = renew_vector_file(catalog, active, base, force=True)
            renew_approximate_index(catalog, base, lambda _done, _total: False, may_build=False)
        will_return = not whole and given.exists()
    return ForgetSummary(len(rows), sorted(image_ids), will_return)


def _below_a_root(roots: list[KnownRoot], spellings: list[str]) -> list[tuple[KnownRoot, str]]:
    for root in roots:
        for spelling in spellings:
            prefix = relative_to_root(spelling, root.path)
            if prefix:
                return [(root, prefix)]
    return []
