"""The process that lays out the map of a library while the browser app goes on answering.

A process and not a thread, for the same reasons as indexing: it takes all cores for minutes and much memory, which
goes back when it ends. It reads which library as one line of JSON from its input, writes lines of JSON (`progress`,
and at the end `done` or `error`), and ends when its input does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from app.failures import explain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from search import Library

_GENTLE = 10
"""Of `nice`: nobody waits for a map as they wait for an answer."""


def main() -> None:
    """Lay out the library that the first line of the input names."""
    task = json.loads(sys.stdin.readline())

    def end_with_the_server() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=end_with_the_server, daemon=True).start()
    with suppress(AttributeError, OSError):
        os.nice(_GENTLE)
    try:
        make(task["library"])
    except Exception as error:  # noqa: BLE001 told on the page
        tell("error", explain(error) or f"this is a defect in Imago: {type(error).__name__}: {error}")


def make(path: Path | str) -> None:
    """Make the layout of a library and keep it."""
    from search import Library
    from search.layout import keep, lay_out

    with Library.open(path) as library:
        made = lay_out(
            library.reader,
            text_tower(library),
            progress=lambda step, share: tell("progress", {"step": step, "share": share}),
        )
        keep(library.reader, made)
    tell("done", made.name)


def text_tower(library: Library) -> Callable[[Sequence[str]], NDArray[np.float32]] | None:
    """Return what embeds texts; None if the model is not to be had now: a map without names is better than none."""
    try:
        library.encoder.encode_texts(["a word"])
    except Exception:  # noqa: BLE001 whatever keeps it from loading is told where it is needed, in a search
        return None
    return library.encoder.encode_texts


def tell(kind: str, value: Any) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps({kind: value}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
