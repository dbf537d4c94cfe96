"""`imago train` around the training itself."""

import subprocess
import sys

ORDER = """
import sys
from app.commands import train

def keep_freed_memory():
    print("jax" in sys.modules)
    sys.exit()

train.keep_freed_memory = keep_freed_memory
train.train.main(["--out", "none", "--data", "none", "--model", "starter"])
"""


def test_memory_is_kept_from_before_jax_is_there() -> None:
    done = subprocess.run([sys.executable, "-c", ORDER], capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr
