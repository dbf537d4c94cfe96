"""The one place that speaks to Milvus's client: opening, asking again, and errors in our words."""

from __future__ import annotations

import logging
import re
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from indexer.cluster.address import TOKEN_VARIABLE
from indexer.cluster.errors import (
    ClusterPackagesMissingError,
    CollectionNotFoundError,
    CredentialsRefusedError,
    ServerRefusedError,
    ServerTooOldError,
    ServerUnreachableError,
)
from indexer.errors import LibraryError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from indexer.cluster.address import MilvusAddress

OLDEST_SERVER: Final = (2, 5)
"""The first version in which `like "%...%"` and upserts of whole rows are both past their early defects."""
ROWS_AT_ONCE: Final = 1_000
_CONNECT_SECONDS: Final = 5.0
_CALL_SECONDS: Final = 60.0
_SECOND_TRY_SECONDS: Final = 0.3
# The client would ping every ten seconds, idle or not, for which servers that keep gRPC's own limits hang up.
_TRANSPORT: Final = {"grpc.keepalive_permit_without_calls": False, "grpc.keepalive_time_ms": 120_000}
_NOT_TWICE: Final = {"create_collection", "create_index", "drop_index"}
_PAGE_ROWS: Final = 2_000  # with vectors of 768 numbers 6 MB, far below the 64 that one answer may have
_LONGEST_CHAIN: Final = 8
_NOT_FOUND, _NOT_LOADED, _UNREACHABLE = {4, 100}, {101, 503}, {2}
_REFUSED = re.compile(
    r"unauthenticated|authenticat|auth check|permission denied|privilege|credential", re.IGNORECASE
)
_AWAY = re.compile(
    r"unavailable|failed to connect|fail connecting|connection (refused|reset)|deadline|timeout",
    re.IGNORECASE,
)


class MilvusConnection:
    """A server, as this package uses it. Safe to use from several threads.

    Every call that finds the server gone raises `ServerUnreachableError`, and the next one tries again: nothing
    has to be opened anew when it is back.
    """

    def __init__(self, address: MilvusAddress, token: str) -> None:
        """Use `MilvusConnection.open`."""
        self.address = address
        self._token = token
        self._client: Any = None
        self._lock = threading.Lock()
        self.version = ""

    @classmethod
    def open(cls, address: MilvusAddress, token: str) -> MilvusConnection:
        """Connects, and looks how old the server is.

        Raises:
            ClusterPackagesMissingError: The client is not installed.
            ServerUnreachableError: Nobody answers, or not as Milvus does.
            CredentialsRefusedError: The token is not accepted.
            ServerTooOldError: The server is too old.
        """
        connection = cls(address, token)
        connection.version = str(connection.call("get_server_version"))
        if (number := _version_of(connection.version)) is not None and number < OLDEST_SERVER:
            connection.close()
            wanted = ".".join(map(str, OLDEST_SERVER))
            raise ServerTooOldError(
                f"The server at {address.server} is Milvus {connection.version}; Imago needs {wanted} or newer."
                f" Update the server."
            )
        return connection

    def close(self) -> None:
        """Lets go of the server; closing twice is harmless."""
        with self._lock, suppress(Exception):
            if self._client is not None:
                self._client.close()
            self._client = None

    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        """Calls a method of the client; a collection that the server has not loaded is loaded first.

        Raises:
            LibraryError: One of `indexer.cluster.errors`.
        """
        options.setdefault("timeout", _CALL_SECONDS)
        try:
            return self._called(name, arguments, options)
        except ServerUnreachableError:
            # A connection that was idle may have been cut by anything between here and there. Whatever is asked for
            # may be asked for twice, but for making and dropping.
            if name in _NOT_TWICE:
                raise
            time.sleep(_SECOND_TRY_SECONDS)
            self.close()
            return self._called(name, arguments, options)

    def _called(self, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        with self._translated():
            method = getattr(self._opened(), name)
            try:
                return method(*arguments, **options)
            except Exception as error:
                if getattr(error, "code", None) not in _NOT_LOADED or not arguments:
                    raise
                # A server that was started again has nothing loaded.
                self._opened().load_collection(arguments[0], timeout=_CALL_SECONDS)
                return method(*arguments, **options)

    # what the rest of the package asks

    def has(self, collection: str) -> bool:
        """Whether there is a collection."""
        return bool(self.call("has_collection", collection))

    def count(self, collection: str, expression: str = "") -> int:
        """How many rows fit."""
        found = self.call(
            "query", collection, filter=expression, output_fields=["count(*)"], **self._consistency()
        )
        return int(found[0]["count(*)"])

    def rows(self, collection: str, expression: str, columns: Sequence[str]) -> list[dict[str, Any]]:
        """The rows that fit an expression that fits no more than a page of rows (16,384)."""
        return list(
            self.call(
                "query", collection, filter=expression, output_fields=list(columns), **self._consistency()
            )
        )

    def all_rows(
        self, collection: str, expression: str, columns: Sequence[str]
    ) -> Iterator[list[dict[str, Any]]]:
        """All rows that fit, page by page, in no order."""
        pages = self.call(
            "query_iterator",
            collection,
            filter=expression,
            output_fields=list(columns),
            batch_size=_PAGE_ROWS,
            **self._consistency(),
        )
        try:
            while True:
                with self._translated():
                    page = pages.next()
                if not page:
                    return
                yield page
        finally:
            with suppress(Exception):
                pages.close()

    def upsert(self, collection: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes rows, each in place of the one with its key; when it returns, the server has them."""
        for start in range(0, len(rows), ROWS_AT_ONCE):
            self.call("upsert", collection, list(rows[start : start + ROWS_AT_ONCE]))

    def delete(self, collection: str, ids: Sequence[int]) -> None:
        """Deletes rows by their key, which need not be there."""
        for start in range(0, len(ids), ROWS_AT_ONCE):
            part = ", ".join(str(int(image_id)) for image_id in ids[start : start + ROWS_AT_ONCE])
            self.call("delete", collection, filter=f"id in [{part}]")

    def _consistency(self) -> dict[str, str]:
        return {"consistency_level": self.address.consistency}

    def _opened(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> Any:
        pymilvus = _pymilvus()
        address = self.address
        options: dict[str, Any] = {"timeout": _CONNECT_SECONDS, "grpc_options": _TRANSPORT}
        if self._token:
            options["token"] = self._token
        if address.database:
            options["db_name"] = address.database
        if address.tls:
            options["secure"] = True
            for option, value in (
                ("ca_pem_path" if address.certificate else "server_pem_path", address.ca),
                ("client_pem_path", address.certificate),
                ("client_key_path", address.key),
                ("server_name", address.server_name),
            ):
                if value:
                    options[option] = str(Path(value).expanduser()) if option != "server_name" else value
        return pymilvus.MilvusClient(uri=address.uri, **options)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except LibraryError:
            raise
        except Exception as error:
            translated = self._in_our_words(error)
            if translated is None:
                raise
            raise translated from error

    def _in_our_words(self, error: Exception) -> LibraryError | None:
        import grpc

        pymilvus = _pymilvus()
        if not isinstance(error, (pymilvus.MilvusException, grpc.RpcError, grpc.FutureTimeoutError)):
            return None
        code = getattr(error, "code", None)
        text = _one_line(str(getattr(error, "message", "") or error))
        if callable(code):  # an error of the transport itself
            code, text = None, _one_line(str(getattr(error, "details", lambda: error)()))
        server = self.address.server
        cause: BaseException | None = error
        for _ in range(_LONGEST_CHAIN):  # the client also raises errors that are their own cause
            if isinstance(cause, grpc.Call):
                if cause.code() in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}:
                    # It calls every failure to connect by one name; the transport knows better.
                    text = f"unauthenticated: {_one_line(str(cause.details()))}"
                break
            cause = None if cause is None else cause.__cause__
        if code in _NOT_FOUND and "collection" in text.lower():
            return CollectionNotFoundError(
                f"There is no collection {self.address.collection} on the server {server} (any more). Fill it with"
                f" `imago publish --to {self.address}`."
            )
        if _REFUSED.search(text):
            return CredentialsRefusedError(
                f"The server {server} refuses: {text}. Set {TOKEN_VARIABLE}, or name a file with --token-file."
            )
        if code in _UNREACHABLE or _AWAY.search(text):
            return ServerUnreachableError(
                f"The server {server} does not answer ({text}). Is it running, and is this its address? Nothing is"
                f" lost: the same command works once it is back."
            )
        return ServerRefusedError(f"The server {server} refuses: {text}.")


def _pymilvus() -> Any:
    try:
        import pymilvus
    except ImportError as error:
        raise ClusterPackagesMissingError("pymilvus") from error
    # It logs every error with a traceback, also those that are raised, translated and told in one line.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    return pymilvus


def _version_of(text: str) -> tuple[int, ...] | None:
    """`v2.5.4` as numbers; None for builds that say something else, such as Milvus Lite's `milvus_lite-3.2.2`."""
    match = re.match(r"v?(\d+)\.(\d+)", text)
    return None if match is None else (int(match[1]), int(match[2]))


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300].rstrip(".")
