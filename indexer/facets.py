"""What the images of a library are, counted in SQL: by month, folder, camera, format and shape.

Counting has a connection of its own, so that a search that comes meanwhile does not wait for it.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from indexer.catalog_file import connect_for_reading, translated
from indexer.paths import from_catalog, join_root
from indexer.selection import MOMENT, looks_like_screenshot

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

Facet = Literal["months", "folders", "cameras", "formats", "shapes"]
FACETS: Final[tuple[Facet, ...]] = ("months", "folders", "cameras", "formats", "shapes")


@dataclass(frozen=True)
class Facets:
    """Counts of images; an image with copies counts once wherever one of them lies.

    Attributes:
        months: By month in which they were taken, else changed, `2023-05`, ascending.
        folders: By absolute folder, those above it up to the library's own included, most images first. Names that
            are no text cannot be written into a query and are left out.
        cameras: By camera as `camera_name` tells it, most images first.
        formats: By format, `jpeg`, most images first.
        shapes: By `portrait`, `landscape`, `square` and `screenshot`, the last of which is one of the others, too.
    """

    months: dict[str, int] = field(default_factory=dict)
    folders: dict[str, int] = field(default_factory=dict)
    cameras: dict[str, int] = field(default_factory=dict)
    formats: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, int] = field(default_factory=dict)


def camera_name(make: str | None, model: str | None) -> str | None:
    """A camera by make and model, the make only once: many cameras repeat it in the model. None for neither."""
    make, model = make or "", model or ""
    if make and model.casefold().startswith(make.casefold()):
        return model
    return f"{make} {model}".strip() or None


def count_facets(
    library_path: Path, ids: NDArray[np.int64] | None = None, which: Collection[Facet] = FACETS
) -> Facets:
    """Counts images of a library.

    Args:
        library_path: The library's folder.
        ids: Which images, int64 (n,); None for all that are present.
        which: What to count; the others stay empty.

    Raises:
        LibraryError: There is no library, or it cannot be read.
    """
    connection, _ = connect_for_reading(library_path)
    with closing(connection), translated(library_path):
        connection.execute("BEGIN")
        counting = _Counting(connection, ids)
        return Facets(
            months=counting.months() if "months" in which else {},
            folders=counting.folders() if "folders" in which else {},
            cameras=counting.cameras() if "cameras" in which else {},
            formats=counting.formats() if "formats" in which else {},
            shapes=counting.shapes() if "shapes" in which else {},
        )


class _Counting:
    """Counts within one transaction."""

    def __init__(self, connection: sqlite3.Connection, ids: NDArray[np.int64] | None) -> None:
        self._db = connection
        # As one value: there may be more ids than a statement may have parameters.
        self._values = [] if ids is None else [json.dumps(ids.tolist())]
        chosen = "" if ids is None else " AND {} IN (SELECT value FROM json_each(?))"
        self._images = f"gone_at IS NULL{chosen.format('images.id')}"
        self._files = f"image_id IS NOT NULL{chosen.format('image_id')}"

    def months(self) -> dict[str, int]:
        rows = self._db.execute(
            f"SELECT substr({MOMENT}, 1, 7) AS month, count(*) FROM images WHERE {self._images}"  # noqa: S608
            " GROUP BY month HAVING length(month) = 7 ORDER BY month",
            self._values,
        )
        return dict(rows.fetchall())

    def formats(self) -> dict[str, int]:
        rows = self._db.execute(
            f"SELECT format, count(*) AS number FROM images WHERE {self._images}"  # noqa: S608
            " GROUP BY format ORDER BY number DESC, format",
            self._values,
        )
        return dict(rows.fetchall())

    def cameras(self) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for make, model, number in self._db.execute(
            f"SELECT camera_make, camera_model, count(*) FROM images WHERE {self._images}"  # noqa: S608
            " GROUP BY camera_make, camera_model",
            self._values,
        ):
            name = camera_name(make, model)
            if name:
                counts[name] += number
        return _most_first(counts.items())

    def shapes(self) -> dict[str, int]:
        portrait, landscape, square = self._db.execute(
            "SELECT total(height_pixels > width_pixels), total(height_pixels < width_pixels),"  # noqa: S608
            f" total(height_pixels = width_pixels) FROM images WHERE {self._images}",
            self._values,
        ).fetchone()
        screenshots = {
            image_id
            for image_id, path, image_format, width, height in self._db.execute(
                "SELECT image_id, files.path, images.format, width_pixels, height_pixels FROM files"  # noqa: S608
                f" JOIN images ON images.id = image_id WHERE {self._files}"
                " AND coalesce(camera_make, '') = '' AND coalesce(camera_model, '') = ''",
                self._values,
            )
            if looks_like_screenshot(
                from_catalog(path).rpartition("/")[2], image_format, width, height, has_camera=False
            )
        }
        counts = {"landscape": landscape, "portrait": portrait, "square": square}
        shapes = {name: int(number) for name, number in counts.items()}
        return {
            name: number for name, number in (*shapes.items(), ("screenshot", len(screenshots))) if number
        }

    def folders(self) -> dict[str, int]:
        roots = {
            root_id: from_catalog(path) for root_id, path in self._db.execute("SELECT id, path FROM roots")
        }
        counts: Counter[str] = Counter()
        # What is left of a path when all characters that are no slash are taken from its end is its folder.
        for root_id, folder, number in self._db.execute(
            "SELECT root_id, rtrim(path, replace(path, '/', '')) AS folder, count(*) FROM files"  # noqa: S608
            f" WHERE {self._files} AND typeof(path) = 'text' AND image_id NOT IN ({_SEVERAL})"
            " GROUP BY root_id, folder",
            self._values,
        ):
            for above in _up_to(roots[root_id], folder):
                counts[above] += number
        # Copies may lie in several folders, and count once in those above.
        places: dict[int, set[str]] = {}
        for image_id, root_id, path in self._db.execute(
            "SELECT image_id, root_id, path FROM files"  # noqa: S608
            f" WHERE {self._files} AND typeof(path) = 'text' AND image_id IN ({_SEVERAL})",
            self._values,
        ):
            places.setdefault(image_id, set()).update(
                _up_to(roots[root_id], path[: path.rfind("/") + 1] if "/" in path else "")
            )
        for folders in places.values():
            counts.update(folders)
        return _most_first(counts.items())


_SEVERAL = "SELECT image_id FROM files WHERE image_id IS NOT NULL GROUP BY image_id HAVING count(*) > 1"


def _up_to(root: str, folder: str) -> Iterable[str]:
    """A folder, given below its root with a slash at its end, and those above it up to the root."""
    try:
        root.encode()
    except UnicodeEncodeError:
        return
    names = folder.split("/")[:-1]
    for depth in range(len(names), 0, -1):
        yield join_root(root, "/".join(names[:depth]))
    yield root


def _most_first(counts: Iterable[tuple[str, int]]) -> dict[str, int]:
    return dict(sorted(counts, key=lambda item: (-item[1], item[0])))
