"""Replays one seed and tells what happened in it: python -m tests.simulator SEED."""

import asyncio
import sys

from commandbus.auditor import format_violations
from pytest_commandbus.postgres.server import EmbeddedPostgres
from tests.simulator.run import on_stage, prepare


async def replay(dsn: str, seed: int) -> int:
    """Play one seed and print each step; returns the exit code."""
    async with on_stage(dsn) as schedule:
        violations = await schedule.play(seed)
    print("\n".join(schedule.stage.trace))
    print(format_violations(violations))
    return 1 if violations else 0


def main() -> int:
    if len(sys.argv) != 2 or not sys.argv[1].isdecimal():
        print("usage: python -m tests.simulator SEED", file=sys.stderr)
        return 2
    with EmbeddedPostgres() as server:
        dsn = server.dsn()
        prepare(dsn)
        return asyncio.run(replay(dsn, int(sys.argv[1])))


if __name__ == "__main__":
    sys.exit(main())
