"""What the API answers with, as JSON."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from pathlib import Path

    from indexer import FileFailure, ImageRecord, LibraryStatus
    from search import Hit


class HitBody(BaseModel):
    """One image that answers a query."""

    id: int = Field(description="The image's number in this library; stays the same while its content does")
    score: float = Field(description="Cosine between query and image; compare it within one query only")
    path: str = Field(description="Where a copy of it lies on the server's disk")


class Hits(BaseModel):
    """What a query found, best first."""

    hits: list[HitBody]


class ImageBody(BaseModel):
    """What the library knows of one image."""

    id: int
    path: str = Field(description="Where a copy of it lies on the server's disk")
    size_bytes: int
    width_pixels: int = Field(description="As people see it, orientation applied")
    height_pixels: int
    format: str
    taken_at: str | None = Field(
        description="ISO 8601 in the camera's local time, with its offset if it wrote one"
    )
    camera_make: str | None
    camera_model: str | None
    latitude: float | None
    longitude: float | None
    modified_seconds: float = Field(description="When the copy was last changed, seconds since 1970")
    copies: int = Field(description="How many files hold this content")
    is_offline: bool = Field(description="Whether no copy was on a disk that was there in the last run")
    content_hash: str = Field(description="SHA-256 of the file's bytes, hexadecimal")


class ModelBody(BaseModel):
    """Whose vectors the library holds."""

    name: str
    revision: str | None
    dimension: int


class RootBody(BaseModel):
    """A folder that the library looks after."""

    path: str
    is_online: bool
    files: int
    last_scanned_at: str | None


class FailureBody(BaseModel):
    """A file that could not be indexed."""

    path: str
    reason: str
    failed_at: str | None


class StatusBody(BaseModel):
    """How the library stands."""

    library: str
    images: int = Field(description="Images that a search can find")
    files: int = Field(description="Files that hold them, copies counted")
    failed: int
    skipped: int
    offline_images: int
    model: ModelBody | None
    roots: list[RootBody]
    library_bytes: int
    schema_version: int
    created_at: str | None
    last_run_at: str | None
    notices: list[str]
    failures: list[FailureBody] = Field(description="The first thousand by path; `failed` counts all")


class Health(BaseModel):
    """That the server answers and its library can be read."""

    status: str


FAILURES_SHOWN = 1000


def text(path: Path) -> str:
    """A path as JSON can carry it: bytes that are no UTF-8 become replacement characters."""
    return os.fsencode(path).decode("utf-8", "replace")


def hit_body(hit: Hit) -> HitBody:
    """Return a hit as it is sent."""
    return HitBody(id=hit.id, score=round(hit.score, 6), path=text(hit.path))


def image_body(record: ImageRecord) -> ImageBody:
    """Return an image's details as they are sent."""
    fields = {name: getattr(record, name) for name in ImageBody.model_fields if name != "path"}
    return ImageBody(path=text(record.path), **fields)


def status_body(status: LibraryStatus, failures: list[FileFailure]) -> StatusBody:
    """Return the library's state as it is sent."""
    model = status.model
    return StatusBody(
        library=text(status.library_path),
        images=status.images,
        files=status.files,
        failed=status.failed,
        skipped=status.skipped,
        offline_images=status.offline_images,
        model=None
        if model is None
        else ModelBody(name=model.name, revision=model.revision, dimension=model.dimension),
        roots=[
            RootBody(
                path=text(root.path),
                is_online=root.is_online,
                files=root.files,
                last_scanned_at=root.last_scanned_at,
            )
            for root in status.roots
        ],
        library_bytes=status.library_bytes,
        schema_version=status.schema_version,
        created_at=status.created_at,
        last_run_at=status.last_run_at,
        notices=status.notices,
        failures=[
            FailureBody(path=text(failure.path), reason=failure.reason, failed_at=failure.failed_at)
            for failure in failures[:FAILURES_SHOWN]
        ],
    )
