"""`imago serve`. Light to import: what computes is loaded when serving begins."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.api.settings import ApiSettings

_THREADS_OF_ONE_PRODUCT = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def serve(settings: ApiSettings, notify: Callable[[str], None]) -> None:
    """Serve the API until SIGTERM or Ctrl-C; requests under way are answered before it returns.

    Args:
        settings: What to serve and where.
        notify: Told in one line where the server listens, once it does.

    Raises:
        indexer.errors.LibraryError: The library cannot be opened.
        model.errors.ModelError: Its model cannot be loaded.
        OSError: The address cannot be listened on.
    """
    # Requests keep the cores busy by themselves. When NumPy splits each small product over all cores besides, their
    # threads wait for one another: on two busy cores a query then costs three times the processor time. The
    # libraries read these when NumPy is first imported.
    for name in _THREADS_OF_ONE_PRODUCT:
        os.environ.setdefault(name, "1")
    from app.api.running import run

    run(settings, notify)
