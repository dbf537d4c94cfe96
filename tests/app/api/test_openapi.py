"""The description of the API holds: schemathesis tries, over a real connection, what it allows and what it does not."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

EXAMPLES = 5
"""Of each address, besides the hundreds of cases that schemathesis derives from the description itself."""
LINES_SHOWN = 200

# Nothing but the query language itself can tell which texts are queries, so a valid request may be answered 400,
# and bytes that a schema calls a file may be no picture, 422.
CONFIGURATION = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "304", "400", "404", "422"]
"""


def test_every_address_does_as_described(server: Any, tmp_path: Path) -> None:
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(CONFIGURATION)
    command = "from schemathesis.cli import schemathesis; schemathesis()"
    options = ["-n", str(EXAMPLES), "--seed", "1", "--no-color"]
    done = subprocess.run(
        [
            *(sys.executable, "-c", command, "--config-file", str(configuration), "run"),
            *(*options, f"{server.url}/openapi.json"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONUTF8": "1"},
    )
    shown = "\n".join(line[:300] for line in (done.stdout + done.stderr).splitlines()[-LINES_SHOWN:])
    assert done.returncode == 0, shown
    assert "11 selected / 11 total" in done.stdout
