"""`imago index`: choosing the model, asking before it is changed, the progress bar, Ctrl-C, and the run itself."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app import output
from app.commands.job import embed_into, loader
from app.failures import EXIT_FAILED, EXIT_INTERRUPTED
from app.model_choice import model_for, status_of
from app.options import FolderPath, LibraryPlace, json_option, library_option
from app.progress import Moment, display, stop_on_signal, time_text
from indexer import display_path
from indexer.reading import is_address

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from indexer import IndexProgress, IndexSummary, LibraryStatus
    from model import Encoder


@click.command()
@click.argument("folders", type=LibraryPlace(), nargs=-1, metavar="[DIR]...")
@click.option(
    "--model", metavar="M", help="Alias, hub id or folder of the model.  [default: the library's own]"
)
@click.option("--yes", is_flag=True, help="Do not ask before the library is moved to another model.")
@click.option("--retry-failed", is_flag=True, help="Try again the files that failed before, changed or not.")
@click.option(
    "--max-megapixels",
    type=click.IntRange(min=1),
    metavar="N",
    help="Refuse larger pictures, counted as they must be decoded.  [default: 150]",
)
@click.option(
    "--precision",
    type=click.Choice(("auto", "float32", "bfloat16", "float16", "int8")),
    envvar="IMAGO_PRECISION",
    show_envvar=True,
    help="In which numbers the model multiplies.  [default: what this machine does best]",
)
@click.option(
    "--ann/--no-ann",
    "approximate",
    default=None,
    help="Answer through an approximate index from now on, or exactly.  [default: as large a library needs]",
)
@click.option(
    "--ray", metavar="ADDRESS", help="Embed on a Ray cluster: HOST:PORT, auto or local; see docs/cluster.md."
)
@click.option(
    "--ray-cores", type=click.IntRange(1, 256), default=2, help="Cores for each worker.  [default: 2]"
)
@click.option(
    "--out", metavar="PLACE", help="With --ray, instead of a library: a folder for Parquet, or milvus://..."
)
@click.option(
    "--token-file", type=FolderPath(), metavar="FILE", help="For --out milvus://. [or IMAGO_MILVUS_TOKEN]"
)
@click.option("--profile", is_flag=True, help="Tell at the end where the time went.")
@click.option("--watch", is_flag=True, help="Go on, and index whatever changes, until Ctrl-C.")
@library_option
@json_option
def index(
    folders: tuple[Path | str, ...],
    model: str | None,
    yes: bool,
    retry_failed: bool,
    max_megapixels: int | None,
    precision: str | None,
    approximate: bool | None,
    ray: str | None,
    ray_cores: int,
    out: str | None,
    token_file: Path | None,
    profile: bool,
    watch: bool,
    library_path: Path,
    as_json: bool,
) -> None:
    """Index the pictures of folders, or bring their index up to date.

    Without a DIR, all folders that the library knows are brought up to date. Only new and changed pictures are
    embedded. Stop it with Ctrl-C at any time; the next run goes on from there.
    """
    from indexer import DecodeLimits, index_folders
    from indexer.pipeline import check_folders
    from model import Encoder

    limits = DecodeLimits(max_pixels=max_megapixels * 1_000_000) if max_megapixels else DecodeLimits()
    if out is not None:
        _check_job(folders, ray, watch=watch)
        encoder = Encoder.load(
            model or model_for(None, notify=lambda line: click.echo(line, err=True)), precision=precision
        )
        embed_into(
            out,
            list(map(str, folders)),
            encoder,
            ray=str(ray),
            cores=ray_cores,
            precision=precision,
            limits=limits,
            moment=_moment,
            token_file=token_file,
            as_json=as_json,
        )
        return
    if ray is not None and watch:
        raise click.UsageError("--watch works on this machine only; leave --ray out")
    if any(map(is_address, folders)):
        raise click.UsageError(
            "a library keeps pictures of folders; embed those of a store with --ray and --out"
        )
    # Before the model is chosen: nobody wants to fetch one for a folder that is misspelt.
    check_folders(library_path, [os.path.realpath(folder) for folder in folders])
    status = status_of(library_path)
    name = model or model_for(status, notify=lambda line: click.echo(line, err=True))
    encoder = Encoder.load(name, precision=precision)
    changes_model = _agree_on_change(library_path, status, encoder, is_agreed=yes)
    options: dict[str, Any] = {
        "retry_failed": retry_failed,
        "change_model": changes_model,
        "approximate": approximate,
        "text_vectors": lambda: _embed_neutral_texts(encoder),
        "limits": limits,
    }
    if ray is not None:
        from indexer.cluster.embedding import RayEmbedding

        options["elsewhere"] = RayEmbedding(ray, loader(name, precision), cores=ray_cores)
    if watch:
        _watch(library_path, folders, encoder, options, as_json=as_json)
        return
    with stop_on_signal("Stopping after the pictures in hand") as should_stop, display() as show:
        summary = index_folders(
            library_path,
            folders,
            encoder,
            progress=lambda progress: show(_moment(progress)),
            should_stop=should_stop,
            **options,
        )
    model_name = encoder.identity.name
    if as_json:
        output.print_json(output.summary_as_dict(summary, model_name))
    else:
        output.print_summary(summary, model_name)
        if profile:
            output.print_profile(summary)
    if summary.interrupted:
        raise click.exceptions.Exit(EXIT_INTERRUPTED)
    if summary.failed and not (summary.indexed or summary.unchanged or summary.moved or summary.restored):
        raise click.exceptions.Exit(EXIT_FAILED)


def _check_job(folders: tuple[Path | str, ...], ray: str | None, *, watch: bool) -> None:
    if ray is None:
        raise click.UsageError("--out goes with --ray ADDRESS; `--ray local` takes this machine alone")
    if watch:
        raise click.UsageError("--watch works with a library only; leave --out out")
    if not folders:
        raise click.UsageError("name the folders, or the places in a store, that are to be embedded")


def _watch(
    library_path: Path,
    folders: tuple[Path | str, ...],
    encoder: Encoder,
    options: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    """Keep the library up to date until Ctrl-C, with a line (of JSON, if asked for) for each run."""
    from indexer import watch_folders

    def tell(summary: IndexSummary) -> None:
        if as_json:
            click.echo(json.dumps(output.summary_as_dict(summary, encoder.identity.name)))
            return
        counts = {name: getattr(summary, name) for name in ("indexed", "moved", "restored", "removed")}
        counts["failed"] = sum(failure.is_new for failure in summary.failed)
        changes = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
        click.echo(f"{time.strftime('%H:%M:%S')}  {changes or 'nothing new'}")

    click.echo("Watching; Ctrl-C ends it.", err=True)
    with stop_on_signal("Stopping after the pictures in hand") as should_stop:
        watch_folders(
            library_path,
            folders,
            encoder,
            should_stop=should_stop,
            on_summary=tell,
            on_notice=lambda notice: click.echo(f"imago: {notice}", err=True),
            **options,
        )


def _agree_on_change(
    library_path: Path, status: LibraryStatus | None, encoder: Encoder, *, is_agreed: bool
) -> bool:
    """Tell what moving a library to another model costs, and ask; False where the model stays the same."""
    from indexer import predict_model_change

    if status is None or status.model is None or status.model.is_same_model(encoder.identity):
        return False
    if status.next_model is not None and status.next_model.is_same_model(encoder.identity):
        click.echo(f"Going on with the move to {encoder.identity.name}.", err=True)
        return True
    prediction = predict_model_change(library_path, encoder)
    if prediction is None:
        return False
    time_left = "" if prediction.seconds is None else f" about {time_text(prediction.seconds)} and"
    click.echo(
        f"{display_path(library_path)} holds vectors of {prediction.from_model.name}. Moving its "
        f"{prediction.images:,} pictures to {encoder.identity.name} takes{time_left} "
        f"{prediction.bytes_needed / 1e6:,.0f} MB. Until it is done, searches answer as before, without "
        "pictures that are new; it can be stopped and goes on later.",
        err=True,
    )
    if is_agreed:
        return True
    if not sys.stdin.isatty():
        raise click.ClickException(
            f"nothing was changed. To move the library to {encoder.identity.name}, say the same with --yes; to "
            "keep its model, leave --model out; to have both, name another library with --library"
        )
    click.confirm("Move it?", abort=True, err=True)
    return True


def _embed_neutral_texts(encoder: Encoder) -> NDArray[np.float32]:
    """Words that suit any library, to measure an approximate index with."""
    from search.cutoff import NEUTRAL_TEXTS

    return encoder.encode_texts(NEUTRAL_TEXTS)


def _moment(progress: IndexProgress) -> Moment:
    if progress.phase == "scanning":
        return Moment(f"Scanning, {progress.scanned:,} files", 0)
    failed = f" ({progress.failed:,} failed)" if progress.failed else ""
    return Moment(
        f"{progress.phase.capitalize()}{failed}",
        progress.done,
        progress.total,
        f"{progress.images_per_second:,.1f} images/s" if progress.images_per_second else "",
        progress.seconds_left,
    )
