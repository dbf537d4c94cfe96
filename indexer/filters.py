"""What a search may demand of an image besides its looks: where it lies, when and with what it was taken.

Each filter says what is asked; `LibraryReader.select` says which images fit. They are plain values, so that
the query language can make them, and another kind of library can translate them, without knowing a catalog.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True)
class InFolder:
    """A present copy of the image lies in one of these folders or below.

    Attributes:
        folders: An absolute path means that folder. Anything else, like `2023/rome`, means folder names that
            follow one another anywhere in the path, compared whole and without regard to case.
    """

    folders: tuple[str, ...]


@dataclass(frozen=True)
class TakenBetween:
    """The image was taken at or after `since` and before `until`; None leaves that side open.

    Both are local times without a zone, as cameras write them. An image that does not say when it was taken
    counts by the oldest modification time of its present copies.
    """

    since: datetime | None
    until: datetime | None


@dataclass(frozen=True)
class CameraContains:
    """The camera's make and model contain one of these texts, without regard to case."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class NearPlace:
    """The image was taken within `radius_km` of a place, on a great circle; one without a place was not."""

    latitude_degrees: float
    longitude_degrees: float
    radius_km: float


@dataclass(frozen=True)
class HasShape:
    """The upright image is higher than wide, wider than high, or neither."""

    shape: Literal["portrait", "landscape", "square"]


@dataclass(frozen=True)
class IsScreenshot:
    """The image looks like a screenshot by its name, its format and the absence of a camera."""


@dataclass(frozen=True)
class HasFormat:
    """The file's content is in one of these formats: jpeg, png, webp, gif, tiff, bmp, heic, avif."""

    formats: tuple[str, ...]


@dataclass(frozen=True)
class SideBetween:
    """One side of the upright image is so many pixels long; both bounds are included, None is open."""

    side: Literal["width", "height"]
    minimum_pixels: int | None
    maximum_pixels: int | None


@dataclass(frozen=True)
class NameMatches:
    """The file name of a present copy, without its folder, fits one of these patterns, in any case.

    A pattern with `*` (anything) or `?` (any one character) must fit the whole name; one without must occur
    in it.
    """

    patterns: tuple[str, ...]


@dataclass(frozen=True)
class Not:
    """The image does not fit `filter`."""

    filter: Filter


Filter = (
    InFolder
    | TakenBetween
    | CameraContains
    | NearPlace
    | HasShape
    | IsScreenshot
    | HasFormat
    | SideBetween
    | NameMatches
    | Not
)
