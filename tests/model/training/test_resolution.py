"""Larger images for a finished tower."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model import Encoder
from model.errors import ConfigurationError
from model.preprocess import ImagePreprocessor
from model.registry import find_model
from model.training import TrainingConfig, finish, train
from model.training.resolution import _interpolated, _sizes, check_image_size, with_image_size

STARTER = find_model("starter").folder
CLIP = {"model_type": "clip", "vision_config": {"image_size": 60, "patch_size": 10}}


def test_places_between_places_get_what_lies_between() -> None:
    slope = np.arange(64, dtype=np.float32).reshape(8, 8)
    positions = np.stack([slope.reshape(-1), 1 - slope.T.reshape(-1)], axis=1)
    larger = _interpolated(positions, 8, 16)
    # Inside, where nothing is extrapolated, a slope stays one: half a step a place.
    across, down = (larger[:, column].reshape(16, 16)[4:12, 4:12] for column in (0, 1))
    np.testing.assert_allclose(np.diff(across, axis=1), 0.5, atol=1e-4)
    np.testing.assert_allclose(np.diff(across, axis=0), 4.0, atol=1e-4)
    np.testing.assert_allclose(np.diff(down, axis=0), -0.5, atol=1e-4)
    np.testing.assert_allclose(_interpolated(positions, 8, 8), positions, atol=1e-5)


def test_the_class_token_s_row_stays_as_it_is() -> None:
    positions = np.random.default_rng(0).standard_normal((10, 3)).astype(np.float16)
    larger = _interpolated(positions, 3, 5)
    assert (larger.shape, larger.dtype) == ((26, 3), np.float16)
    np.testing.assert_array_equal(larger[0], positions[0])


def test_the_copy_takes_larger_images_and_sees_much_the_same(
    tmp_path: Path, draw_picture: Callable[[int], Image.Image]
) -> None:
    size = json.loads((STARTER / "config.json").read_text())["vision_config"]["image_size"] + 10
    with_image_size(STARTER, tmp_path / "larger", size)
    before, after = Encoder.load(STARTER), Encoder.load(tmp_path / "larger")
    assert (after.preprocessor.input_height_pixels, after.preprocessor.input_width_pixels) == (size, size)
    pictures = [draw_picture(seed) for seed in range(8)]
    same = np.sum(after.encode_images(pictures) * before.encode_images(pictures), axis=1)
    # Rows and columns in each other's places leave 0.93, the places in reverse as much.
    assert np.mean(same) > 0.96
    np.testing.assert_allclose(after.encode_texts(["dog"]), before.encode_texts(["dog"]), atol=1e-5)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("sizes", [{"size": 70, "crop_size": 70}, {"size": {"height": 70, "width": 70}}])
def test_sizes_are_scaled_however_they_are_written(
    tmp_path: Path, sizes: dict[str, Any], joint: bool
) -> None:
    source = tmp_path / "source"
    shutil.copytree(STARTER, source)
    settings = json.loads((source / "preprocessor_config.json").read_text()) | {"do_center_crop": False}
    del settings["size"], settings["crop_size"]
    settings |= sizes | {"do_center_crop": "crop_size" in sizes}
    if joint:
        (source / "preprocessor_config.json").unlink()
        (source / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    else:
        (source / "preprocessor_config.json").write_text(json.dumps(settings))
    with_image_size(source, tmp_path / "larger", 80)
    preprocessor = Encoder.load(tmp_path / "larger").preprocessor
    assert (preprocessor.input_height_pixels, preprocessor.input_width_pixels) == (80, 80)
    assert preprocessor.resize_rule == ("shortest" if "crop_size" in sizes else "exact")


def test_sizes_that_the_settings_leave_out_are_written(tmp_path: Path) -> None:
    preprocessor = ImagePreprocessor.from_config({"image_processor_type": "CLIPImageProcessor"})
    sizes = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    assert _sizes(preprocessor, 1.5) == sizes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (CLIP, "finished_image_size = 65 must be a multiple of the patch size, 10"),
        (CLIP | {"model_type": "vision-text-dual-encoder"}, "for CLIP and SigLIP models"),
        ({"model_type": "clip", "vision_config": {"image_size": [60, 80]}}, "for square images"),
    ],
)
def test_what_cannot_be_resized_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_image_size(settings, 65)


def test_sets_count_by_their_images() -> None:
    tests = [
        SimpleNamespace(title=title, pixels=np.zeros(count)) for title, count in (("few", 10), ("many", 90))
    ]
    scores = {"few": {"accuracy": 0.0}, "many": {"accuracy": 0.5}}
    assert finish._pooled(scores, tests) == pytest.approx(0.45)


@pytest.mark.parametrize(("score_after", "size"), [(0.6, 24), (0.4, 16)])
def test_a_run_hands_out_the_size_that_scores_better(
    make_settings: Callable[..., TrainingConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    score_after: float,
    size: int,
) -> None:
    config = make_settings(schedule={"steps": 2})
    settings = config.to_dict()["model"] | {"finished_image_size": 24}
    config = make_settings(model=settings, schedule={"steps": 2}, report=[{"path": str(config.data[0].path)}])
    scores = iter([score_after, 0.5])  # of the larger images, of the state that was kept
    monkeypatch.setattr(finish, "_pooled", lambda *_: next(scores))
    summary = train(config, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["vision_config"]["image_size"] == size
    assert Encoder.load(tmp_path).preprocessor.input_height_pixels == size
    assert len(summary.report) == 1
    assert any("24 pixels score worse" in notice for notice in summary.notices) == (size == 16)


def test_a_run_that_is_done_can_still_be_asked_for_another_size(
    make_settings: Callable[..., TrainingConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_settings(schedule={"steps": 2})
    train(config, tmp_path)
    monkeypatch.setattr(finish, "_pooled", lambda *_: 0.5)
    larger = dataclasses.replace(config, model=dataclasses.replace(config.model, finished_image_size=24))
    summary = train(larger, tmp_path)
    assert summary.resumed_from == 2
    assert Encoder.load(tmp_path).preprocessor.input_height_pixels == 24
