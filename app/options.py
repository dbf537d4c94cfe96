"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from indexer import default_library_path


class FolderPath(click.Path):
    """A path that understands `~` where no shell expanded it, as in `make index DIR=~/Pictures`."""

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
