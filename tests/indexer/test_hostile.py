"""Files made to hurt: whatever they hold, each gets an answer in time, and the decoders live on.

`IMAGO_FUZZ` sets how many broken variants of each format are tried (`make test-faults` sets it high).
"""

from __future__ import annotations

import io
import os
import struct
import time
import zlib

import numpy as np
import pillow_heif
import pytest
from indexer_fakes import SmallPreprocessor
from PIL import Image

from indexer import DecodeLimits
from indexer.decode import MEGAPIXEL
from indexer.decode_pool import DecodePool

VARIANTS = int(os.environ.get("IMAGO_FUZZ", "25"))
LIMITS = DecodeLimits(max_pixels=20 * MEGAPIXEL, time_limit_seconds=10.0)
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "HEIF", "AVIF"]
ANSWERS = {"image", "skipped", "failed", "died", "hung"}
pillow_heif.register_heif_opener()


@pytest.fixture(scope="module")
def pool():
    with DecodePool(SmallPreprocessor(), LIMITS, 1) as decoders:
        yield decoders


def answers(pool, paths):
    for number, path in enumerate(paths):
        pool.submit(number, str(path))
    found = {}
    deadline = time.monotonic() + 30 + 12 * len(paths)
    while len(found) < len(paths):
        assert time.monotonic() < deadline
        found |= {answer.task: answer for answer in pool.collect(0.5)}
    assert pool.open_tasks == 0
    return [found[number] for number in range(len(paths))]


def picture(pillow_format, **options):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, pillow_format, **options)
    return stream.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, *chunks, depth=8, colour=2):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def tiff(entries, next_directory=0):
    """A TIFF of one directory; entries are (tag, kind, count, value)."""
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8) + body + struct.pack("<I", next_directory) + bytes(64)


def with_size(data, width, height):
    """A JPEG whose header states another size."""
    at = data.index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


@pytest.mark.parametrize("pillow_format", FORMATS)
def test_broken_headers_and_bytes(pool, tmp_path, pillow_format):
    whole = picture(pillow_format)
    random = np.random.default_rng(5)
    paths = []
    for number in range(VARIANTS):
        data = bytearray(whole)
        reach = len(data) if number % 2 else min(len(data), 120)  # every other one: the header alone
        for at in random.integers(4, reach, int(random.integers(1, 12))):
            data[at] = int(random.choice([0, 0xFF, 0x7F, 0x80, int(random.integers(0, 256))]))
        if number % 5 == 0:
            data = data[: int(random.integers(1, len(data)))]
        paths.append(tmp_path / f"{number}.jpg")
        paths[-1].write_bytes(data)
    paths.append(tmp_path / "whole")
    paths[-1].write_bytes(whole)
    found = answers(pool, paths)
    assert {answer.status for answer in found} <= ANSWERS
    assert all(answer.reason for answer in found if answer.status != "image")
    assert found[-1].status == "image"


def test_bombs_and_traps(pool, tmp_path):
    frames = [Image.new("P", (8, 8), number % 256) for number in range(3000)]
    endless = io.BytesIO()
    frames[0].save(endless, "GIF", save_all=True, append_images=frames[1:], loop=0)
    size = (256, 4, 1, 60_000), (257, 4, 1, 60_000)
    hostile = {
        "png with huge sides": png(2**31 - 1, 2**31 - 1, chunk(b"IDAT", b"")),
        "png of 100 megapixels in 100 KB": png(
            10_000, 10_000, chunk(b"IDAT", zlib.compress(bytes(10_000 * 30_001 // 64), 9))
        ),
        "png with a text that unpacks to 1 GB": png(
            8,
            8,
            chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 26), 9)),
            chunk(b"IDAT", zlib.compress(bytes(200))),
        ),
        "png with an endless number of chunks": png(8, 8, *[chunk(b"tEXt", b"k\0v")] * 50_000),
        "jpeg that states 65535 x 65535": with_size(picture("JPEG"), 65_535, 65_535),
        "jpeg of no height": with_size(picture("JPEG"), 40, 0),
        "jpeg of a million empty segments": b"\xff\xd8" + b"\xff\xe0\0\x02" * 250_000,
        "gif that states 65535 x 65535": b"GIF89a\xff\xff\xff\xff\0\0\0,"
        + bytes(4)
        + b"\xff\xff\xff\xff\0\x08"
        + bytes(99),
        "gif of 3000 frames": endless.getvalue(),
        "bmp with negative sides": b"BM"
        + bytes(12)
        + struct.pack("<IiiHHIIiiII", 40, -60_000, -60_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "tiff whose directories lead in a circle": tiff([(256, 4, 1, 8), (257, 4, 1, 8)], next_directory=8),
        "tiff that states 3600 megapixels": tiff(
            [*size, (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
        ),
        "tiff with four thousand million strips": tiff(
            [*size, (273, 4, 0xFFFFFFFF, 8), (279, 4, 0xFFFFFFFF, 8)]
        ),
        "webp that states 16384 x 16384": b"RIFF\xff\xff\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\x3f\0\xff\x3f\0"
        + bytes(200),
        "heic of one endless box": b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + b"\0\0\0\x01meta" + b"\xff" * 500,
        "avif of nested boxes": b"\0\0\0\x18ftypavif\0\0\0\0avifmif1" + b"\0\0\x10\0meta\0\0\0\0" * 400,
    }
    paths = []
    for name, data in hostile.items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(data)
    found = dict(zip(hostile, answers(pool, paths), strict=True))
    assert {name for name, answer in found.items() if answer.status == "image"} <= {
        "gif of 3000 frames",
        "png with a text that unpacks to 1 GB",
        "tiff whose directories lead in a circle",
    }
    assert found["gif of 3000 frames"].status == "image"
    for name in (
        "png of 100 megapixels in 100 KB",
        "jpeg that states 65535 x 65535",
        "tiff that states 3600 megapixels",
    ):
        assert "more than the limit of 20" in found[name].reason, (name, found[name])
    assert {answer.status for answer in found.values()} <= {"image", "failed", "skipped"}, found
