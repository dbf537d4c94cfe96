"""The plain values that a library hands out: what an image is, how a run went, how the library stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from model.identity import ModelIdentity


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image (a content), as the catalog knows it.

    Attributes:
        id: The image's number in this library; never given to another image.
        path: Absolute path of one copy of it; a copy on a disk that is there is preferred.
        size_bytes: Size of the file.
        width_pixels: Width as people see it, EXIF orientation applied.
        height_pixels: Height as people see it.
        format: `jpeg`, `png`, `webp`, `gif`, `tiff`, `bmp`, `heic` or `avif`, by content.
        taken_at: When the picture was taken, in the local time of the camera: ISO 8601, with the offset
            from UTC where the camera wrote it (`2023-05-01T12:34:56+02:00`); None if the file does not say.
        camera_make: Maker of the camera.
        camera_model: Model of the camera.
        latitude: Degrees north.
        longitude: Degrees east.
        modified_seconds: When that copy was last changed, seconds since 1970.
        copies: How many files hold this content.
        is_offline: True while no copy is on a disk that was there in the last run.
        content_hash: Hex SHA-256 of the file's bytes.
    """

    id: int
    path: Path
    size_bytes: int
    width_pixels: int
    height_pixels: int
    format: str
    taken_at: str | None
    camera_make: str | None
    camera_model: str | None
    latitude: float | None
    longitude: float | None
    modified_seconds: float
    copies: int
    is_offline: bool
    content_hash: str


@dataclass(frozen=True, slots=True)
class FileFailure:
    """A file that looks like an image and could not be indexed.

    Attributes:
        path: Absolute path.
        reason: One sentence for people.
        is_new: False if an earlier run already met it; it is tried again when it changes or when asked for.
        failed_at: When it failed, ISO 8601 in UTC.
    """

    path: Path
    reason: str
    is_new: bool = True
    failed_at: str | None = None


@dataclass(frozen=True, slots=True)
class RootStatus:
    """A folder that the library looks after.

    Attributes:
        path: Absolute path.
        is_online: False if the folder was not there when last looked for; its images are kept.
        files: Number of image files in it.
        last_scanned_at: ISO 8601 in UTC, None if it never was scanned to its end.
    """

    path: Path
    is_online: bool
    files: int
    last_scanned_at: str | None


@dataclass(frozen=True, slots=True)
class IndexProgress:
    """How far a run is.

    Attributes:
        phase: `scanning`, `indexing`, `finishing`, or `building index` while an approximate index is made.
        done: Files dealt with so far, out of `total`; vectors while an index is built.
        total: Files that are new or changed. 0 while scanning.
        scanned: Files seen by the scan so far.
        indexed: Files whose image is in the library by this run.
        unchanged: Files that the library already knew.
        failed: Files that could not be indexed.
        skipped: Files that hold no image.
        images_per_second: Speed over the last seconds.
        seconds_left: Estimate, None while there is no ground for one.
    """

    phase: str
    done: int
    total: int
    scanned: int
    indexed: int
    unchanged: int
    failed: int
    skipped: int
    images_per_second: float
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class IndexSummary:
    """How a run went.

    Every image file in the folders is counted once: indexed, moved, restored, unchanged or failed.

    Attributes:
        library_path: The library's folder.
        indexed: Files that are new or have new content (copies of known images included).
        embedded: Images that went through the tower; less than `indexed` where copies share one vector.
        unchanged: Files that the library already knew.
        moved: Files found at another path or under another name, by their content.
        restored: Files whose image had been gone and came back.
        removed: Files that are no longer there.
        skipped: Files that hold no image.
        failed: Files that could not be indexed, those of earlier runs included (`is_new` False).
        offline_roots: Folders that were not there; their images are kept.
        unreadable_folders: Folders that could not be listed, with the reason; their images are kept.
        notices: Sentences that people should read: a repaired index, a folder inside another.
        interrupted: True if the run was stopped; what was done is kept, and the next run goes on from there.
        seconds: Duration of the run.
        stage_seconds: Where it went: seconds of work by stage. Stages run side by side, decoding in several processes.
    """

    library_path: Path
    indexed: int
    embedded: int
    unchanged: int
    moved: int
    restored: int
    removed: int
    skipped: int
    failed: list[FileFailure]
    offline_roots: list[Path]
    unreadable_folders: list[FileFailure]
    notices: list[str]
    interrupted: bool
    seconds: float
    stage_seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LibraryStatus:
    """How a library stands.

    Attributes:
        library_path: The library's folder, or its address.
        images: Images that a search can find.
        files: Files that hold them (copies counted).
        failed: Files that could not be indexed.
        skipped: Files that hold no image.
        offline_images: Images whose files lie on a disk that was not there in the last run.
        roots: The folders that the library looks after.
        model: Whose vectors it holds; None if nothing was indexed yet.
        next_model: The model that it is being moved to; None except during a change of model.
        schema_version: Version of the catalog.
        library_bytes: What the library takes on the disk; 0 where that is not known.
        created_at: ISO 8601 in UTC.
        last_run_at: End of the last run, ISO 8601 in UTC.
        notices: What is not as it should be, with the way out.
        index: How it is searched: exactly, or through which approximate index.
    """

    library_path: Path | str
    images: int
    files: int
    failed: int
    skipped: int
    offline_images: int
    roots: list[RootStatus]
    model: ModelIdentity | None
    next_model: ModelIdentity | None
    schema_version: int
    library_bytes: int
    created_at: str | None
    last_run_at: str | None
    notices: list[str]
    index: str = "exact"
