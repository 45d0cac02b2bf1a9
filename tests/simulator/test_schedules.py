"""Schedules that a seed has put in order leave the bus sound; without its fence they do not."""

from pathlib import Path

import pytest

from tests.simulator.planting import NO_FENCE
from tests.simulator.run import first_failure, on_stage

pytestmark = pytest.mark.asyncio

REGRESSIONS = Path(__file__).with_name("regressions.txt")
SHARDS, IN_SHARD = 20, 500  # 10,000 schedules, in pieces that several pytest-xdist workers can share
QUICK = 200


def regressions() -> list[int]:
    """The seeds that once failed."""
    lines = (line.partition("#")[0].strip() for line in REGRESSIONS.read_text().splitlines())
    return [int(line) for line in lines if line]


async def test_some_schedules_are_sound(prepared_dsn: str) -> None:
    async with on_stage(prepared_dsn) as schedule:
        failure = await first_failure(schedule, range(QUICK))
    assert failure is None, failure


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(SHARDS))
async def test_ten_thousand_schedules_are_sound(prepared_dsn: str, shard: int) -> None:
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
