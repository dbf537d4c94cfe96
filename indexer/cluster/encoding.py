"""Text as Milvus keeps and compares it: letters and digits only, so that no text can be hostile.

Every byte of a text becomes two characters, the first one of `0-9a-f` for its upper half, the second one of
`g-v` for its lower half. Because the two sets share nothing, a code can only be found inside another code where
whole bytes begin, and because UTF-8 has the same property for characters, one encoded text contains another
exactly where the texts do. Several texts lie in one column, each between two `z`. So `column like "%CODE%"` asks
exactly "one of the texts contains this", whatever quotes, backslashes, `%`, `_` or line breaks are in it: none of
them is left after encoding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

SEPARATOR: Final = "z"
_UPPER: Final = "0123456789abcdef"
_LOWER: Final = "ghijklmnopqrstuv"
_CODES: Final = [_UPPER[byte >> 4] + _LOWER[byte & 15] for byte in range(256)]


def encode(text: str) -> str:
    """A text, lone surrogates (bytes of a path that are not Unicode) included, as letters and digits."""
    return "".join([_CODES[byte] for byte in text.encode("utf-8", "surrogatepass")])


def encode_all(texts: Iterable[str], limit: int) -> tuple[str, int]:
    """Texts as one column.

    Args:
        texts: In the order of their importance, because those that do not fit are left out.
        limit: Longest column.

    Returns:
        The column, and how many texts are in it.
    """
    parts, length = [SEPARATOR], 1
    for text in texts:
        code = encode(text)
        if length + len(code) + 1 > limit:
            break
        parts += (code, SEPARATOR)
        length += len(code) + 1
    return "".join(parts), len(parts) // 2


def decode_all(column: str) -> list[str]:
    """The texts of a column."""
    return [
        bytes(
            (_UPPER.index(code[i]) << 4) | _LOWER.index(code[i + 1]) for i in range(0, len(code), 2)
        ).decode("utf-8", "surrogatepass")
        for code in column.split(SEPARATOR)[1:-1]
    ]
