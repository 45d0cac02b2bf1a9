"""Oban for Python; jobs inserted in bulk, as many at a time as its queue allows."""

from typing import Any

from oban import Job, Oban, worker
from oban.schema import install
from psycopg_pool import AsyncConnectionPool

from benchmarks.systems._protocol import Gate, System, main

CHUNK = 1_000


@worker(queue="default")
class Work:
    async def process(self, job: Job) -> Any:
        return None


class ObanSystem(System):
    finished = "SELECT NOT EXISTS (SELECT FROM oban_jobs WHERE state NOT IN ('completed', 'cancelled', 'discarded'))"

    async def install(self, dsn: str) -> None:
        async with AsyncConnectionPool(dsn, min_size=1, max_size=1) as pool:
            await install(pool)

    async def fill(self, dsn: str, workload: str, count: int) -> None:
        async with AsyncConnectionPool(dsn, min_size=1, max_size=4) as pool:
            oban = Oban(pool=pool)
            for first in range(0, count, CHUNK):
                await oban.enqueue_many([Work.new({"n": first + i}) for i in range(min(CHUNK, count - first))])

    async def work(self, dsn: str, workload: str, concurrency: int, go: Gate) -> None:
        async with AsyncConnectionPool(dsn, min_size=4, max_size=10) as pool:
            await go.opens()
            async with Oban(pool=pool, queues={"default": concurrency}):
                await go.closes()


if __name__ == "__main__":
    main(ObanSystem())
