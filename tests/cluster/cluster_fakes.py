"""What the tests of this folder share: libraries made in a moment, and functions for child processes."""

from __future__ import annotations

import hashlib
import os
import random
import signal
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from indexer_fakes import FakeEncoder, HostilePreprocessor, draw, identity
from PIL import Image
from test_selection import exif_of

from indexer import IndexProgress, index_folders
from indexer.catalog import Catalog
from indexer.cluster.embedding import RayEmbedding
from indexer.cluster.job import run_job
from indexer.cluster.parquet import ParquetSink
from indexer.decode import DecodeLimits, Metadata
from indexer.lock import writer_lock
from indexer.upkeep import renew_vector_file

HOSTILE = (
    "it's",
    'say "x"',
    "back\\slash",
    "new\nline",
    "100%",
    "a_b",
    "[x]",
    "Üni☃😀",
    '") or (id >= 0) or (names like "',
    "%' or 1=1 --",
    "{braces} $x",
    "z",
    "0g",
)
"""Names that would mean something to somebody who forgot to escape."""


def hostile_library(base: Path, images: int = 120) -> tuple[Path, Path]:
    """A library of small images of all kinds whose names are meant badly, and the folder of the images."""
    chance = random.Random(11)
    photos = base / "photos"
    for i in range(images):
        folder = photos / chance.choice([*HOSTILE, "rome", "Rome/2023"])
        folder.mkdir(parents=True, exist_ok=True)
        taken = (
            datetime(2023, 1, 1) + timedelta(hours=chance.randrange(20_000))
            if chance.random() < 0.6
            else None
        )
        size = chance.choice([(40, 30), (30, 40), (32, 32), (64, 16)])
        suffix, image_format = chance.choice([("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")])
        if chance.random() < 0.1:
            size, image_format, suffix = (750, 1334), "PNG", "png"
        camera = chance.choice([None, ("Google", "Pixel 8"), ("ÉTÉ", "100%_"), ('"', "\\"), ("a'b", "c")])
        place = chance.choice(
            [None, (48.86, 2.34), (-33.9, 151.2), (0.5, 179.95), (0.5, -179.95), (89.99, 10.0)]
        )
        name = f"{chance.choice([*HOSTILE, 'Screenshot ', 'IMG_'])}{i}.{suffix}"
        picture = Image.new("RGB", size, (i * 2, chance.randrange(256), chance.randrange(256)))
        picture.save(folder / name, image_format, exif=exif_of(camera, taken, place))
        changed = datetime(2022, 1, 1).timestamp() + 86_400 * chance.randrange(900)
        os.utime(folder / name, (changed, changed))
        if chance.random() < 0.2:  # a second copy, elsewhere and under another name
            copy = photos / "copies" / f"{chance.choice(HOSTILE)}copy{i}.{suffix}"
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes((folder / name).read_bytes())
            os.utime(copy, (changed - 5000, changed - 5000))
    if os.name == "posix":
        odd = os.fsencode(photos) + b"/not\xffutf8.png"
        with Path(os.fsdecode(odd)).open("wb") as file:
            Image.new("RGB", (9, 9), "red").save(file, "PNG")
    index_folders(base / "library", [photos], FakeEncoder(), workers=1)
    return base / "library", photos


def synthetic_library(path: Path, images: int, dimension: int = 32, seed: int = 0) -> Path:
    """A library without files: rows and clustered vectors, written through the catalog as an index run would."""
    random_numbers = np.random.default_rng(seed)
    centres = random_numbers.standard_normal((64, dimension))
    vectors = centres[random_numbers.integers(0, 64, images)] + 0.6 * random_numbers.standard_normal(
        (images, dimension)
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    path.mkdir()
    with writer_lock(path), Catalog.open(path) as catalog:
        with catalog.transaction():
            model = catalog.add_model(identity(dimension=dimension), "active")
            root = catalog.add_root("/nowhere/photos")
            for i in range(images):
                content = hashlib.sha256(f"{seed} {i}".encode()).digest()
                image_id = catalog.add_image(content, 1000 + i, "jpeg", Metadata(640 + i % 7, 480))
                catalog.add_vector(image_id, model.id, vectors[i].astype(np.float32))
                stat = (1000 + i, 1_600_000_000_000_000_000 + i, i)
                catalog.put_file(root.id, f"{i % 10}/{i}.jpg", stat, "indexed", image_id=image_id, read_ns=0)
        renew_vector_file(catalog, model, None)
    return path


def index_drawn(library: Path, photos: Path, seeds: range) -> None:
    """Draws pictures and indexes them."""
    for seed in seeds:
        draw(photos / f"{seed}.png", seed)
    index_folders(library, [photos], FakeEncoder(), workers=1)


class DeadlyEncoder(FakeEncoder):
    """Takes its whole process along when it is shown a white picture, as a defect in a driver might."""

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        if (pixels == 255).all(axis=(1, 2, 3)).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_pixels(pixels)


class HostileEncoder(FakeEncoder):
    """Its preprocessor crashes and hangs on pictures of certain widths."""

    def __init__(self) -> None:
        super().__init__(preprocessor=HostilePreprocessor())


def slow_encoder() -> FakeEncoder:
    return FakeEncoder(seconds_per_batch=0.05)


class NotingEncoder(FakeEncoder):
    """Leaves a file named after its node when it embeds, and takes its time."""

    folder = ""

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        import ray

        (Path(self.folder) / ray.get_runtime_context().get_node_id()).touch()
        return super().encode_pixels(pixels)


def noting_encoder(folder: str) -> NotingEncoder:
    encoder = NotingEncoder(seconds_per_batch=0.3)
    encoder.folder = folder
    return encoder


def slower_encoder() -> FakeEncoder:
    return FakeEncoder(seconds_per_batch=0.4)


def other_encoder() -> FakeEncoder:
    return FakeEncoder(identity=identity("fake", weights="d4"))


def no_encoder() -> FakeEncoder:
    raise FileNotFoundError("there is no model here")


def index_on_ray(library: str, photos: str, address: str) -> None:
    """For a process that is killed: indexes on a cluster and says how far it is."""
    elsewhere = RayEmbedding(address, slower_encoder, cores=1, batch_files=4)

    def tell(progress: IndexProgress) -> None:
        print(f"{progress.indexed}", flush=True)

    index_folders(library, [photos], FakeEncoder(), elsewhere=elsewhere, progress=tell)
    print("complete", flush=True)


def embed_on_ray(folder: str, photos: str, address: str) -> None:
    """The same into Parquet, a shard for every few rows."""

    def tell(progress: IndexProgress) -> None:
        print(f"{progress.indexed}", flush=True)

    encoder = slow_encoder()
    sink = ParquetSink(folder, encoder.identity, rows_in_shard=10)
    options = {"load": slow_encoder, "encoder": encoder, "limits": DecodeLimits(), "cores": 1}
    run_job([photos], sink, address, progress=tell, **options)


def publish_slowly(library: str, address: str, lease_seconds: str) -> None:
    """For a process that is killed: publishes a block at a time and says so."""
    import time

    from indexer.cluster import publishing

    publishing.BLOCK_IDS = 64
    publishing._ROWS_AT_ONCE = 16

    def tell(done: int, total: int) -> None:
        print(f"{done} of {total}", flush=True)
        time.sleep(0.05)

    publishing.publish(library, address, lease_seconds=float(lease_seconds), progress=tell)
    print("complete", flush=True)
