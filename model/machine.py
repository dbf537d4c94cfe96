"""What this machine computes with, found out without importing JAX where that can be."""

from __future__ import annotations

import importlib.util
import os
import sys
from functools import cache


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


@cache
def best_precision() -> str:
    """Returns the dtype in which a vision tower runs fastest here without harm: bfloat16 or float32.

    An AMX unit multiplies bfloat16 at a multiple of float32's speed. AVX-512's bfloat16 products are not
    used by XLA, so a processor that has only those is faster in float32.
    """
    if backend() != "cpu":
        return "bfloat16"
    return "bfloat16" if "amx_bf16" in processor_flags() else "float32"


@cache
def processor_flags() -> frozenset[str]:
    """Returns the names of the processor's instruction sets; empty where the system does not tell them."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:  # noqa: PTH123
            line = next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        return frozenset()
    return frozenset(line.partition(":")[2].split())
