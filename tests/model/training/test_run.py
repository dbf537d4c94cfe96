"""Whole runs: learning, stopping, being killed, going wrong."""

import copy
import json
import signal
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from filelock import FileLock
from PIL import Image
from safetensors.numpy import load_file, save_file

from model import Encoder
from model.errors import ConfigurationError
from model.training import (
    ResumeError,
    TrainingConfig,
    TrainingDataError,
    TrainingDivergedError,
    TrainingError,
    TrainingProgress,
    TrainingSummary,
    pace,
    train,
)
from model.training.batches import BATCHES_IN_HAND
from model.training.result import Figure, write_card
from model.training.setup import prepare_run
from model.training.step import Trainer

COLOURS = ("red", "green", "blue", "yellow")

Settings = Callable[..., TrainingConfig]
Copy = Callable[[Path], Path]


def events(output: Path, kind: str) -> list[dict[str, Any]]:
    lines = (output / "training" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def numbers(output: Path) -> list[tuple[Any, ...]]:
    """Everything a run computed, without how long it took."""
    steps = [(e["step"], e["loss"], e["gradient_norm"], e["logit_scale"]) for e in events(output, "step")]
    return [*steps, *((e["step"], e["score"]) for e in events(output, "validation"))]


# Learning

LEARNING: dict[str, Any] = {
    "schedule": {"steps": 250, "log_every": 50},
    "optimizer": {"learning_rate": 1e-2},
    "augmentation": {"crop_area": [0.8, 1.0], "flip": 0.5},
    "validation": {"share": 0.0},
}


@pytest.fixture(scope="module")
def learnt(flags: Path, tmp_path_factory: pytest.TempPathFactory, make_settings: Settings) -> TrainingSummary:
    """A model trained from nothing on twelve captioned flags, and measured on the same."""
    data = {"path": str(flags)}
    config = make_settings(data=[data], report=[data | {"title": "Flags"}], **LEARNING)
    return train(config, tmp_path_factory.mktemp("learnt"))


def test_it_learns_to_retrieve_exactly(learnt: TrainingSummary, flags: Path) -> None:
    assert learnt.finished
    (figure,) = learnt.report
    assert figure.scores == {"recall_at_1": 1.0, "recall_at_5": 1.0, "recall_at_10": 1.0, "median_rank": 1.0}
    encoder = Encoder.load(learnt.folder)
    images = sorted(flags.glob("*.png"))
    texts = ["a flag with {} above and {} below".format(*path.stem.split("-")) for path in images]
    pictures = [Image.open(path) for path in images]
    scores = encoder.encode_texts(texts) @ encoder.encode_images(pictures).T
    np.testing.assert_array_equal(np.argmax(scores, axis=1), np.arange(12))


def test_a_run_that_was_told_no_rate_takes_one_for_its_width(make_settings: Settings, tmp_path: Path) -> None:
    config = make_settings(schedule={"steps": 1}, optimizer={"learning_rate": None})
    width = config.model.new.configuration["vision_config"]["hidden_size"]
    assert train(config, tmp_path).finished
    (start,) = events(tmp_path, "start")
    assert start["settings"]["optimizer"]["learning_rate"] == pytest.approx(1e-4 * 768 / width)
    assert train(config, tmp_path).finished  # and knows its own run again


def test_a_run_leaves_a_card_a_log_and_a_curve(learnt: TrainingSummary) -> None:
    card = (learnt.folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith('---\nlicense: "other"\n')
    assert "## Figures on data that it was trained on" in card
    assert "that it was not trained on" not in card
    assert "| Flags, 12 images | recall at 1 among 12 images | 1.000 |  | 0.083 |" in card
    assert "| steps | 250 of 8 pairs |" in card
    assert [event["step"] for event in events(learnt.folder, "step")] == [50, 100, 150, 200, 250]
    assert events(learnt.folder, "end")[0]["report"] == [learnt.report[0].to_dict()]
    with Image.open(learnt.folder / "training" / "curve.png") as curve:
        assert curve.width > 500
    assert json.loads(json.dumps(learnt.to_dict()))["steps"] == 250
    assert any("no validation" in notice for notice in learnt.notices)


def test_the_card_tells_what_was_learnt_from_and_what_was_not(
    class_folders: Path, tmp_path: Path, make_settings: Settings
) -> None:
    figures = [
        Figure(title, "zero_shot", 10, 4, {"accuracy": 0.5}, None) for title in ("Same", "Split", "Other")
    ]
    config = make_settings(
        data=[{"path": str(class_folders), "split": "train"}],
        report=[
            {"path": str(class_folders), "title": "Same"},
            {"path": str(class_folders), "split": "test", "title": "Split"},
            {"path": "elsewhere", "title": "Other"},
        ],
    )
    write_card(tmp_path / "README.md", config, figures, (), {})
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    unknown, _, known = card.partition("that it was trained on")
    assert ["Same" in unknown, "Split" in unknown, "Other" in unknown] == [False, True, True]
    assert "| Same, 10 images" in known


def test_the_checkpoint_has_the_layout_that_transformers_writes(
    learnt: TrainingSummary, reference_folder: Path
) -> None:
    from safetensors import safe_open

    def names(file: Path) -> set[str]:
        with safe_open(file, "numpy") as tensors:
            return {name for name in tensors.keys() if ".layers.1." not in name}  # noqa: SIM118 (no mapping)

    theirs = names(reference_folder / "clip-first-rules" / "model.safetensors")
    assert names(learnt.folder / "model.safetensors") == theirs
    config = json.loads((learnt.folder / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["CLIPModel"]
    assert config["text_config"]["eos_token_id"] == 3


def test_fine_tuning_goes_on_from_a_base_and_says_what_it_gained(
    learnt: TrainingSummary, class_folders: Path, tmp_path: Path, make_settings: Settings
) -> None:
    config = make_settings(
        data=[{"path": str(class_folders)}],
        model={"base": str(learnt.folder), "dtype": "float32"},
        report=[{"path": str(class_folders), "title": "Colours"}],
        schedule={"steps": 50, "log_every": 20, "validate_every": 10},
        optimizer={"learning_rate": 5e-3},
        validation={"share": 0.2, "limit": 100},
        weights_dtype="float16",
    )
    summary = train(config, tmp_path / "out")
    (figure,) = summary.report
    assert figure.before is not None
    assert figure.scores["accuracy"] >= max(0.95, figure.before["accuracy"])
    assert summary.validation[0].images == 8
    validations = events(tmp_path / "out", "validation")
    best = [event["step"] for event in validations if event["score"] == summary.best_score]
    assert summary.best_score == max(event["score"] for event in validations)
    assert len(best) > 1
    assert summary.best_step == best[-1]
    config_file = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config_file["dtype"] == "float16"
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (
        learnt.folder / "tokenizer.json"
    ).read_bytes()
    encoder = Encoder.load(tmp_path / "out")
    pictures = [Image.open(class_folders / name / "0.png") for name in COLOURS]
    scores = (
        encoder.encode_texts([f"a photo of a {name}" for name in COLOURS]) @ encoder.encode_images(pictures).T
    )
    assert (np.argmax(scores, axis=0) == np.arange(4)).sum() >= 3


# Stopping and going on

INTERRUPTED: dict[str, Any] = {
    "schedule": {"steps": 8, "validate_every": 3, "checkpoint_every": 2},
    # What depends on the step and what has a state of its own.
    "augmentation": {"patch_dropout": 0.5, "patch_dropout_until": 0.6},
    "optimizer": {"kind": "muon"},
}

KILLED = """
import json, os, signal, sys
from pathlib import Path
from model.training import config_from_dict, train

def progress(now):
    if now.loss is not None and now.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    train(config_from_dict(json.loads(sys.stdin.read())), os.environ["OUT"], progress=progress)
"""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, make_settings: Settings) -> TrainingSummary:
    return train(make_settings(**INTERRUPTED), tmp_path_factory.mktemp("uninterrupted"))


def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(
    uninterrupted: TrainingSummary,
    tmp_path: Path,
    make_settings: Settings,
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    config = make_settings(**INTERRUPTED)
    killed = run_python(KILLED, stdin=json.dumps(config.to_dict()), OUT=str(tmp_path))
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert not (tmp_path / "model.safetensors").exists()
    assert [event["step"] for event in events(tmp_path, "step")] == [1, 2, 3, 4, 5]
    summary = train(config, tmp_path)
    assert summary.resumed_from == 4
    assert numbers(tmp_path) == numbers(uninterrupted.folder)
    assert summary.best_step == uninterrupted.best_step
    weights = [folder / "model.safetensors" for folder in (tmp_path, uninterrupted.folder)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_stopped_and_resumed_equals_uninterrupted_too(
    uninterrupted: TrainingSummary, tmp_path: Path, make_settings: Settings
) -> None:
    config = make_settings(**INTERRUPTED)
    asked: list[None] = []
    stopped = train(config, tmp_path, should_stop=lambda: asked.append(None) or len(asked) > 3)
    assert (stopped.finished, stopped.step) == (False, 3)
    assert not (tmp_path / "config.json").exists()
    summary = train(config, tmp_path)
    assert (summary.finished, summary.resumed_from) == (True, 3)
    assert numbers(tmp_path) == numbers(uninterrupted.folder)
    # Of those that the two states kept, of steps 6 and 8, know as the best.
    kept = {folder.name for folder in (tmp_path / "training").glob("best-*")}
    assert kept == {"best-6", f"best-{summary.best_step}"}


def test_what_an_older_state_names_is_kept_should_the_newest_be_damaged(
    uninterrupted: TrainingSummary, tmp_path: Path, make_settings: Settings
) -> None:
    config = make_settings(**INTERRUPTED)
    asked: list[None] = []
    train(config, tmp_path, should_stop=lambda: asked.append(None) or len(asked) > 6)
    states = tmp_path / "training" / "checkpoints"
    assert sorted(state.name for state in states.iterdir()) == ["4", "6"]
    assert {folder.name for folder in (tmp_path / "training").glob("best-*")} == {"best-3", "best-6"}
    for file in (states / "6" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"damaged")
    summary = train(config, tmp_path)
    assert summary.resumed_from == 4
    assert numbers(tmp_path) == numbers(uninterrupted.folder)
    assert (summary.best_step, summary.best_score) == (uninterrupted.best_step, uninterrupted.best_score)


def test_a_finished_run_is_not_run_again(uninterrupted: TrainingSummary, make_settings: Settings) -> None:
    again = train(make_settings(**INTERRUPTED, card={"name": "Renamed"}), uninterrupted.folder)
    assert again.finished
    assert again.resumed_from == 8
    assert again.images_per_second is None
    assert "# Renamed" in (uninterrupted.folder / "README.md").read_text(encoding="utf-8")


def test_another_run_s_folder_is_refused_until_told_to_restart(
    tmp_path: Path, make_settings: Settings
) -> None:
    first = train(make_settings(), tmp_path, should_stop=lambda: True)
    assert (first.step, first.finished) == (0, False)
    other = make_settings(seed=1)
    with pytest.raises(ResumeError, match=r"settings\.seed was 0 and is 1.*restart"):
        train(other, tmp_path, should_stop=lambda: True)
    assert train(make_settings(workers=1), tmp_path, should_stop=lambda: True).resumed_from == 0
    assert train(other, tmp_path, should_stop=lambda: True, restart=True).resumed_from is None


def test_a_start_that_no_run_went_on_from_is_made_anew(tmp_path: Path, make_settings: Settings) -> None:
    config = make_settings(schedule={"max_minutes": 1e-6})
    with pytest.raises(TrainingError, match="is too short"):
        train(config, tmp_path)
    settings = copy.deepcopy(config.model.new.configuration)
    settings["vision_config"]["hidden_size"] = 8
    other = make_settings(
        model={"dtype": "float32", "new": {"vocabulary_size": 280, "configuration": settings}}
    )
    train(other, tmp_path, should_stop=lambda: True)
    start = tmp_path / "training" / "start"
    made = json.loads((start / "config.json").read_text(encoding="utf-8"))
    assert made["vision_config"]["hidden_size"] == 8
    assert made["text_config"]["vocab_size"] == 280
    before = (start / "model.safetensors").stat()
    assert train(other, tmp_path, should_stop=lambda: True).resumed_from == 0
    assert (start / "model.safetensors").stat().st_mtime_ns == before.st_mtime_ns


def test_a_best_state_that_power_failed_on_is_done_without(tmp_path: Path, make_settings: Settings) -> None:
    asked: list[None] = []
    config = make_settings(**INTERRUPTED)
    first = train(config, tmp_path, should_stop=lambda: asked.append(None) or len(asked) > 4)
    (tmp_path / "training" / f"best-{first.best_step}" / "model.safetensors").write_bytes(b"")
    summary = train(config, tmp_path)
    assert summary.finished
    assert summary.best_step > first.step
    assert Encoder.load(tmp_path).encode_texts(["red"]).shape == (1, 16)


@pytest.mark.parametrize("name", ["README.md", "config.json", "training/notes.txt"])
def test_what_lies_in_the_output_folder_is_not_replaced(
    tmp_path: Path, make_settings: Settings, name: str
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine", encoding="utf-8")
    for restart in (False, True):
        with pytest.raises(ConfigurationError, match="already, which this run would replace"):
            train(make_settings(), tmp_path, restart=restart)
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"


def test_the_base_is_not_replaced_by_what_becomes_of_it(
    tmp_path: Path, learnt: TrainingSummary, make_settings: Settings, copy_tree: Copy
) -> None:
    base = copy_tree(learnt.folder)
    config = make_settings(model={"base": str(base)})
    with pytest.raises(ConfigurationError, match="is the model to start from"):
        train(config, base)


def test_two_processes_do_not_write_one_folder(tmp_path: Path, make_settings: Settings) -> None:
    (tmp_path / "training").mkdir()
    with (
        FileLock(tmp_path / "training" / "lock"),
        pytest.raises(ResumeError, match="another process is training"),
    ):
        train(make_settings(), tmp_path)


# Going wrong


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(
    tmp_path: Path, make_settings: Settings
) -> None:
    config = make_settings(optimizer={"learning_rate": 1e30}, schedule={"checkpoint_every": 1})
    with pytest.raises(TrainingDivergedError) as caught:
        train(config, tmp_path)
    message = str(caught.value)
    for part in (
        "the loss is nan",
        "lower optimizer.learning_rate (it is 1e+30; try 3.3e+29)",
        "then start again in another folder, or restart, which throws these away",
    ):
        assert part in message
    (kept,) = (f for f in (tmp_path / "training" / "checkpoints").iterdir() if f.name.isdecimal())
    assert f"the state of step {kept.name} is kept" in message
    assert events(tmp_path, "diverged")[0]["step"] == int(kept.name) + 1


def test_one_class_alone_is_nothing_to_learn_from(
    class_folders: Path, tmp_path: Path, make_settings: Settings
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "red").symlink_to(class_folders / "red", target_is_directory=True)
    with pytest.raises(
        TrainingDataError, match=r"all images are called the same: 'red'.*add at least one more"
    ):
        train(make_settings(data=[{"path": str(tmp_path / "data")}]), tmp_path / "out")


def test_broken_images_are_skipped_counted_and_told(
    class_folders: Path, tmp_path: Path, copy_tree: Copy, make_settings: Settings
) -> None:
    folder = copy_tree(class_folders)
    for number in range(4):
        (folder / "red" / f"{number}.png").write_bytes(b"broken")
    told: list[TrainingProgress] = []
    summary = train(make_settings(data=[{"path": str(folder)}]), tmp_path / "out", progress=told.append)
    assert summary.finished
    assert summary.broken_images == len(events(tmp_path / "out", "broken_image")) == 4
    notices = [now.notice for now in told if now.notice]
    assert sum(notice.startswith("skipped red") and "cannot identify" in notice for notice in notices) == 4


def test_texts_beyond_the_length_are_cut_and_counted(
    flags: Path, tmp_path: Path, make_settings: Settings
) -> None:
    config = make_settings(
        data=[{"path": str(flags)}], text={"length": 7}, schedule={"steps": 2}, validation={"share": 0}
    )
    summary = train(config, tmp_path)
    assert summary.cut_texts == 16
    assert "16 texts had more than 7 tokens and were cut" in summary.notices


def test_texts_beyond_the_model_s_own_limit_are_counted_too(
    flags: Path, tmp_path: Path, copy_tree: Copy, make_settings: Settings
) -> None:
    captions = copy_tree(flags) / "captions.tsv"
    lines = captions.read_text(encoding="utf-8").splitlines()
    longer = [lines[0], *(f"{line} {'word ' * 20}" for line in lines[1:])]
    captions.write_text("\n".join(longer), encoding="utf-8")
    config = make_settings(
        data=[{"path": str(captions)}],
        text={"length": None},
        schedule={"steps": 2},
        validation={"share": 0},
    )
    assert train(config, tmp_path / "out").cut_texts == 16


def test_weights_that_are_no_numbers_are_told_before_the_first_step(
    tmp_path: Path, learnt: TrainingSummary, make_settings: Settings, copy_tree: Copy
) -> None:
    base = copy_tree(learnt.folder)
    arrays = load_file(base / "model.safetensors")
    arrays["logit_scale"] = np.full_like(arrays["logit_scale"], np.nan)
    save_file(arrays, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match="holds weights that are no numbers"):
        train(make_settings(model={"base": str(base)}), tmp_path / "out")


def test_what_a_model_is_measured_with_is_not_cut_as_training_cuts(
    flags: Path, tmp_path: Path, make_settings: Settings
) -> None:
    config = make_settings(data=[{"path": str(flags)}], text={"length": 5}, validation={"share": 0})
    prepared = prepare_run(config, tmp_path)
    with closing(prepared.batches):
        test = prepared.test_set(prepared.data.training[0], "flags")
    assert prepared.tokenizer.length == 5
    tokens = test.attention_mask.sum(axis=1)
    assert tokens.min() > 5
    assert len({tuple(row) for row in test.input_ids.tolist()}) == len(test.input_ids)


def test_two_texts_that_become_one_have_room(
    class_folders: Path, tmp_path: Path, make_settings: Settings
) -> None:
    config = make_settings(text={"length": None}, augmentation={"compose": 1.0})
    prepared = prepare_run(config, tmp_path)
    with closing(prepared.batches):
        assert prepared.batches.make(0).cut_texts == 0


@pytest.mark.parametrize(
    ("tables", "error", "message"),
    [
        ({"text": {"length": 17}}, ConfigurationError, "more than the 16 positions"),
        ({"devices": 64}, ConfigurationError, "devices = 64, but there"),
        ({"loss": "sigmoid"}, ConfigurationError, "needs a model with a logit bias"),
        ({"model": {"base": "no-such-model"}}, Exception, "no-such-model"),
        ({"schedule": {"max_minutes": 1e-6}}, TrainingError, "is too short: getting ready took"),
        (
            {"report": [{"path": "no-such-test"}]},
            TrainingDataError,
            "there is no file or folder no-such-test",
        ),
    ],
)
def test_what_cannot_be_run_says_why(
    tables: dict[str, Any], error: type[Exception], message: str, tmp_path: Path, make_settings: Settings
) -> None:
    with pytest.raises(error) as caught:
        train(make_settings(**tables), tmp_path)
    assert message in str(caught.value)
    assert not (tmp_path / "training" / "log.jsonl").exists()  # before the first step


def test_too_little_memory_says_what_to_lower(
    tmp_path: Path, make_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **settings: Any) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9876543210 bytes.")

    monkeypatch.setattr(Trainer, "step", fail)
    with pytest.raises(TrainingError) as caught:
        train(make_settings(), tmp_path)
    message = str(caught.value)
    assert "lower schedule.batch_size (it is 8)" in message
    assert "schedule.accumulate (it is 1)" in message
    assert "allocating 9876543210 bytes" in message


def test_steps_are_timed_while_the_next_batches_are_made(
    tmp_path: Path, make_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare_run(make_settings(), tmp_path)
    made, learnt = [], []
    make, step = prepared.batches._make, prepared.trainer.step
    monkeypatch.setattr(prepared.batches, "_make", lambda *a: made.append(a[0]) or make(*a))
    monkeypatch.setattr(prepared.trainer, "step", lambda *a, **k: learnt.append(len(made)) or step(*a, **k))
    with closing(prepared.batches):
        assert pace._time_steps(prepared, 0.0, 100) > 0
    # Those in hand were thrown away, so that a step waits for batches if they take longer than it does.
    assert len(learnt) == 2 + pace._TIMED_STEPS
    assert learnt[-1] >= len(learnt) + BATCHES_IN_HAND
    assert max(made) > learnt[-1] - BATCHES_IN_HAND


def test_limited_time_gives_fewer_steps(tmp_path: Path, make_settings: Settings) -> None:
    config = make_settings(schedule={"steps": 10**7, "max_minutes": 0.5})
    asked: list[None] = []
    summary = train(config, tmp_path, should_stop=lambda: asked.append(None) or len(asked) > 1)
    assert 0 < summary.steps < 10**6
    assert any("10000000 steps would take longer than 0.5 minutes" in notice for notice in summary.notices)
    known = json.loads((tmp_path / "training" / "run.json").read_text(encoding="utf-8"))
    assert known["steps"] == summary.steps
