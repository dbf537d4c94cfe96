"""What this machine computes with, found out without importing JAX where that can be."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import math
import os
import platform
import sys
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

PRECISIONS = ("float32", "bfloat16", "float16", "int8")

PRECISION_VARIABLE = "IMAGO_PRECISION"

# XLA's CPU client asks for the first, then for the other.
_THREADS_VARIABLE, _OTHER_THREADS_VARIABLE = "PJRT_NPROC", "NPROC"
_environment_lock = threading.Lock()

# Linux tells in the one which control group a process is in, in the other what each allows.
_OWN_CONTROL_GROUPS = Path("/proc/self/cgroup")
_CONTROL_GROUPS = Path("/sys/fs/cgroup")


@cache
def backend() -> str:
    """Returns the name of JAX's default backend: "cpu", "gpu", "tpu" or a plugin's own.

    JAX finds accelerators through installed plugins only; with none installed the answer is known without it.
    """
    plugins = any(importlib.util.find_spec(name) is not None for name in ("jax_plugins", "libtpu"))
    chosen = os.environ.get("JAX_PLATFORMS", "cpu" if not plugins else "")
    if "jax" not in sys.modules and chosen == "cpu":
        return "cpu"
    import jax

    with making_client():
        return jax.default_backend()


def device_count() -> int:
    """Returns how many accelerators share the work; imports JAX."""
    import jax

    with making_client():
        return jax.local_device_count()


def available_cores() -> int:
    """Returns how many cores this process may compute on: by its affinity, and by its control group's quota.

    The quota is what `docker run --cpus` and systemd's `CPUQuota` set; a part of a core counts as one.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        cores = os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota_cores())))


def _quota_cores() -> float:
    """The least quota of this process's control group (version 2) and of those around it; infinite for none."""
    quota = math.inf
    try:
        lines = _OWN_CONTROL_GROUPS.read_text().splitlines()
    except OSError:  # not Linux
        return quota
    own = next((line.removeprefix("0::").lstrip("/") for line in lines if line.startswith("0::")), None)
    if own is None:
        return quota
    for group in (_CONTROL_GROUPS / own, *(_CONTROL_GROUPS / own).parents):
        if not group.is_relative_to(_CONTROL_GROUPS):
            break
        with contextlib.suppress(OSError, ValueError):  # the root has none; "max" is none
            quota_microseconds, period_microseconds = (group / "cpu.max").read_text().split()
            quota = min(quota, int(quota_microseconds) / int(period_microseconds))
    return quota


@contextlib.contextmanager
def making_client(threads: int | None = None) -> Iterator[None]:
    """While it lasts, XLA makes clients with so many threads to compute in; None: with one for each available core.

    Nothing but an environment variable tells XLA, so whoever makes a client anywhere here does it within. By itself it
    does not see a container's quota. A user's own setting stands in for None.
    """
    with _environment_lock:
        before = os.environ.get(_THREADS_VARIABLE)
        if threads is not None or not {_THREADS_VARIABLE, _OTHER_THREADS_VARIABLE} & os.environ.keys():
            os.environ[_THREADS_VARIABLE] = str(threads or available_cores())
        try:
            yield
        finally:
            if before is None:
                os.environ.pop(_THREADS_VARIABLE, None)
            else:
                os.environ[_THREADS_VARIABLE] = before


# Instructions that multiply bytes, best first, and those that multiply bfloat16, as /proc/cpuinfo calls them.
_INT8_UNITS = {"amx_int8": "AMX", "avx512_vnni": "AVX-512 VNNI", "avx2": "AVX2"}
_BFLOAT16_UNITS = ("amx_bf16", "avx512_bf16")


@dataclass(frozen=True)
class PrecisionChoice:
    """In which numbers the towers multiply.

    Attributes:
        precision: One of `PRECISIONS`. int8 stands for those products of a tower that bear it (`model.int8`); the
            others are of `precision_beside_int8`.
        reason: Why, in a few words.
    """

    precision: str
    reason: str


@cache
def best_precision() -> PrecisionChoice:
    """Returns in what towers run fastest here without harm: int8, bfloat16 or float32.

    What decides on a CPU is which products it has an instruction for; docs/speed.md has what each gives. Where nothing
    was measured, on processors other than x86, it is float32.
    """
    if backend() != "cpu":
        return PrecisionChoice("bfloat16", "accelerators multiply it fastest")
    unit = _int8_unit()
    if unit is None:
        return PrecisionChoice("float32", "this processor is not known to multiply anything else faster")
    return PrecisionChoice("int8", f"this processor has {_INT8_UNITS[unit]}")


def _int8_unit() -> str | None:
    """The best of `_INT8_UNITS` that there is."""
    flags = processor_flags()
    return next((flag for flag in _INT8_UNITS if flag in flags), None)


def precision_beside_int8() -> str:
    """Returns in what the other products are made where some are of integers: bfloat16 or float32."""
    is_fast = backend() != "cpu" or not processor_flags().isdisjoint(_BFLOAT16_UNITS)
    return "bfloat16" if is_fast else "float32"


def multiplies_unsigned() -> bool:
    """Tells whether XLA multiplies bytes fastest here with one operand unsigned: VNNI knows no other products."""
    return backend() == "cpu" and _int8_unit() == "avx512_vnni"


def forced_precision(asked: str | None) -> PrecisionChoice | None:
    """Returns what was asked for, else what IMAGO_PRECISION says, else None: the machine decides.

    Raises:
        ConfigurationError: If it is none of `PRECISIONS`.
    """
    named, reason = asked, "it was asked for"
    if named is None:
        named, reason = os.environ.get(PRECISION_VARIABLE), f"{PRECISION_VARIABLE} says so"
    if not named or named == "auto":
        return None
    if named not in PRECISIONS:
        raise ConfigurationError(
            f"There is no precision {named!r}, and {reason}; known are auto, {', '.join(PRECISIONS)}."
        )
    return PrecisionChoice(named, reason)


# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Has this process keep the memory that it frees and use it again, instead of returning it to the system.

    XLA allocates what a call needs in between anew each time, tens to hundreds of megabytes. glibc maps blocks of that
    size from the system and unmaps them afterwards, and the kernel clears every page again when it is first touched.
    The process stays as large as it ever was, so this is for commands that compute and end, not for servers. Call it
    before there are threads, that is before JAX is imported.

    Returns:
        Whether it took effect; False where the C library is not glibc.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    set_option = ctypes.CDLL(None).mallopt
    # One arena, grown and never shrunk (-1: at no amount of free memory), that also holds the large blocks.
    options = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _ARENA_MAX: 1}
    accepted = [set_option(option, value) for option, value in options.items()]
    return all(accepted)


@cache
def processor_flags() -> frozenset[str]:
    """Returns the names of the processor's instruction sets; empty where the system does not tell them."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:  # noqa: PTH123
            line = next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        return frozenset()
    return frozenset(line.partition(":")[2].split())
