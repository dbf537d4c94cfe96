"""Pictures in terminals that say what they can, played by a pseudo-terminal."""

import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from app.terminal_pictures import can_show

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals exist on POSIX only")

PROGRAM = """
import sys
from pathlib import Path
from app.terminal_pictures import Picture, can_show, print_pictures
if not can_show():
    sys.exit("no terminal")
print_pictures([
    Picture(Path("/p/\\x1b]0;evil\\x07.png"), 0.5, Path(sys.argv[1]).read_bytes()),
    Picture(Path("/p/gone.png"), 0.25, None),
])
"""


@pytest.fixture
def thumbnail(tmp_path: Path) -> Path:
    path = tmp_path / "red.webp"
    Image.new("RGB", (64, 48), (250, 10, 10)).save(path, lossless=True)
    return path


def run_in_terminal(thumbnail: Path, attributes: bytes) -> bytes:
    """Run the program in a terminal whose device attributes are these; returns what it printed."""
    import fcntl
    import pty
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 1200, 1000))
    environment = os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(thumbnail)],
        stdin=slave,
        stdout=slave,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    ) as process:
        os.close(slave)
        output = b""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if not select.select([master], [], [], 1)[0]:
                continue
            try:
                new = os.read(master, 65536)
            except OSError:  # how Linux says that the other end has closed
                break
            if not new:
                break
            output += new
            if b"\x1b[c" in new:  # "what can you do?"
                os.write(master, attributes)
        assert process.stderr is not None
        errors = process.stderr.read()
        process.wait(timeout=30)
    os.close(master)
    assert process.returncode == 0, errors.decode()
    return output


def test_a_terminal_with_sixel_gets_sixel_and_harmless_paths(thumbnail: Path) -> None:
    output = run_in_terminal(thumbnail, b"\x1b[?62;4;22c")
    assert b"\x1bP" in output
    assert b"#" in output.partition(b"\x1bP")[2]
    assert rb"0.5000  /p/\x1b]0;evil\x07.png" in output
    assert b"\x1b]0;evil" not in output
    assert b"0.2500  /p/gone.png" in output
    assert b"cannot be read any more" in output


def test_any_other_terminal_gets_coloured_half_cells(thumbnail: Path) -> None:
    output = run_in_terminal(thumbnail, b"\x1b[?62;22c")
    assert b"\x1bP" not in output
    assert "▀".encode() in output or "▄".encode() in output
    assert b"48;2;250;10;10" in output


def test_pipes_get_no_pictures(thumbnail: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(thumbnail)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"no terminal\n")
    assert not can_show()
