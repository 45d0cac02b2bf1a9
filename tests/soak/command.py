"""Plays schedules for a time, or a number of them, on every core: python -m tests.soak [--seconds N | --schedules N].

The last line is one JSON object with the figures. A seed that broke something is told at once, by the line that plays
it again, and goes into the regression file. Exit code 1 when any did.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from pytest_commandbus.postgres.server import EmbeddedPostgres
from tests.simulator.run import Failure, first_failure, on_stage, prepare

REGRESSIONS = Path(__file__).parent / "simulator" / "regressions.txt"


def main(arguments: list[str] | None = None) -> int:
    """Run the soak; returns the exit code."""
    options = _options(arguments)
    first = random.SystemRandom().randrange(10**9) if options.first is None else options.first
    each = [range(first + n, first + options.schedules, options.processes) for n in range(options.processes)]
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as processes:
        shares = list(processes.map(_share, each, [options.seconds] * len(each)))
    failures = [failure for _, found in shares for failure in found]
    if failures and not options.forget:
        with REGRESSIONS.open("a", encoding="utf-8") as file:
            file.writelines(f"{failure.seed}\n" for failure in failures)
    figures = {"schedules": sum(count for count, _ in shares), "violations": len(failures), "first_seed": first}
    print(json.dumps(figures))
    return 1 if failures else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Play schedules until the time is up.")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long (default: %(default)g)")
    parser.add_argument("--schedules", type=int, default=1_000_000, help="at most so many (default: %(default)d)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="at once (default: %(default)d)")
    parser.add_argument("--first", type=int, help="the first seed (default: a new one each time)")
    parser.add_argument("--forget", action="store_true", help="do not write failing seeds into the regression file")
    return parser.parse_args(arguments)


def _share(seeds: range, seconds: float) -> tuple[int, list[Failure]]:
    """One process's share, on a server of its own: how many were played, and which failed."""
    with EmbeddedPostgres() as server:
        dsn = server.dsn()
        prepare(dsn)
        return asyncio.run(_play(dsn, iter(seeds), time.monotonic() + seconds))


async def _play(dsn: str, seeds: Iterator[int], deadline: float) -> tuple[int, list[Failure]]:
    played, failures = 0, list[Failure]()
    async with on_stage(dsn) as schedule:
        for seed in seeds:
            failure = await first_failure(schedule, [seed])
            played += 1
            if failure is not None:
                print(failure, file=sys.stderr, flush=True)
                failures.append(failure)
            if time.monotonic() > deadline:
                break
    return played, failures


if __name__ == "__main__":
    sys.exit(main())
