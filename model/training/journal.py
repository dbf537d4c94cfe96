"""The log of a run: JSON lines, one event each, and the truth about its past.

Events: `start` (once per process), `step`, `validation`, `broken_image`, `diverged`, `end`. When a run goes on
from a checkpoint, what was logged after that checkpoint is taken back first, since it will happen again.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class Journal:
    """Appends events to a file, and remembers them."""

    def __init__(self, path: Path, *, resume_step: int) -> None:
        """Open a log, keeping of an existing one what lies before a step.

        Args:
            path: of the file.
            resume_step: events of later steps are taken back; 0 takes all back.
        """
        self._path = path
        self.events: list[dict[str, Any]] = []
        if path.is_file() and resume_step > 0:
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # the line at which the process was killed
                if event.get("step", 0) <= resume_step and event.get("event") != "end":
                    self.events.append(event)
        path.write_text("".join(f"{json.dumps(event)}\n" for event in self.events), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def write(self, event: str, **values: Any) -> None:
        """Add one event; with the system when this returns, so that it survives this process."""
        record = {"event": event, **values}
        self.events.append(record)
        self._file.write(f"{json.dumps(record)}\n")
        self._file.flush()

    def of(self, event: str) -> list[dict[str, Any]]:
        """All events of one kind, in order."""
        return [record for record in self.events if record["event"] == event]
