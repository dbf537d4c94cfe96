"""Has programs run as on processors with fewer instruction sets than this one: `benchmarks/hide_instructions.c`.

What is left runs at this processor's speed. So a figure says what a choice of instructions gives, and how two programs
compare that both have to do without; it is not the figure of an older processor.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

# As /proc/cpuinfo calls them, and where CPUID tells them: leaf, subleaf, register, bit (Intel's manual, volume 2A).
_BITS = {
    "avx512f": (7, 0, "b", 16),
    "avx512dq": (7, 0, "b", 17),
    "avx512ifma": (7, 0, "b", 21),
    "avx512cd": (7, 0, "b", 28),
    "avx512bw": (7, 0, "b", 30),
    "avx512vl": (7, 0, "b", 31),
    "avx512vbmi": (7, 0, "c", 1),
    "avx512_vbmi2": (7, 0, "c", 6),
    "avx512_vnni": (7, 0, "c", 11),
    "avx512_bitalg": (7, 0, "c", 12),
    "avx512_vpopcntdq": (7, 0, "c", 14),
    "avx512_vp2intersect": (7, 0, "d", 8),
    "amx_bf16": (7, 0, "d", 22),
    "avx512_fp16": (7, 0, "d", 23),
    "amx_tile": (7, 0, "d", 24),
    "amx_int8": (7, 0, "d", 25),
    "avx_vnni": (7, 1, "a", 4),
    "avx512_bf16": (7, 1, "a", 5),
    "amx_fp16": (7, 1, "a", 21),
    "avx_ifma": (7, 1, "a", 23),
    "amx_complex": (7, 1, "d", 8),
}

_FIRST_AVX512 = {"avx512f", "avx512dq", "avx512cd", "avx512bw", "avx512vl"}
_OF_AMX = {"amx_bf16", "amx_tile", "amx_int8", "amx_fp16", "amx_complex"}
_AFTER_VNNI = _OF_AMX | {"avx_vnni", "avx_ifma", "avx512_bf16", "avx512_fp16", "avx512_vp2intersect"}

PROCESSORS = {
    "AVX-512 with VNNI and BF16": _AFTER_VNNI - {"avx512_bf16"},
    "AVX-512 with VNNI": _AFTER_VNNI,
    "AVX-512": _BITS.keys() - _FIRST_AVX512,
    "AVX2": set(_BITS),
}
"""What is hidden to be like each."""


def environment_of(processor: str, scratch: Path) -> dict[str, str]:
    """Variables for a command to find itself on one of `PROCESSORS`.

    Raises:
        OSError: This machine cannot, or has no C compiler; the message says which.
    """
    library = scratch / "hide_instructions.so"
    if not library.exists():
        source = Path(__file__).with_name("hide_instructions.c")
        _run(["cc", "-O2", "-shared", "-fPIC", str(source), "-o", str(library), "-ldl"])
    hidden = PROCESSORS[processor]
    told = re.sub(rf" ({'|'.join(hidden)})\b", "", Path("/proc/cpuinfo").read_text())
    cpuinfo = scratch / f"cpuinfo-{processor}"
    cpuinfo.write_text(told)
    rules = ",".join(
        f"{leaf:x}.{subleaf:x}.{register}.{1 << bit:x}"
        for leaf, subleaf, register, bit in (_BITS[name] for name in sorted(hidden))
    )
    variables = {"HIDE_CPUID": rules, "HIDE_CPUINFO": str(cpuinfo), "LD_PRELOAD": str(library)}
    _run(["true"], os.environ | variables)
    return variables


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.strip())
