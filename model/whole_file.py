"""Small files that are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Writes a file, readable by its owner only, in place of the one that is there; makes its folder if need be.

    Args:
        path: The file.
        content: All that it shall hold.

    Raises:
        OSError: It cannot be written. What was there before is there still, and nothing is left beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power failure could leave a whole file of zeros
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
