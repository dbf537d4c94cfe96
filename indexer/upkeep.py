"""Keeps vectors.faiss in step with the catalog. For writers: whoever calls this holds the writer's lock."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from indexer.catalog import translated
from indexer.paths import VECTORS_NAME
from indexer.vector_index import (
    VectorFileError,
    VectorFileInfo,
    needs_rebuild,
    read_info,
    verify,
    write_vector_file,
)

if TYPE_CHECKING:
    from indexer.catalog import Catalog, StoredModel

_NEXT_SUFFIX = ".next"


def usable_vector_file(catalog: Catalog, model: StoredModel) -> tuple[VectorFileInfo | None, str | None]:
    """Finds out whether vectors.faiss is what the catalog says, bytes included.

    Returns:
        Its description, or None and the reason; no reason if there never was a file.
    """
    path = catalog.library_path / VECTORS_NAME
    for leftover in catalog.library_path.glob(VECTORS_NAME + ".*"):  # of a run that was killed
        with suppress(OSError):
            leftover.unlink()
    generation = catalog.generation
    try:
        info = read_info(path)
        wrong = info.mismatch(catalog.library_id, model.id, generation)
        if wrong is None:
            verify(path, info)
            return info, None
    except VectorFileError as error:
        wrong = str(error)
    return None, wrong if generation else None


def renew_vector_file(
    catalog: Catalog, model: StoredModel, base: VectorFileInfo | None, *, force: bool = False
) -> VectorFileInfo | None:
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
    """
    if base is not None and not force:
        added = catalog.added_since(model.id, base.sequence)
        if not needs_rebuild(base.count, added, catalog.departed_count()):
            return base
    info = _write(catalog, model, base, VECTORS_NAME)
    with catalog.transaction():
        catalog.finish_generation(info.generation)
    return info


def switch_model(
    catalog: Catalog, old: StoredModel, new: StoredModel, base: VectorFileInfo | None
) -> VectorFileInfo:
    """Makes the model that was being built the active one, in one transaction.

    The new vectors.faiss is written beside the old one before, and put in place right after: in between,
    readers find a file of the wrong model and search the catalog's vectors. The old vectors are deleted
    afterwards, a little at a time; what a kill leaves of them, the next run deletes.

    Returns:
        The description of the new file.
    """
    next_name = VECTORS_NAME + _NEXT_SUFFIX
    info = _write(catalog, new, base, next_name)
    with catalog.transaction():
        catalog.replace_active_model(old.id, new.id)
        catalog.finish_generation(info.generation)
    with translated(catalog.library_path):
        (catalog.library_path / next_name).replace(catalog.library_path / VECTORS_NAME)
    catalog.delete_orphaned_vectors()
    return info


def _write(catalog: Catalog, model: StoredModel, base: VectorFileInfo | None, name: str) -> VectorFileInfo:
    sequence, count = catalog.index_state(model.id)
    info = VectorFileInfo(
        library_id=catalog.library_id,
        model_id=model.id,
        generation=max(catalog.generation, base.generation if base else 0) + 1,
        sequence=sequence,
        dimension=model.identity.dimension,
        count=count,
    )
    with translated(catalog.library_path):
        return write_vector_file(
            catalog.library_path / name, info, catalog.present_vectors(model.id, info.dimension)
        )
