"""Tokenising: padding, truncation, cleaning, strange texts. The vocabulary is the starter's or made here."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from model.errors import CheckpointError, ConfigurationError, ModelInputError
from model.registry import STARTER_FOLDER
from model.tokenizer import TextCleaning, TextTokenizer, clean_text

BEGIN, END, PAD = 2, 3, 0


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.from_pretrained(STARTER_FOLDER, max_length=24)


def test_a_text_is_opened_closed_and_padded(tokenizer: TextTokenizer) -> None:
    dog, car = (row[1] for row in tokenizer.ids(["dog", "car"]))
    batch = tokenizer(["dog car", ""], length=5)
    assert batch.input_ids.dtype == batch.attention_mask.dtype == np.int32
    assert batch.input_ids.tolist() == [[BEGIN, dog, car, END, PAD], [BEGIN, END, PAD, PAD, PAD]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]
    assert tokenizer(["dog", ""]).input_ids.shape == (2, 3)
    assert tokenizer([], length=7).input_ids.shape == (0, 7)


def test_a_long_text_is_cut_before_its_closing_token(tokenizer: TextTokenizer) -> None:
    (ids,) = tokenizer.ids(["dog " * 50])
    assert len(ids) == 24
    assert (ids[0], ids[-1]) == (BEGIN, END)
    assert set(ids[1:-1]) == set(tokenizer.ids(["dog"])[0][1:-1])


def test_many_texts_are_tokenised_as_each_alone(tokenizer: TextTokenizer) -> None:
    texts = [f"a photo of {number} dogs" for number in range(30)]
    assert tokenizer.ids(texts) == [tokenizer.ids([text])[0] for text in texts]


def test_a_checkpoint_may_want_its_padding_before_the_text(tmp_path: Path) -> None:
    folder = copy(tmp_path / "left", pad_token="<pad>", padding_side="left")
    batch = TextTokenizer.from_pretrained(folder, max_length=24)(["dog", ""], length=4)
    assert batch.input_ids[:, -1].tolist() == [END, END]
    assert batch.input_ids[:, 0].tolist() == [PAD, PAD]
    assert batch.attention_mask.tolist() == [[0, 1, 1, 1], [0, 0, 1, 1]]


def test_what_lies_beyond_65536_characters_is_not_read(tokenizer: TextTokenizer) -> None:
    assert tokenizer.ids([" " * 65_530 + "dog"]) == tokenizer.ids(["dog"])
    assert tokenizer.ids([" " * 65_536 + "dog"]) == tokenizer.ids([""])


def test_a_text_that_does_not_fit_the_length_asked_for_is_named(tokenizer: TextTokenizer) -> None:
    with pytest.raises(ModelInputError, match="A text has 4 tokens, which do not fit into 3"):
        tokenizer(["dog car"], length=3)


def test_lone_surrogates_are_replaced_and_pairs_mended(tokenizer: TextTokenizer) -> None:
    assert tokenizer.ids(["\ud83d dog"]) == tokenizer.ids(["\ufffd dog"])
    assert tokenizer.ids(["\ud83d\ude00 dog"]) == tokenizer.ids(["\U0001f600 dog"])


@pytest.mark.parametrize(
    "text", ["a" * 1_000_000, "dog " * 250_000, " " * 1_000_000, "\0", "\N{ZERO WIDTH JOINER}" * 99]
)
def test_strange_texts_are_tokenised(tokenizer: TextTokenizer, text: str) -> None:
    (ids,) = tokenizer.ids([text])
    assert 2 <= len(ids) <= 24
    assert (ids[0], ids[-1]) == (BEGIN, END)


@pytest.mark.parametrize("texts", ["dog", b"dog", [None], [b"dog"], ["dog", 5]])
def test_what_is_no_list_of_texts_is_refused(tokenizer: TextTokenizer, texts: object) -> None:
    with pytest.raises(ModelInputError):
        tokenizer.ids(texts)


def copy(folder: Path, **settings: object) -> Path:
    folder.mkdir()
    shutil.copy(STARTER_FOLDER / "tokenizer.json", folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_the_smaller_of_two_lengths_counts(tmp_path: Path) -> None:
    short = copy(tmp_path / "short", model_max_length=7)
    assert TextTokenizer.from_pretrained(short, max_length=24).max_length == 7
    assert TextTokenizer.from_pretrained(short, max_length=5).max_length == 5
    endless = copy(tmp_path / "endless", model_max_length=int(1e30))
    assert TextTokenizer.from_pretrained(endless, max_length=24).max_length == 24
    with pytest.raises(
        ConfigurationError, match="2 positions is too short for a tokenizer that adds 2 tokens"
    ):
        TextTokenizer.from_pretrained(short, max_length=2)


def test_the_padding_token_is_found_where_it_may_stand(tmp_path: Path) -> None:
    named = copy(tmp_path / "named", pad_token="<eos>")
    assert TextTokenizer.from_pretrained(named, max_length=9).pad_id == END
    described = copy(tmp_path / "described", pad_token={"content": "<unk>", "lstrip": False})
    assert TextTokenizer.from_pretrained(described, max_length=9).pad_id == 1
    assert TextTokenizer.from_pretrained(described, max_length=9, pad_id=8).pad_id == 8
    elsewhere = copy(tmp_path / "elsewhere")
    (elsewhere / "special_tokens_map.json").write_text('{"pad_token": "<bos>"}')
    assert TextTokenizer.from_pretrained(elsewhere, max_length=9).pad_id == BEGIN
    assert TextTokenizer.from_pretrained(copy(tmp_path / "silent"), max_length=9).pad_id == 0
    wrong = copy(tmp_path / "wrong", pad_token="<nowhere>")
    with pytest.raises(CheckpointError, match="'<nowhere>' is not in the vocabulary"):
        TextTokenizer.from_pretrained(wrong, max_length=9)


def test_truncation_and_padding_of_the_file_are_switched_off(tmp_path: Path) -> None:
    folder = copy(tmp_path / "strict", pad_token="<pad>")
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 20},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 1,
        "pad_type_id": 0,
        "pad_token": "<unk>",
    }
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    ids = TextTokenizer.from_pretrained(folder, max_length=24).ids(["dog car dog car"])
    assert ids == TextTokenizer.from_pretrained(STARTER_FOLDER, max_length=24).ids(["dog car dog car"])


def test_without_tokenizer_json_transformers_builds_the_same(tmp_path: Path) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = [
        "<|startoftext|>",
        "<|endoftext|>",
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "do",
        "dog</w>",
    ]
    (tmp_path / "vocab.json").write_text(json.dumps({token: id_ for id_, token in enumerate(vocabulary)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nd o\ndo g</w>\n")
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>"}'
    )
    tokenizer = TextTokenizer.from_pretrained(tmp_path, max_length=9)
    assert tokenizer(["Dog"], length=5).input_ids.tolist() == [[0, vocabulary.index("dog</w>"), 1, 1, 1]]


def test_a_checkpoint_without_a_tokenizer_or_with_a_damaged_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json, so texts cannot be encoded"):
        TextTokenizer.from_pretrained(tmp_path, max_length=9)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "mod')
    with pytest.raises(CheckpointError, match="half-finished download"):
        TextTokenizer.from_pretrained(tmp_path, max_length=9)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="holds no JSON object"):
        TextTokenizer.from_pretrained(tmp_path, max_length=9)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  A  Photo\n of\ta DOG ", "a photo of a dog"),
        ("caf\u00c3\u00a9", "caf\u00e9"),
        ("&amp;lt;b&amp;gt; &amp; co", "<b> & co"),
        ("1 < 2 &amp;amp; 3", "1 < 2 & 3"),
        ("\u201cquoted\u201d", '"quoted"'),
    ],
)
def test_cleaning_as_on_the_web(text: str, cleaned: str) -> None:
    assert clean_text(text, TextCleaning.WEB) == cleaned
    assert clean_text(text, TextCleaning.LOWER) == text.lower()
    assert clean_text(text, TextCleaning.NONE) == text
