"""Thumbnails in the terminal, for `imago search --pictures`.

By kitty's protocol, by sixel (foot, xterm, WezTerm, Windows Terminal, iTerm2 and others), or, where the terminal
knows neither, by half cells of two colours. `textual_image` knows these protocols, but not iTerm2's own; that iTerm2
reads sixel as well makes up for it. The library asks the terminal when it is imported, so it is imported only when
pictures were asked for and there is a terminal to ask.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from PIL import Image
from rich.console import Console
from rich.text import Text

from indexer.paths import display_path

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ROWS = 8
"""Of a terminal's cells: five pictures on a usual screen, each large enough to tell what it shows."""


@dataclass(frozen=True)
class Picture:
    """A hit to be shown.

    Attributes:
        path: What is written below it, made harmless for the terminal.
        score: Written before the path.
        thumbnail: A small picture in any format that Pillow reads, None where there is none.
    """

    path: Path
    score: float
    thumbnail: bytes | None


def can_show() -> bool:
    """Whether people see what is printed: pictures are for terminals, never for files and pipes.

    The keyboard must be a terminal's, too: the terminal says there what it can.
    """
    return all(
        stream is not None and not stream.closed and stream.isatty() for stream in (sys.stdin, sys.stdout)
    )


def print_pictures(pictures: Iterable[Picture]) -> None:
    """Print each picture and below it the line that a hit has without; call it only if `can_show`."""
    from textual_image.renderable import Image as TerminalImage

    console = Console()
    for picture in pictures:
        if picture.thumbnail is None:
            console.print(Text("(the file cannot be read any more)", style="dim"))
        else:
            with Image.open(BytesIO(picture.thumbnail)) as image:
                console.print(TerminalImage(image.convert("RGB"), width="auto", height=ROWS))
        console.print(
            Text(f"{picture.score:.4f}  {display_path(picture.path)}"), soft_wrap=True, highlight=False
        )
