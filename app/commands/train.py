"""`imago train`: contrastive training and fine-tuning."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app import output
from app.failures import EXIT_INTERRUPTED
from app.options import FolderPath, json_option
from app.progress import Moment, display, stop_on_signal, time_text
from model.machine import keep_freed_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from model.training import TrainingConfig, TrainingProgress, TrainingSummary


@click.command()
@click.option(
    "--out", "folder", type=FolderPath(), required=True, metavar="FOLDER", help="Where the model goes."
)
@click.option(
    "--data",
    multiple=True,
    type=FolderPath(),
    metavar="SOURCE",
    help="A file of captions, a folder of class folders, Parquet, or WebDataset tars; several are mixed.",
)
@click.option("--images", type=FolderPath(), metavar="DIR", help="Where the files that captions name lie.")
@click.option("--model", "base", metavar="BASE", help="What to start from: alias, hub id or folder.")
@click.option(
    "--config", type=FolderPath(), metavar="FILE", help="All settings, in TOML, instead of the options."
)
@click.option("--data-root", type=FolderPath(), metavar="DIR", help="What paths in --config are relative to.")
@click.option("--lock", type=click.Choice(["vision", "text"]), help="Leave this tower as it is.")
@click.option("--lora", type=click.IntRange(min=1), metavar="RANK", help="Learn low-rank changes only.")
@click.option("--batch-size", type=click.IntRange(min=2), metavar="N")
@click.option(
    "--epochs",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="How often each picture is seen; 10 unless they are few.",
)
@click.option(
    "--max-minutes", type=click.FloatRange(min=0, min_open=True), metavar="N", help="Fit into this time."
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    metavar="X",
    help="At its highest; chosen by the width of the model if not given.",
)
@click.option("--restart", is_flag=True, help="Throw away what an earlier run left in FOLDER.")
@json_option
def train(
    folder: Path,
    restart: bool,
    as_json: bool,
    config: Path | None,
    data_root: Path | None,
    **options: Any,
) -> None:
    """Train or fine-tune a model on pictures with captions, or on folders of classes.

    Stop it with Ctrl-C or by pulling the plug; the same command goes on where it was. The result is a folder
    that --model takes everywhere.
    """
    if importlib.util.find_spec("orbax.checkpoint") is None or importlib.util.find_spec("matplotlib") is None:
        raise click.ClickException("training needs more packages: pip install 'imago-search[train]'")
    keep_freed_memory()
    from model.training import train as run_training  # imports JAX, which keeps what it is given before only

    settings = _settings(config, data_root, **options)
    with stop_on_signal("Stopping after this step") as should_stop, display() as show:
        summary = run_training(
            settings, folder, progress=_shown_by(show), should_stop=should_stop, restart=restart
        )
    if as_json:
        output.print_json(summary.to_dict())
    else:
        _print(summary)
    if not summary.finished:
        raise click.exceptions.Exit(EXIT_INTERRUPTED)


def _settings(config: Path | None, data_root: Path | None, **options: Any) -> TrainingConfig:
    """Read the configuration file, or make settings of the options; both at once would leave doubts."""
    from model.training import config_from_dict, load_config

    given = {name: value for name, value in options.items() if value not in (None, ())}
    if config is not None:
        if given:
            named = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise click.UsageError(f"--config holds all settings; leave {named} out or change the file")
        return load_config(config, data_root=data_root)
    if data_root is not None:
        raise click.UsageError(
            "--data-root is for the paths in --config FILE; write whole paths after --data"
        )
    if "data" not in given or "base" not in given:
        raise click.UsageError("say --data SOURCE and --model BASE, or --config FILE")
    model: dict[str, Any] = {"base": given["base"]}
    if "lock" in given:
        model["lock"] = given["lock"]
    if "lora" in given:
        model["lora"] = {"rank": given["lora"]}
    images = {"images": str(given["images"].absolute())} if "images" in given else {}
    return config_from_dict(
        {
            "data": [{"path": str(path.absolute()), **images} for path in given["data"]],
            "model": model,
            "schedule": {
                name: given[name] for name in ("batch_size", "epochs", "max_minutes") if name in given
            },
            "optimizer": {name: given[name] for name in ("learning_rate",) if name in given},
        }
    )


def _shown_by(show: Callable[[Moment], None]) -> Callable[[TrainingProgress], None]:
    def progress(now: TrainingProgress) -> None:
        if now.notice:
            click.echo(now.notice, err=True)
        for name, scores in (now.scores or {}).items():
            figures = ", ".join(f"{measure} {value:.3f}" for measure, value in scores.items())
            click.echo(f"step {now.step:,}: {name}: {figures}", err=True)
        loss = "" if now.loss is None else f", loss {now.loss:.3f}"
        rate = "" if now.images_per_second is None else f"{now.images_per_second:,.0f} images/s"
        show(Moment(f"Training{loss}", now.step, now.steps, rate, now.seconds_left))

    return progress


def _print(summary: TrainingSummary) -> None:
    how = "Done" if summary.finished else "Stopped"
    click.echo(f"{how} after {time_text(summary.seconds)}, step {summary.step:,} of {summary.steps:,}.")
    if summary.loss is not None:
        click.echo(f"  loss            {summary.loss:.4f}")
    if summary.best_score is not None:
        click.echo(f"  best score      {summary.best_score:.4f} (step {summary.best_step:,})")
    if summary.broken_images:
        click.echo(f"  broken images   {summary.broken_images:,} (left out)")
    if summary.without_text:
        click.echo(f"  without text    {summary.without_text:,} (left out)")
    if summary.finished:
        click.echo(f"Model: {summary.folder}")
        click.echo(f"Next: {output.command_line('index', 'DIR', '--model', str(summary.folder))}")
    else:
        click.echo("The state is saved. Run the same command again to go on.")
