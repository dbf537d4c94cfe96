"""Addresses: what is understood, and one line for whatever is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from app.cli import imago
from indexer.cluster.address import MilvusAddress, token
from indexer.cluster.errors import AddressError, ClusterPackagesMissingError
from indexer.reading import is_address, open_reader, state_folder

if TYPE_CHECKING:
    from pathlib import Path


def test_an_address_with_everything(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.touch()
    text = f"milvus://[::1]:20000/photos?database=team&tls=yes&ca={ca}&server_name=db&consistency=Strong"
    address = MilvusAddress.parse(text)
    assert address == MilvusAddress(
        "::1", 20000, "photos", "team", True, str(ca), server_name="db", consistency="Strong"
    )
    assert address.uri == "https://[::1]:20000"
    assert str(address) == "milvus://[::1]:20000/photos"
    assert MilvusAddress.parse("milvus://db.example/photos").uri == "http://db.example:19530"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("http://localhost:19530/photos", "begins with http://"),
        ("milvuss://localhost/photos", "begins with milvuss://"),
        ("milvus:///photos", "names no server"),
        ("milvus://localhost:19530", "names no collection"),
        ("milvus://localhost:19530/", "names no collection"),
        ("milvus://localhost/9photos", "begins with no digit"),
        ("milvus://localhost/a/b", "letters, digits"),
        ("milvus://localhost/pho-tos", "letters, digits"),
        ("milvus://localhost:x/photos", "no address"),
        ("milvus://localhost:99999/photos", "no address"),
        ("milvus://localhost:0/photos", "port 0"),
        ("milvus://[::1/photos", "no address"),
        ("milvus://root:secret@localhost/photos", "IMAGO_MILVUS_TOKEN"),
        ("milvus://localhost/photos?colour=red", "no option 'colour'"),
        ("milvus://localhost/photos?tls=maybe", "tls is yes or no"),
        ("milvus://localhost/photos?tls=yes&tls=no", "says tls twice"),
        ("milvus://localhost/photos?ca=/x", "only matters with tls=yes"),
        ("milvus://localhost/photos?tls=yes&ca=/not/there.pem", "no file /not/there.pem"),
        ("milvus://localhost/photos?consistency=perfect", "one of Strong"),
        ("milvus://localhost/photos#part", "after '#'"),
    ],
)
def test_what_is_no_address_is_told_in_one_line(text: str, why: str) -> None:
    with pytest.raises(AddressError, match=".*".join(why.split("*"))) as caught:
        MilvusAddress.parse(text)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_folders_are_no_addresses(tmp_path: Path) -> None:
    assert not is_address(tmp_path)
    assert not is_address("C:/photos")
    assert not is_address("photos/2023")
    assert is_address("milvus://a/b")
    assert is_address("http://a/b")
    assert state_folder(tmp_path) == tmp_path
    assert (
        state_folder("milvus://a/b") == state_folder("milvus://a/b?tls=yes") != state_folder("milvus://a/c")
    )


def test_a_token_comes_from_the_environment_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IMAGO_MILVUS_TOKEN", raising=False)
    assert token() == ""
    file = tmp_path / "token"
    file.write_text("root:Milvus\n")
    assert token(file) == "root:Milvus"
    monkeypatch.setenv("IMAGO_MILVUS_TOKEN_FILE", str(file))
    assert token() == "root:Milvus"
    monkeypatch.setenv("IMAGO_MILVUS_TOKEN", "other")
    assert token() == "other"
    file.write_text("")
    with pytest.raises(AddressError, match="holds no token"):
        token(file)
    with pytest.raises(AddressError, match="cannot be read"):
        token(tmp_path / "nowhere")


def test_without_the_packages_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pymilvus", None)
    with pytest.raises(ClusterPackagesMissingError, match=r"pip install 'imago-search\[cluster\]'"):
        open_reader("milvus://127.0.0.1:1/photos")


def test_what_writes_a_folder_refuses_an_address() -> None:
    for command in (["index"], ["forget", "x"], ["publish", "--to", "milvus://a/b"]):
        result = CliRunner().invoke(imago, [*command, "--library", "milvus://a:1/b"])
        assert result.exit_code == 2, result.output
        assert "the folder of one that can be written" in result.output


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    for arguments, why in (
        (["index", str(tmp_path), "--out", "rows"], "--out goes with --ray"),
        (["index", "--ray", "local", "--out", "rows"], "name the folders"),
        (["index", str(tmp_path), "--ray", "local", "--out", "rows", "--watch"], "works with a library only"),
        (["index", "s3://bucket/photos"], "with --ray and --out"),
        (["doctor", "--recover", str(tmp_path / "new"), "--library", "milvus://a/b"], "catalog of a folder"),
    ):
        result = CliRunner().invoke(imago, arguments)
        assert result.exit_code == 2, result.output
        assert why in result.output
