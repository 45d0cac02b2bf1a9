"""Replays one seed and tells what happened: python -m tests.simulator SEED."""

import asyncio
import sys
import time

from commandbus.auditor import format_violations
from commandbus.migrate import migrate
from pytest_commandbus.postgres.server import EmbeddedPostgres
from tests.simulator.schedule import ACTORS, Schedule
from tests.simulator.stage import SCHEMA, Stage


async def main(first: int, count: int) -> int:
    import psycopg
    with EmbeddedPostgres() as server:
        dsn = server.dsn()
        migrate(dsn)
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(SCHEMA)
        async with Stage(dsn, ACTORS) as stage:
            schedule = Schedule(stage)
            began, cpu = time.monotonic(), time.process_time()
            bad = 0
            for seed in range(first, first + count):
                try:
                    found = await schedule.play(seed)
                except Exception:
                    print('seed', seed, *stage.trace, sep='\n')
                    raise
                if count == 1:
                    print("\n".join(stage.trace))
                if found:
                    bad += 1
                    print(seed, format_violations(found))
            took = time.monotonic() - began
            print(f"{count / took:.1f}/s, cpu here {(time.process_time() - cpu)/count*1000:.1f} ms each, bad {bad}")
    return 0


sys.exit(asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)))
