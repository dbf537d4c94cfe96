"""The process that indexes while the browser app goes on answering.

A process and not a thread: decoding and embedding take all cores for hours, their memory goes back when they
end, and whatever kills them leaves the page standing. It reads what to do as one line of JSON from its input and
writes lines of JSON: `progress`, `notice`, and at the end `summary`, `prediction` or `error`. When its input ends,
because somebody pressed pause or the server is gone, it finishes the pictures in hand and ends.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from app.failures import explain
from app.model_choice import model_for, status_of
from indexer import IndexProgress, index_folders, predict_model_change


def main() -> None:
    """Index what the first line of the input says."""
    task = json.loads(sys.stdin.readline())
    is_stopping = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        is_stopping.set()
        if task["only_predict"]:
            os._exit(0)  # a prediction leaves nothing behind, and cannot be asked to stop

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    try:
        run(task, is_stopping)
    except Exception as error:  # noqa: BLE001 told on the page
        tell("error", explain(error) or f"this is a defect in Imago: {type(error).__name__}: {error}")


def run(task: dict[str, Any], is_stopping: threading.Event) -> None:
    """Index, or only predict what a change of model will take, and tell how it goes."""
    from model import Encoder

    library = Path(task["library"])
    name = task["model"] or model_for(status_of(library), notify=lambda line: tell("notice", line))
    encoder = Encoder.load(name)
    if task["only_predict"]:
        prediction = predict_model_change(library, encoder)
        tell(
            "prediction",
            {
                "model": encoder.identity.name,
                "is_change": prediction is not None,
                "images": 0 if prediction is None else prediction.images,
                "seconds": None if prediction is None else prediction.seconds,
                "bytes_needed": 0 if prediction is None else prediction.bytes_needed,
            },
        )
        return
    summary = index_folders(
        library,
        [Path(folder) for folder in task["folders"]],
        encoder,
        progress=lambda progress: tell("progress", dataclasses.asdict(progress)),
        should_stop=is_stopping.is_set,
        retry_failed=task["retry_failed"],
        change_model=task["change_model"],
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


def tell(kind: str, value: IndexProgress | object) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps({kind: value}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
