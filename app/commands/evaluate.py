"""`imago eval`: how good a model is, on pictures whose right answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from app import output
from app.options import FolderPath, json_option, place_option
from app.progress import Moment, display
from indexer import display_path

if TYPE_CHECKING:
    from search.evaluation import RetrievalFigures


@click.command("eval")
@click.argument("folder", type=FolderPath(), required=False)
@click.option(
    "--captions", type=FolderPath(), metavar="FILE", help="TSV, JSON lines or COCO: measure retrieval."
)
@click.option("--split", metavar="NAME", help="Only captions whose split column says this.")
@click.option(
    "--classes", is_flag=True, help="FOLDER holds a folder for each class: measure zero-shot accuracy."
)
@click.option(
    "--index",
    "of_index",
    is_flag=True,
    help="Measure the library's index instead: how much of what is really nearest to texts it finds.",
)
@click.option("--model", default="starter", show_default=True, metavar="M", help="Alias, hub id or folder.")
@place_option
@json_option
def evaluate(
    folder: Path | None,
    captions: Path | None,
    split: str | None,
    classes: bool,
    of_index: bool,
    model: str,
    library_path: Path | str,
    as_json: bool,
) -> None:
    """Measure a model on pictures with captions or on folders of classes, or the index of a library.

    \b
    imago eval FOLDER --captions FILE      recall and median rank, texts to images and back
    imago eval FOLDER --classes            zero-shot accuracy
    imago eval --index [--captions FILE]   recall of the library's index against exact search

    Nothing is changed. Only --index looks at a library.
    """  # noqa: D301  (click wants the character)
    from search import evaluation

    texts = evaluation.read_captions(captions, split) if captions is not None else []
    if of_index:
        if folder is not None or classes:
            raise click.UsageError("--index measures a library: say --library, and no FOLDER")
        _evaluate_index(library_path, [caption.text for caption in texts], as_json=as_json)
        return
    if folder is None:
        raise click.UsageError("say which FOLDER of pictures, or --index")
    if (captions is None) != classes:
        raise click.UsageError("say either --captions FILE or --classes")
    from model import Encoder

    encoder = Encoder.load(model)
    with display() as show:

        def progress(done: int, total: int) -> None:
            show(Moment("Embedding", done, total))

        report: evaluation.RetrievalReport | evaluation.ClassReport
        if captions is not None:
            report = evaluation.evaluate(folder, texts, encoder, progress=progress)
        else:
            report = evaluation.evaluate_classes(folder, encoder, progress=progress)
    if as_json:
        output.print_json(report.as_dict())
        return
    for file, reason in report.failed[: output.FAILURES_SHOWN]:
        click.echo(f"imago: left out {display_path(file)}: {reason}", err=True)
    if len(report.failed) > output.FAILURES_SHOWN:
        click.echo(f"imago: left out {len(report.failed) - output.FAILURES_SHOWN:,} more", err=True)
    if isinstance(report, evaluation.ClassReport):
        click.echo(f"{report.model} on {report.images:,} images of {report.classes:,} classes")
        click.echo(f"accuracy             {report.accuracy:.3f}")
        click.echo(f"mean class accuracy  {report.mean_class_accuracy:.3f}")
        return
    click.echo(f"{report.model} on {report.images:,} images with {report.captions:,} captions")
    click.echo("                 R@1    R@5   R@10  median rank")
    for name, figures in (("text to image", report.text_to_image), ("image to text", report.image_to_text)):
        click.echo(f"{name}  {_row(figures)}")


def _evaluate_index(place: Path | str, texts: list[str], *, as_json: bool) -> None:
    from search import Library, evaluation
    from search.cutoff import NEUTRAL_TEXTS

    with Library.open(place) as library:
        report = evaluation.index_recall(library, texts or NEUTRAL_TEXTS)
    if as_json:
        output.print_json(report.as_dict())
        return
    click.echo(f"{report.images:,} images, {report.model}; {report.queries:,} texts asked")
    click.echo(f"recall at {report.k}  {report.recall:.4f}  of the index against exact search")


def _row(figures: RetrievalFigures) -> str:
    recalls = (figures.recall_at_1, figures.recall_at_5, figures.recall_at_10)
    return "".join(f"{recall:7.3f}" for recall in recalls) + f"{figures.median_rank:13,.0f}"
