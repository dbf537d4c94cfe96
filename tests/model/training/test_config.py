"""Reading a run's settings, and what is said about wrong ones."""

import math
from pathlib import Path
from typing import Any

import pytest

from model.errors import ConfigurationError
from model.training import config_from_dict, load_config
from model.training.config import LoraConfig, OptimizerConfig, ScheduleConfig

LEAST: dict[str, Any] = {"data": [{"path": "pictures"}], "model": {"base": "starter"}}


def test_a_file_is_read_with_paths_relative_to_it(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(
        """
        seed = 3
        [[data]]
        path = "pictures"
        kind = "folders"
        rename = { "car side" = ["car", "side of a car"] }
        [[data]]
        path = "/absolute/captions.tsv"
        weight = 2
        [model]
        base = "starter"
        lock = "vision"
        learning_rate_scales = { "text_model.*" = 0.1 }
        [model.lora]
        rank = 4
        [augmentation]
        crop_area = [0.2, 1]
        [[report]]
        path = "test"
        title = "Test"
        """,
        encoding="utf-8",
    )
    config = load_config(file)
    assert config.seed == 3
    assert config.data[0].path == tmp_path / "pictures"
    assert config.data[0].rename == {"car side": ("car", "side of a car")}
    assert config.data[1].path == Path("/absolute/captions.tsv")
    assert config.data[1].weight == 2.0
    assert config.model.lora == LoraConfig(rank=4)
    assert config.augmentation.crop_area == (0.2, 1.0)
    assert config.report[0].title == "Test"
    assert load_config(file, data_root="/elsewhere").report[0].path == Path("/elsewhere/test")


def test_the_base_and_the_vocabulary_are_looked_for_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "settings" / "mine").mkdir(parents=True)
    (tmp_path / "settings" / "words.toml").touch()
    file = tmp_path / "settings" / "run.toml"
    monkeypatch.chdir(tmp_path)

    def read(base: str, vocabulary: str) -> tuple[str | None, str]:
        file.write_text(
            f'data = [{{path = "x"}}]\nmodel.base = "{base}"\ntext.vocabulary = "{vocabulary}"\n',
            encoding="utf-8",
        )
        config = load_config(file.relative_to(tmp_path))
        return config.model.base, config.text.vocabulary

    assert read("mine", "words.toml") == (str(file.parent / "mine"), str(file.parent / "words.toml"))
    assert read("run.toml", "") == ("run.toml", "")  # no folder
    assert read("starter", "everyday") == ("starter", "everyday")
    assert read("openai/clip-vit-base-patch32", "") == ("openai/clip-vit-base-patch32", "")


def test_settings_survive_as_dictionary() -> None:
    config = config_from_dict(LEAST | {"model": {"base": "starter", "lora": {"rank": 2}}})
    assert config_from_dict(config.to_dict()) == config


def test_all_that_is_wrong_is_told_at_once() -> None:
    wrong = {
        "data": [{"path": 3, "weigth": 2}],
        "model": {"base": "starter", "dtype": "float8"},
        "optimiser": {},
        "schedule": {"steps": "many", "batch_size": True},
    }
    with pytest.raises(ConfigurationError) as caught:
        config_from_dict(wrong)
    message = str(caught.value)
    for part in (
        "data.path = 3 must be a path",
        "data.weigth is unknown (known here: path, kind",
        "model.dtype = 'float8' must be one of float32, bfloat16",
        "optimiser is unknown",
        "schedule.steps = 'many' must be a whole number",
        "schedule.batch_size = True must be a whole number",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("table", "values", "message"),
    [
        ("model", {}, "either a base or the table model.new"),
        ("model", {"base": "starter", "learning_rate_scales": {"*": 0}}, "factors must be above 0"),
        ("model", {"base": "starter", "lora": {"rank": 0}}, "model.lora.rank = 0 must be above 0"),
        ("schedule", {"batch_size": 1}, "at least 2"),
        ("schedule", {"batch_size": 10, "accumulate": 4}, "not divisible by accumulate = 4"),
        ("optimizer", {"warmup": 1.5}, "optimizer.warmup = 1.5 must be between 0 and 1"),
        ("augmentation", {"crop_area": [0.9, 0.5]}, "the smaller first"),
        ("text", {"templates": ["a photo"]}, "exactly one {} or {plural}"),
        ("validation", {"share": 0.9}, "between 0 and 0.5"),
        ("data", [], "at least one source"),
        ("data", [{}], "data.path is missing"),
        ("data", [{"path": "a", "crop_area": [0, 1]}], "data.crop_area = [0.0, 1.0]: expected two shares"),
        ("data", [{"path": "a", "together": 1}], "data.together = 1 must be above 1"),
        ("data", [{"path": "a", "together": 4}], "data.together: at least one source without it"),
        ("text", {"word_dropout": 2}, "text.word_dropout = 2.0 must be between 0 and 1"),
    ],
)
def test_impossible_values_are_told_with_the_way_out(table: str, values: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        config_from_dict(LEAST | {table: values})
    assert message in str(caught.value)


def test_a_run_is_the_same_from_whatever_folder_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.toml").write_text(
        '[[data]]\npath = "plants"\n[model]\nbase = "starter"\n', encoding="utf-8"
    )
    whole = load_config(tmp_path / "run.toml")
    assert whole.data[0].path == tmp_path / "plants"
    monkeypatch.chdir(tmp_path)
    assert load_config("run.toml") == whole
    assert load_config("run.toml", data_root=".") == whole


def test_a_missing_or_broken_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no training configuration .*none\.toml"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("seed = ", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"bad\.toml cannot be read as TOML"):
        load_config(tmp_path / "bad.toml")


@pytest.mark.parametrize(
    ("examples", "steps"),
    [
        (100_000, 7_813),  # ten times
        (1_280, 300),  # more often, for so many steps
        (200, 157),  # no more than a hundred times
        (2, 2),
    ],
)
def test_few_examples_are_seen_more_often_unless_told(examples: float, steps: int) -> None:
    assert ScheduleConfig().steps_for(examples) == steps
    assert ScheduleConfig(epochs=1.0).steps_for(examples) == math.ceil(examples / 128)
    assert ScheduleConfig(steps=5).steps_for(examples) == 5


def test_the_rate_suits_the_width_unless_told() -> None:
    assert OptimizerConfig().for_width(768).peak_learning_rate == pytest.approx(1e-4)
    assert OptimizerConfig().for_width(192).peak_learning_rate == pytest.approx(4e-4)
    assert OptimizerConfig(learning_rate=3e-5).for_width(192).peak_learning_rate == pytest.approx(3e-5)
    with pytest.raises(ConfigurationError, match="learning_rate is not chosen"):
        _ = OptimizerConfig().peak_learning_rate
