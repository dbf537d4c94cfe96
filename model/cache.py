"""Things that cost much to make and can be made again, in the user's cache folder; never anything else.

`IMAGO_CACHE` moves the folder. Where it cannot be written, all goes on without it, only slower.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.identity import fingerprint_of_file
from model.whole_file import write_whole

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_jax_lock = threading.Lock()
_jax_is_set_up = False


def cache_folder() -> Path:
    """Returns the folder, which may not be there yet: `IMAGO_CACHE`, or the user's cache folder for Imago."""
    chosen = os.environ.get("IMAGO_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("imago", appauthor=False)


def read_entry(kind: str, name: str) -> bytes | None:
    """Returns what `write_entry` kept, or None."""
    try:
        return (cache_folder() / kind / name).read_bytes()
    except OSError:
        return None


def map_entry(kind: str, name: str, size_bytes: int) -> npt.NDArray[np.uint8] | None:
    """Maps what `write_entry` kept into memory, to be read only; None if it is not there or of another size."""
    import numpy as np

    path = cache_folder() / kind / name
    try:
        content = np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError):  # not there; empty
        return None
    if content.size != size_bytes:
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # so that `keep_newest` drops what is not used
    return np.asarray(content)


def write_entry(kind: str, name: str, content: bytes | memoryview) -> None:
    """Keeps some bytes, whole or not at all; does nothing where the folder cannot be written."""
    with contextlib.suppress(OSError):
        write_whole(cache_folder() / kind / name, content)


def keep_newest(kind: str, count: int) -> None:
    """Drops all entries of a kind but the `count` that were written, or mapped, last."""
    try:
        entries = sorted((cache_folder() / kind).iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for path in entries[:-count]:
            path.unlink(missing_ok=True)
    except OSError:
        return


def cached_fingerprint(path: Path) -> str:
    """Returns the SHA-256 of a file, hashing it only if this very file was not hashed before.

    A file counts as the same while its path, size, times and number on the disk are: hashing the weights
    of a base-size model takes a second or two, which a query must not pay each time.
    """
    path = path.resolve()
    status = path.stat()
    key = f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}\0{status.st_ino}"
    name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    known = read_entry("fingerprints", name)
    if known is not None and len(known) == 64:
        return known.decode("ascii", "replace")
    fingerprint = fingerprint_of_file(path)
    write_entry("fingerprints", name, fingerprint.encode("ascii"))
    return fingerprint


def keep_compiled_code() -> None:
    """Lets JAX keep what it compiles in our folder, also what compiles fast.

    A user's own setting goes before.
    """
    global _jax_is_set_up  # noqa: PLW0603  (JAX's configuration is one per process, and so is this)
    with _jax_lock:
        if _jax_is_set_up:
            return
        import jax

        config: Any = jax.config  # not typed
        if config.jax_compilation_cache_dir is None:
            folder = cache_folder() / "compiled"
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                if os.access(folder, os.W_OK):
                    config.update("jax_compilation_cache_dir", str(folder))
                    config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
                    config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        _jax_is_set_up = True
