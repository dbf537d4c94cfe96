"""The one translation of errors from below into a line for people and an exit code for scripts."""

import errno
import os
import sys
from collections.abc import Callable

import click

from indexer.errors import LibraryError
from indexer.paths import display_path
from model.errors import ModelError
from search.errors import QueryError, SearchError

EXIT_FAILED = 1
"""Nothing could be done; the line on stderr says why and what to do."""

EXIT_USAGE = 2
"""The command was not understood (click's own code, too)."""

EXIT_INTERRUPTED = 130
"""Stopped by Ctrl-C, as shells report it."""


class ReaderWentAwayError(Exception):
    """Whoever read the output has enough of it, as in `imago search ... | head`."""


class TranslatedGroup(click.Group):
    """Commands whose output may end early; click would end the program with 1 for that."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command, and write what it printed.

        Raises:
            ReaderWentAwayError: Nobody reads it any more.
        """
        try:
            result: object = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise ReaderWentAwayError from error
        return result


def explain(error: BaseException) -> str | None:
    """Say what went wrong in one line for people, or None where the error is a defect of ours.

    Typed errors carry their own text: what was wrong, with which value, and what to do.
    """
    if isinstance(error, QueryError):
        pointer = error.pointer()
        return f"{error}\n{pointer}" if pointer else str(error)
    if isinstance(error, (LibraryError, ModelError, SearchError)):
        return str(error)
    if isinstance(error, OSError):
        return _explain_operating_system(error)
    if isinstance(error, MemoryError):
        return "out of memory; close other programs, or do less at a time: one folder, smaller batches"
    return None


def _explain_operating_system(error: OSError) -> str:
    where = os.fspath(error.filename) if isinstance(error.filename, (str, bytes)) else None
    place = f": {display_path(os.fsdecode(where))}" if where is not None else ""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"the disk is full{place}; free some space and run the same command again"
        case errno.EACCES | errno.EPERM:
            return f"permission denied{place}; check who owns it, or choose another place"
        case errno.EROFS:
            return f"the file system is read-only{place}; choose another place"
        case errno.EADDRINUSE:
            return f"the address is in use{place}; choose another with --port"
        case _:
            return f"{error.strerror or error}{place}"


def run_and_translate(command: click.Command) -> int:
    """Run a click command; print errors to stderr as one line and return the exit code.

    An error that no type explains is a defect: it is named with its type and a way to report it, and the
    traceback is shown only when `IMAGO_DEBUG` is set, so that people never meet one.
    """
    try:
        result = _standalone(command)
    except click.ClickException as error:
        error.show()
        if isinstance(error, (click.NoSuchOption, click.BadParameter)) and _takes_a_query(error.ctx):
            click.echo(
                "A query that begins with - goes after --, as in: imago search -- '-in:raw dog'", err=True
            )
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _complain("stopped")
        return EXIT_INTERRUPTED
    except ReaderWentAwayError:
        # Not a failure. Python would complain again while flushing at exit, so output goes somewhere harmless.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        if os.environ.get("IMAGO_DEBUG"):
            raise
        line = explain(error)
        if line is None:
            name = type(error).__name__
            line = (
                f"this is a defect in Imago: {name}: {error}. Run it again with IMAGO_DEBUG=1 for the "
                "details to report. Your pictures were not changed by it, and what the library had stays"
            )
        _complain(line)
        return EXIT_FAILED
    return result if isinstance(result, int) else 0


def _takes_a_query(context: click.Context | None) -> bool:
    return context is not None and any(parameter.name == "query" for parameter in context.command.params)


def _standalone(command: Callable[..., object]) -> object:
    return command(standalone_mode=False)


def _complain(line: str) -> None:
    click.echo(f"imago: {line}", err=True)
