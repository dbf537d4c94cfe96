"""What this machine computes with, found out without importing JAX where that can be."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass
from functools import cache

from model.errors import ConfigurationError

PRECISIONS = ("float32", "bfloat16", "float16")

PRECISION_VARIABLE = "IMAGO_PRECISION"


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

    return jax.default_backend()


def device_count() -> int:
    """Returns how many accelerators share the work; imports JAX."""
    import jax

    return jax.local_device_count()


# Instructions that multiply bfloat16 into float32, as /proc/cpuinfo calls them, best first.
_BFLOAT16_UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16"}


@dataclass(frozen=True)
class PrecisionChoice:
    """In which numbers a vision tower multiplies.

    Attributes:
        precision: "float32", "bfloat16" or "float16".
        reason: Why, in a few words.
    """

    precision: str
    reason: str


@cache
def best_precision() -> PrecisionChoice:
    """Returns the dtype in which a vision tower runs fastest here without harm: bfloat16 or float32.

    What decides on a CPU is whether it multiplies bfloat16 into float32 by one instruction. On two cores with
    AVX-512 BF16 the tower of ViT-B/32 is 2.5 times as fast as in float32, on AMX 3.5 times; without either, bfloat16
    is slower. `make bench` measures it.
    """
    if backend() != "cpu":
        return PrecisionChoice("bfloat16", "accelerators multiply it fastest")
    flags = processor_flags()
    unit = next((name for flag, name in _BFLOAT16_UNITS.items() if flag in flags), None)
    if unit is None:
        return PrecisionChoice("float32", "this processor has no fast bfloat16")
    return PrecisionChoice("bfloat16", f"this processor has {unit}")


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


@cache
def processor_flags() -> frozenset[str]:
    """Returns the names of the processor's instruction sets; empty where the system does not tell them."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:  # noqa: PTH123
            line = next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        return frozenset()
    return frozenset(line.partition(":")[2].split())
