"""Who publishes now: a promise in the collection's page that runs out by itself.

What this guarantees, and what not. Milvus has no operation that compares and sets, so two publishers that start
within the same instant both write the lease; each reads it again after a moment, and the one that finds the other's
name gives way. A publisher that was stopped for longer than its lease (a laptop that slept) looks before it goes on
and gives way too; the rows that were on their way at that moment may still arrive. Clocks of the machines must agree
to within half a lease. None of this can mix images of two libraries up: a collection belongs to one library, every
row is written whole, and the next publication compares every block of ids again.
"""

from __future__ import annotations

import json
import os
import platform
import time
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from indexer.cluster.errors import PublisherBusyError

if TYPE_CHECKING:
    from indexer.cluster.collection import PublishedCollection

LEASE_SECONDS: Final = 120.0
SETTLE_SECONDS: Final = 0.5
"""How long two publishers that start at once wait before they look who was last."""
_PAGE: Final = "lease"


@dataclass(frozen=True)
class Lease:
    """A publisher's promise.

    Attributes:
        owner: Tells this publisher from all others.
        host, pid: Where it runs.
        since: When it began, ISO 8601 in UTC.
        until: When the promise runs out, seconds since 1970.
    """

    owner: str
    host: str
    pid: int
    since: str
    until: float

    @classmethod
    def read(cls, collection: PublishedCollection) -> Lease | None:
        """The lease in a collection's page, run out or not; None where there is none."""
        text = collection.pages([_PAGE]).get(_PAGE)
        if not text:
            return None
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None

    @property
    def is_over(self) -> bool:
        """Whether it has run out."""
        return time.time() > self.until

    @property
    def holder(self) -> str:
        """Who, for people."""
        return f"process {self.pid} on {self.host}, since {self.since}"


class HeldLease:
    """The right to write a collection, as far as it can be had; a context manager.

    Args:
        collection: Its page exists.
        seconds: How long each promise lasts.
    """

    def __init__(self, collection: PublishedCollection, seconds: float = LEASE_SECONDS) -> None:
        self._collection = collection
        self._seconds = seconds
        self._owner = uuid.uuid4().hex
        self._since = datetime.now(UTC).isoformat(timespec="seconds")
        self._renewed = 0.0

    def __enter__(self) -> HeldLease:
        """Takes the lease.

        Raises:
            PublisherBusyError: Another publisher has it.
        """
        self._give_way_to_another()
        self._write()
        time.sleep(SETTLE_SECONDS)
        self._give_way_to_another()
        return self

    def __exit__(self, *_: object) -> None:
        from indexer.errors import LibraryError

        try:
            lease = Lease.read(self._collection)
            if lease is not None and lease.owner == self._owner:
                self._collection.remove_page(_PAGE)
        except LibraryError:
            pass  # it runs out by itself, and what went wrong before is what people must be told

    def keep(self) -> None:
        """Renews the promise when half of it is over; to be called between any two writes that take long.

        Raises:
            PublisherBusyError: It ran out, and another publisher took over.
        """
        if time.monotonic() - self._renewed > self._seconds / 2:
            self._give_way_to_another()
            self._write()

    def _give_way_to_another(self) -> None:
        lease = Lease.read(self._collection)
        if lease is not None and lease.owner != self._owner and not lease.is_over:
            address = self._collection.connection.address
            raise PublisherBusyError(
                f"Another publisher is writing {address}: {lease.holder}. Wait for it to end; if it was killed, its"
                f" right ends by itself in {max(1, round(lease.until - time.time()))} s."
            )

    def _write(self) -> None:
        lease = Lease(self._owner, platform.node(), os.getpid(), self._since, time.time() + self._seconds)
        self._collection.write_page(_PAGE, json.dumps(asdict(lease)))
        self._renewed = time.monotonic()
