"""One process's share of simulated schedules, on a server of its own."""

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from pytest_commandbus.postgres.server import EmbeddedPostgres
from tests.simulator.planting import NO_FENCE
from tests.simulator.run import Failure, first_failure, on_stage, prepare

REGRESSIONS = Path(__file__).parents[1] / "simulator" / "regressions.txt"


def play_share(seeds: range, seconds: float, *, is_fenced: bool = True) -> tuple[int, list[Failure]]:
    """Play these seeds, or as many as there is time for; returns how many, and those that failed.

    is_fenced: False takes the fence out of the bus, to see that this would be noticed.
    """
    if not seeds:
        return 0, []
    with EmbeddedPostgres() as server:
        prepare(server.dsn())
        return asyncio.run(_play(server.dsn(), iter(seeds), time.monotonic() + seconds, is_fenced))


async def _play(dsn: str, seeds: Iterator[int], deadline: float, is_fenced: bool) -> tuple[int, list[Failure]]:
    played, failures = 0, list[Failure]()
    async with on_stage(dsn) as schedule, nullcontext() if is_fenced else NO_FENCE.planted(schedule.stage.conn):
        for seed in seeds:
            failure = await first_failure(schedule, [seed])
            played += 1
            if failure is not None:
                print(failure, file=sys.stderr, flush=True)
                failures.append(failure)
            if time.monotonic() > deadline:
                break
    return played, failures


def remember(failures: list[Failure]) -> None:
    """Have the tests play them from now on."""
    with REGRESSIONS.open("a", encoding="utf-8") as file:
        file.writelines(f"{failure.seed}\n" for failure in failures)
