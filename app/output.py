"""What commands print: results on stdout for people or as JSON, notices on stderr."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from indexer import FileFailure, IndexSummary, LibraryStatus
    from search import Hit

FAILURES_SHOWN = 10
"""A summary stays on one screen; `imago status` lists all."""


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object. Bytes of a path that are no UTF-8 appear as the lone surrogates of PEP 383."""
    click.echo(json.dumps(value, indent=2))


def _print_path(prefix: bytes, path: Path, suffix: bytes = b"") -> None:
    """Print a line that holds a path, byte for byte as the file system has it."""
    click.echo(prefix + os.fsencode(path) + suffix)


def print_notices(notices: Iterable[str]) -> None:
    """Print to stderr what a reader should know about the answer, such as an index being slow."""
    for notice in notices:
        click.echo(f"imago: {notice}", err=True)


def hit_as_dict(hit: Hit) -> dict[str, Any]:
    """Return the hit's promised fields."""
    return {"path": str(hit.path), "score": round(hit.score, 6), "id": hit.id}


def print_hits(hits: Sequence[Hit]) -> None:
    """Print a line a hit, best first: score, two spaces, path."""
    if not hits:
        click.echo("imago: the library holds no pictures yet; say: imago index ~/Pictures", err=True)
    for hit in hits:
        _print_path(f"{hit.score:.4f}  ".encode(), hit.path)


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
        "interrupted": summary.interrupted,
        "library": str(summary.library_path),
        "model": model,
    }


def failure_as_dict(failure: FileFailure) -> dict[str, Any]:
    """Return which file failed and why."""
    return {"path": str(failure.path), "reason": failure.reason}


def print_summary(summary: IndexSummary, model: str, *, is_default_library: bool) -> None:
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
    print_failures(summary.failed, limit=FAILURES_SHOWN)
    for folder in summary.unreadable_folders:
        _print_path(
            b"  could not be read, its pictures are kept: ", folder.path, f": {folder.reason}".encode()
        )
    for root in summary.offline_roots:
        _print_path(b"  not there now, its pictures are kept: ", root)
    print_notices(summary.notices)
    _print_path(f"Model {model}; library ".encode(), summary.library_path)
    if summary.interrupted:
        click.echo("Everything so far is saved. Run the same command again to go on.")
    else:
        library = [] if is_default_library else ["--library", str(summary.library_path)]
        click.echo(f"Next: {command_line('search', 'a dog', *library)}")
        click.echo(f"  or: {command_line('app', *library)}")


_EXPLANATIONS = {
    "skipped": "  (hold no picture)",
    "moved": "  (found again by content)",
    "restored": "  (came back)",
    "removed": "  (no longer there)",
}


def print_failures(failures: Sequence[FileFailure], *, limit: int | None = None) -> None:
    """Print a line a failed file: its path and the reason."""
    for failure in failures[:limit]:
        _print_path(b"    ", failure.path, f": {failure.reason}".encode())
    if limit is not None and len(failures) > limit:
        click.echo(f"    ... and {len(failures) - limit:,} more: {command_line('status')}")


def command_line(*arguments: str) -> str:
    """Return what to type for an `imago` command, named as the person named this one."""
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
        "library": str(status.library_path),
        "library_bytes": status.library_bytes,
        "schema_version": status.schema_version,
        "created_at": status.created_at,
        "last_run_at": status.last_run_at,
        "roots": [
            {
                "path": str(root.path),
                "is_online": root.is_online,
                "files": root.files,
                "last_scanned_at": root.last_scanned_at,
            }
            for root in status.roots
        ],
        "failures": [failure_as_dict(failure) for failure in failures],
        "notices": status.notices,
    }


def print_status(status: LibraryStatus, failures: Sequence[FileFailure]) -> None:
    """Print what the library holds, and a line for each file that failed."""
    model = status.model
    _print_path(b"library   ", status.library_path)
    click.echo(f"model     {f'{model.name}, {model.dimension} dimensions' if model else 'none yet'}")
    offline = (
        f", {status.offline_images:,} of them on folders that are not there now"
        if status.offline_images
        else ""
    )
    click.echo(f"images    {status.images:,}{offline}")
    click.echo(f"files     {status.files:,}")
    click.echo(f"skipped   {status.skipped:,}")
    click.echo(f"failed    {status.failed:,}")
    click.echo(f"on disk   {status.library_bytes / 1e6:,.1f} MB")
    click.echo(f"last run  {status.last_run_at or 'none yet'}")
    for root in status.roots:
        _print_path(b"root      ", root.path, b"" if root.is_online else b"  (not there now)")
    print_failures(failures)
    print_notices(status.notices)
