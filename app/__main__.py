"""The `imago` command: where errors from below become one clear line and an exit code."""

import os
import sys


def main() -> None:
    """Run the command line and leave with its exit code."""
    _fill_closed_streams()
    try:
        # Half a second, in which one may think better of it.
        from app.cli import imago
        from app.failures import run_and_translate
    except KeyboardInterrupt:
        print("imago: stopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(run_and_translate(imago))


def _fill_closed_streams() -> None:
    """Say to nobody what is said where a daemon closed the output; else the next file opened would be the output."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123


if __name__ == "__main__":
    main()
