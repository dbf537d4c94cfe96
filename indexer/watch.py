"""Keeps a library current while files change, with the guarantees of ordinary runs, because it makes ordinary runs.

The system tells which folders changed (through watchdog); once it has been quiet for a moment, exactly those folders
are indexed. What the system does not tell (network drives, lost events, a disk that comes back) is found by looking
at everything now and then.
"""

from __future__ import annotations

import os
import queue
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer.errors import LibraryLockedError, NothingToIndexError
from indexer.paths import display_path, relative_to_root
from indexer.pipeline import index_folders
from indexer.reader import LibraryReader
from indexer.scan import comes_to, is_left_out

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from indexer.records import IndexSummary
    from indexer.tower import ImageEncoder

DEBOUNCE_SECONDS = 2.0  # a camera's import writes file after file: one run for all of them
LONGEST_WAIT_SECONDS = 30.0  # but something that never is quiet must not keep the library old
FULL_SCAN_SECONDS = 1800.0
_TICK_SECONDS = 0.2
# Reading a file makes events too; these are the ones that change something.
_CHANGES = frozenset({"created", "modified", "moved", "deleted", "closed"})
_MANY_FOLDERS = 64


def watch_folders(
    library_path: Path | str,
    folders: Sequence[Path | str],
    encoder: ImageEncoder,
    *,
    should_stop: Callable[[], bool],
    on_summary: Callable[[IndexSummary], None] | None = None,
    on_notice: Callable[[str], None] | None = None,
    debounce_seconds: float = DEBOUNCE_SECONDS,
    full_scan_seconds: float = FULL_SCAN_SECONDS,
    **options: Any,
) -> None:
    """Indexes folders, and again whatever changes in them, until told to stop.

    Args:
        library_path: The library's folder.
        folders: What to watch; none means all that the library knows.
        encoder: Makes the vectors.
        should_stop: Asked several times a second.
        on_summary: Called after each run.
        on_notice: Called with sentences for people.
        debounce_seconds: How long it must have been quiet before a run.
        full_scan_seconds: How often everything is looked at whatever was told.
        options: Passed on to every `index_folders`.

    Raises:
        What the first `index_folders` raises; later runs wait where another writer holds the library.
    """
    library = Path(library_path).expanduser().absolute()
    say = on_notice or (lambda _: None)
    report = on_summary or (lambda _: None)
    changes: queue.SimpleQueue[str] = queue.SimpleQueue()
    with ExitStack() as stack:
        report(index_folders(library, folders, encoder, should_stop=should_stop, **options))
        with LibraryReader.open(library) as reader:
            known = [str(root.path) for root in reader.roots()]
        wanted = [os.path.realpath(Path(folder).expanduser()) for folder in folders] or known
        _observe(stack, wanted, os.path.realpath(library), changes, say)
        # What changed between the first scan and the first event would be missed: look once more.
        due: set[str] = set(wanted)
        first_change = last_change = time.monotonic()
        last_full_scan = time.monotonic()
        while not should_stop():
            for path in _drain(changes):
                now = time.monotonic()
                first_change = now if not due else first_change
                last_change = now
                due.add(path)
            now = time.monotonic()
            if now - last_full_scan > full_scan_seconds:
                due |= set(wanted)
                last_full_scan = now
            is_quiet = now - last_change >= debounce_seconds or now - first_change >= LONGEST_WAIT_SECONDS
            if not due or not is_quiet:
                continue
            chosen = _folders_to_index(due, wanted)
            if not chosen:  # to a run, no folder would mean every one
                due.clear()
                continue
            try:
                summary = index_folders(library, chosen, encoder, should_stop=should_stop, **options)
            except LibraryLockedError as error:
                say(str(error))
                first_change = last_change = time.monotonic()  # try again after the next quiet moment
                continue
            except NothingToIndexError:
                due.clear()
                continue
            due.clear()
            report(summary)


def _drain(changes: queue.SimpleQueue[str]) -> list[str]:
    """Waits a tick for a change; returns all that are there."""
    found = []
    try:
        found.append(changes.get(timeout=_TICK_SECONDS))
        while True:
            found.append(changes.get_nowait())
    except queue.Empty:
        return found


def _folders_to_index(due: set[str], wanted: list[str]) -> list[str]:
    """The folders to look at: existing ones that hold all that changed, and that a scan comes to."""
    if len(due) > _MANY_FOLDERS:
        return wanted
    chosen = set()
    for path in due:
        root = next((folder for folder in wanted if relative_to_root(path, folder) is not None), None)
        if root is None:
            continue
        folder = path
        # One that became a library since the change is seen from the folder above: named to a run, it would be indexed.
        while folder != root and not (os.path.isdir(folder) and comes_to(root, folder)):  # noqa: PTH112
            folder = os.path.dirname(folder)  # noqa: PTH120
        chosen.add(folder)
    return sorted(chosen)


def _observe(
    stack: ExitStack,
    folders: list[str],
    library: str,
    changes: queue.SimpleQueue[str],
    say: Callable[[str], None],
) -> None:
    from watchdog.events import FileSystemEvent, FileSystemEventHandler
    from watchdog.observers import Observer

    class Handler(FileSystemEventHandler):
        def __init__(self, folder: str) -> None:
            self.folder = folder

        def on_any_event(self, event: FileSystemEvent) -> None:
            if event.event_type not in _CHANGES or (event.is_directory and event.event_type == "modified"):
                return
            for path in (event.src_path, event.dest_path):
                text = os.fsdecode(path)
                if text and (changed := _folder_to_look_at(text, self.folder, library)) is not None:
                    changes.put(changed)

    observer = Observer()
    observer.start()  # before it has folders: only then does naming one say whether the system can watch it
    stack.callback(observer.join)
    stack.callback(observer.stop)
    for folder in folders:
        try:
            observer.schedule(Handler(folder), folder, recursive=True)
        except OSError as error:
            say(
                f"The system does not tell what changes in {display_path(folder)} ({error.strerror or error});"
                " it is looked at from time to time instead."
            )


def _folder_to_look_at(path: str, watched: str, library: str) -> str | None:
    """The folder that a change at `path` is in; None for our own writing, and for what a scan leaves out."""
    if relative_to_root(path, library) is not None:
        return None
    relative = relative_to_root(path, watched)
    if not relative:  # the folder itself, or one that the system spells in another way
        return watched
    return None if is_left_out(watched, relative) else os.path.dirname(path)  # noqa: PTH120
