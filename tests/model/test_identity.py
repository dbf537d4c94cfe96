"""Identities: what is compared, what is a label, what is refused."""

import dataclasses
import hashlib
from pathlib import Path

import pytest

from model.errors import ConfigurationError
from model.identity import ModelIdentity, fingerprint_of_file, fingerprint_of_settings

IDENTITY = ModelIdentity("starter", "0.1.0", "aa", "bb", 192)


def test_labels_are_not_compared() -> None:
    assert IDENTITY.is_same_model(dataclasses.replace(IDENTITY, name="/some/folder", revision=None))
    for field, value in (("weights_fingerprint", "x"), ("preprocessing_fingerprint", "x"), ("dimension", 1)):
        assert not IDENTITY.is_same_model(dataclasses.replace(IDENTITY, **{field: value}))


def test_it_goes_through_json_and_back() -> None:
    assert IDENTITY.to_dict() == {
        "name": "starter",
        "revision": "0.1.0",
        "weights_fingerprint": "aa",
        "preprocessing_fingerprint": "bb",
        "dimension": 192,
    }
    assert ModelIdentity.from_dict(IDENTITY.to_dict()) == IDENTITY


def test_all_that_is_wrong_is_listed() -> None:
    values = {**IDENTITY.to_dict(), "dimension": "192", "colour": "red", "revision": 3}
    del values["name"]
    with pytest.raises(ConfigurationError) as caught:
        ModelIdentity.from_dict(values)
    for problem in ("name is missing", "colour is unknown", "dimension is '192'", "revision is 3"):
        assert problem in str(caught.value)


def test_the_order_of_settings_does_not_matter_and_their_values_do() -> None:
    assert fingerprint_of_settings({"a": 1, "b": [2]}) == fingerprint_of_settings({"b": [2], "a": 1})
    assert fingerprint_of_settings({"a": 1}) != fingerprint_of_settings({"a": 1.5})


def test_a_file_is_fingerprinted_by_its_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # more than one piece
    (tmp_path / "weights").write_bytes(content)
    assert fingerprint_of_file(tmp_path / "weights") == hashlib.sha256(content).hexdigest()
