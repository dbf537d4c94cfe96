"""The one indexing run that the browser app may have: started, watched, paused and gone on with from its pages."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from indexer import IndexProgress

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DIED = "The indexing process ended without a word; the terminal that runs Imago may say more. What was done is saved."


class AlreadyIndexingError(Exception):
    """A run is under way; there is only one at a time."""


@dataclass(frozen=True)
class JobState:
    """How the run stands.

    Attributes:
        library_path: Which library it writes.
        folders: What it indexes; empty for all that the library knows.
        is_running: Whether its process is there.
        is_stopping: Whether it was told to pause and finishes the pictures in hand.
        model: The model that it was told to take, None for the library's own.
        changes_model: Whether it moves the library to that model.
        only_predicts: Whether it only finds out what moving the library would take.
        progress: The last progress; None before the first.
        notices: Sentences that people should read.
        summary: What it did, by name; None while it runs.
        prediction: What moving the library will take, by name: `model`, `is_change` (False if the library is that
            model's already), `images`, `seconds` (None if unknown), `bytes_needed`.
        error: Why it failed; None if it did not.
    """

    library_path: Path
    folders: tuple[Path, ...]
    is_running: bool = True
    is_stopping: bool = False
    model: str | None = None
    changes_model: bool = False
    only_predicts: bool = False
    progress: IndexProgress | None = None
    notices: tuple[str, ...] = ()
    summary: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None
    error: str | None = None


class IndexingJob:
    """At most one run at a time; its last state stays to be looked at. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state: JobState | None = None
        self._process: subprocess.Popen[str] | None = None
        self._watcher: threading.Thread | None = None

    @property
    def state(self) -> JobState | None:
        """How the last run stands, None if there was none yet."""
        return self._state

    def start(
        self,
        library_path: Path,
        folders: Sequence[Path],
        *,
        model: str | None = None,
        retry_failed: bool = False,
        change_model: bool = False,
        only_predict: bool = False,
    ) -> None:
        """Start a run.

        Args:
            library_path: The library, made where there is none.
            folders: What to look at; none means all that the library knows.
            model: Alias, hub id or folder; the library's own or the default if None.
            retry_failed: Whether to try failed files again that have not changed.
            change_model: Whether to move the library to `model`.
            only_predict: Whether only to find out what that would take; nothing is written then.

        Raises:
            AlreadyIndexingError: One is under way.
        """
        with self._lock:
            if self._state is not None and self._state.is_running:
                raise AlreadyIndexingError(
                    "Imago is indexing already: wait for it to end, or pause it first."
                )
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app.browser.indexing_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
            )
            self._state = JobState(
                library_path,
                tuple(folders),
                model=model,
                changes_model=change_model,
                only_predicts=only_predict,
            )
        task = {
            "library": str(library_path),
            "folders": [str(folder) for folder in folders],
            "model": model,
            "retry_failed": retry_failed,
            "change_model": change_model,
            "only_predict": only_predict,
        }
        self._watcher = threading.Thread(
            target=self._watch, args=(self._process,), name="indexing", daemon=True
        )
        self._watcher.start()
        self._write(json.dumps(task) + "\n")

    def pause(self) -> None:
        """Tell the run to end after the pictures in hand; harmless where there is none."""
        with self._lock:
            if self._state is None or not self._state.is_running or self._process is None:
                return
            self._state = replace(self._state, is_stopping=True)
        if self._process.stdin is not None:
            self._process.stdin.close()

    def forget(self) -> None:
        """Put the outcome of a run that has ended out of sight."""
        with self._lock:
            if self._state is not None and not self._state.is_running:
                self._state = None

    def wait(self, timeout_seconds: float | None = None) -> None:
        """Wait for the run to end."""
        if self._watcher is not None:
            self._watcher.join(timeout_seconds)

    def _write(self, text: str) -> None:
        assert self._process is not None  # noqa: S101
        assert self._process.stdin is not None  # noqa: S101
        try:
            self._process.stdin.write(text)
            self._process.stdin.flush()
        except OSError:
            return  # it died at once; the watcher tells

    def _watch(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None  # noqa: S101
        with process:
            for line in process.stdout:
                self._take(line)
        with self._lock:
            assert self._state is not None  # noqa: S101
            last_words = (self._state.summary, self._state.prediction, self._state.error)
            was_given_up = self._state.only_predicts and self._state.is_stopping
            is_told = was_given_up or any(word is not None for word in last_words)
            self._state = replace(
                self._state, is_running=False, is_stopping=False, error=self._state.error if is_told else DIED
            )

    def _take(self, line: str) -> None:
        try:
            ((kind, value),) = json.loads(line).items()
        except (ValueError, AttributeError):
            return  # some library printed
        with self._lock:
            assert self._state is not None  # noqa: S101
            match kind:
                case "progress":
                    self._state = replace(self._state, progress=IndexProgress(**value))
                case "notice":
                    self._state = replace(self._state, notices=(*self._state.notices, value))
                case "summary":
                    self._state = replace(self._state, summary=value)
                case "prediction":
                    self._state = replace(self._state, prediction=value)
                case "error":
                    self._state = replace(self._state, error=value)


job = IndexingJob()
"""That of this server."""
