"""The processes that decode uploads: those that hang, die, and cannot be replaced."""

import os
import shutil
import sys
from collections.abc import Iterator
from io import BytesIO

import psutil
import pytest
from PIL import Image

from app.thumbnails import Fit
from app.upload_decoder import UploadDecoder
from indexer.decode import DecodeLimits
from indexer.errors import DecoderStartError
from search import QueryImageError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="stops processes with POSIX signals")


@pytest.fixture
def decoder() -> Iterator[UploadDecoder]:
    decoder = UploadDecoder(DecodeLimits(time_limit_seconds=3.0))
    yield decoder
    decoder.close()


def decode(decoder: UploadDecoder) -> tuple[int, int]:
    buffer = BytesIO()
    Image.new("L", (8, 6)).save(buffer, "PNG")
    buffer.seek(0)
    return decoder.decode(buffer, Fit(4)).size


def process_of(decoder: UploadDecoder) -> psutil.Process:
    """The one process that decodes what comes one after another."""
    before = set(psutil.Process().children())
    for _ in range(3):
        assert decode(decoder) == (4, 3)
    (process,) = set(psutil.Process().children()) - before
    return process


def test_one_that_takes_too_long_is_ended(decoder: UploadDecoder) -> None:
    process = process_of(decoder)
    process.suspend()
    with pytest.raises(QueryImageError, match="longer than 3 s"):
        decode(decoder)
    assert not process.is_running()
    assert decode(decoder) == (4, 3)


def test_one_that_cannot_be_replaced_is_started_when_it_can(
    decoder: UploadDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    process_of(decoder).kill()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", shutil.which("false"))
        with pytest.raises(QueryImageError, match="crashed"):
            decode(decoder)
        with pytest.raises(DecoderStartError):
            decode(decoder)
    assert decode(decoder) == (4, 3)


def test_closing_ends_the_processes(decoder: UploadDecoder) -> None:
    process = process_of(decoder)
    decoder.close()
    assert not process.is_running()
