"""Which numbers a tower multiplies in: what the machine does best, unless somebody says otherwise."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

import pytest

from model import machine
from model.errors import ConfigurationError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def on_a_processor_with(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    def pretend(*flags: str) -> machine.PrecisionChoice:
        monkeypatch.setattr(machine, "processor_flags", lambda: frozenset(flags))
        monkeypatch.setattr(machine, "backend", lambda: "cpu")
        machine.best_precision.cache_clear()
        return machine.best_precision()

    yield pretend
    machine.best_precision.cache_clear()


@pytest.mark.parametrize(
    ("flags", "precision", "unit"),
    [
        (("avx2", "avx512f", "avx512_vnni", "amx_bf16", "amx_int8"), "int8", "AMX"),
        (("avx2", "avx512f", "avx512_vnni", "avx512_bf16"), "int8", "AVX-512 VNNI"),
        (("avx2", "avx512f"), "int8", "AVX2"),
        (("avx2", "avx_vnni"), "int8", "AVX2"),
        (("asimd", "asimddp", "i8mm"), "float32", "not known"),
        ((), "float32", "not known"),
    ],
)
def test_the_processor_decides(
    on_a_processor_with: object, flags: tuple[str, ...], precision: str, unit: str
) -> None:
    choice = on_a_processor_with(*flags)  # type: ignore[operator]
    assert choice.precision == precision
    assert unit in choice.reason


@pytest.mark.parametrize(
    ("flags", "precision", "unsigned"),
    [
        (("avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"), "bfloat16", False),
        (("avx512_vnni", "avx512_bf16"), "bfloat16", True),
        (("avx512_vnni",), "float32", True),
        (("avx2", "avx_vnni"), "float32", False),
    ],
)
def test_the_processor_decides_how_integers_are_multiplied_and_what_beside_them(
    on_a_processor_with: object, flags: tuple[str, ...], precision: str, unsigned: bool
) -> None:
    on_a_processor_with(*flags)  # type: ignore[operator]
    assert machine.precision_beside_int8() == precision
    assert machine.multiplies_unsigned() is unsigned


def test_an_accelerator_gets_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "backend", lambda: "gpu")
    machine.best_precision.cache_clear()
    try:
        assert machine.best_precision().precision == "bfloat16"
    finally:
        machine.best_precision.cache_clear()


def test_it_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMAGO_PRECISION")
    assert machine.forced_precision(None) is None
    monkeypatch.setenv("IMAGO_PRECISION", "float16")
    forced = machine.forced_precision(None)
    assert forced is not None
    assert (forced.precision, forced.reason) == ("float16", "IMAGO_PRECISION says so")
    said = machine.forced_precision("float32")
    assert said is not None
    assert said.precision == "float32"
    assert machine.forced_precision("auto") is None


def test_a_misspelt_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGO_PRECISION", "fp8")
    with pytest.raises(
        ConfigurationError, match="no precision 'fp8', and IMAGO_PRECISION says so; known are"
    ):
        machine.forced_precision(None)


FAULTS = """
import ctypes, resource
from model.machine import keep_freed_memory

library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p

def faults_of_64_mebibytes():
    # What it keeps has no limit either: an int as threshold would let 2 GiB and more go.
    library.free(ctypes.c_void_p(library.malloc(ctypes.c_size_t(3 * 2**30))))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = ctypes.c_void_p(library.malloc(ctypes.c_size_t(2**26)))
    library.memset(block, 1, ctypes.c_size_t(2**26))
    library.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

assert min(faults_of_64_mebibytes(), faults_of_64_mebibytes()) > 1000
assert keep_freed_memory()
faults_of_64_mebibytes()
print(faults_of_64_mebibytes())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone can be told")
def test_freed_memory_is_used_again_without_asking_the_system(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    ended = run_python(FAULTS)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) < 100


@pytest.fixture
def control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts this process into a control group, with quotas by the group's path, on a machine of eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    own, groups = tmp_path / "own", tmp_path / "groups"
    groups.mkdir()
    monkeypatch.setattr(machine, "_OWN_CONTROL_GROUPS", own)
    monkeypatch.setattr(machine, "_CONTROL_GROUPS", groups)
    (tmp_path / "cpu.max").write_text("100000 100000\n")  # outside

    def put(line: str, quotas: dict[str, str]) -> None:
        own.write_text(f"1:cpu:/elsewhere\n{line}\n")
        for path, quota in quotas.items():
            (groups / path).mkdir(parents=True, exist_ok=True)
            (groups / path / "cpu.max").write_text(f"{quota}\n")

    return put


@pytest.mark.parametrize(
    ("line", "quotas", "cores"),
    [
        ("0::/", {"": "200000 100000"}, 2),
        ("0::/", {"": "150000 100000"}, 2),
        ("0::/", {"": "20000 100000"}, 1),
        ("0::/", {"": "max 100000"}, 8),
        ("0::/", {}, 8),
        ("0::/outer/inner", {"outer": "300000 100000", "outer/inner": "max 100000"}, 3),
        ("0::/outer/inner", {"outer": "9900000 100000", "outer/inner": "500000 100000"}, 5),
        ("0::/outer", {"": "", "outer": "damaged"}, 8),
        ("2:memory:/", {"": "200000 100000"}, 8),
    ],
)
def test_a_containers_quota_bounds_the_cores(
    control_groups: Callable[..., None], line: str, quotas: dict[str, str], cores: int
) -> None:
    control_groups(line, quotas)
    assert machine.available_cores() == cores


def test_without_control_groups_all_cores_are_available(
    control_groups: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "_OWN_CONTROL_GROUPS", tmp_path / "nothing")
    assert machine.available_cores() == 8
