"""The other end of `indexer.decode_pool`: a process that decodes one file after another until its input ends.

Started as a program of its own, not through `multiprocessing`, so that it never imports the caller's main
module (a user's script without a guard, a notebook, Streamlit) and holds nothing but Pillow and NumPy.
Requests come pickled from the parent; answers go back as JSON and raw pixels, because what hostile files
can reach must not be unpickled by the parent.

A frame is: its length (8 bytes, big endian), the length of its JSON (4 bytes), the JSON, the pixels.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import struct
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

from indexer.decode import (
    ChangedWhileReadError,
    DecodeLimits,
    HeavyError,
    Preprocessor,
    RefusedError,
    SkipError,
    decode,
    read_file,
)
from indexer.stopwatch import Stopwatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LENGTH = struct.Struct(">Q")
JSON_LENGTH = struct.Struct(">I")


def main() -> None:
    """Answers requests from standard input on standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    requests = sys.stdin.buffer
    # Libraries that print must not end up between the frames.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    preprocessor, limits = pickle.loads(_read_frame(requests) or b"")  # noqa: S301  (from our own parent)
    _send(answers, {"ready": True}, None)
    while (frame := _read_frame(requests)) is not None:
        task, path, hash_only, may_be_heavy = pickle.loads(frame)  # noqa: S301
        _arm_timer(limits.time_limit_seconds)
        answer, pixels = handle(path, preprocessor, limits, hash_only=hash_only, may_be_heavy=may_be_heavy)
        _arm_timer(0)
        answer["task"] = task
        _send(answers, answer, pixels)


def handle(
    path: str, preprocessor: Preprocessor, limits: DecodeLimits, *, hash_only: bool, may_be_heavy: bool
) -> tuple[dict[str, Any], NDArray[np.uint8] | None]:
    """Reads and decodes one file; every failure becomes an answer.

    Args:
        path: Absolute path.
        preprocessor: Makes the tower's pixels.
        limits: What the file may cost.
        hash_only: Whether to hash the file only, because it is probably known.
        may_be_heavy: Whether an image that takes much memory may be decoded now.

    Returns:
        The answer (`status` is `image`, `hash`, `heavy`, `skipped`, `failed`, `changed`, `unreadable` or
        `vanished`) and the pixels of an image.
    """
    answer: dict[str, Any] = {}
    stopwatch = Stopwatch()
    try:
        with stopwatch.time("read and hash"):
            file = read_file(path, limits)
        answer |= {
            "hash": file.content_hash.hex(),
            "format": file.format,
            "size_bytes": file.size_bytes,
            "modified_ns": file.modified_ns,
            "inode": file.inode,
        }
        if hash_only:
            return {**answer, "status": "hash"}, None
        pixels, metadata = decode(file, preprocessor, limits, may_be_heavy=may_be_heavy, stopwatch=stopwatch)
    except SkipError as error:
        return {**answer, "status": "skipped", "reason": str(error)}, None
    except HeavyError:
        return {**answer, "status": "heavy"}, None
    except ChangedWhileReadError as error:
        return {**answer, "status": "changed", "reason": str(error)}, None
    except RefusedError as error:
        return {**answer, "status": "failed", "reason": str(error)}, None
    except FileNotFoundError:
        return {**answer, "status": "vanished", "reason": "the file went away while it was to be read"}, None
    except PermissionError:
        return {**answer, "status": "unreadable", "reason": "no permission to read the file"}, None
    except MemoryError:
        return {**answer, "status": "failed", "reason": "the image needs more memory than there is"}, None
    except OSError as error:
        reason = error.strerror or str(error)
        return {**answer, "status": "unreadable", "reason": f"the file cannot be read: {reason}"}, None
    fields = vars(metadata)
    answer |= {"status": "image", "difference_hash": fields.pop("difference_hash")}
    answer |= {"metadata": fields, "shape": pixels.shape}
    return {**answer, "seconds": stopwatch.seconds}, pixels


def _arm_timer(seconds: float) -> None:
    """Lets the kernel kill this process when time is up, even inside a decoder that never returns.

    The parent watches the clock as well; this also ends a worker whose parent is gone.
    """
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _read_frame(stream: BinaryIO) -> bytes | None:
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    body = stream.read(length)
    return body if len(body) == length else None


def _send(stream: BinaryIO, answer: dict[str, Any], pixels: NDArray[np.uint8] | None) -> None:
    text = json.dumps(answer).encode()
    size = JSON_LENGTH.size + len(text) + (0 if pixels is None else pixels.nbytes)
    head = LENGTH.pack(size) + JSON_LENGTH.pack(len(text)) + text
    parts = [memoryview(head)] if pixels is None else [memoryview(head), pixels.reshape(-1).data]
    with suppress(BrokenPipeError):
        # In one piece where that can be, so that the reader is woken once.
        written = os.writev(stream.fileno(), parts) if hasattr(os, "writev") else 0
        for part in parts:
            _write(stream, part[written:])
            written = max(0, written - len(part))


def _write(stream: BinaryIO, view: memoryview) -> None:
    while view:
        view = view[stream.write(view) :]


if __name__ == "__main__":
    main()
