"""Commands about a library itself: what it holds, which folders, and letting go of them."""

from __future__ import annotations

from pathlib import Path

import click

from app import output
from app.options import FolderPath, json_option, library_option


@click.command()
@library_option
@json_option
def status(library_path: Path, as_json: bool) -> None:
    """Tell what the library holds, with which model, and what failed."""
    from indexer import LibraryReader

    with LibraryReader.open(library_path) as reader:
        library_status, failures = reader.status(), reader.failures()
    if as_json:
        output.print_json(output.status_as_dict(library_status, failures))
    else:
        output.print_status(library_status, failures)


@click.command()
@library_option
@json_option
def roots(library_path: Path, as_json: bool) -> None:
    """List the folders that the library looks after.

    A folder that is not there now, such as one on a disk that is unplugged, keeps its pictures.
    """
    from indexer import LibraryReader

    with LibraryReader.open(library_path) as reader:
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
            {"files": summary.files, "images": len(summary.image_ids), "will_return": summary.will_return}
        )
        return
    click.echo(
        f"Forgot {summary.files:,} files, {len(summary.image_ids):,} pictures. The files themselves stay."
    )
    if summary.will_return:
        click.echo("They lie in a folder of the library, so the next `imago index` finds them again.")
