"""What commands print: results on stdout for people or as JSON, notices on stderr."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from indexer import default_library_path, display_path
from indexer.reading import is_address

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from indexer import FileFailure, ImageRecord, IndexSummary, LibraryStatus, RootStatus
    from model.machine import PrecisionChoice
    from search import Answer, Hit
    from search.grouping import DuplicateGroup

FAILURES_SHOWN = 10
"""A summary stays on one screen; `imago status` lists all."""
CLOSEST_SHOWN = 3
"""A hint, not an answer."""


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object. Bytes of a path that are no UTF-8 appear as the lone surrogates of PEP 383."""
    click.echo(json.dumps(value, indent=2))


def _print_path(prefix: str, path: Path | str, suffix: str = "", *, err: bool = False) -> None:
    """Print a line that holds a path: harmless on a terminal, which a file's name could else give orders to.

    To other programs it goes byte for byte as the file system has it.
    """
    stream = sys.stderr if err else sys.stdout
    if stream is not None and stream.isatty():
        click.echo(display_path(f"{prefix}{path}{suffix}"), err=err)
    else:
        click.echo(prefix.encode() + os.fsencode(path) + suffix.encode(), err=err)


def print_notices(notices: Iterable[str]) -> None:
    """Print to stderr what a reader should know about the answer, such as an index being slow."""
    for notice in notices:
        click.echo(f"imago: {notice}", err=True)


def hit_as_dict(hit: Hit, *, with_empty: Collection[str] = ()) -> dict[str, Any]:
    """Return what is known of a hit; `path`, `score` and `id` are promises.

    Args:
        hit: The hit.
        with_empty: `folded` and `why`, where they shall be there even if they say nothing.
    """
    fields: dict[str, Any] = {
        "path": str(hit.path),
        "score": round(hit.score, 6),
        "id": hit.id,
        "probability": None if hit.probability is None else round(hit.probability, 4),
        "copies": hit.copies,
    }
    if hit.folded or "folded" in with_empty:
        fields["folded"] = list(hit.folded)
    if hit.why or "why" in with_empty:
        fields["why"] = [asdict(contribution) for contribution in hit.why]
    return fields


def answer_as_dict(answer: Answer, query: str, library_path: Path | str) -> dict[str, Any]:
    """Return an answer with its hits."""
    return {
        "query": query,
        "library": str(library_path),
        "total": answer.total,
        "candidates": answer.candidates,
        "is_cut": answer.is_cut,
        "hits": [hit_as_dict(hit) for hit in answer.hits],
    }


def print_hits(hits: Sequence[Hit]) -> None:
    """Print a line a hit, best first: score, two spaces, path; below it what was folded and why it is there."""
    for hit in hits:
        _print_path(f"{hit.score:.4f}  ", hit.path)
        if hit.folded:
            click.echo(f"        and {len(hit.folded):,} near-duplicates")
        for part in hit.why:
            click.echo(f"        {part.share:+.2f}  {part.term} ({part.score:.4f})")


def explain_no_hits(answer: Answer, library_path: Path | str) -> None:
    """Say on stderr why there are no hits, what comes closest, and what to do."""
    if answer.nothing_fits:
        click.echo("imago: nothing here looks like that; --all shows what comes closest:", err=True)
        for hit in answer.closest[:CLOSEST_SHOWN]:
            _print_path(f"  {hit.score:.4f}  ", hit.path, err=True)
    elif answer.candidates == 0 and not answer.query.filters:
        click.echo("imago: the library holds no pictures now", err=True)
        if not is_address(library_path):
            click.echo(f"Add some: {command_line('index', 'FOLDER', library_path=library_path)}", err=True)
    elif answer.candidates == 0:
        click.echo("imago: no picture in the library fits the filters", err=True)
    else:
        click.echo("imago: there are no more hits", err=True)


def group_as_dict(group: DuplicateGroup) -> dict[str, Any]:
    """Return a group of pictures that show the same."""
    return {
        "kind": group.kind,
        "best": _member_as_dict(group.best, group),
        "others": [
            _member_as_dict(record, group) | {"cosine": round(cosine, 6)}
            for record, cosine in zip(group.others, group.cosines, strict=True)
        ],
    }


def _member_as_dict(record: ImageRecord, group: DuplicateGroup) -> dict[str, Any]:
    return {
        "id": record.id,
        "path": str(record.path),
        "paths": [str(path) for path in group.paths.get(record.id, (record.path,))],
        "copies": record.copies,
        "width_pixels": record.width_pixels,
        "height_pixels": record.height_pixels,
        "size_bytes": record.size_bytes,
    }


def print_groups(groups: Sequence[DuplicateGroup]) -> None:
    """Print a paragraph a group: the best copy marked, the others below, exact copies under each."""
    if not groups:
        click.echo("imago: no such pictures", err=True)
    for group in groups:
        for mark, record in [("* ", group.best), *(("  ", record) for record in group.others)]:
            size = f"  {record.width_pixels} x {record.height_pixels}, {record.size_bytes:,} bytes"
            _print_path(mark, record.path, size)
            for copy in group.paths.get(record.id, (record.path,))[1:]:
                _print_path("  = ", copy)
        click.echo()


def summary_as_dict(summary: IndexSummary, model: str) -> dict[str, Any]:
    """Return what an index run did, in counts and seconds."""
    return {
        "indexed": summary.indexed,
        "embedded": summary.embedded,
        "unchanged": summary.unchanged,
        "moved": summary.moved,
        "restored": summary.restored,
        "removed": summary.removed,
        "skipped": summary.skipped,
        "failed": len(summary.failed),
        "failures": [failure_as_dict(failure) for failure in summary.failed],
        "unreadable_folders": [failure_as_dict(failure) for failure in summary.unreadable_folders],
        "offline_roots": [str(root) for root in summary.offline_roots],
        "notices": summary.notices,
        "seconds": round(summary.seconds, 3),
        "stage_seconds": {stage: round(seconds, 3) for stage, seconds in summary.stage_seconds.items()},
        "interrupted": summary.interrupted,
        "library": str(summary.library_path),
        "model": model,
    }


def print_profile(summary: IndexSummary) -> None:
    """Print where an index run's time went."""
    click.echo(
        f"\nWhere {summary.seconds:,.1f} s went (stages run side by side, decoding in several processes):"
    )
    for stage, seconds in summary.stage_seconds.items():
        click.echo(f"  {stage:<14}{seconds:>9,.2f} s of work  {seconds / summary.seconds:>6.0%} of the run")


def failure_as_dict(failure: FileFailure) -> dict[str, Any]:
    """Return which file failed and why."""
    return {"path": str(failure.path), "reason": failure.reason}


def print_summary(summary: IndexSummary, model: str) -> None:
    """Print what an index run did, where the library lies, and what to type next."""
    rate = (
        f", {summary.embedded / summary.seconds:,.1f} images/s"
        if summary.embedded and summary.seconds
        else ""
    )
    click.echo(f"{'Stopped' if summary.interrupted else 'Done'} after {summary.seconds:,.1f} s{rate}.")
    always = {"indexed", "unchanged", "skipped", "failed"}
    for name in ("indexed", "unchanged", "moved", "restored", "removed", "skipped", "failed"):
        value = getattr(summary, name)
        count = value if isinstance(value, int) else len(value)
        if count or name in always:
            click.echo(f"  {name:<10}{count:>9,}{_EXPLANATIONS.get(name, '') if count else ''}")
    print_failures(summary.failed[:FAILURES_SHOWN])
    if len(summary.failed) > FAILURES_SHOWN:
        every = command_line("status", library_path=summary.library_path)
        click.echo(f"    ... and {len(summary.failed) - FAILURES_SHOWN:,} more: {every}")
    for folder in summary.unreadable_folders:
        _print_path("  could not be read, its pictures are kept: ", folder.path, f": {folder.reason}")
    for root in summary.offline_roots:
        _print_path("  not there now, its pictures are kept: ", root)
    print_notices(summary.notices)
    _print_path(f"Model {model}; library ", summary.library_path)
    if summary.interrupted:
        click.echo("Everything so far is saved. Run the same command again to go on.")
    else:
        click.echo(f"Next: {command_line('search', 'a dog', library_path=summary.library_path)}")
        click.echo(f"  or: {command_line('app', library_path=summary.library_path)}")


_EXPLANATIONS = {
    "skipped": "  (hold no picture)",
    "moved": "  (found again by content)",
    "restored": "  (came back)",
    "removed": "  (no longer there)",
}


def print_failures(failures: Sequence[FileFailure]) -> None:
    """Print a line a failed file: its path and the reason."""
    for failure in failures:
        _print_path("    ", failure.path, f": {failure.reason}")


def command_line(*arguments: str, library_path: Path | str | None = None) -> str:
    """Return what to type for an `imago` command, named as the person named this one.

    Args:
        *arguments: The command's name and what follows it.
        library_path: The library that is meant; said only where another would be meant without.
    """
    if library_path is not None and Path(library_path).absolute() != default_library_path().absolute():
        arguments = (*arguments, "--library", str(library_path))
    program = Path(sys.argv[0])
    is_module = program.name == "__main__.py"
    name = [Path(sys.executable).name, "-m", "app"] if is_module else [_shortest(program)]
    return shlex.join([*name, *arguments])


def _shortest(program: Path) -> str:
    on_path = any(Path(folder) == program.parent for folder in os.get_exec_path())
    if on_path:
        return program.name
    try:
        return str(program.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(program)


def status_as_dict(status: LibraryStatus, failures: Sequence[FileFailure]) -> dict[str, Any]:
    """Return what the library holds."""
    return {
        "images": status.images,
        "files": status.files,
        "failed": status.failed,
        "skipped": status.skipped,
        "offline_images": status.offline_images,
        "model": status.model.name if status.model else None,
        "model_revision": status.model.revision if status.model else None,
        "dimension": status.model.dimension if status.model else None,
        "precision": _precision().precision,
        "precision_reason": _precision().reason,
        "library": str(status.library_path),
        "library_bytes": status.library_bytes,
        "index": status.index,
        "schema_version": status.schema_version,
        "created_at": status.created_at,
        "last_run_at": status.last_run_at,
        "next_model": status.next_model.name if status.next_model else None,
        "roots": [root_as_dict(root) for root in status.roots],
        "failures": [failure_as_dict(failure) for failure in failures],
        "notices": status.notices,
    }


def _precision() -> PrecisionChoice:
    """In which numbers pictures are embedded on this machine."""
    from model.machine import best_precision, forced_precision

    return forced_precision(None) or best_precision()


def root_as_dict(root: RootStatus) -> dict[str, Any]:
    """Return what is known of a folder of the library."""
    return {
        "path": str(root.path),
        "is_online": root.is_online,
        "files": root.files,
        "last_scanned_at": root.last_scanned_at,
    }


def print_roots(roots: Sequence[RootStatus]) -> None:
    """Print a line a folder: number of files, path."""
    for root in roots:
        _print_path(f"{root.files:>9,}  ", root.path, "" if root.is_online else "  (not there now)")


def print_status(status: LibraryStatus, failures: Sequence[FileFailure]) -> None:
    """Print what the library holds, and a line for each file that failed."""
    model = status.model
    _print_path("library   ", status.library_path)
    click.echo(f"model     {f'{model.name}, {model.dimension} dimensions' if model else 'none yet'}")
    precision = _precision()
    click.echo(f"precision {precision.precision}, because {precision.reason}")
    offline = (
        f", {status.offline_images:,} of them on folders that are not there now"
        if status.offline_images
        else ""
    )
    click.echo(f"images    {status.images:,}{offline}")
    click.echo(f"files     {status.files:,}")
    click.echo(f"skipped   {status.skipped:,}")
    click.echo(f"failed    {status.failed:,}")
    click.echo(f"index     {status.index}")
    if status.library_bytes:
        click.echo(f"on disk   {status.library_bytes / 1e6:,.1f} MB")
    click.echo(f"last run  {status.last_run_at or 'none yet'}")
    if status.next_model is not None:
        name = status.next_model.name
        go_on = command_line("index", "--model", name, library_path=status.library_path)
        click.echo(f"moving to {name}; go on with: {go_on}")
    for root in status.roots:
        _print_path("folder    ", root.path, "" if root.is_online else "  (not there now)")
    print_failures(failures)
    print_notices(status.notices)
