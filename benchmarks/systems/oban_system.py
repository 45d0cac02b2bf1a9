"""Oban for Python; jobs inserted by `enqueue_many`.

On uvloop, as its own command line runs it. The queue's `limit` and `debounce_interval` (defining queues) are large
together: a process then fetches and acknowledges up to 500 jobs in one transaction each, 20 times a second, which is
room for more than it can do and cost less than small steps. The pool of 10 is its default, which suffices, since
"workers only borrow a connection briefly".
"""

from typing import Any

import uvloop
from oban import Job, Oban, worker
from oban.schema import install
from psycopg_pool import AsyncConnectionPool

from benchmarks.systems._protocol import Gate, System, main

CHUNK = 1_000
LIMIT = 500  # jobs of a process at a time
DEBOUNCE = 0.05  # seconds between two fetches


@worker(queue="default")
class Work:
    async def process(self, job: Job) -> Any:
        return None


class ObanSystem(System):
    started = "SELECT extract(epoch FROM min(attempted_at) AT TIME ZONE 'UTC')::float8 FROM oban_jobs"
    ended = "SELECT extract(epoch FROM max(completed_at) AT TIME ZONE 'UTC')::float8 FROM oban_jobs"
    finished = "SELECT NOT EXISTS (SELECT FROM oban_jobs WHERE state NOT IN ('completed', 'cancelled', 'discarded'))"

    async def install(self, dsn: str) -> None:
        async with AsyncConnectionPool(dsn, min_size=1, max_size=1) as pool:
            await install(pool)

    async def fill(self, dsn: str, workload: str, count: int) -> None:
        async with AsyncConnectionPool(dsn, min_size=1, max_size=4) as pool:
            oban = Oban(pool=pool)
            for first in range(0, count, CHUNK):
                await oban.enqueue_many([Work.new({"n": first + i}) for i in range(min(CHUNK, count - first))])

    async def work(self, dsn: str, workload: str, go: Gate) -> None:
        async with AsyncConnectionPool(dsn, min_size=4, max_size=10) as pool:
            queues = {"default": {"limit": LIMIT, "debounce_interval": DEBOUNCE}}
            await go.opens()
            async with Oban(pool=pool, queues=queues):
                await go.closes()


if __name__ == "__main__":
    main(ObanSystem(), uvloop.new_event_loop)
