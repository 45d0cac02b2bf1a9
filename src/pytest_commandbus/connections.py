"""Whether the server has connections for the workers of all tests that run at once; told before any of them starts."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .runtime import Runtime

OF_TEST = 5
"""What a test has beside its workers: two sessions that lend databases, and a few of its own pool."""
KEPT, LISTENING, FOR_HANDLERS = 2, 1, 1
"""Of each worker: what it keeps of its pool, what it listens on; and what the handlers of one pool need at least."""
MOST_FOR_HANDLERS = 10
"""Of each domain of a worker process, as the command line gives it by itself."""


@dataclass(frozen=True, slots=True)
class Room:
    """What the server has: all its connections, those that it reserves, and those of others than this test run."""

    maximum: int
    reserved: int
    others: int

    @property
    def free(self) -> int:
        """Connections that the test run may have."""
        return self.maximum - self.reserved - self.others


@dataclass(frozen=True, slots=True)
class Demand:
    """What a pool of workers asks for.

    workers: processes, or tasks for each domain. domains: of the App. processes: of the operating system. beside:
    connections of other workers that run in the test. shards: tests at once, by xdist.
    """

    workers: int
    domains: int
    processes: bool
    beside: int = 0
    shards: int = 1

    @property
    def least(self) -> int:
        """Connections that the pool cannot do without."""
        each = self.domains * (KEPT + LISTENING)
        return self.workers * (each + FOR_HANDLERS) if self.processes else self.workers * each + FOR_HANDLERS

    @property
    def total(self) -> int:
        """The least that the whole test run needs when every xdist worker runs such a test."""
        return self.shards * (self.least + self.beside + OF_TEST)

    def check(self, room: Room) -> None:
        """Raise pytest.UsageError, with the arithmetic and what would fit, if the server has not even the least."""
        if self.total > room.free:
            raise pytest.UsageError(self._refusal(room))

    def pool_size(self, room: Room, wanted: int) -> int:
        """Return how large the pool of one process may be, `wanted` at most, so that all fit. Errors: as `check`."""
        self.check(room)
        share = room.free // self.shards - self.beside - OF_TEST
        if self.processes:
            return min(wanted, share // self.workers - self.domains * LISTENING)
        return min(wanted, share - self.workers * self.domains * LISTENING)

    def _refusal(self, room: Room) -> str:
        each = f"{_count(self.domains, 'domain')} x {KEPT + LISTENING}"
        if self.processes:
            workers = f"{_count(self.workers, 'worker process', 'es')} x ({each} + {FOR_HANDLERS} for handlers)"
        else:
            workers = f"{_count(self.workers, 'worker')} x {each} + {FOR_HANDLERS} for handlers"
        beside = f" + {self.beside} of its other workers" if self.beside else ""
        one = f"{workers}{beside} + {OF_TEST} of the test"
        sum_ = one if self.shards == 1 else f"{self.shards} xdist workers x ({one})"
        return (
            f"the workers need more connections than PostgreSQL has free.\n"
            f"needed: {sum_} = {self.total}\n"
            f"free: max_connections {room.maximum} - {room.reserved} reserved - {room.others} of others = {room.free}\n"
            f"{self._mending(room)}"
        )

    def _mending(self, room: Room) -> str:
        ways = []
        share = room.free // self.shards - self.beside - OF_TEST
        each = self.domains * (KEPT + LISTENING)
        fewer = share // (each + FOR_HANDLERS) if self.processes else (share - FOR_HANDLERS) // each
        if fewer >= 1:
            ways.append(f"start fewer workers (workers={fewer})")
        shards = room.free // (self.total // self.shards)
        if self.shards > 1 and shards >= 1:
            ways.append(f"use fewer xdist workers (-n {shards})")
        ways.append(f"raise max_connections to {self.total + room.reserved + room.others} or more")
        text = ", or ".join(ways)
        return f"{text[0].upper()}{text[1:]}."


def demand_of(runtime: "Runtime", workers: int, processes: bool, beside: int = 0) -> Demand:
    """Return what workers of a test's App ask for, beside so many connections that the test's other workers have."""
    from .xdist import shard_count

    domains = len(runtime.require_app("cb_worker_pool").domains(runtime.pool))
    return Demand(workers, domains, processes=processes, beside=beside, shards=shard_count(runtime.item.config))


async def room_for(runtime: "Runtime") -> Room:
    """Return what connections the server has for the test run that this test is one of."""
    from . import statements
    from .postgres.admin import APPLICATION_NAME

    own = {"prefix": f"cb_{runtime.run.run_id}_", "admin": APPLICATION_NAME}
    async with runtime.pool.connection() as connection:
        row = await (await connection.execute(statements.CONNECTIONS, own)).fetchone()
    return Room(*row) if row is not None else Room(0, 0, 0)


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{plural}"
