"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from indexer import default_library_path
from indexer.reading import is_address


class FolderPath(click.Path):
    """A path that understands `~` where no shell expanded it, as in `make index DIR=~/Pictures`."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Path:
        """Return the value as a `Path` with the home folder filled in."""
        path = Path(os.fsdecode(super().convert(value, parameter, context)))
        try:
            return path.expanduser()
        except RuntimeError:
            self.fail(f"{path}: there is no such user's home folder", parameter, context)


class LibraryFolder(FolderPath):
    """The folder of a library, which an address is not."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Path:
        """Return the folder."""
        if is_address(value):
            self.fail(
                f"{value} is the address of a served library; this needs the folder of one that can be written",
                parameter,
                context,
            )
        return super().convert(value, parameter, context)


class LibraryPlace(FolderPath):
    """The folder of a library, or the address of a served one."""

    def convert(  # type: ignore[override]  # click lets a type give whatever it likes
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> Path | str:
        """Return a `Path` or, for an address, its text."""
        return value if is_address(value) else super().convert(value, parameter, context)


library_option = click.option(
    "--library",
    "library_path",
    type=LibraryFolder(),
    envvar="IMAGO_LIBRARY",
    show_envvar=True,
    default=default_library_path,
    show_default="your data folder",
    help="Folder that holds the library.",
)
place_option = click.option(
    "--library",
    "library_path",
    type=LibraryPlace(),
    envvar="IMAGO_LIBRARY",
    show_envvar=True,
    default=default_library_path,
    show_default="your data folder",
    help="Folder that holds the library, or milvus://HOST:PORT/COLLECTION.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
