"""Test commands in bulk, and what becomes of them: the load test of the API, of the page and of the command line."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, overload
from uuid import UUID

from psycopg_pool import AsyncConnectionPool
from uuid_utils.compat import uuid7

from commandbus import BatchCommand, CommandBus, CommandStatus
from pytest_commandbus.behavior import BehaviorRepository, StoredBehavior
from pytest_commandbus.chaos import CommandBehavior, RollKey, roll
from tests.e2e.app.creating import next_batch_number
from tests.e2e.app.handlers.testing import COMMAND_TYPE, DOMAIN

CHUNK = 1_000
NAME = "load test"
TRANSIENT_TIMES = 2  # failures of a command that fails transiently, then succeeds
_NOTHING = CommandBehavior()
_RECORD = """
INSERT INTO app.load_test (batch_id, number, commands, sent_at)
VALUES (%(batch_id)s, %(number)s, %(commands)s, commandbus.now())
"""

BehaviorOf = Callable[[int], CommandBehavior]


@dataclass(frozen=True, slots=True)
class Bulk:
    """What was sent, and how long it took."""

    batch_id: UUID
    number: int
    created: int
    generation_seconds: float
    queue_seconds: float


@dataclass(frozen=True, slots=True)
class Distribution:
    """Which part of the commands, in percent, is to end how; together 100."""

    success: float = 100.0
    fail_transient_then_succeed: float = 0.0
    fail_permanent: float = 0.0

    def behaviors(self, count: int, delay_ms: int) -> BehaviorOf:
        """Return the behavior of each ordinal: as many of each kind as the parts say, evenly spread."""
        kinds = (
            CommandBehavior(min_duration_ms=delay_ms, max_duration_ms=delay_ms),
            CommandBehavior(fail_transient_times=TRANSIENT_TIMES, min_duration_ms=delay_ms, max_duration_ms=delay_ms),
            CommandBehavior(fail_permanent_pct=100),
        )
        parts = (self.success, self.fail_transient_then_succeed, self.fail_permanent)
        places = spread(shares(count, parts))
        return lambda ordinal: kinds[places[ordinal]]


def shares(count: int, parts: Sequence[float]) -> list[int]:
    """Divide `count` by percentages that make 100 together; what is left over goes to the largest remainders."""
    exact = [count * part / 100 for part in parts]
    whole = [int(one) for one in exact]
    by_remainder = sorted(range(len(parts)), key=lambda kind: whole[kind] - exact[kind])
    for kind in by_remainder[: count - sum(whole)]:
        whole[kind] += 1
    return whole


def spread(counts: Sequence[int]) -> bytearray:
    """Give each place its kind, each kind as often as it counts, and none of them in a bunch."""
    total = sum(counts)
    given = [0] * len(counts)
    places = bytearray(total)
    for place in range(total):
        kind = max(
            range(len(counts)), key=lambda k: counts[k] * (place + 1) - given[k] * total if given[k] < counts[k] else -1
        )
        given[kind] += 1
        places[place] = kind
    return places


async def send_bulk(pool: AsyncConnectionPool[Any], count: int, behavior_of: BehaviorOf) -> Bulk:
    """Send `count` test commands as one batch, each with its behavior, all or none.

    The event loop is free meanwhile. Sending begins when no worker can see them yet.
    """
    began = perf_counter()
    ids: list[UUID] = []
    while len(ids) < count:
        ids += [uuid7() for _ in range(min(CHUNK, count - len(ids)))]
        await asyncio.sleep(0)
    generated = perf_counter()
    behaviors = BehaviorRepository()
    async with pool.connection() as conn, conn.transaction():
        number = await next_batch_number(conn)
        batch_id = await CommandBus(pool).create_batch(DOMAIN, _Commands(ids), name=NAME, conn=conn)
        await behaviors.number_batch(batch_id, number, conn=conn)
        await conn.execute(_RECORD, {"batch_id": batch_id, "number": number, "commands": count})
        for first in range(0, count, CHUNK):
            rows = [
                StoredBehavior(ids[ordinal], behavior, {"ordinal": ordinal})
                for ordinal in range(first, min(first + CHUNK, count))
                if (behavior := behavior_of(ordinal)) != _NOTHING
            ]
            await behaviors.add(rows, conn=conn)
    return Bulk(batch_id, number, count, generated - began, perf_counter() - generated)


def predict(seed: int, number: int, count: int, behavior_of: BehaviorOf, max_attempts: int) -> "Counter[CommandStatus]":
    """Tell how the commands of a bulk end, from the seed alone: the same rolls as their workers make."""
    return Counter(_end(seed, number, ordinal, behavior_of(ordinal), max_attempts) for ordinal in range(count))


def _end(seed: int, number: int, ordinal: int, behavior: CommandBehavior, max_attempts: int) -> CommandStatus:
    for failures in range(max_attempts):
        outcome = roll(seed, RollKey(number, ordinal, COMMAND_TYPE, 1, failures), behavior).outcome
        if outcome == "success":
            return CommandStatus.COMPLETED
        if outcome == "business_rule":
            return CommandStatus.FAILED
        if outcome == "permanent":
            break
    return CommandStatus.IN_TROUBLESHOOTING_QUEUE


class _Commands(Sequence[BatchCommand]):
    """The commands of a batch, each made when it is asked for, so that a large one costs no memory but its ids."""

    def __init__(self, ids: Sequence[UUID]) -> None:
        self._ids = ids

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, place: int) -> BatchCommand: ...

    @overload
    def __getitem__(self, place: slice) -> "list[BatchCommand]": ...

    def __getitem__(self, place: int | slice) -> "BatchCommand | list[BatchCommand]":
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        return BatchCommand(COMMAND_TYPE, self._ids[place], {"ordinal": range(len(self))[place]})
