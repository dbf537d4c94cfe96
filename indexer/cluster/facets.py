"""What the images of a served library are, counted row by row; `indexer.facets` counts those of a folder."""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from indexer.cluster.encoding import decode_all
from indexer.facets import FACETS, Facet, Facets, camera_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

FACET_COLUMNS: Final = ("id", "publication", "moment", "format", "shape", "screenshot", "record", "paths")
_SHAPES: Final = {1: "landscape", -1: "portrait", 0: "square"}


def count_rows(
    pages: Iterable[Sequence[dict[str, Any]]], roots: Sequence[str], which: Collection[Facet] | None
) -> Facets:
    """Counts rows that have `FACET_COLUMNS`.

    Args:
        pages: The rows.
        roots: The library's folders, absolute.
        which: What to count; None for everything.
    """
    months, folders, cameras, formats, shapes = (Counter[str]() for _ in range(5))
    for page in pages:
        for row in page:
            digits = f"{int(row['moment']):014d}"
            if int(row["moment"]) >= 0:
                months[f"{digits[:4]}-{digits[4:6]}"] += 1
            formats[row["format"]] += 1
            shapes[_SHAPES[int(row["shape"])]] += 1
            shapes["screenshot"] += bool(row["screenshot"])
            more = json.loads(row["record"])
            camera = camera_name(more["make"], more["model"])
            if camera:
                cameras[camera] += 1
            folders.update({folder for path in decode_all(row["paths"]) for folder in _folders(path, roots)})
    wanted = FACETS if which is None else which
    # In this order, as those of a folder come.
    by_shape = {
        name: shapes[name] for name in ("landscape", "portrait", "square", "screenshot") if shapes[name]
    }
    return Facets(
        months=dict(sorted(months.items())) if "months" in wanted else {},
        folders=_most_first(folders) if "folders" in wanted else {},
        cameras=_most_first(cameras) if "cameras" in wanted else {},
        formats=_most_first(formats) if "formats" in wanted else {},
        shapes=by_shape if "shapes" in wanted else {},
    )


def _folders(path: str, roots: Sequence[str]) -> Iterable[str]:
    """The folder of a file and those above it up to the library's own; none for names that are no text."""
    if any("\ud800" <= character <= "\udfff" for character in path):
        return
    root = next((root for root in roots if path.startswith(root.rstrip(os.sep) + os.sep)), None)
    if root is None:
        return
    folder = path.rpartition(os.sep)[0]
    while len(folder) > len(root):
        yield folder
        folder = folder.rpartition(os.sep)[0]
    yield root


def _most_first(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
