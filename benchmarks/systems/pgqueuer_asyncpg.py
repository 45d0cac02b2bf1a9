"""pgqueuer on asyncpg, its fastest driver, and on uvloop, as its own benchmark runs it.

By its performance guide: a large `batch_size`, since the jobs are short (of 100, 200, 500 and 1,000 the last did most),
no `max_concurrent_tasks`, one connection and no pool for the queue manager, its autovacuum settings after the
installation, `log_aggregation_interval` 0 ("aggregate on read"), jobs enqueued in bulk, and the durability that all
others here have too.
"""

import asyncio
import shlex
import time
from datetime import timedelta
from typing import Any

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.systems._protocol import Gate, System, main

BATCH = 1_000
CHUNK = 1_000


class PgQueuerAsyncpg(System):
    started = "SELECT extract(epoch FROM min(created))::float8 FROM pgqueuer_log WHERE status = 'picked'"
    ended = "SELECT extract(epoch FROM max(created))::float8 FROM pgqueuer_log WHERE status = 'successful'"
    finished = "SELECT NOT EXISTS (SELECT FROM pgqueuer)"

    async def connect(self, dsn: str) -> Any:
        parts = dict(part.split("=", 1) for part in shlex.split(dsn))  # asyncpg reads no libpq connection string
        return await asyncpg.connect(host=parts["host"], user=parts["user"], database=parts["dbname"])

    def driver(self, connection: Any) -> Any:
        return AsyncpgDriver(connection)

    async def install(self, dsn: str) -> None:
        queries = Queries(self.driver(await self.connect(dsn)))
        await queries.install()
        await queries.optimize_autovacuum()  # what `pgq autovac` does

    async def fill(self, dsn: str, workload: str, count: int) -> None:
        queries = Queries(self.driver(await self.connect(dsn)))
        for first in range(0, count, CHUNK):
            size = min(CHUNK, count - first)
            await queries.enqueue(["work"] * size, [b"{}"] * size, [0] * size)

    async def work(self, dsn: str, workload: str, go: Gate) -> None:
        queuer = PgQueuer(self.driver(await self.connect(dsn)))

        @queuer.entrypoint("work")
        async def work(job: Job) -> None: ...

        @queuer.entrypoint("timed")
        async def timed(job: Job) -> None:
            self.handled(float(job.payload or b"0"))

        await go.opens()
        running = asyncio.create_task(queuer.run(batch_size=BATCH, log_aggregation_interval=timedelta(0)))
        await go.closes()
        queuer.shutdown.set()
        await running

    async def send(self, dsn: str, count: int, pause: float) -> None:
        queries = Queries(self.driver(await self.connect(dsn)))
        for _ in range(count):
            await queries.enqueue("timed", str(time.time()).encode())
            await asyncio.sleep(pause)


if __name__ == "__main__":
    main(PgQueuerAsyncpg(), uvloop.new_event_loop)
