"""The committed recipe: it can be read, keeps to its budget, and never trains on what it is measured by."""

from pathlib import Path

import model.training
from model.clip import CLIPConfig, CLIPModel
from model.training import load_config
from model.training.parameters import Blueprint

STARTER = Path(model.training.__file__).parent / "recipes" / "starter.toml"

BUDGET_BYTES = 12_000_000


def test_the_starter_s_weights_stay_within_their_budget() -> None:
    new = load_config(STARTER).model.new
    assert new is not None
    text = new.configuration["text_config"] | {"vocab_size": new.vocabulary_size}
    shapes = CLIPModel(CLIPConfig.from_dict(new.configuration | {"text_config": text}), rngs=None)
    sizes = [value.size for value in Blueprint(shapes).take(shapes).values()]
    assert 5_000_000 < 2 * sum(sizes) < BUDGET_BYTES


def test_the_starter_trains_on_training_rows_and_reports_test_rows() -> None:
    config = load_config(STARTER, data_root="data")
    assert {settings.split for settings in config.data} == {"train"}
    assert {settings.split for settings in config.report} == {"test"}
    assert {settings.path for settings in config.data} == {settings.path for settings in config.report}
    assert config.weights_dtype == "float16"
    assert "research data" in config.card.data
