"""The process that indexes while the browser app goes on answering.

A process and not a thread: decoding and embedding take all cores for hours, their memory goes back when they
end, and whatever kills them leaves the page standing. It reads what to do as one line of JSON from its input and
writes lines of JSON: `progress`, `notice`, and at the end `summary` or `error`. When its input ends, because
somebody pressed pause or the server is gone, it finishes the pictures in hand and ends.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
from pathlib import Path
from typing import Any

from app.failures import explain
from indexer import IndexProgress, LibraryReader, index_folders
from indexer.errors import LibraryNotFoundError


def main() -> None:
    """Index what the first line of the input says."""
    task = json.loads(sys.stdin.readline())
    is_stopping = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        is_stopping.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    try:
        run(task, is_stopping)
    except Exception as error:  # noqa: BLE001 told on the page
        tell("error", explain(error) or f"this is a defect in Imago: {type(error).__name__}: {error}")


def run(task: dict[str, Any], is_stopping: threading.Event) -> None:
    """Index, and tell how it goes."""
    from model import Encoder

    library = Path(task["library"])
    encoder = Encoder.load(task["model"] or _model_of(library))
    summary = index_folders(
        library,
        [Path(folder) for folder in task["folders"]],
        encoder,
        progress=lambda progress: tell("progress", dataclasses.asdict(progress)),
        should_stop=is_stopping.is_set,
        retry_failed=task["retry_failed"],
    )
    tell(
        "summary",
        {
            "indexed": summary.indexed,
            "unchanged": summary.unchanged,
            "moved": summary.moved,
            "restored": summary.restored,
            "removed": summary.removed,
            "skipped": summary.skipped,
            "failed": len(summary.failed),
            "interrupted": summary.interrupted,
            "seconds": summary.seconds,
        },
    )
    for notice in summary.notices:
        tell("notice", notice)


def _model_of(library: Path) -> str:
    try:
        with LibraryReader.open(library) as reader:
            if reader.model is not None:
                return reader.model.name
    except LibraryNotFoundError:
        pass
    from model.registry import resolve_default

    return resolve_default(notify=lambda line: tell("notice", line))


def tell(kind: str, value: IndexProgress | object) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps({kind: value}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
