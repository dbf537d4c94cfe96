"""The `imago` command: where errors from below become one clear line and an exit code."""

import sys

from app.cli import imago
from app.failures import run_and_translate


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run_and_translate(imago))


if __name__ == "__main__":
    main()
