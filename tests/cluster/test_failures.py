"""The simulation behind docs/scale.md: whatever dies, every file has one row in the end."""

from __future__ import annotations

import pytest

from benchmarks.failures import Job, simulate

SMALL = {"images": 200_000, "workers": 8, "images_per_second": 5.0, "batch_files": 64}


def test_without_failures_it_takes_what_it_must() -> None:
    job = Job(**SMALL, machine_hours=1e9, driver_hours=1e9, poison=0.0)
    outcome = simulate(job)
    assert (outcome.written, outcome.given_up, outcome.embedded_twice) == (200_000, 0, 0)
    assert outcome.hours_without_failures == pytest.approx(200_000 / (8 * 5.0 * 3600))
    # The last rows wait for the last minute.
    assert outcome.hours_without_failures <= outcome.hours <= outcome.hours_without_failures + 0.05


@pytest.mark.parametrize("seed", range(6))
def test_whatever_dies_every_file_has_one_row(seed: int) -> None:
    job = Job(
        **SMALL,
        machine_hours=0.5,
        repair_hours=0.1,
        driver_hours=1.0,
        restart_hours=0.1,
        poison=2e-5,
        seed=seed,
    )
    outcome = simulate(job)
    assert outcome.machine_deaths > 10
    assert outcome.given_up >= 4  # those that kill
    assert outcome.written + outcome.given_up == 200_000
    assert outcome.rows_twice == 0
    assert outcome.embedded_twice > 0
    assert outcome.hours > outcome.hours_without_failures


def test_only_files_that_kill_are_given_up() -> None:
    outcome = simulate(Job(**SMALL, machine_hours=1e9, driver_hours=1e9, poison=2e-5))
    assert outcome.given_up == 4
    # Two deaths for a batch of 64 and for each half of it, three for the file.
    assert outcome.worker_deaths == 4 * (6 * 2 + 3)
    gentle = simulate(Job(**SMALL, machine_hours=2.0, repair_hours=0.1, driver_hours=5.0, poison=0.0, seed=3))
    assert gentle.given_up == 0
    assert gentle.embedded_twice < 0.02 * 200_000
