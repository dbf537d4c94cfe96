"""`milvus://HOST:PORT/COLLECTION`: where a served library is, and how to speak to its server.

    milvus://HOST[:PORT]/COLLECTION[?database=NAME&tls=yes&ca=FILE&certificate=FILE&key=FILE
                                    &server_name=NAME&consistency=LEVEL]

No secret belongs into an address, because addresses end up in shell histories, process lists and logs: the token
comes from the environment (`IMAGO_MILVUS_TOKEN`) or from a file (`IMAGO_MILVUS_TOKEN_FILE`).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from indexer.cluster.errors import AddressError

SCHEME: Final = "milvus"
DEFAULT_PORT: Final = 19530
TOKEN_VARIABLE: Final = "IMAGO_MILVUS_TOKEN"  # noqa: S105  (a name)
TOKEN_FILE_VARIABLE: Final = "IMAGO_MILVUS_TOKEN_FILE"  # noqa: S105
CONSISTENCY_LEVELS: Final = ("Strong", "Session", "Bounded", "Eventually")
_FILES: Final = ("ca", "certificate", "key")
_OPTIONS: Final = ("database", "tls", *_FILES, "server_name", "consistency")
_COLLECTION: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_FORM: Final = "milvus://HOST:PORT/COLLECTION"


@dataclass(frozen=True)
class MilvusAddress:
    """One collection of one server.

    Attributes:
        host: Name or number of the machine; numbers of IPv6 without brackets.
        port: Its port.
        collection: The collection.
        database: The server's database, "" for its default one.
        tls: Whether to speak TLS.
        ca: Certificate of whoever signed the server's, for TLS; "" for those that the system trusts.
        certificate: The client's own certificate, where the server wants one.
        key: Its key.
        server_name: The name in the server's certificate, where it is not `host`.
        consistency: How fresh searches must be: one of Milvus's levels.
    """

    host: str
    port: int
    collection: str
    database: str = ""
    tls: bool = False
    ca: str = ""
    certificate: str = ""
    key: str = ""
    server_name: str = ""
    consistency: str = "Bounded"

    @classmethod
    def parse(cls, text: str) -> MilvusAddress:
        """Understands an address.

        Raises:
            AddressError: It is none; the message says what is wrong with it.
        """
        try:
            parts = urlsplit(text)
            port = parts.port
            host = parts.hostname
        except ValueError as error:
            raise AddressError(f"{_shown(text)} is no address: {error}. Write {_FORM}.") from error
        if parts.scheme.lower() != SCHEME:
            raise AddressError(
                f"{_shown(text)} begins with {parts.scheme}://, which is not known here. Write {_FORM}, or name the"
                f" folder of a library."
            )
        if parts.username is not None or parts.password is not None:
            raise AddressError(
                f"{_shown(text)} holds a name or password, which others could read in lists of processes. Take it out"
                f" of the address and put it into {TOKEN_VARIABLE} as NAME:PASSWORD."
            )
        if not host:
            raise AddressError(f"{_shown(text)} names no server. Write {_FORM}.")
        if port == 0:
            raise AddressError(f"{_shown(text)} names port 0, at which nobody can listen. Write {_FORM}.")
        collection = parts.path.strip("/")
        if not _COLLECTION.fullmatch(collection):
            raise AddressError(
                f"{_shown(text)} names {'no collection' if not collection else f'the collection {collection!r}'};"
                f" one is up to 200 letters, digits and '_', and begins with no digit. Write {_FORM}."
            )
        if parts.fragment:
            raise AddressError(
                f"{_shown(text)} has a part after '#', which means nothing here. Write {_FORM}."
            )
        return cls(host, port or DEFAULT_PORT, collection, **_options(text, parts.query))  # type: ignore[arg-type]

    @property
    def uri(self) -> str:
        """The server, as its client wants it told."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    @property
    def server(self) -> str:
        """The server, as people read it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{SCHEME}://{self.server}/{self.collection}"


def token(token_file: Path | None = None) -> str:
    """The token to show to a server, "" where none is given.

    Args:
        token_file: A file that holds it; the environment is asked where it is None.

    Raises:
        AddressError: The file cannot be read, or is empty.
    """
    if token_file is None:
        given = os.environ.get(TOKEN_VARIABLE, "")
        named = os.environ.get(TOKEN_FILE_VARIABLE)
        if given or not named:
            return given
        token_file = Path(named)
    try:
        text = token_file.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise AddressError(f"The token in {token_file} cannot be read: {error}.") from error
    if not text:
        raise AddressError(f"The file {token_file} holds no token.")
    return text


def _options(text: str, query: str) -> dict[str, str | bool]:
    found: dict[str, str | bool] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            raise AddressError(
                f"{_shown(text)}: there is no option {name!r}. There are {', '.join(_OPTIONS)}."
            )
        if name in found:
            raise AddressError(f"{_shown(text)} says {name} twice.")
        found[name] = value
    if "tls" in found:
        if found["tls"] not in {"yes", "no"}:
            raise AddressError(f"{_shown(text)}: tls is yes or no, not {found['tls']!r}.")
        found["tls"] = found["tls"] == "yes"
    level = found.get("consistency")
    if level is not None and level not in CONSISTENCY_LEVELS:
        raise AddressError(
            f"{_shown(text)}: consistency is one of {', '.join(CONSISTENCY_LEVELS)}, not {level!r}."
        )
    named = [name for name in (*_FILES, "server_name") if name in found]
    if named and not found.get("tls"):
        raise AddressError(f"{_shown(text)} says {', '.join(named)}, which only matters with tls=yes.")
    for name in _FILES:
        if name in found and not Path(str(found[name])).expanduser().is_file():
            raise AddressError(f"{_shown(text)}: there is no file {found[name]} ({name}).")
    return found


def _shown(text: str) -> str:
    """The address without a password that somebody may have put in."""
    return re.sub(r"//[^/@]*@", "//...@", text).encode("ascii", "backslashreplace").decode()
