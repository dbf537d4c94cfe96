"""The browser app as a process, without a browser of its own."""

import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

BROWSER = """
import sys
from pathlib import Path
from urllib.request import urlopen
try:
    found = urlopen(sys.argv[2], timeout=60).read().decode()
except OSError as error:
    found = str(error)
answer = Path(sys.argv[1])
answer.with_suffix(".part").write_text(found)
answer.with_suffix(".part").rename(answer)
"""


@pytest.mark.skipif(os.name != "posix", reason="a command for a browser as POSIX has it")
def test_a_browser_is_opened_when_the_page_is_there(
    indexed_gallery: Path, start_server: Callable[..., Any], tmp_path: Path
) -> None:
    """Also one of the terminal, which is waited for: it must find the server answering."""
    program, answer = tmp_path / "browser.py", tmp_path / "answer"
    program.write_text(BROWSER)
    command = shlex.join([sys.executable, str(program), str(answer)])
    start_server(indexed_gallery, browser=f"{command} %s")
    deadline = time.monotonic() + 60
    while not answer.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "<title>Streamlit</title>" in answer.read_text()


@pytest.mark.parametrize("number", ["9" * 19, "9" * 25, "9" * 5000])
def test_a_picture_of_no_such_number_is_not_found(gallery_server: Any, number: str) -> None:
    """And is not Streamlit's page, which answers whatever no route of ours takes."""
    with pytest.raises(HTTPError) as caught:
        urlopen(f"{gallery_server.address}/pictures/{number}/thumbnail.webp", timeout=60)
    with caught.value as answer:
        assert answer.code == 404
