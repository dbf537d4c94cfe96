"""From text to the ids a text tower reads.

The vocabulary and its rules come from the checkpoint's `tokenizer.json`, run by the `tokenizers` library
alone: importing Transformers would cost seconds. Only where that file is missing does Transformers build
the same tokenizer from older files.

What is done to a text, in this order: lone surrogates are replaced, very long texts are cut, the
checkpoint's cleaning is applied (`TextCleaning`), the tokenizer runs, and the ids are cut to the tower's
length such that the closing token stays.
"""

from __future__ import annotations

import gzip
import html
import string
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model.errors import CheckpointError, ConfigurationError, ModelInputError
from model.json_file import read_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from tokenizers import Tokenizer

# No tower reads more than a few hundred tokens. Tokenising a whole book to keep its first line would hold
# up a query.
_LONGEST_TEXT_CHARACTERS = 65_536

# Up to this many texts are tokenised one by one: the library's threads, once started, complain when a
# process forks.
_FEW_TEXTS = 8

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)

VOCABULARY_FILES = ("vocab.json", "vocab.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")


class TextCleaning(StrEnum):
    """What happens to a text before the tokenizer sees it. The tower was trained with one of these."""

    NONE = "none"
    """Nothing: Transformers' way with most tokenizers."""

    LOWER = "lower"
    """Lower case: SigLIP 2."""

    WEB = "web"
    """OpenAI's and OpenCLIP's way: mend mojibake, resolve HTML entities, trim white space, lower case."""

    WEB_CASED = "web-cased"
    """As `WEB`, but capitals stay."""

    BARE = "bare"
    """Lower case, without ASCII punctuation, white space trimmed: SigLIP."""

    WEB_BARE = "web-bare"
    """As `WEB`, then as `BARE`, except that underscores separate words."""


@dataclass(frozen=True)
class TokenBatch:
    """Texts as a text tower reads them.

    Attributes:
        input_ids: int32 (batch, tokens), padded.
        attention_mask: int32 (batch, tokens), 1 for a token and 0 for padding.
    """

    input_ids: npt.NDArray[np.int32]
    attention_mask: npt.NDArray[np.int32]


class TextTokenizer:
    """A checkpoint's tokenizer with its length, padding and cleaning.

    Args:
        tokenizer: The `tokenizers` object; its own truncation and padding are switched off.
        max_length: The most tokens a text may have, opening and closing token included.
        pad_id: The id to fill up with.
        cleaning: What happens to a text first.
        pads_left: Whether padding goes before a text instead of behind it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        pad_id: int,
        cleaning: TextCleaning = TextCleaning.NONE,
        pads_left: bool = False,
    ) -> None:
        special = tokenizer.num_special_tokens_to_add(is_pair=False)
        if max_length <= special:
            raise ConfigurationError(
                f"A text tower of {max_length} positions is too short for a tokenizer that adds {special} tokens."
            )
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length)
        self._tokenizer = tokenizer
        self.max_length = max_length
        self.pad_id = pad_id
        self.cleaning = cleaning
        self.pads_left = pads_left

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        max_length: int,
        pad_id: int | None = None,
        cleaning: TextCleaning = TextCleaning.NONE,
    ) -> TextTokenizer:
        """Reads the tokenizer of a checkpoint.

        Args:
            folder: Holds `tokenizer.json` or the older files that Transformers reads.
            max_length: The tower's number of positions; a smaller `model_max_length` of the checkpoint
                goes before it.
            pad_id: The id to fill up with; None takes the one of the checkpoint.
            cleaning: What happens to a text first.

        Raises:
            CheckpointError: If there is no tokenizer, or it cannot be read.
        """
        folder = Path(folder)
        settings = read_tokenizer_settings(folder)
        tokenizer = load_tokenizer(folder)
        limit = settings.get("model_max_length")
        # Transformers writes an enormous number where there is no limit.
        if isinstance(limit, (int, float)) and not isinstance(limit, bool) and 0 < limit < max_length:
            max_length = int(limit)
        return cls(
            tokenizer,
            max_length=max_length,
            pad_id=_pad_id(tokenizer, settings) if pad_id is None else pad_id,
            cleaning=cleaning,
            pads_left=settings.get("padding_side") == "left",
        )

    @property
    def vocabulary_size(self) -> int:
        """Number of ids, added tokens included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns each text's ids, cut to `max_length` and not padded.

        Raises:
            ModelInputError: If `texts` is a single string, or one of its items is no string.
        """
        if isinstance(texts, (str, bytes)):
            raise ModelInputError(
                f"Expected a list of texts, got a single {type(texts).__name__}: put it in a list."
            )
        cleaned = [self._clean(text, row) for row, text in enumerate(texts)]
        if len(cleaned) <= _FEW_TEXTS:
            return [self._tokenizer.encode(text).ids for text in cleaned]
        return [encoding.ids for encoding in self._tokenizer.encode_batch(cleaned)]

    def __call__(self, texts: Sequence[str], *, length: int | None = None) -> TokenBatch:
        """Returns the texts' ids, padded to one length.

        Args:
            texts: Any number of texts, none included.
            length: The length to pad to; None for the longest text's.

        Raises:
            ModelInputError: As `ids`, or if a text has more tokens than `length`.
        """
        return self.pad(self.ids(texts), length=length)

    def pad(self, ids: Sequence[Sequence[int]], *, length: int | None = None) -> TokenBatch:
        """Pads lists of ids, at their end unless `pads_left`; as `__call__` otherwise."""
        longest = max((len(row) for row in ids), default=0)
        if length is None:
            length = longest
        elif longest > length:
            raise ModelInputError(f"A text has {longest} tokens, which do not fit into {length}.")
        input_ids = np.full((len(ids), length), self.pad_id, dtype=np.int32)
        attention_mask = np.zeros((len(ids), length), dtype=np.int32)
        for row, values in enumerate(ids):
            place = slice(length - len(values), None) if self.pads_left else slice(len(values))
            input_ids[row, place] = values
            attention_mask[row, place] = 1
        return TokenBatch(input_ids, attention_mask)

    def _clean(self, text: str, row: int) -> str:
        if not isinstance(text, str):
            raise ModelInputError(f"Text {row} is no text but a {type(text).__name__}: {text!r:.80}.")
        text = text[:_LONGEST_TEXT_CHARACTERS]
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            # Halves of surrogate pairs come from broken file names and JSON; two halves side by side are
            # mended.
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return clean_text(text, self.cleaning)


def clean_text(text: str, cleaning: TextCleaning) -> str:
    """Returns the text as the tower was trained to see it."""
    if cleaning in {TextCleaning.WEB, TextCleaning.WEB_CASED, TextCleaning.WEB_BARE}:
        import ftfy

        text = " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())
    if cleaning is TextCleaning.WEB_BARE:
        text = text.replace("_", " ")
    if cleaning in {TextCleaning.BARE, TextCleaning.WEB_BARE}:
        text = " ".join(text.lower().translate(_NO_PUNCTUATION).split())
    if cleaning in {TextCleaning.LOWER, TextCleaning.WEB}:
        text = text.lower()
    return text


def load_tokenizer(folder: Path) -> Tokenizer:
    """Reads `tokenizer.json`, or has Transformers build the tokenizer from older files.

    Raises:
        CheckpointError: If there is no tokenizer, or it cannot be read.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            return Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception for anything wrong with the file
            raise CheckpointError(
                f"{path} cannot be read as a tokenizer ({error}). It may be a half-finished download: fetch it again."
            ) from error
    if not any((folder / name).is_file() for name in VOCABULARY_FILES):
        raise CheckpointError(
            f"{folder} has no tokenizer.json, so texts cannot be encoded. Take the file from where the checkpoint "
            "came from."
        )
    return _load_through_transformers(folder)


def clip_tokenizer(*, lower_case: bool = True) -> Tokenizer:
    """Builds the tokenizer of OpenAI's CLIP, which OpenCLIP checkpoints do without a file of.

    Its 49,408 tokens follow from its merges (MIT licence, https://github.com/openai/CLIP): the 256 bytes,
    the same at the end of a word, what each merge makes, and two tokens that open and close a text.

    Args:
        lower_case: Whether capitals become small, as in all checkpoints but those that say otherwise.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    packed = (Path(__file__).parent / "vocabulary" / "clip_merges.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").splitlines()
    merges = [(left, right) for left, _, right in (line.partition(" ") for line in lines)]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet(), key=_byte_order)
    begin, end = "<|startoftext|>", "<|endoftext|>"
    tokens = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        *("".join(merge) for merge in merges),
        begin,
        end,
    ]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=end, continuing_subword_prefix="", end_of_word_suffix="</w>")
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (begin, end)]
    )
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            *([normalizers.Lowercase()] if lower_case else []),
        ]
    )
    words = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        special_tokens=[(begin, vocabulary[begin]), (end, vocabulary[end])],
    )
    return tokenizer


def _byte_order(letter: str) -> tuple[bool, int]:
    """Sorts the letters that stand for bytes as CLIP does: those that stand for themselves come first."""
    return ord(letter) >= 256, ord(letter)


def _load_through_transformers(folder: Path) -> Tokenizer:
    from transformers import AutoTokenizer

    try:
        backend = AutoTokenizer.from_pretrained(str(folder), local_files_only=True).backend_tokenizer
    except Exception as error:  # Transformers raises whatever its parts raise
        raise CheckpointError(
            f"{folder} has no tokenizer.json, and Transformers cannot build a tokenizer from its other files "
            f"({type(error).__name__}: {error}). Save it once with save_pretrained of a fast tokenizer."
        ) from error
    copy: Tokenizer = type(backend).from_str(backend.to_str())  # ours to change
    return copy


def read_tokenizer_settings(folder: Path) -> dict[str, Any]:
    """Returns what `tokenizer_config.json` and `special_tokens_map.json` say; {} if neither is there.

    Where they differ the former counts.

    Raises:
        CheckpointError: If one of them is not a JSON object.
    """
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file():
            settings |= read_json(path)
    return settings


def _pad_id(tokenizer: Tokenizer, settings: dict[str, Any]) -> int:
    token = settings.get("pad_token")
    if isinstance(token, dict):
        token = token.get("content")
    if token is None:
        # Some say it only in tokenizer.json; 0 is what is padded with where nobody says.
        return int((tokenizer.padding or {}).get("pad_id", 0))
    found = tokenizer.token_to_id(str(token))
    if found is None:
        raise CheckpointError(f"The padding token {token!r} is not in the vocabulary of tokenizer.json.")
    return int(found)
