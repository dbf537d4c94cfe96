"""Keeps what is derived from a library in step with its catalog: vectors.faiss, vectors.ann, thumbnails.

For writers: whoever calls this holds the lock.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

from indexer.approximate_index import APPROXIMATE_SETTING, build, update, wants_approximate
from indexer.approximate_index import read_info as read_approximate_info
from indexer.approximate_index import verify as verify_approximate
from indexer.catalog_file import translated
from indexer.derived_file import FileInUseError, VectorFileError, put_in_place
from indexer.paths import APPROXIMATE_NAME, THUMBNAILS_NAME, VECTORS_NAME
from indexer.vector_index import (
    Segment,
    VectorFileInfo,
    needs_rebuild,
    read_info,
    verify,
    write_vector_file,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from indexer.approximate_index import ApproximateInfo, Watcher
    from indexer.catalog import Catalog, StoredModel

NOT_RENEWED = (
    f"{VECTORS_NAME} could not be renewed, because another program has it open, such as `imago app`. Searching goes on;"
    " close that program and run `imago index` to renew the file."
)
_NEXT_SUFFIX = ".next"
# Finished ones, and what a kill left of others, also of former versions. The library may lie in a folder of pictures
# whose owner has a folder of this name, too: whatever else is in it is theirs.
_THUMBNAIL = re.compile(r"([0-9a-f]{64})\.webp|(?:\.|tmp)[a-z0-9_]{8}\.part")
_OVERDUE_SETTING = "vectors_overdue"  # in the catalog: that the file must be written anew whatever its drift


def usable_vector_file(catalog: Catalog, model: StoredModel) -> tuple[VectorFileInfo | None, str | None]:
    """Finds out whether vectors.faiss is what the catalog says, bytes included.

    Returns:
        Its description, or None and the reason; no reason if there never was a file.
    """
    path = catalog.library_path / VECTORS_NAME
    for name in (VECTORS_NAME, APPROXIMATE_NAME):
        for leftover in catalog.library_path.glob(name + ".*"):  # of a run that was killed
            with suppress(OSError):
                leftover.unlink()
    known = catalog.vector_file
    try:
        info = read_info(path)
        wrong = info.mismatch(known, model.id)
        if wrong is None and info.generation > known.generation:  # what it was made from, nobody noted
            wrong = "it is newer than the catalog"
        if wrong is None:
            verify(path, info)
            return info, None
    except VectorFileError as error:
        wrong = str(error)
    return None, wrong if known.generation else None


def renew_vector_file(
    catalog: Catalog, model: StoredModel, base: VectorFileInfo | None, *, force: bool = False
) -> VectorFileInfo:
    """Writes a new vectors.faiss if there is no usable one, if it has drifted, or if told to.

    Args:
        catalog: The catalog.
        model: The active model.
        base: The description of the usable file, None if there is none.
        force: Whether to write it whatever its state.

    Returns:
        The description of the file that is in place now.

    Raises:
        DiskFullError: No room; the old file is untouched.
        FileInUseError: Another program has it open; it is untouched. What was forced is done by the next call.
    """
    if base is not None and not force and not catalog.setting(_OVERDUE_SETTING):
        added = catalog.added_since(model.id, base.sequence)
        if not needs_rebuild(base.count, added, catalog.departed_count()):
            return base
    try:
        info = _write(catalog, model, VECTORS_NAME)
    except FileInUseError:
        if force:
            with catalog.transaction():
                catalog.set_setting(_OVERDUE_SETTING, True)
        raise
    with catalog.transaction():
        catalog.finish_generation(info.generation, info.checksum)
        catalog.set_setting(_OVERDUE_SETTING, False)
    return info


def switch_model(catalog: Catalog, old: StoredModel, new: StoredModel) -> VectorFileInfo:
    """Makes the model that was being built the active one, in one transaction.

    The new vectors.faiss is written beside the old one before, and put in place right after: in between,
    readers find a file of the wrong model and search the catalog's vectors. The old vectors are deleted
    afterwards, a little at a time; what a kill leaves of them, the next run deletes.

    Returns:
        The description of the new file.

    Raises:
        FileInUseError: Another program has the old file open. The library has switched, and is searched without a file
            until a later run makes it.
    """
    next_name = VECTORS_NAME + _NEXT_SUFFIX
    info = _write(catalog, new, next_name)
    with catalog.transaction():
        catalog.replace_active_model(old.id, new.id)
        catalog.finish_generation(info.generation, info.checksum)
    try:
        with translated(catalog.library_path):
            put_in_place(catalog.library_path / next_name, catalog.library_path / VECTORS_NAME)
    finally:
        catalog.delete_orphaned_vectors()
    return info


def choose_approximate(catalog: Catalog, wanted: bool) -> None:
    """Notes that an approximate index is wanted whatever the library's size, or never."""
    with catalog.transaction():
        catalog.set_setting(APPROXIMATE_SETTING, wanted)


def renew_approximate_index(
    catalog: Catalog,
    base: VectorFileInfo,
    watch: Watcher,
    text_vectors: Callable[[], NDArray[np.float32]] | None = None,
    *,
    may_build: bool = True,
) -> None:
    """Makes vectors.ann, brings it in step with vectors.faiss, or deletes it, as the library needs.

    Args:
        catalog: The catalog.
        base: The description of the vectors.faiss that is in place.
        watch: Told how far it is; says whether to stop.
        text_vectors: Gives embedded texts, float32 (q, dimension), to measure a new index with.
        may_build: Whether there is the time to make one from nothing; if not, searches go on exactly until
            somebody has it.

    Raises:
        BuildStoppedError: `watch` said so; searches go on exactly.
        DiskFullError: No room; searches go on exactly.
    """
    path = catalog.library_path / APPROXIMATE_NAME
    with translated(catalog.library_path):
        if not wants_approximate(catalog.setting(APPROXIMATE_SETTING), base.count, base.dimension):
            path.unlink(missing_ok=True)
            return
        segment = Segment.from_file(catalog.library_path / VECTORS_NAME, base)
        info: ApproximateInfo | None = None
        with suppress(VectorFileError):
            found = read_approximate_info(path)
            if found.mismatch(base) is None:
                verify_approximate(path, found)
                return
            if not found.is_outgrown(base.count):
                info = update(path, base, segment, watch)
        if info is None:
            if not may_build:
                path.unlink(missing_ok=True)
                return
            info = build(path, base, segment, text_vectors() if text_vectors is not None else None, watch)
        with catalog.transaction():  # so that readers see that something has changed
            catalog.set_setting("approximate_checksum", info.checksum)


def delete_stale_thumbnails(catalog: Catalog) -> None:
    """Deletes thumbnails of images that the catalog knows no more, and unfinished ones.

    One that a program is about to finish is made when it is asked for the next time; one that cannot be deleted now
    goes the next time.
    """
    for path in (catalog.library_path / THUMBNAILS_NAME).glob("[0-9a-f][0-9a-f]/*"):
        name = _THUMBNAIL.fullmatch(path.name)
        if name and not (name[1] and catalog.has_content(bytes.fromhex(name[1]))):
            with suppress(OSError):
                path.unlink()


def _write(catalog: Catalog, model: StoredModel, name: str) -> VectorFileInfo:
    known = catalog.vector_file
    sequence, count = catalog.index_state(model.id)
    info = VectorFileInfo(
        library_id=known.library_id,
        model_id=model.id,
        generation=known.generation + 1,
        sequence=sequence,
        dimension=model.identity.dimension,
        count=count,
    )
    with translated(catalog.library_path):
        return write_vector_file(
            catalog.library_path / name, info, catalog.present_vectors(model.id, info.dimension)
        )
