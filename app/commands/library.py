"""Commands about a library itself: what it holds, which folders, and letting go of them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app import output
from app.failures import EXIT_FAILED
from app.options import FolderPath, json_option, library_option, place_option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@click.command()
@place_option
@json_option
def status(library_path: Path | str, as_json: bool) -> None:
    """Tell what the library holds, with which model, and what failed."""
    from indexer.reading import open_reader

    with open_reader(library_path) as reader:
        library_status, failures = reader.status(), reader.failures()
    if as_json:
        output.print_json(output.status_as_dict(library_status, failures))
    else:
        output.print_status(library_status, failures)


@click.command()
@place_option
@json_option
def roots(library_path: Path | str, as_json: bool) -> None:
    """List the folders that the library looks after.

    A folder that is not there now, such as one on a disk that is unplugged, keeps its pictures.
    """
    from indexer.reading import open_reader

    with open_reader(library_path) as reader:
        found = reader.roots()
    if as_json:
        output.print_json({"roots": [output.root_as_dict(root) for root in found]})
    else:
        output.print_roots(found)


@click.command()
@click.argument("path", type=FolderPath())
@library_option
@json_option
def forget(path: Path, library_path: Path, as_json: bool) -> None:
    """Take a folder or a picture out of the library. No picture is ever deleted from the disk."""
    from indexer import forget as forget_path

    summary = forget_path(library_path, path)
    if as_json:
        output.print_json(
            {
                "files": summary.files,
                "images": len(summary.image_ids),
                "will_return": summary.will_return,
                "notices": summary.notices,
            }
        )
        return
    click.echo(
        f"Forgot {summary.files:,} files, {len(summary.image_ids):,} pictures. The files themselves stay."
    )
    if summary.will_return:
        click.echo("They lie in a folder of the library, so the next `imago index` finds them again.")
    output.print_notices(summary.notices)


@click.command()
@click.option(
    "--recover", "new_library", type=FolderPath(), metavar="NEW", help="Save what can be read into NEW."
)
@place_option
@json_option
def doctor(new_library: Path | None, library_path: Path | str, as_json: bool) -> None:
    """Examine the library: do catalog, vectors, index and files agree, and how fast and exact is it?

    Each problem comes with the command that mends it. A damaged catalog is never changed: --recover reads what
    can be read of it into a new library.
    """
    from indexer import examine, recover
    from indexer.reading import is_address

    if new_library is not None:
        if is_address(library_path):
            raise click.UsageError(
                "--recover saves the catalog of a folder; fill a collection with imago publish"
            )
        recovery = recover(library_path, new_library)
        if as_json:
            output.print_json(asdict(recovery) | {"library_path": str(recovery.library_path)})
            return
        click.echo(
            f"Saved {recovery.images:,} pictures in {recovery.files:,} files, {recovery.vectors:,} vectors."
        )
        for loss in recovery.lost:
            click.echo(f"  lost: {loss}")
        click.echo(f"Next: {output.command_line('index', library_path=recovery.library_path)}")
        return
    if is_address(library_path):
        from indexer.cluster.measure import examine_served

        findings = examine_served(str(library_path), _text_queries(library_path))
    else:
        findings = examine(library_path, _text_queries(library_path))
    if as_json:
        output.print_json({"findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            click.echo(f"{'PROBLEM' if finding.is_problem else 'ok':<8} {finding.name}: {finding.message}")
            if finding.remedy:
                click.echo(f"{'':<9}{finding.remedy}")
    if any(finding.is_problem for finding in findings):
        raise click.exceptions.Exit(EXIT_FAILED)


def _text_queries(library_path: Path | str) -> NDArray[np.float32] | None:
    """Words to measure with, embedded; None where the library or its model cannot be had."""
    from indexer.errors import LibraryError
    from model.errors import ModelError
    from search import Library, QueryError
    from search.cutoff import NEUTRAL_TEXTS

    try:
        with Library.open(library_path) as library:
            return library.encoder.encode_texts(NEUTRAL_TEXTS[:32])
    except (LibraryError, ModelError, QueryError):
        return None
