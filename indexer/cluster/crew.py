"""The near end of a job: actors on Ray's machines, and who of them works on what.

Ray places actors and says when they die; what to do about it is decided here. A batch is in nobody's hands but those
of the actor it was given to, so when that dies, with its machine or alone, the batch goes to another: at least once,
and whoever takes the answers must not mind a second one. A batch that an actor died of has the next one to itself, so
that no other batch shares the blame; one that outlived two actors is halved, and a single file that three actors died
of is a failure with that reason: one file cannot stop a job.

What is in flight is bounded (two batches for each actor), and what comes back is small, so neither the driver nor
Ray's object store grows with the job.
"""

from __future__ import annotations

import os
import re
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from indexer.cluster.errors import ClusterPackagesMissingError, JobError
from indexer.cluster.worker import CALLS_AT_ONCE, Worker
from model.identity import ModelIdentity
from model.machine import available_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from indexer.cluster.worker import Job
    from indexer.decode import DecodeLimits
    from indexer.tower import ImageEncoder

LOCAL, AUTO = "local", "auto"
_ADDRESS: Final = re.compile(r"(ray://)?[^\s/:]+:\d{1,5}|(ray://)?\[[0-9a-fA-F:]+\]:\d{1,5}")
_DEATHS_OF_A_BATCH: Final = 2
_DEATHS_OF_A_FILE: Final = 3
_CREW_SECONDS: Final = 2.0
_WAIT_SECONDS: Final = 0.2
_PATIENCE_SECONDS: Final = 600.0


@dataclass
class _Batch:
    jobs: list[Job]
    deaths: int = 0


@dataclass
class _Hand:
    """An actor and how far it is."""

    actor: Any
    coming: Any  # the answer that it must give before it can work
    node: str = ""
    host: str = ""
    slot: int = -1
    is_ready: bool = False
    open: int = 0
    is_reserved: bool = False  # by the one batch it has, which an actor died of


class Crew:
    """Actors that embed; a context manager.

    Args:
        address: `local` for this machine alone, `auto` for the cluster that this machine belongs to, or HOST:PORT.
        load: Loads the encoder where the actor runs; picklable.
        identity: The model that every machine must have.
        limits: What one file may cost.
        batch_files: Files in one call.
        cores: Cores for each actor where there is no accelerator.
    """

    def __init__(
        self,
        address: str,
        load: Callable[[], ImageEncoder],
        identity: ModelIdentity,
        limits: DecodeLimits,
        *,
        batch_files: int,
        cores: int = 2,
    ) -> None:
        self._address = address
        self._load = load
        self._identity = identity
        self._limits = limits
        self._batch_files = batch_files
        self._cores = cores
        self._hands: list[_Hand] = []
        self._looked_at = -_CREW_SECONDS
        self._accelerated = False
        self.deaths = 0

    def __enter__(self) -> Crew:
        """Joins the machines.

        Raises:
            ClusterPackagesMissingError: Ray is not installed.
            JobError: There is no cluster at the address, or nothing in it that could work.
        """
        self._ray = _ray()
        options: dict[str, Any] = {
            "log_to_driver": False,
            "logging_level": "ERROR",
            "configure_logging": False,
        }
        if self._address == LOCAL:
            options |= {"num_cpus": max(1, available_cores()), "include_dashboard": False}
        elif self._address == AUTO or _ADDRESS.fullmatch(self._address):
            options["address"] = self._address
        else:
            raise JobError(
                f"{self._address!r} is no address of a Ray cluster: write {LOCAL}, {AUTO} or HOST:PORT."
            )
        self._was_running = bool(self._ray.is_initialized())
        if not self._was_running:
            try:
                self._ray.init(**options)
            except Exception as error:
                raise JobError(
                    f"There is no Ray cluster at {self._address}, or this machine cannot join it"
                    f" ({_one_line(error)}). `ray start --head` starts one; `ray status` tells its address."
                ) from error
        try:
            self._accelerated = float(self._ray.cluster_resources().get("GPU", 0)) >= 1
            places = self._places()
        except Exception as error:
            self.__exit__()
            raise self._lost(error) from error
        if not places:
            self.__exit__()
            raise JobError(
                f"The Ray cluster at {self._address} has no machine with {self._cores} cores for a worker. Add"
                f" machines, or take fewer cores for each."
            )
        return self

    def __exit__(self, *_: object) -> None:
        for hand in self._hands:
            with suppress(Exception):
                self._ray.kill(hand.actor)
        self._hands = []
        if not self._was_running:
            with suppress(Exception):
                self._ray.shutdown()

    @property
    def machines(self) -> list[str]:
        """Names of the machines that work now, one for each actor."""
        return [hand.host for hand in self._hands if hand.is_ready]

    def work(
        self,
        jobs: Iterator[Job],
        take: Callable[[dict[str, Any]], Job | None],
        *,
        report: Callable[[], None],
        should_stop: Callable[[], bool],
    ) -> None:
        """Works jobs off until there are none, or until it is to stop and what is in hand is done.

        Args:
            jobs: Drawn from when an actor has room.
            take: Given each answer; what it returns is put back as another job.
            report: Called a few times a second.
            should_stop: Asked a few times a second.

        Raises:
            JobError: No machine can work, or one has another model.
        """
        waiting: deque[_Batch] = deque()
        again: list[Job] = []
        flying: dict[Any, tuple[_Hand, _Batch]] = {}
        is_drained = False
        idle_since = time.monotonic()
        try:
            while True:
                is_stopping = should_stop()
                self._keep_crew()
                for hand in [hand for hand in self._hands if hand.is_ready and not is_stopping]:
                    while hand.open < CALLS_AT_ONCE and not hand.is_reserved:
                        if not waiting:
                            part, is_drained = self._drawn(jobs, again, is_drained)
                            if not part:
                                break
                            waiting.append(_Batch(part))
                        if waiting[0].deaths and hand.open:
                            break  # it gets nothing more, so that it soon has nothing else
                        batch = waiting.popleft()
                        hand.is_reserved = batch.deaths > 0
                        flying[hand.actor.embed.remote(batch.jobs)] = (hand, batch)
                        hand.open += 1
                report()
                if not flying:
                    if is_stopping or (is_drained and not waiting and not again):
                        return
                    self._lose_patience(idle_since)
                    time.sleep(_WAIT_SECONDS / 2)
                    continue
                idle_since = time.monotonic()
                done, _ = self._ray.wait(list(flying), num_returns=len(flying), timeout=_WAIT_SECONDS)
                for reference in done:
                    hand, batch = flying.pop(reference)
                    hand.open -= 1
                    hand.is_reserved = False
                    for answer in self._landed(reference, hand, batch, waiting):
                        more = take(answer)
                        if more is not None:
                            again.append(more)
        except (JobError, KeyboardInterrupt):
            raise
        except self._ray.exceptions.RayError as error:
            raise self._lost(error) from error

    def _lose_patience(self, idle_since: float) -> None:
        if time.monotonic() - idle_since > _PATIENCE_SECONDS:
            raise JobError(
                f"No machine of the Ray cluster at {self._address} has taken work for {_PATIENCE_SECONDS:.0f} s."
                f" Look at `ray status`; the same command goes on."
            )

    def _drawn(self, jobs: Iterator[Job], again: list[Job], is_drained: bool) -> tuple[list[Job], bool]:
        part = again[: self._batch_files]
        del again[: self._batch_files]
        while len(part) < self._batch_files and not is_drained:
            job = next(jobs, None)
            if job is None:
                is_drained = True
            else:
                part.append(job)
        return part, is_drained

    def _landed(
        self, reference: Any, hand: _Hand, batch: _Batch, waiting: deque[_Batch]
    ) -> list[dict[str, Any]]:
        """The answers to a batch; none if its actor died, and then the batch waits for another."""
        exceptions = self._ray.exceptions
        try:
            return list(self._ray.get(reference))
        except exceptions.RayTaskError as error:
            raise JobError(
                f"The worker on {hand.host} cannot embed: {_one_line(error.cause)}. What is done is kept; the same"
                f" command goes on."
            ) from error
        except exceptions.RayError:
            self._bury(hand)
        batch.deaths += 1
        if len(batch.jobs) > 1 and batch.deaths >= _DEATHS_OF_A_BATCH:
            middle = len(batch.jobs) // 2
            halves = batch.jobs[:middle], batch.jobs[middle:]
            waiting.extendleft(_Batch(half, batch.deaths - 1) for half in reversed(halves))
        elif batch.deaths >= _DEATHS_OF_A_FILE:
            reason = f"{batch.deaths} workers died while they had the file"
            return [
                {"task": task, "status": "died", "reason": reason, "fields": {}, "vector": None}
                for task, _, _ in batch.jobs
            ]
        else:
            waiting.appendleft(batch)
        return []

    # the crew

    def _keep_crew(self) -> None:
        """Has as many actors as there is room for, and brings those that came up to work."""
        for hand in [hand for hand in self._hands if not hand.is_ready]:
            self._bring_up(hand)
        if time.monotonic() - self._looked_at < _CREW_SECONDS:
            return
        self._looked_at = time.monotonic()
        for _ in range(self._places() - len(self._hands)):
            options: dict[str, Any] = {"max_restarts": 0, "max_concurrency": CALLS_AT_ONCE}
            options |= {"num_gpus": 1, "num_cpus": 1} if self._accelerated else {"num_cpus": self._cores}
            cores = 0 if self._accelerated else self._cores
            actor = self._ray.remote(Worker).options(**options).remote(self._load, self._limits, cores)
            self._hands.append(_Hand(actor, actor.where.remote()))

    def _places(self) -> int:
        """Actors that the machines which are there have room for."""
        resource, share = ("GPU", 1) if self._accelerated else ("CPU", self._cores)
        return sum(
            int(node["Resources"].get(resource, 0)) // share for node in self._ray.nodes() if node["Alive"]
        )

    def _bring_up(self, hand: _Hand) -> None:
        done, _ = self._ray.wait([hand.coming], timeout=0)
        if not done:
            return
        exceptions = self._ray.exceptions
        try:
            answer = self._ray.get(hand.coming)
        except exceptions.RayTaskError as error:
            raise JobError(
                f"The worker on {hand.host or 'a machine'} cannot start: {_one_line(error.cause)}. Every machine"
                f" needs the same version of Imago, and the model."
            ) from error
        except exceptions.RayError:
            self._bury(hand)
            return
        if hand.slot < 0:
            hand.node, hand.host = answer
            taken = {other.slot for other in self._hands if other.node == hand.node}
            hand.slot = next(slot for slot in range(len(self._hands) + 1) if slot not in taken)
            hand.coming = hand.actor.start.remote(hand.slot)
            return
        found = ModelIdentity.from_dict(answer)
        if not found.is_same_model(self._identity):
            raise JobError(
                f"The machine {hand.host} has another model under the name {self._identity.name}: its weights or"
                f" preprocessing differ. Give every machine the same files."
            )
        hand.is_ready = True

    def _bury(self, hand: _Hand) -> None:
        if hand in self._hands:
            self._hands.remove(hand)
            self.deaths += 1
            with suppress(Exception):
                self._ray.kill(hand.actor)

    def _lost(self, error: BaseException) -> JobError:
        return JobError(
            f"The Ray cluster at {self._address} does not answer any more ({_one_line(error)}). What is done is kept;"
            f" the same command goes on."
        )


def _ray() -> Any:
    # Before the import: without the first, a driver on loopback waits for ever; the second is nobody's business.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would otherwise hide accelerators from actors that ask for none, with a warning.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise ClusterPackagesMissingError("ray") from error
    return ray


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
