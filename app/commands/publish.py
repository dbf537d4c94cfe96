"""`imago publish`: fills a served collection from a library, or brings it up to date."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from app import output
from app.failures import EXIT_INTERRUPTED
from app.options import FolderPath, json_option, library_option
from app.progress import Moment, display, stop_on_signal


@click.command()
@click.option(
    "--to",
    "address",
    required=True,
    metavar="ADDRESS",
    help="milvus://HOST:PORT/COLLECTION; see docs/cluster.md.",
)
@click.option(
    "--index",
    type=click.Choice(["hnsw", "ivf_sq8", "flat"]),
    default="hnsw",
    show_default=True,
    help="The server's index: fast, small, or exact.",
)
@click.option("--shards", type=click.IntRange(1, 64), default=1, show_default=True, help="When it is made.")
@click.option(
    "--replicas", type=click.IntRange(1, 64), default=1, show_default=True, help="Copies in memory."
)
@click.option(
    "--token-file", type=FolderPath(), metavar="FILE", help="Holds the token. [or IMAGO_MILVUS_TOKEN]"
)
@library_option
@json_option
def publish(
    address: str,
    index: str,
    shards: int,
    replicas: int,
    token_file: Path | None,
    library_path: Path,
    as_json: bool,
) -> None:
    """Fill a collection on a Milvus server from the library, or bring it up to date.

    Only what changed since the last time travels. Stop it with Ctrl-C at any time; the next run goes on from
    there. Then search it with --library ADDRESS.
    """
    from indexer.cluster.publishing import publish as publish_library

    with stop_on_signal("Stopping after the rows in hand") as should_stop, display() as show:
        summary = publish_library(
            library_path,
            address,
            index=index,
            shards=shards,
            replicas=replicas,
            token_file=token_file,
            progress=lambda done, total: show(Moment("Publishing", done, total)),
            should_stop=should_stop,
        )
    if as_json:
        output.print_json(asdict(summary))
    else:
        output.print_notices(summary.notices)
        click.echo(
            f"{summary.images:,} pictures in {summary.place}: {summary.written:,} written, {summary.deleted:,} taken"
            f" out, {summary.unchanged:,} as they were."
        )
        if not summary.interrupted:
            click.echo(f"Next: {output.command_line('search', 'a dog', library_path=summary.place)}")
    if summary.interrupted:
        click.echo("Stopped. The same command goes on from there.", err=True)
        raise click.exceptions.Exit(EXIT_INTERRUPTED)
