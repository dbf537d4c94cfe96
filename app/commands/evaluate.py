"""`imago eval`: how good a model is, on pictures whose right answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from app import output
from app.options import FolderPath, json_option
from app.progress import Moment, display

if TYPE_CHECKING:
    from search.evaluation import RetrievalFigures

FAILURES_SHOWN = 10


@click.command("eval")
@click.argument("folder", type=FolderPath())
@click.option(
    "--captions", type=FolderPath(), metavar="FILE", help="TSV, JSON lines or COCO: measure retrieval."
)
@click.option("--split", metavar="NAME", help="Only captions whose split column says this.")
@click.option(
    "--classes", is_flag=True, help="FOLDER holds a folder for each class: measure zero-shot accuracy."
)
@click.option("--model", default="starter", show_default=True, metavar="M", help="Alias, hub id or folder.")
@json_option
def evaluate(
    folder: Path, captions: Path | None, split: str | None, classes: bool, model: str, as_json: bool
) -> None:
    """Measure a model on pictures with captions, or on folders of classes.

    No library is needed, and none is changed.
    """
    from model import Encoder
    from search import evaluation

    if (captions is None) != classes:
        raise click.UsageError("say either --captions FILE or --classes")
    encoder = Encoder.load(model)
    with display() as show:

        def progress(done: int, total: int) -> None:
            show(Moment("Embedding", done, total))

        report: evaluation.RetrievalReport | evaluation.ClassReport
        if captions is not None:
            pairs = evaluation.read_captions(captions, split)
            report = evaluation.evaluate(folder, pairs, encoder, progress=progress)
        else:
            report = evaluation.evaluate_classes(folder, encoder, progress=progress)
    if as_json:
        output.print_json(report.as_dict())
        return
    for file, reason in report.failed[:FAILURES_SHOWN]:
        click.echo(f"imago: left out {file}: {reason}", err=True)
    if len(report.failed) > FAILURES_SHOWN:
        click.echo(f"imago: left out {len(report.failed) - FAILURES_SHOWN:,} more", err=True)
    if isinstance(report, evaluation.ClassReport):
        click.echo(f"{report.model} on {report.images:,} images of {report.classes:,} classes")
        click.echo(f"accuracy             {report.accuracy:.3f}")
        click.echo(f"mean class accuracy  {report.mean_class_accuracy:.3f}")
        return
    click.echo(f"{report.model} on {report.images:,} images with {report.captions:,} captions")
    click.echo("                 R@1    R@5   R@10  median rank")
    for name, figures in (("text to image", report.text_to_image), ("image to text", report.image_to_text)):
        click.echo(f"{name}  {_row(figures)}")


def _row(figures: RetrievalFigures) -> str:
    recalls = (figures.recall_at_1, figures.recall_at_5, figures.recall_at_10)
    return "".join(f"{recall:7.3f}" for recall in recalls) + f"{figures.median_rank:13,.0f}"
