"""Ray and Milvus are an optional extra of over a gigabyte: without them these tests are left out, and one says so."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MISSING = [
    name
    for name in ("fsspec", "milvus_lite", "pyarrow", "pymilvus", "ray")
    if importlib.util.find_spec(name) is None
]


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave the files of this folder out where the packages are not there; `test_packages.py` tells."""
    name = collection_path.name
    return True if MISSING and name.startswith("test_") and name != "test_packages.py" else None
