"""Exact, near and similar told apart: rules on made-up hashes and vectors, hashes on drawn pictures."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from indexer import ImageRecord
from indexer.fingerprint import difference_hash
from search.grouping import (
    Comparison,
    Limits,
    find_groups,
    fold_near_duplicates,
    hash_of_file,
    limits_of,
)

LIMITS = Limits(agreeing=0.8, close=0.9)


def record(image_id: int, **changes: object) -> ImageRecord:
    made = ImageRecord(
        id=image_id, path=Path(f"/p/{image_id}.jpg"), size_bytes=1000, width_pixels=100, height_pixels=100,
        format="jpeg", taken_at=None, camera_make=None, camera_model=None, latitude=None, longitude=None,
        modified_seconds=0.0, copies=1, is_offline=False, content_hash=str(image_id),
    )  # fmt: skip
    return replace(made, **changes)


def comparison(**hashes: int | None) -> Comparison:
    return Comparison(LIMITS, {name.removeprefix("h"): value for name, value in hashes.items()}, read=no_file)


def no_file(path: Path) -> int | None:
    raise AssertionError(f"{path} needed no hash")


@pytest.mark.parametrize(
    ("bits", "cosine", "near"),
    [
        (0, 0.81, True),
        (10, 0.81, True),
        (11, 0.89, False),
        (11, 0.9, True),
        (16, 0.95, True),
        (17, 0.99, False),
    ],
)
def test_vectors_propose_and_hashes_confirm(bits: int, cosine: float, near: bool) -> None:
    judge = comparison(h1=0, h2=(1 << bits) - 1)
    assert judge.is_near(record(1), record(2), cosine) is near


def test_pairs_that_do_not_agree_closely_can_be_left_out() -> None:
    judge = comparison(h1=0, h2=0).of_close_pairs()
    assert judge.limits.agreeing == LIMITS.close
    assert judge.is_near(record(1), record(2), 0.89) is False
    assert judge.is_near(record(1), record(2), 0.9) is True


def test_vectors_that_disagree_need_no_hash() -> None:
    assert comparison().is_near(record(1), record(2), 0.79) is False


def test_files_that_cannot_be_hashed_are_not_near() -> None:
    assert comparison(h1=0, h2=None).is_near(record(1), record(2), 0.99) is False


@pytest.mark.parametrize(
    ("second", "camera", "near"),
    [("12:00:02", "Pixel", True), ("12:00:03", "Pixel", False), ("12:00:02", "Canon", False)],
)
def test_bursts(second: str, camera: str, near: bool) -> None:
    one = record(1, taken_at="2023-01-01T12:00:00", camera_model="Pixel")
    other = record(2, taken_at=f"2023-01-01T{second}", camera_model=camera)
    assert comparison(h1=0, h2=2**64 - 1).is_near(one, other, 0.95) is near


def at_angles(*degrees: float) -> np.ndarray:
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_groups_form_around_their_best_and_never_chain() -> None:
    # Each is near its neighbour (20 degrees: 0.94), the ends are not near each other (40 degrees: 0.77).
    records = [record(1, size_bytes=5), record(2, size_bytes=9), record(3, size_bytes=7)]
    judge = comparison(h1=0, h2=0, h3=0)
    (group,) = find_groups(records, at_angles(0, 20, 40), judge, kind="near")
    assert group.best.id == 2
    assert sorted(other.id for other in group.others) == [1, 3]
    # With an end as the best, the other end is left alone.
    records[0] = record(1, width_pixels=200)
    (group,) = find_groups(records, at_angles(0, 20, 40), judge, kind="near")
    assert (group.best.id, [other.id for other in group.others]) == (1, [2])
    assert group.cosines[0] == pytest.approx(np.cos(np.radians(20)), abs=1e-5)


def test_folding_keeps_the_order_of_the_answer() -> None:
    records = [record(5), record(3), record(4), record(1)]
    judge = comparison(h5=0, h3=0, h4=0, h1=0)
    assert fold_near_duplicates(records, at_angles(0, 90, 5, 95), judge) == [[0, 2], [1, 3]]
    assert fold_near_duplicates([], np.zeros((0, 2), np.float32), judge) == []


def test_similar_is_what_is_not_near() -> None:
    records = [record(1), record(2), record(3)]
    judge = comparison(h1=0, h2=0, h3=2**64 - 1)
    vectors = at_angles(0, 5, 10)
    assert [g.others[0].id for g in find_groups(records, vectors, judge, kind="near")] == [2]
    assert [g.others[0].id for g in find_groups(records, vectors, judge, kind="similar")] == [3]


def test_exact_groups_come_largest_first() -> None:
    records = [record(1), record(2, copies=2), record(3, copies=4)]
    groups = find_groups(records, at_angles(0, 90, 180), comparison(), kind="exact")
    assert [group.best.id for group in groups] == [3, 2]


def test_progress_reaches_the_end() -> None:
    seen: list[tuple[int, int]] = []
    find_groups(
        [record(i) for i in range(5)],
        np.eye(5, dtype=np.float32),
        comparison(),
        kind="near",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (5, 5)


def test_limits_follow_the_library() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(300, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    limits = limits_of(vectors)
    cosines = (vectors @ vectors.T)[np.triu_indices(300, 1)]
    assert np.mean(cosines >= limits.agreeing) == pytest.approx(0.01, abs=0.002)
    assert limits.agreeing < limits.close < 1
    # Of many images fewer pairs are proposed.
    large = limits_of(vectors, 10_000)
    assert np.mean(cosines >= large.agreeing) == pytest.approx(0.001, abs=0.0003)
    assert limits_of(vectors, 10_000_000).close <= 0.985
    copies = np.repeat(vectors[:1], 100, axis=0)
    assert limits_of(copies) == Limits(agreeing=0.95, close=0.985)
    assert limits_of(vectors[:10]).close == 0.95


def test_a_hash_survives_what_copies_go_through(draw_picture) -> None:
    others = [difference_hash(draw_picture(seed)) for seed in range(1, 9)]
    picture = draw_picture(0).resize((640, 480))
    kept = difference_hash(picture)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=40)
    for copy in (
        Image.open(stream),
        picture.resize((200, 150)),
        picture.convert("L"),
        picture.convert("RGBA"),
    ):
        assert (difference_hash(copy) ^ kept).bit_count() <= 10
    assert all((other ^ kept).bit_count() > 10 for other in others)


def test_a_turned_picture_is_hashed_upright(draw_picture, tmp_path: Path) -> None:
    picture = draw_picture(3)
    picture.save(tmp_path / "plain.jpg", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    picture.rotate(90, expand=True).save(tmp_path / "turned.jpg", quality=95, exif=exif)
    plain, turned = hash_of_file(tmp_path / "plain.jpg"), hash_of_file(tmp_path / "turned.jpg")
    assert (plain ^ turned).bit_count() <= 4


def test_files_without_a_hash(tmp_path: Path) -> None:
    (tmp_path / "words.jpg").write_bytes(b"words")
    assert hash_of_file(tmp_path / "words.jpg") is None
    assert hash_of_file(tmp_path / "none.jpg") is None
