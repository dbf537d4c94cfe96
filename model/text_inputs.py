"""What a text tower takes for texts: ids or rows of its token table, perhaps a mask, padded to one of a few lengths."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from model.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from model.families import CheckpointDescription
    from model.tokenizer import TextTokenizer
    from model.towers import Inputs

# Texts need not be padded to the end where the tower does not look at the padding. Few lengths, few programs.
_SHORT_TEXT_LENGTHS = (8, 16, 32, 64, 128)


class TextInputs:
    """Makes the inputs of one checkpoint's text tower.

    Args:
        description: The checkpoint.
        tokenizer: Its tokenizer.
    """

    def __init__(self, description: CheckpointDescription, tokenizer: TextTokenizer) -> None:
        self._description = description
        self._tokenizer = tokenizer

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each text, not padded.

        Raises:
            ModelInputError: If an item is no string.
            CheckpointError: If the tower does not know one of the tokens.
        """
        ids = self._tokenizer.ids(texts)
        largest = max((max(row, default=0) for row in ids), default=0)
        if largest >= self._description.vocabulary_size:
            raise CheckpointError(
                f"The tokenizer gives the id {largest}, but the text tower knows only "
                f"{self._description.vocabulary_size}: the files in {self._description.folder} do not belong "
                "together. Take all of them from one place."
            )
        return ids

    def __call__(self, ids: list[list[int]], length: int) -> Inputs:
        """Returns the arrays for texts of at most `length` tokens, padded to it, in the tower's order."""
        batch = self._tokenizer.pad(ids, length=length)
        tokens = self.token_rows(batch.input_ids) if self._description.embedding_table else batch.input_ids
        return (tokens, batch.attention_mask) if self._description.reads_attention_mask else (tokens,)

    def of_known_tokens(self, texts: Sequence[str]) -> Inputs:
        """Returns the arrays for those of some texts whose tokens the tower knows: all, or its vocabulary was cut."""
        known = self._description.vocabulary_size
        ids = [row for row in self._tokenizer.ids(texts) if max(row, default=0) < known]
        return self(ids, self.padded_length(max(map(len, ids))))

    def padded_length(self, tokens: int) -> int:
        """Returns the length to which a text of so many tokens is padded."""
        # At least one place stays for padding unless the text fills the tower: a checkpoint whose pooling picks a
        # padding token (there are some) then picks the same one as with padding to the end.
        full = self._tokenizer.max_length
        if not (self._description.pads_to_full_length or self._tokenizer.pads_left):
            for length in _SHORT_TEXT_LENGTHS:
                if tokens < length < full:
                    return length
        return full

    def token_rows(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Looks tokens up in the file: float32 (batch, length, width). Only the pages touched are read.

        Raises:
            CheckpointError: If the table is missing, or has fewer rows than the configuration says.
        """
        table = self.embedding_table
        if len(table) < self._description.vocabulary_size:
            raise CheckpointError(
                f"The table of tokens in {self._description.folder} has {len(table)} rows, its configuration says "
                f"{self._description.vocabulary_size}. Take all its files from one place."
            )
        return np.asarray(table[ids], dtype=np.float32)

    @cached_property
    def embedding_table(self) -> npt.NDArray[Any]:
        """The checkpoint's table of tokens, (vocabulary, width), a view into its file."""
        name, source = self._description.embedding_table, self._description.open_weights()
        if name is None or name not in source.shapes:
            raise CheckpointError(
                f"The weights in {self._description.folder} lack {name}, the table of the text tower's tokens. Fetch "
                "the checkpoint again."
            )
        return source.read(name)
