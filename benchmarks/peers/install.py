"""Fills the peers' environment, unless that would bring gigabytes of CUDA: then it says so and the peers stay out.

.venv-peers/bin/python benchmarks/peers/install.py
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]


def would_install_cuda() -> bool:
    command = [*PIP, "--dry-run", "--report", "-", "-r", str(REQUIREMENTS)]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    names = [item["metadata"]["name"] for item in report["install"]]
    return any(name.startswith(("nvidia-", "cuda-", "triton")) for name in names)


def main() -> None:
    if would_install_cuda():
        print(
            "The package index here offers PyTorch with CUDA only, gigabytes of it: its columns and those of ONNX "
            "Runtime, whose graph PyTorch writes, stay empty. Install a CPU build of PyTorch into .venv-peers and "
            "run this again to have them."
        )
        return
    subprocess.run([*PIP, "-r", str(REQUIREMENTS)], check=True)


if __name__ == "__main__":
    main()
