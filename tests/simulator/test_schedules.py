"""Schedules that a seed has put in order leave the bus sound; without its fence they do not."""

import asyncio
import time
from pathlib import Path
from typing import LiteralString

import pytest

from tests.simulator.planting import NO_FENCE
from tests.simulator.run import first_failure, on_stage
from tests.simulator.stage import VACUUM, Stage

pytestmark = pytest.mark.asyncio

REGRESSIONS = Path(__file__).with_name("regressions.txt")
SHARDS, IN_SHARD = 40, 250  # 10,000 schedules, in pieces that several pytest-xdist workers can share
QUICK = 100

DEAD_ROWS: LiteralString = """
    SELECT coalesce(sum(n_dead_tup), 0)::integer FROM pg_stat_user_tables WHERE schemaname = 'commandbus'"""
SESSIONS: LiteralString = """
    SELECT count(*) FROM pg_stat_activity
     WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"""


def regressions() -> list[int]:
    """The seeds that once failed."""
    lines = (line.partition("#")[0].strip() for line in REGRESSIONS.read_text().splitlines())
    return [int(line) for line in lines if line]


async def test_some_schedules_are_sound(prepared_dsn: str) -> None:
    async with on_stage(prepared_dsn) as schedule:
        failure = await first_failure(schedule, range(QUICK))
    assert failure is None, failure


async def test_nothing_is_left_when_the_curtain_falls(prepared_dsn: str) -> None:
    files = len(list(Path("/dev/fd").iterdir()))
    async with on_stage(prepared_dsn) as schedule:
        assert await first_failure(schedule, range(20)) is None
        await eventually(schedule.stage, "no dead rows after VACUUM", VACUUM, DEAD_ROWS)
    assert len(list(Path("/dev/fd").iterdir())) == files
    async with Stage(prepared_dsn, 0) as stage:
        await eventually(stage, "no sessions of the actors", "SELECT", SESSIONS)


async def eventually(stage: Stage, what: str, first: LiteralString, count: LiteralString) -> None:
    """Ask until the count is 0, for a while: sessions end, and autovacuum works, when they do."""
    deadline = time.monotonic() + 30
    while True:
        await stage.conn.execute(first)
        ((found,),) = await stage.rows(count)
        if found == 0:
            return
        assert time.monotonic() < deadline, f"{what}: {found} were found"
        await asyncio.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
async def test_thousands_of_schedules_are_sound(prepared_dsn: str, shard: int) -> None:
    async with on_stage(prepared_dsn) as schedule:
        failure = await first_failure(schedule, range(shard * IN_SHARD, (shard + 1) * IN_SHARD))
    assert failure is None, failure


async def test_seeds_that_once_failed_are_sound(prepared_dsn: str) -> None:
    async with on_stage(prepared_dsn) as schedule:
        failure = await first_failure(schedule, regressions())
    assert failure is None, failure


async def test_without_the_fence_a_schedule_fails_soon(prepared_dsn: str) -> None:
    async with on_stage(prepared_dsn) as schedule, NO_FENCE.planted(schedule.stage.conn):
        failure = await first_failure(schedule, range(1_000))
    assert failure is not None, "1,000 schedules without a fence, and nobody noticed"
    assert {v.rule for v in failure.violations} & set(NO_FENCE.rules), failure


async def test_a_seed_is_the_same_each_time_it_is_played(prepared_dsn: str) -> None:
    async with on_stage(prepared_dsn) as schedule:
        traces = []
        for _ in range(2):
            for seed in range(20):
                assert await schedule.play(seed) == []
                traces.append((seed, list(schedule.stage.trace)))
    assert traces[:20] == traces[20:]
    assert len({tuple(trace) for _, trace in traces}) == 20
