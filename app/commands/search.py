"""Commands that answer: search, similar, duplicates, and queries kept under a name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from app import export, output
from app.options import FolderPath, json_option, place_option
from indexer import display_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from search import Answer, Hit
    from search.ordering import Order

_IMAGE_ID = click.IntRange(1, 2**63 - 1)

FORMATS = ("text", "paths", "json", "jsonl", "csv")


def answer_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what `search` and `similar` have in common: how many hits, and how they are told."""
    options = (
        click.option(
            "-n",
            "count",
            type=click.IntRange(min=1),
            default=20,
            show_default=True,
            metavar="K",
            help="How many hits at most.",
        ),
        place_option,
        click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True),
        click.option("--json", "form", flag_value="json", help="Short for --format json."),
        click.option(
            "-0", "--print0", "nul", is_flag=True, help="Paths only, each ended by NUL, for xargs -0."
        ),
        click.option(
            "--pictures",
            is_flag=True,
            help="Show thumbnails where the terminal can: by kitty's protocol or sixel.",
        ),
        click.option("--copy-to", type=FolderPath(), metavar="DIR", help="Copy the hits into a folder."),
        click.option(
            "--link-to", type=FolderPath(), metavar="DIR", help="Put links to the hits into a folder."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("query")
@answer_options
@click.option("--all", "all_hits", is_flag=True, help="Also what does not look like the query.")
@click.option(
    "--sort", type=click.Choice(["relevance", "date", "name", "size"]), default="relevance", show_default=True
)
@click.option("--reverse", is_flag=True, help="Oldest, smallest or last name first.")
@click.option("--offset", type=click.IntRange(min=0), default=0, metavar="N", help="Skip the first N hits.")
@click.option("--fold", is_flag=True, help="Fold near-duplicates into the best of them.")
@click.option("--why", is_flag=True, help="Tell what each term of the query adds to each hit.")
@click.option(
    "--more-like", type=_IMAGE_ID, multiple=True, metavar="ID", help="Move the query towards this picture."
)
@click.option("--less-like", type=_IMAGE_ID, multiple=True, metavar="ID", help="Move it away from this one.")
@click.option("--allow-urls", is_flag=True, help="Let the query name pictures on the web, and fetch them.")
def search(
    query: str,
    all_hits: bool,
    sort: str,
    reverse: bool,
    offset: int,
    fold: bool,
    why: bool,
    more_like: tuple[int, ...],
    less_like: tuple[int, ...],
    allow_urls: bool,
    count: int,
    library_path: Path | str,
    **presentation: Any,
) -> None:
    """Find the pictures that fit QUERY: words, pictures, filters, in any mixture.

    \b
    imago search "a dog on the beach"
    imago search "beach + sunset - people after:2023"
    imago search '"./my photo.jpg" + night'
    """  # noqa: D301  (click wants the character)
    from search import Library
    from search.fetch import fetch_image

    if reverse and sort == "relevance":
        raise click.UsageError("--reverse needs another order: add --sort date, name or size")
    with Library.open(library_path, fetch=fetch_image if allow_urls else None) as library:
        answer = library.answer(
            query,
            count,
            all_hits=all_hits or None,
            order=cast("Order", sort),
            descending=sort == "name" if reverse else None,
            offset=offset,
            fold=fold,
            explain=why,
            more_like=more_like,
            less_like=less_like,
        )
        notices = library.reader.notices
    columns = [name for name, is_asked in (("folded", fold), ("why", why)) if is_asked]
    _show(answer, notices, query, library_path, columns=columns, **presentation)


@click.command()
@click.argument("image", type=FolderPath())
@answer_options
def similar(image: Path, count: int, library_path: Path | str, **presentation: Any) -> None:
    """Find the pictures that look like IMAGE, a file in the library or anywhere else.

    A picture that is in the library comes first in its own results, with its copies: so "do I have this one?"
    is answered, too.
    """
    from search import Library

    with Library.open(library_path) as library:
        answer = library.answer(image, count)
        notices = library.reader.notices
    _show(answer, notices, str(image), library_path, **presentation)


def _show(
    answer: Answer,
    notices: Sequence[str],
    query: str,
    library_path: Path | str,
    *,
    columns: Sequence[str] = (),
    form: str,
    nul: bool,
    pictures: bool,
    copy_to: Path | None,
    link_to: Path | None,
) -> None:
    output.print_notices(notices)
    hits = answer.hits
    if nul:
        export.write_paths((hit.path for hit in hits), sys.stdout.buffer, nul=True)
    elif form == "paths":
        export.write_paths((hit.path for hit in hits), sys.stdout.buffer)
    elif form == "json":
        output.print_json(output.answer_as_dict(answer, query, library_path))
    elif form == "jsonl":
        export.write_json_lines(map(output.hit_as_dict, hits), sys.stdout.buffer)
    elif form == "csv":
        records = (output.hit_as_dict(hit, with_empty=columns) for hit in hits)
        export.write_csv(records, sys.stdout.buffer)
    elif pictures:
        _show_pictures(hits, library_path)
    else:
        output.print_hits(hits)
    if not hits:
        output.explain_no_hits(answer, library_path)
    for folder, how in ((copy_to, "copy"), (link_to, "symlink")):
        if folder is not None:
            _export(hits, folder, cast("Literal['copy', 'symlink']", how))


def _show_pictures(hits: Sequence[Hit], library_path: Path | str) -> None:
    from app.terminal_pictures import Picture, can_show, print_pictures
    from app.thumbnails import thumbnail
    from indexer.reading import open_reader

    if not can_show():
        output.print_hits(hits)
        return
    with open_reader(library_path) as reader:
        hashes = [record.content_hash for record in reader.images([hit.id for hit in hits])]
    print_pictures(
        Picture(hit.path, hit.score, thumbnail(hit.path, content_hash, library_path))
        for hit, content_hash in zip(hits, hashes, strict=True)
    )


def _export(hits: Sequence[Hit], folder: Path, how: Literal["copy", "symlink"]) -> None:
    try:
        summary = export.put_into_folder((hit.path for hit in hits), folder, how)
    except export.ExportError as error:
        raise click.ClickException(str(error)) from error
    known = f", {summary.already_there:,} were there already" if summary.already_there else ""
    verb = "Copied" if how == "copy" else "Linked"
    click.echo(f"{verb} {summary.written:,} pictures into {display_path(summary.folder)}{known}.", err=True)
    for path, reason in summary.failed:
        click.echo(f"imago: {display_path(path)}: {reason}", err=True)
    if summary.failed and not summary.written and not summary.already_there:
        raise click.exceptions.Exit(1)


@click.command()
@click.option(
    "--kind",
    type=click.Choice(["exact", "near", "similar"]),
    default="near",
    show_default=True,
    help="Same content; the same picture re-encoded, resized or cropped; or alike.",
)
@place_option
@json_option
def duplicates(kind: str, library_path: Path | str, as_json: bool) -> None:
    """List groups of pictures that show the same, the best copy first. Nothing is ever deleted."""
    from search import Library

    with Library.open(library_path) as library:
        groups = library.duplicates(cast("Literal['exact', 'near', 'similar']", kind))
    if as_json:
        output.print_json({"kind": kind, "groups": [output.group_as_dict(group) for group in groups]})
    else:
        output.print_groups(groups)


@click.command()
@click.argument("name")
@click.argument("query")
@click.option("--replace", is_flag=True, help="Replace a query of this name.")
def save(name: str, query: str, replace: bool) -> None:
    """Keep QUERY under NAME; use it as @NAME, alone or inside other queries."""
    from search.saved import SavedQueries

    SavedQueries().save(name, query, replace=replace)
    click.echo(f"Saved. Use it as: {output.command_line('search', '@' + name.removeprefix('@'))}", err=True)


@click.command()
@click.option("--delete", metavar="NAME", help="Forget this query.")
@json_option
def saved(delete: str | None, as_json: bool) -> None:
    """List the queries that were saved, or forget one."""
    from search.saved import SavedQueries

    queries = SavedQueries()
    if delete is not None:
        if not queries.delete(delete):
            raise click.ClickException(f"there is no saved query {delete!r}; `imago saved` lists them")
        return
    if as_json:
        output.print_json({"queries": queries.all()})
        return
    for name, text in queries.all().items():
        click.echo(f"@{name}  {text}")
