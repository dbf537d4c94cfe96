"""`imago index --ray ADDRESS --out PLACE`: embeds without a library, into Parquet or a served collection."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from app import output
from app.failures import EXIT_FAILED, EXIT_INTERRUPTED
from app.progress import display, stop_on_signal
from indexer import display_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from app.progress import Moment
    from indexer import IndexProgress
    from indexer.cluster.job import JobSummary, Sink
    from indexer.decode import DecodeLimits
    from model import Encoder


def loader(name: str, precision: str | None) -> Callable[[], Encoder]:
    """Return what loads the model on another machine."""
    return partial(_load, name, precision)


def embed_into(
    place: str,
    places: Sequence[str],
    encoder: Encoder,
    *,
    ray: str,
    cores: int,
    precision: str | None,
    limits: DecodeLimits,
    moment: Callable[[IndexProgress], Moment],
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Run the job, tell how it went, and leave with the exit code that says so."""
    from indexer.cluster.job import run_job

    with stop_on_signal("Stopping after the pictures in hand") as should_stop, display() as show:
        summary = run_job(
            places,
            _sink(place, places, encoder, token_file),
            ray,
            load=loader(encoder.identity.name, precision),
            encoder=encoder,
            limits=limits,
            cores=cores,
            progress=lambda progress: show(moment(progress)),
            should_stop=should_stop,
        )
    if as_json:
        output.print_json(_as_dict(summary))
    else:
        output.print_notices(summary.notices)
        for failure in summary.failed[: output.FAILURES_SHOWN]:
            click.echo(f"imago: {display_path(failure.path)}: {failure.reason}", err=True)
        if len(summary.failed) > output.FAILURES_SHOWN:
            click.echo(f"imago: and {len(summary.failed) - output.FAILURES_SHOWN:,} more", err=True)
        deaths = f"; {summary.worker_deaths:,} workers died meanwhile" if summary.worker_deaths else ""
        click.echo(
            f"{summary.embedded:,} pictures embedded into {summary.place}, {summary.unchanged:,} were there,"
            f" {len(summary.failed):,} failed, {summary.skipped:,} hold no picture{deaths}."
        )
    if summary.interrupted:
        click.echo("Stopped. The same command goes on from there.", err=True)
        raise click.exceptions.Exit(EXIT_INTERRUPTED)
    if summary.failed and not (summary.embedded or summary.unchanged):
        raise click.exceptions.Exit(EXIT_FAILED)


def _sink(place: str, places: Sequence[str], encoder: Encoder, token_file: Path | None) -> Sink:
    from indexer.reading import is_address

    if is_address(place):
        from indexer.cluster.address import MilvusAddress, token
        from indexer.cluster.milvus_sink import MilvusSink

        return MilvusSink(MilvusAddress.parse(place), token(token_file), encoder.identity, places)
    from indexer.cluster.parquet import ParquetSink

    return ParquetSink(place, encoder.identity)


def _load(name: str, precision: str | None) -> Encoder:
    from model import Encoder

    return Encoder.load(name, precision=precision)


def _as_dict(summary: JobSummary) -> dict[str, Any]:
    failed = [{"path": display_path(failure.path), "reason": failure.reason} for failure in summary.failed]
    return asdict(summary) | {"failed": failed}
