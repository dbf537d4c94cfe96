"""The command line: `imago index | search | similar | status | app`.

Results go to stdout, everything else to stderr. Commands import what they need when they run, so that
`--help` and a search stay fast.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app import output
from app.failures import EXIT_FAILED, EXIT_INTERRUPTED
from indexer import default_library_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from search import Hit, Library


class FolderPath(click.Path):
    """A path that understands `~` where no shell expanded it, as in `make index DIR=~/Pictures`."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Path:
        """Return the value as a `Path` with the home folder filled in."""
        path = Path(os.fsdecode(super().convert(value, parameter, context)))
        try:
            return path.expanduser()
        except RuntimeError:
            self.fail(f"{path}: there is no such user's home folder", parameter, context)


library_option = click.option(
    "--library",
    "library_path",
    type=FolderPath(),
    envvar="IMAGO_LIBRARY",
    show_envvar=True,
    default=default_library_path,
    show_default="your data folder",
    help="Folder that holds the library.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
count_option = click.option(
    "-n",
    "count",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    metavar="K",
    help="How many hits.",
)


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: imago index ~/Pictures",
)
@click.version_option(package_name="imago-search", prog_name="imago")
def imago() -> None:
    """Find pictures by what they show: index folders once, then search by words or by picture."""


@imago.command()
@click.argument("folders", type=FolderPath(), nargs=-1, required=True, metavar="DIR...")
@click.option(
    "--model", metavar="M", help="Alias, hub id or folder of the model.  [default: the library's own]"
)
@click.option("--retry-failed", is_flag=True, help="Try again the files that failed before, changed or not.")
@library_option
@json_option
def index(
    folders: tuple[Path, ...], model: str | None, retry_failed: bool, library_path: Path, as_json: bool
) -> None:
    """Index the pictures of folders, or bring their index up to date.

    Only new and changed pictures are embedded. Stop it with Ctrl-C at any time; the next run goes on from
    there.
    """
    from app.indexing import run_index

    summary, model_name = run_index(library_path, folders, model=model, retry_failed=retry_failed)
    if as_json:
        output.print_json(output.summary_as_dict(summary, model_name))
    else:
        is_default = library_path == default_library_path()
        output.print_summary(summary, model_name, is_default_library=is_default)
    if summary.interrupted:
        raise click.exceptions.Exit(EXIT_INTERRUPTED)
    if summary.failed and not (summary.indexed or summary.unchanged or summary.moved or summary.restored):
        raise click.exceptions.Exit(EXIT_FAILED)


@imago.command()
@click.argument("query")
@count_option
@library_option
@json_option
def search(query: str, count: int, library_path: Path, as_json: bool) -> None:
    """Find the pictures that show what QUERY says."""
    _answer(library_path, lambda library: library.search(query, k=count), as_json=as_json, query=query)


@imago.command()
@click.argument("image", type=FolderPath())
@count_option
@library_option
@json_option
def similar(image: Path, count: int, library_path: Path, as_json: bool) -> None:
    """Find the pictures that look like IMAGE, a file in the library or anywhere else.

    A picture that is in the library comes first in its own results, with its copies: so "do I have this one?"
    is answered, too.
    """
    _answer(library_path, lambda library: library.search(image, k=count), as_json=as_json, query=str(image))


def _answer(library_path: Path, ask: Callable[[Library], list[Hit]], *, as_json: bool, query: str) -> None:
    from search import Library

    with Library.open(library_path) as library:
        hits = ask(library)
        output.print_notices(library.reader.notices)
    if as_json:
        output.print_json(
            {"query": query, "library": str(library_path), "hits": [output.hit_as_dict(hit) for hit in hits]}
        )
    else:
        output.print_hits(hits)


@imago.command()
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


@imago.command()
@click.option("--port", type=click.IntRange(1, 65535), default=8501, show_default=True)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; others can see it if changed.",
)
@click.option("--browser/--no-browser", default=True, show_default=True, help="Open a browser window.")
@library_option
def app(port: int, host: str, browser: bool, library_path: Path) -> None:
    """Open the search page in a browser."""
    from app.browser.server import serve

    serve(library_path, host=host, port=port, open_browser=browser)
