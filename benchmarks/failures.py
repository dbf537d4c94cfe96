"""A week-long job of `imago index --ray` on machines that die, in a moment: does at least once come to an end?

    .venv/bin/python -m benchmarks.failures [--images 100000000] [--workers 64] [--machine-hours 24] ...

A simulation by events, with the rules of `indexer.cluster.crew` and of its sinks: a batch whose worker died goes to
another; after two deaths it is halved; a file that three workers died of is a failure; rows are written once a minute,
and a driver that dies takes with it what was not written and is started again. Machines die at random and come back.
Prints how long the job takes beside one without failures, what was embedded twice, and whether every file has one row.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
from collections import deque
from dataclasses import asdict, dataclass, field

DEATHS_OF_A_BATCH = 2
DEATHS_OF_A_FILE = 3


@dataclass(frozen=True)
class Job:
    """What is simulated; durations in hours unless they say otherwise.

    Attributes:
        images: Files.
        workers: Machines with one worker each.
        images_per_second: Of one worker.
        batch_files: Files in one call.
        machine_hours: Mean time until a machine dies; exponentially distributed.
        repair_hours: Until it is back, its tower loaded.
        driver_hours: Mean time until the driver dies.
        restart_hours: Until it is started again and has listed everything.
        flush_seconds: Between two writes of rows.
        poison: Share of files that kill the worker which has them.
    """

    images: int = 100_000_000
    workers: int = 64
    images_per_second: float = 3.0
    batch_files: int = 256
    machine_hours: float = 24.0
    repair_hours: float = 0.25
    driver_hours: float = 72.0
    restart_hours: float = 0.5
    flush_seconds: float = 60.0
    poison: float = 1e-7
    seed: int = 0


@dataclass
class Outcome:
    """How it went.

    Attributes:
        hours: Until every file had its row.
        hours_without_failures: The same job on machines that never die.
        written: Files with a row that holds a vector.
        given_up: Files whose row says that workers died of them.
        rows_twice: Files with more than one row; must be none.
        embedded_twice: Files that went through a tower again because their first answer was lost.
        machine_deaths, worker_deaths, driver_deaths: Counted.
    """

    hours: float = 0.0
    hours_without_failures: float = 0.0
    written: int = 0
    given_up: int = 0
    rows_twice: int = 0
    embedded_twice: int = 0
    machine_deaths: int = 0
    worker_deaths: int = 0
    driver_deaths: int = 0


@dataclass
class _Sink:
    """Counts the rows of every range of files, as a store of whole rows would keep them."""

    rows: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def write(self, ranges: list[tuple[int, int]]) -> None:
        for start, stop in ranges:
            self.rows.setdefault(start, []).append((start, stop))

    def twice(self) -> int:
        """Files that lie in more than one of the ranges written."""
        ranges = sorted(each for found in self.rows.values() for each in found)
        end = overlap = 0
        for start, stop in ranges:
            overlap += max(0, min(stop, end) - start)
            end = max(end, stop)
        return overlap


def simulate(job: Job) -> Outcome:
    """Plays a job to its end."""
    chance = random.Random(job.seed)
    out = Outcome()
    poison = sorted(chance.sample(range(job.images), round(job.images * job.poison)))
    poisoned = set(poison)
    per_batch = {number // job.batch_files for number in poison}
    to_do: deque[tuple[int, int, int]] = deque()  # first file, last + 1, deaths
    following = 0
    sink = _Sink()
    waiting_rows: list[tuple[int, int]] = []
    speed = job.images_per_second * 3600
    events: list[tuple[float, int, str, int, int]] = []
    tick = 0

    def push(at: float, kind: str, who: int, life: int) -> None:
        nonlocal tick
        tick += 1
        heapq.heappush(events, (at, tick, kind, who, life))

    life = [0] * job.workers  # an event of an earlier life is void
    holding: list[tuple[int, int, int] | None] = [None] * job.workers
    is_up = [True] * job.workers
    driver_is_up, driver_life = True, 0
    done = 0

    def give(who: int, now: float) -> None:
        nonlocal following
        if not (is_up[who] and driver_is_up) or holding[who] is not None:
            return
        if to_do:
            batch = to_do.popleft()
        elif following < job.images:
            batch = (following, min(following + job.batch_files, job.images), 0)
            following = batch[1]
        else:
            return
        holding[who] = batch
        start, stop, _ = batch
        # Whoever has a file of the deadly kind dies half-way; only batches that hold one are looked through.
        deadly = start // job.batch_files in per_batch and any(
            number in poisoned for number in range(start, stop)
        )
        duration = (stop - start) / speed
        push(now + (duration / 2 if deadly else duration), "dies" if deadly else "lands", who, life[who])

    def lose(who: int) -> None:
        nonlocal done
        batch, holding[who] = holding[who], None
        if batch is None:
            return
        start, stop, deaths = batch
        deaths += 1
        out.embedded_twice += (stop - start) // 2
        if stop - start > 1 and deaths >= DEATHS_OF_A_BATCH:
            middle = (start + stop) // 2
            to_do.extendleft(((middle, stop, 0), (start, middle, 0)))
        elif deaths >= DEATHS_OF_A_FILE:
            out.given_up += stop - start
            done += stop - start
        else:
            to_do.appendleft((start, stop, deaths))

    for who in range(job.workers):
        push(chance.expovariate(1 / job.machine_hours), "machine", who, 0)
        give(who, 0.0)
    push(job.flush_seconds / 3600, "flush", 0, 0)
    push(chance.expovariate(1 / job.driver_hours), "driver", 0, 0)
    now = 0.0
    while done < job.images:
        now, _, kind, who, of_life = heapq.heappop(events)
        if kind == "lands" and of_life == life[who]:
            batch = holding[who]
            holding[who] = None
            if batch is not None:
                waiting_rows.append(batch[:2])
            give(who, now)
        elif kind == "dies" and of_life == life[who]:
            out.worker_deaths += 1
            life[who] += 1
            lose(who)
            push(now + 30 / 3600, "up", who, life[who])
            is_up[who] = False
        elif kind == "machine":
            out.machine_deaths += 1
            life[who] += 1
            is_up[who] = False
            lose(who)
            push(now + job.repair_hours, "up", who, life[who])
            push(
                now + job.repair_hours + chance.expovariate(1 / job.machine_hours), "machine", who, life[who]
            )
        elif kind == "up" and of_life == life[who]:
            is_up[who] = True
            give(who, now)
        elif kind == "flush" and of_life == driver_life:
            sink.write(waiting_rows)
            done += sum(stop - start for start, stop in waiting_rows)
            out.written += sum(stop - start for start, stop in waiting_rows)
            waiting_rows = []
            push(now + job.flush_seconds / 3600, "flush", 0, driver_life)
            for each in range(job.workers):
                give(each, now)  # those that found nothing to do
        elif kind == "driver":
            out.driver_deaths += 1
            driver_is_up = False
            driver_life += 1
            out.embedded_twice += sum(stop - start for start, stop in waiting_rows)
            # What was not written is not there: the next driver finds it missing, in hand or waiting.
            to_do.extend((start, stop, 0) for start, stop in waiting_rows)
            waiting_rows = []
            for each in range(job.workers):
                life[each] += 1
                if holding[each] is not None:
                    start, stop, _ = holding[each]
                    to_do.append((start, stop, 0))
                    out.embedded_twice += (stop - start) // 2
                    holding[each] = None
                if not is_up[each]:
                    push(now + job.repair_hours, "up", each, life[each])
            push(now + job.restart_hours, "driver up", 0, driver_life)
        elif kind == "driver up":
            driver_is_up = True
            push(now + job.flush_seconds / 3600, "flush", 0, driver_life)
            push(now + chance.expovariate(1 / job.driver_hours), "driver", 0, driver_life)
            for each in range(job.workers):
                give(each, now)
    out.hours = now
    out.hours_without_failures = job.images / (job.workers * speed)
    out.rows_twice = sink.twice()
    return out


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in asdict(Job()).items():
        arguments.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    job = Job(**vars(arguments.parse_args()))
    print(json.dumps({"job": asdict(job), "outcome": asdict(simulate(job))}, indent=2))


if __name__ == "__main__":
    main()
