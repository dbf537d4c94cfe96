"""Queries that a person keeps under a name and calls with `@name`.

They lie in one small JSON file among the user's settings, not in the library: search never writes a library, a
library may be read-only or busy with hours of indexing just when somebody wants to keep a query, and the same names
serve all libraries of a person.
"""

from __future__ import annotations

import json
import os
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from filelock import FileLock, Timeout

from model.whole_file import write_whole
from search.errors import QueryError, SavedQueryError
from search.query import Query, Saved, Term, expand, parse

if TYPE_CHECKING:
    from collections.abc import Callable

MAXIMUM_SAVED: Final = 1000
_NAME = re.compile(r"[\w.-]{1,64}")
_LOCK_SECONDS: Final = 5.0


def default_saved_path() -> Path:
    """Where saved queries lie: `IMAGO_QUERIES`, or `queries.json` among the user's settings for Imago."""
    chosen = os.environ.get("IMAGO_QUERIES")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_config_path

    return user_config_path("imago", appauthor=False) / "queries.json"


class SavedQueries:
    """The saved queries of one file, which need not exist yet. Safe to use from several processes."""

    def __init__(self, path: Path | None = None):
        self.path = path or default_saved_path()

    def all(self) -> dict[str, str]:
        """Names and texts, by name.

        Raises:
            SavedQueryError: The file cannot be read or is none of ours.
        """
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeError) as error:
            raise SavedQueryError(f"The saved queries in {self.path} cannot be read: {error}.") from error
        try:
            found = json.loads(text)["queries"]
            if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
                raise TypeError("not names and texts")  # noqa: TRY301
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise SavedQueryError(
                f"{self.path} holds no saved queries ({error}). Mend it or move it away."
            ) from error
        return dict(sorted(found.items()))

    def get(self, name: str) -> str | None:
        """The text saved under a name, None where there is none."""
        return self.all().get(name)

    def lookup(self) -> Callable[[str], str | None]:
        """What finds the saved queries of one query: `get`, but the file is read once, when it is first asked."""
        read = cache(self.all)
        return lambda name: read().get(name)

    def save(self, name: str, text: str, *, replace: bool = False) -> None:
        """Keep a query.

        Args:
            name: Letters, digits, `_`, `.` and `-`, at most 64; a leading `@` is taken away.
            text: A query that parses, and whose own saved queries exist.
            replace: Whether a query of this name may be replaced.

        Raises:
            SavedQueryError: A name that cannot be one or is taken, too many queries, or a file that cannot be written.
            QueryError: The query does not parse, or would lead back to itself.
        """
        name = name.removeprefix("@")
        if not _NAME.fullmatch(name):
            raise SavedQueryError(
                f"{name!r} cannot be a name: take up to 64 letters, digits, '_', '.' or '-'."
            )
        parse(text, allow_urls=True)
        with self._locked():
            queries = self.all()
            if name in queries and not replace:
                raise SavedQueryError(
                    f"@{name} is taken, by: {queries[name]}. Choose another name, or replace it."
                )
            if name not in queries and len(queries) >= MAXIMUM_SAVED:
                raise SavedQueryError(f"There are {MAXIMUM_SAVED} saved queries already: delete some first.")
            queries[name] = text
            try:
                expand(Query((Term(Saved(name)),)), queries.get, allow_urls=True)
            except QueryError as error:
                raise QueryError(error.reason, query=text) from error
            self._write(queries)

    def delete(self, name: str) -> bool:
        """Forget a query; whether there was one.

        Raises:
            SavedQueryError: The file cannot be read or written.
        """
        with self._locked():
            queries = self.all()
            if queries.pop(name.removeprefix("@"), None) is None:
                return False
            self._write(queries)
            return True

    def _locked(self) -> _Locked:
        return _Locked(self.path)

    def _write(self, queries: dict[str, str]) -> None:
        text = json.dumps({"version": 1, "queries": queries}, ensure_ascii=False, indent=2, sort_keys=True)
        try:
            write_whole(self.path, f"{text}\n".encode())
        except (OSError, UnicodeError) as error:
            raise SavedQueryError(f"The saved queries in {self.path} cannot be written: {error}.") from error


class _Locked:
    """Holds the file against other writers."""

    def __init__(self, path: Path):
        self._path = path
        self._lock = FileLock(path.with_name(path.name + ".lock"), timeout=_LOCK_SECONDS)

    def __enter__(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise SavedQueryError(
                f"Another process has been writing {self._path} for {_LOCK_SECONDS:g} seconds. Try again."
            ) from error
        except OSError as error:
            raise SavedQueryError(f"The saved queries in {self._path} cannot be written: {error}.") from error

    def __exit__(self, *_: object) -> None:
        self._lock.release()
