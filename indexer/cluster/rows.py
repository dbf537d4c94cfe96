"""An image as a row of a collection, and back; the schema that goes with it.

Whatever a filter asks for is a column of its own, computed here once, so that Milvus compares numbers and codes
(`indexer.cluster.encoding`) and never text of people. No column may be null: what is not known has a value that
fits no filter.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from indexer.cluster.encoding import encode, encode_all
from indexer.records import ImageRecord
from indexer.selection import looks_like_screenshot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SCHEMA_VERSION: Final = 1
LONGEST_TEXT: Final = 65_535
"""Milvus keeps no longer text; about a thousand copies with paths of ordinary length fit."""
UNKNOWN_MOMENT: Final = -1
_MOMENTS_KEPT: Final = 1_000
SPREAD: Final = 1 << 20
"""Images are spread over so many numbers by their content, so that a condition chooses an even sample."""
COLUMNS: Final[dict[str, str]] = {
    "id": "INT64",
    "publication": "INT64",
    "content_hash": "VARCHAR",
    "size_bytes": "INT64",
    "width": "INT64",
    "height": "INT64",
    "shape": "INT64",
    "format": "VARCHAR",
    "moment": "INT64",
    "camera": "VARCHAR",
    "has_place": "BOOL",
    "latitude": "DOUBLE",
    "longitude": "DOUBLE",
    "screenshot": "BOOL",
    "names": "VARCHAR",
    "folders": "VARCHAR",
    "paths": "VARCHAR",
    "copies": "INT64",
    "record": "VARCHAR",
    "spread": "INT64",
    "fingerprint": "INT64",
    "vector": "FLOAT_VECTOR",
}
RECORD_COLUMNS: Final = (
    "id", "publication", "content_hash", "size_bytes", "width", "height", "format", "has_place", "latitude",
    "longitude", "copies", "record",
)  # fmt: skip
"""What `record_of` needs."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One file that holds an image: its absolute path, whether its disk is there, when it was last changed."""

    path: str
    is_online: bool
    modified_ns: int


@dataclass(frozen=True, slots=True)
class PublishedImage:
    """What a row is made of; the fields are those of `indexer.records.ImageRecord`.

    Attributes:
        moment: When it was taken or last changed, in local time, `YYYY-MM-DDTHH:MM:SS`; "" if not known.
        copies: Its files, the one to show first.
    """

    id: int
    content_hash: str
    size_bytes: int
    width_pixels: int
    height_pixels: int
    format: str
    taken_at: str | None
    camera_make: str | None
    camera_model: str | None
    latitude: float | None
    longitude: float | None
    moment: str
    copies: tuple[Copy, ...]


def row_of(image: PublishedImage) -> dict[str, Any]:
    """The row of an image, but for `publication` and `vector`."""
    first = image.copies[0]
    paths = [copy.path for copy in image.copies]
    parts = [_split(path) for path in paths]
    camera = f"{image.camera_make or ''} {image.camera_model or ''}".strip(" ").casefold()
    has_place = image.latitude is not None and image.longitude is not None
    has_camera = bool(image.camera_make or image.camera_model)
    row: dict[str, Any] = {
        "id": image.id,
        "content_hash": image.content_hash,
        "size_bytes": image.size_bytes,
        "width": image.width_pixels,
        "height": image.height_pixels,
        "shape": (image.width_pixels > image.height_pixels) - (image.width_pixels < image.height_pixels),
        "format": image.format,
        "moment": moment_number(image.moment),
        "camera": encode(camera),
        "has_place": has_place,
        "latitude": float(image.latitude or 0.0) if has_place else 0.0,
        "longitude": float(image.longitude or 0.0) if has_place else 0.0,
        "screenshot": any(
            looks_like_screenshot(
                name, image.format, image.width_pixels, image.height_pixels, has_camera=has_camera
            )
            for _, name in parts
        ),
        "names": encode_all((name.casefold() for _, name in parts), LONGEST_TEXT)[0],
        "folders": encode_all((f"/{folder}/".casefold() for folder, _ in parts), LONGEST_TEXT)[0],
        "paths": encode_all(map(os.path.normcase, paths), LONGEST_TEXT)[0],
        "copies": len(image.copies),
        "record": json.dumps(
            {
                "path": first.path,
                "modified_ns": first.modified_ns,
                "is_online": first.is_online,
                "taken_at": image.taken_at,
                "make": image.camera_make,
                "model": image.camera_model,
                "modified": [copy.modified_ns for copy in image.copies[:_MOMENTS_KEPT]],
            },
            separators=(",", ":"),
        ),
        "spread": int(image.content_hash[:5], 16) % SPREAD,
    }
    digest = hashlib.sha256(json.dumps([SCHEMA_VERSION, row], sort_keys=True).encode()).digest()
    row["fingerprint"] = int.from_bytes(digest[:8], "big") >> 1
    return row


def copies_left_out(row: Mapping[str, Any]) -> int:
    """How many files of an image its row has no room for."""
    kept: int = min(row[column].count("z") - 1 for column in ("names", "folders", "paths"))
    return int(row["copies"]) - kept


def record_of(row: Mapping[str, Any]) -> ImageRecord:
    """The image of a row that has `RECORD_COLUMNS`."""
    more = json.loads(row["record"])
    return ImageRecord(
        id=int(row["id"]),
        path=Path(more["path"]),
        size_bytes=int(row["size_bytes"]),
        width_pixels=int(row["width"]),
        height_pixels=int(row["height"]),
        format=row["format"],
        taken_at=more["taken_at"],
        camera_make=more["make"],
        camera_model=more["model"],
        latitude=float(row["latitude"]) if row["has_place"] else None,
        longitude=float(row["longitude"]) if row["has_place"] else None,
        modified_seconds=more["modified_ns"] / 1e9,
        copies=int(row["copies"]),
        is_offline=not more["is_online"],
        content_hash=row["content_hash"],
    )


def moment_number(text: str) -> int:
    """A moment as a number that sorts like its text, 20230501123456."""
    digits = text.replace("-", "").replace("T", "").replace(":", "")
    return int(digits) if digits.isascii() and digits.isdigit() else UNKNOWN_MOMENT


def publication_number(identity: Mapping[str, Any], library_id: str, created_at: str) -> int:
    """The number of a publication: no other collection has it, not even one made later under the same name."""
    text = json.dumps([identity, library_id, created_at], sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def blocks_hash(fingerprints: Sequence[tuple[int, int]]) -> str:
    """The state of a block of ids: (id, fingerprint), ascending."""
    digest = hashlib.sha256()
    for image_id, fingerprint in fingerprints:
        digest.update(image_id.to_bytes(8, "big") + fingerprint.to_bytes(8, "big"))
    return digest.hexdigest()


def _split(path: str) -> tuple[str, str]:
    """Folder and name, with `/` between folders; objects in a store have such paths on every system."""
    if os.sep != "/" and "://" not in path:
        path = path.replace(os.sep, "/")
    folder, _, name = path.rpartition("/")
    return folder, name
