"""Importing any of the packages must not import what only clusters need, nor fail without it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

HEAVY = ("fsspec", "pyarrow", "pymilvus", "ray")


def test_the_packages_of_the_extra_are_installed() -> None:
    missing = [name for name in (*HEAVY, "milvus_lite") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(
            f"{', '.join(missing)} not installed: `make test-cluster` sets them up and runs tests/cluster"
        )


def test_importing_what_reads_libraries_imports_none_of_them() -> None:
    code = f"import sys, indexer, search, app.cli;print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
