"""Which numbers a tower multiplies in: what the machine does best, unless somebody says otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from model import machine
from model.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator


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
        (("avx512f", "amx_bf16", "avx512_bf16"), "bfloat16", "AMX"),
        (("avx512f", "avx512_bf16"), "bfloat16", "AVX-512 BF16"),
        (("avx2", "avx512f", "avx512_vnni"), "float32", "no fast bfloat16"),
        ((), "float32", "no fast bfloat16"),
    ],
)
def test_the_processor_decides(
    on_a_processor_with: object, flags: tuple[str, ...], precision: str, unit: str
) -> None:
    choice = on_a_processor_with(*flags)  # type: ignore[operator]
    assert choice.precision == precision
    assert unit in choice.reason


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
