"""One file: formats, modes, metadata, and everything that bad input can be."""

from __future__ import annotations

import hashlib
import os
import struct
import threading
import zlib

import numpy as np
import pillow_heif
import pytest
from indexer_fakes import SmallPreprocessor, draw
from PIL import Image

from indexer.decode import (
    ChangedWhileReadError,
    DecodeLimits,
    RefusedError,
    SkipError,
    decode,
    open_image,
    read_file,
    shrink_while_decoding,
)
from indexer.formats import sniff

LIMITS = DecodeLimits()
SMALL = SmallPreprocessor()
pillow_heif.register_heif_opener()

FORMATS = {
    "jpeg": ("JPEG", {}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {"lossless": True}),
    "gif": ("GIF", {}),
    "tiff": ("TIFF", {}),
    "bmp": ("BMP", {}),
    "heic": ("HEIF", {}),
    "avif": ("AVIF", {}),
}


def load(path, limits=LIMITS):
    return decode(read_file(str(path), limits), SMALL, limits)


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_is_told_by_its_bytes_and_decoded(tmp_path, kind):
    pillow_format, options = FORMATS[kind]
    path = tmp_path / "a.dat"  # the name says nothing
    red = Image.new("RGB", (40, 30), (200, 30, 30))
    red.save(path, pillow_format, **options)
    file = read_file(str(path), LIMITS)
    assert file.format == kind
    assert file.content_hash == hashlib.sha256(path.read_bytes()).digest()
    assert file.size_bytes == path.stat().st_size
    assert (file.modified_ns, file.inode) == (path.stat().st_mtime_ns, path.stat().st_ino)
    pixels, metadata = decode(file, SMALL, LIMITS)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels, np.broadcast_to((200, 30, 30), (8, 8, 3)), atol=25)
    assert (metadata.width_pixels, metadata.height_pixels) == (40, 30)


def test_a_wrong_name_does_not_matter(tmp_path):
    path = draw(tmp_path / "a.png", 1).rename(tmp_path / "a.jpg")
    assert read_file(str(path), LIMITS).format == "png"


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F", "LAB", "HSV"]
)
def test_every_mode_of_pillow_decodes(tmp_path, mode):
    image = Image.new(mode, (20, 10)) if mode == "I;16" else Image.new("RGB", (20, 10)).convert(mode)
    path = tmp_path / "a.tif"
    try:
        image.save(path, "TIFF")
    except (OSError, KeyError):
        pytest.skip(f"Pillow writes no TIFF of mode {mode}")
    assert load(path)[0].shape == (8, 8, 3)


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    pixels, _ = load(tmp_path / "a.gif")
    assert pixels[..., 0].min() > 250
    assert pixels[..., 1].max() < 5


def test_a_jpeg_of_several_pictures_is_its_first_and_decoded_small(tmp_path):
    path = tmp_path / "a.jpg"
    colours = [Image.new("RGB", (1600, 1200), colour) for colour in ((200, 30, 30), (30, 30, 200))]
    colours[0].save(path, "MPO", save_all=True, append_images=colours[1:])
    pixels, metadata = load(path)
    assert (metadata.width_pixels, metadata.height_pixels) == (1600, 1200)
    assert pixels.reshape(-1, 3).mean(axis=0) == pytest.approx([200, 30, 30], abs=4)
    image = open_image(path.read_bytes(), "jpeg")
    assert image.format == "MPO"
    shrink_while_decoding(image, 100)
    assert image.size == (200, 150)


@pytest.mark.parametrize("length", [3, 4, 20])
def test_a_jpeg_that_ends_in_its_head_is_called_damaged(tmp_path, length):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (40, 30)).save(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(RefusedError, match="begins like JPEG, but is damaged"):
        load(path)


def test_a_large_jpeg_is_decoded_small_but_never_too_small(tmp_path):
    path = draw(tmp_path / "a.jpg", 1, (800, 600))
    image = open_image(path.read_bytes(), "jpeg")
    shrink_while_decoding(image, 75)
    assert image.size == (100, 75)
    image = open_image(path.read_bytes(), "jpeg")
    shrink_while_decoding(image, 76)
    assert image.size == (200, 150)
    assert (load(path)[1].width_pixels, load(path)[1].height_pixels) == (800, 600)


@pytest.mark.parametrize(("orientation", "told"), [(1, (801, 603)), (6, (603, 801))])
def test_the_preprocessor_is_told_the_upright_size_of_what_was_decoded_small(tmp_path, orientation, told):
    seen = []

    class Told(SmallPreprocessor):
        def __call__(self, image, full_size=None):
            seen.append((image.size, full_size))
            return super().__call__(image)

    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.effect_mandelbrot((801, 603), (-2, -1, 1, 1), 20).save(tmp_path / "a.jpg", exif=exif)
    file = read_file(str(tmp_path / "a.jpg"), LIMITS)
    decode(file, Told(minimum_side_pixels=75), LIMITS)
    decode(file, Told(minimum_side_pixels=500), LIMITS)
    assert seen == [((101, 76), told), ((801, 603), None)]


class TestMetadata:
    def exif(self):
        exif = Image.Exif()
        exif[0x010F], exif[0x0110] = "Maker\0 ", "  Model  8 "
        exif[0x0112] = 6
        details = exif.get_ifd(0x8769)
        details[0x9003], details[0x9011] = "2023:05:01 12:34:56", "+02:00"
        place = exif.get_ifd(0x8825)
        place[1], place[2] = "N", (48.0, 51.0, 0.0)
        place[3], place[4] = "W", (2.0, 21.0, 36.0)
        return exif

    @pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "heic", "avif"])
    def test_exif_of_each_format(self, tmp_path, suffix):
        path = draw(tmp_path / f"a.{suffix}", 1, (40, 20), exif=self.exif().tobytes())
        _, metadata = load(path)
        assert metadata.taken_at == "2023-05-01T12:34:56+02:00"
        assert (metadata.camera_make, metadata.camera_model) == ("Maker", "Model 8")
        assert metadata.latitude == pytest.approx(48.85)
        assert metadata.longitude == pytest.approx(-2.36)
        assert {metadata.width_pixels, metadata.height_pixels} == {20, 40}

    def test_size_is_as_people_see_it(self, tmp_path):
        _, metadata = load(draw(tmp_path / "a.jpg", 1, (40, 20), exif=self.exif()))
        assert (metadata.width_pixels, metadata.height_pixels) == (20, 40)

    def test_absurd_values_count_as_absent(self, tmp_path):
        exif = Image.Exif()
        exif[0x010F], exif[0x0110] = b"\xff\xfe\x00", "\ud800"[:0]
        exif[0x0132] = "0000:00:00 00:00:00"
        place = exif.get_ifd(0x8825)
        place[1], place[2] = "N", (123.0, 0.0, 0.0)
        place[3], place[4] = "E", (0.0, 0.0, 0.0)
        _, metadata = load(draw(tmp_path / "a.jpg", 1, exif=exif))
        assert (metadata.taken_at, metadata.latitude, metadata.longitude) == (None, None, None)

    def test_damaged_exif_does_not_cost_the_image(self, tmp_path):
        _, metadata = load(draw(tmp_path / "a.jpg", 1, exif=b"Exif\0\0II*\0\xff\xff\xff\xff"))
        assert (metadata.width_pixels, metadata.taken_at) == (32, None)

    def test_a_picture_without_any(self, tmp_path):
        _, metadata = load(draw(tmp_path / "a.png", 1))
        assert metadata.taken_at is metadata.camera_make is metadata.latitude is None


class TestBadInput:
    @pytest.mark.parametrize("name", ["notes.txt", "movie.mp4", "noname", "README.md"])
    def test_files_that_are_no_images_are_skipped(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"\0\0\0\x20ftypisom" + bytes(100))
        with pytest.raises(SkipError, match="not an image"):
            read_file(str(tmp_path / name), LIMITS)

    def test_an_empty_file_named_like_an_image(self, tmp_path):
        (tmp_path / "a.jpg").touch()
        with pytest.raises(RefusedError, match="the file is empty"):
            read_file(str(tmp_path / "a.jpg"), LIMITS)

    def test_text_named_like_an_image(self, tmp_path):
        (tmp_path / "a.JPG").write_text("<html>not found</html>")
        with pytest.raises(RefusedError, match="holds no image, although its name says so"):
            read_file(str(tmp_path / "a.JPG"), LIMITS)

    @pytest.mark.parametrize("name", ["a.NEF", "b.dng", "c.cr2"])
    def test_camera_raw_is_skipped_and_not_taken_for_a_thumbnail(self, tmp_path, name):
        draw(tmp_path / "a.tif", 1).rename(tmp_path / name)
        with pytest.raises(SkipError, match="camera raw"):
            read_file(str(tmp_path / name), LIMITS)

    @pytest.mark.parametrize("kind", FORMATS)
    def test_half_a_file(self, tmp_path, kind):
        pillow_format, options = FORMATS[kind]
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "a", pillow_format, **options)
        data = (tmp_path / "a").read_bytes()
        (tmp_path / "a").write_bytes(data[: len(data) // 2])
        with pytest.raises(RefusedError, match=kind.upper()):
            load(tmp_path / "a")

    @pytest.mark.parametrize("kind", FORMATS)
    def test_only_the_first_bytes(self, tmp_path, kind):
        pillow_format, options = FORMATS[kind]
        Image.new("RGB", (64, 64)).save(tmp_path / "a", pillow_format, **options)
        (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:32])
        with pytest.raises(RefusedError):
            load(tmp_path / "a")

    def test_a_bomb_is_refused_by_its_header(self, tmp_path):
        def chunk(kind, body):
            return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

        header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
        (tmp_path / "a.png").write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(bytes(1000)))
            + chunk(b"IEND", b"")
        )
        with pytest.raises(
            RefusedError, match=r"100000 x 100000 pixels, 10000 megapixels, more than the limit of 150"
        ):
            load(tmp_path / "a.png")

    def test_the_limit_counts_what_is_really_decoded(self, tmp_path):
        limits = DecodeLimits(max_pixels=10_000)
        path = draw(tmp_path / "a.jpg", 1, (640, 480))
        assert load(path, limits)[0].shape == (8, 8, 3)  # 80 x 60 are decoded
        with pytest.raises(RefusedError, match="640 x 480"):
            load(draw(tmp_path / "a.png", 1, (640, 480)), limits)
        with pytest.raises(
            RefusedError, match="640 x 480"
        ):  # all its coefficients are kept, whatever the scale
            load(draw(tmp_path / "b.jpg", 1, (640, 480), progressive=True), limits)

    def test_too_many_bytes(self, tmp_path):
        path = draw(tmp_path / "a.bmp", 1)
        with pytest.raises(RefusedError, match="MiB, more than the limit"):
            read_file(str(path), DecodeLimits(max_bytes=1000))

    @pytest.mark.parametrize("how", ["grow", "shrink", "touch"])
    def test_a_file_that_changes_while_it_is_read(self, tmp_path, monkeypatch, how):
        path = draw(tmp_path / "a.bmp", 1, (300, 300))
        fstat, calls = os.fstat, []

        def meddle(number):
            known = fstat(number)
            calls.append(known.st_size)
            if len(calls) == 1:  # after the first look, before the bytes
                if how == "grow":
                    with path.open("ab") as file:
                        file.write(b"more")
                elif how == "shrink":
                    os.truncate(path, 1000)
                else:
                    os.utime(path, ns=(1, 1))
            return known

        monkeypatch.setattr(os, "fstat", meddle)
        with pytest.raises(ChangedWhileReadError):
            read_file(str(path), LIMITS)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"", None),
        (b"\xff\xd8\xff\xe0", "jpeg"),
        (b"BM" + bytes(62), None),
        (b"BM" + bytes(12) + (40).to_bytes(4, "little"), "bmp"),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"\0\0\0\x1cftypheic", "heic"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0avif", "avif"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0heic", "heic"),
        (b"\0\0\0\x18ftypcrx \0\0\0\0", None),
        (b"\0\0\0\x18ftypisom\0\0\0\0mp41", None),
    ],
)
def test_sniff(header, expected):
    assert sniff(header) == expected


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
@pytest.mark.parametrize("name", ["pipe", "picture.jpg"])
def test_a_named_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    raised = []

    def read():
        try:
            read_file(str(tmp_path / name), DecodeLimits())
        except (SkipError, OSError) as error:
            raised.append(error)

    reading = threading.Thread(target=read, daemon=True)  # without the guard it would hang for ever
    reading.start()
    reading.join(timeout=20)
    assert [(type(error), str(error)) for error in raised] == [(SkipError, "not a regular file")]
