"""What the API answers with, as JSON."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from search.grouping import Kind  # noqa: TC001  (Pydantic reads it)
from search.query import format_query

if TYPE_CHECKING:
    from pathlib import Path

    from indexer import FileFailure, ImageRecord, LibraryStatus
    from search import Hit
    from search.grouping import DuplicateGroup
    from search.library import Answer


class Why(BaseModel):
    """What one term of the query adds to a hit."""

    term: str
    weight: float
    score: float = Field(description="Cosine between the term alone and the image")
    share: float = Field(description="Weight times standard deviations above the library's mean for the term")


class HitBody(BaseModel):
    """One image that answers a query."""

    id: int = Field(description="The image's number in this library; stays the same while its content does")
    score: float = Field(description="Cosine between query and image; compare it within one query only")
    probability: float | None = Field(
        description="That the image is there because of the query and not by chance; null where it cannot be told"
    )
    path: str = Field(description="Where a copy of it lies on the server's disk")
    copies: int = Field(description="How many files hold exactly this image")
    folded: list[int] = Field(description="Ids of near-duplicates that were folded into this hit, best first")
    why: list[Why] = Field(description="What each term adds; empty unless asked for")


class Hits(BaseModel):
    """Images that are alike, best first."""

    hits: list[HitBody]


class AnswerBody(BaseModel):
    """One page of what a query found, in the order asked for."""

    query: str = Field(description="The query in its plainest form, saved queries put in")
    hits: list[HitBody]
    total: int = Field(description="Hits on all pages, folded near-duplicates not counted")
    candidates: int = Field(description="Images that fit the filters")
    nothing_fits: bool = Field(description="Images were looked at, and none of them looks like the query")
    next_page: str | None = Field(
        description="Send it as `page` for the hits that follow; null after the last"
    )
    closest: list[HitBody] = Field(
        description="Where nothing fits, the images that come closest all the same"
    )


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


class MemberBody(ImageBody):
    """One image of a group."""

    paths: list[str] = Field(description="All files that hold it, the one to keep first")


class GroupBody(BaseModel):
    """Images that show one picture."""

    kind: Kind = Field(
        description="exact: the same bytes; near: re-encoded, resized or of one burst; similar: alike"
    )
    best: MemberBody = Field(description="The copy to keep if only one is kept: most pixels, then most bytes")
    others: list[MemberBody] = Field(
        description="The rest, most alike first; empty for exact copies of one image"
    )
    cosines: list[float] = Field(description="Of each of the others with the best")


class Groups(BaseModel):
    """Groups of duplicates, the largest first."""

    total: int = Field(description="Groups there are")
    groups: list[GroupBody]


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


def text(path: Path | str) -> str:
    """A path as JSON can carry it: bytes that are no UTF-8 become replacement characters."""
    return os.fsencode(path).decode("utf-8", "replace")


def hit_body(hit: Hit) -> HitBody:
    """Return a hit as it is sent."""
    return HitBody(
        id=hit.id,
        score=round(hit.score, 6),
        probability=None if hit.probability is None else round(hit.probability, 6),
        path=text(hit.path),
        copies=hit.copies,
        folded=list(hit.folded),
        why=[
            Why(term=each.term, weight=each.weight, score=round(each.score, 6), share=round(each.share, 6))
            for each in hit.why
        ],
    )


def answer_body(answer: Answer) -> AnswerBody:
    """Return a page of hits as it is sent."""
    return AnswerBody(
        query=format_query(answer.query),
        hits=[hit_body(hit) for hit in answer.hits],
        total=answer.total,
        candidates=answer.candidates,
        nothing_fits=answer.nothing_fits,
        next_page=answer.next_page,
        closest=[hit_body(hit) for hit in answer.closest],
    )


def image_body(record: ImageRecord) -> ImageBody:
    """Return an image's details as they are sent."""
    return ImageBody(**_image_fields(record))


def _image_fields(record: ImageRecord) -> dict[str, Any]:
    fields = {name: getattr(record, name) for name in ImageBody.model_fields if name != "path"}
    return {"path": text(record.path), **fields}


def _member_body(record: ImageRecord, group: DuplicateGroup) -> MemberBody:
    paths = group.paths.get(record.id, (record.path,))
    return MemberBody(**_image_fields(record), paths=[text(path) for path in paths])


def groups_body(groups: list[DuplicateGroup], offset: int, k: int) -> Groups:
    """Return some of the groups as they are sent."""
    return Groups(
        total=len(groups),
        groups=[
            GroupBody(
                kind=group.kind,
                best=_member_body(group.best, group),
                others=[_member_body(record, group) for record in group.others],
                cosines=[round(cosine, 6) for cosine in group.cosines],
            )
            for group in groups[offset : offset + k]
        ],
    )


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
