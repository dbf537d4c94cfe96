"""What makes two encoders the same encoder: fingerprints that are stored beside every vector.

Standard library only, so that a reader of a library can compare identities without loading a model.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from model.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PREPROCESSING_VERSION = 1
"""Raised whenever our own code changes what the same picture or text becomes, settings being equal."""

_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class ModelIdentity:
    """Names an encoder for people, and pins it for machines.

    Attributes:
        name: What a user types to get it again: an alias, a hub id or an absolute folder.
        revision: The hub commit, the package version for the starter, None for a folder.
        weights_fingerprint: Hexadecimal SHA-256 over the weights.
        preprocessing_fingerprint: Hexadecimal SHA-256 over all else that changes a vector: image settings,
            tokenizer, configuration, and `PREPROCESSING_VERSION`.
        dimension: Length of one embedding.
    """

    name: str
    revision: str | None
    weights_fingerprint: str
    preprocessing_fingerprint: str
    dimension: int

    def is_same_model(self, other: ModelIdentity) -> bool:
        """Tells whether vectors of the two can be compared. Name and revision are labels and may differ."""
        return (
            self.weights_fingerprint == other.weights_fingerprint
            and self.preprocessing_fingerprint == other.preprocessing_fingerprint
            and self.dimension == other.dimension
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns what `from_dict` reads: strings, None and one integer, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelIdentity:
        """Reads what `to_dict` wrote.

        Raises:
            ConfigurationError: If a field is missing, unknown or of the wrong type; all of them are listed.
        """
        expected: dict[str, tuple[type, ...]] = {
            "name": (str,),
            "revision": (str, type(None)),
            "weights_fingerprint": (str,),
            "preprocessing_fingerprint": (str,),
            "dimension": (int,),
        }
        problems = [f"{key} is missing" for key in expected if key not in values]
        problems += [f"{key} is unknown" for key in values if key not in expected]
        problems += [
            f"{key} is {values[key]!r}"
            for key, types in expected.items()
            if key in values and (not isinstance(values[key], types) or isinstance(values[key], bool))
        ]
        if problems:
            raise ConfigurationError(f"This is not the identity of a model: {'; '.join(problems)}.")
        return cls(**dict(values))


def fingerprint_of_settings(settings: Mapping[str, Any]) -> str:
    """Returns the hexadecimal SHA-256 of JSON-able settings; the order of keys does not matter."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def fingerprint_of_file(path: Path) -> str:
    """Returns the hexadecimal SHA-256 of a file's bytes, read in pieces of a mebibyte."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()
