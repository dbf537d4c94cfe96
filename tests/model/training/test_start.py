"""Starting from nothing: the checkpoint that is made, above all how it fits a tokenizer that is given."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from model import Encoder
from model.errors import ConfigurationError
from model.json_file import read_json
from model.tokenizer import clip_tokenizer
from model.training.config import NewModelConfig
from model.training.start import make_new

TEXT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}
VISION = {**TEXT, "image_size": 16, "patch_size": 8}
del VISION["max_position_embeddings"]


def words(folder: Path, *special: str, closes_with: str | None) -> Path:
    """A folder with a tokenizer of a few words, the special tokens first."""
    folder.mkdir()
    vocabulary = {word: number for number, word in enumerate([*special, "red", "green", "car", "dog"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if closes_with is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {closes_with}", special_tokens=[(closes_with, vocabulary[closes_with])]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}), encoding="utf-8")
    return folder


def made(tokenizer: Path, folder: Path) -> Path:
    configuration = {
        "model_type": "clip",
        "projection_dim": 16,
        "text_config": TEXT,
        "vision_config": VISION,
    }
    make_new(NewModelConfig(configuration, tokenizer=tokenizer), folder, [], 0)
    return folder


def test_vocabulary_and_end_are_those_of_the_tokenizer_that_is_given(tmp_path: Path) -> None:
    tokenizer = words(tmp_path / "words", "[UNK]", "[PAD]", "[MASK]", "[SEP]", closes_with="[SEP]")
    folder = made(tokenizer, tmp_path / "made")
    text = read_json(folder / "config.json")["text_config"]
    assert (text["vocab_size"], text["pad_token_id"], text["eos_token_id"]) == (8, 1, 3)
    red, green = Encoder.load(folder, precision="float32").encode_texts(["red car", "green dog"])
    assert red @ green < 0.999


def test_clip_s_own_tokenizer_fits_too(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    clip_tokenizer().save(str(tmp_path / "clip" / "tokenizer.json"))
    text = read_json(made(tmp_path / "clip", tmp_path / "made") / "config.json")["text_config"]
    assert (text["vocab_size"], text["bos_token_id"], text["eos_token_id"]) == (49408, 49406, 49407)


@pytest.mark.parametrize(
    ("special", "closes_with", "message"),
    [
        (("[UNK]", "[PAD]", "[MASK]", "[SEP]"), None, "closes no text with a token of its own"),
        (("[UNK]", "[PAD]", "[SEP]"), "[SEP]", "closes texts with the id 2"),
    ],
)
def test_a_tokenizer_whose_end_cannot_be_found_is_refused(
    special: tuple[str, ...], closes_with: str | None, message: str, tmp_path: Path
) -> None:
    tokenizer = words(tmp_path / "words", *special, closes_with=closes_with)
    with pytest.raises(ConfigurationError, match=message) as caught:
        made(tokenizer, tmp_path / "made")
    assert str(tokenizer) in str(caught.value)
    assert not (tmp_path / "made").exists()
