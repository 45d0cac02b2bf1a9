"""Absurd: a task of three steps; its schema is the one that absurdctl ships.

The SDK's async worker with its documented `concurrency`, on uvloop. A client has one connection, and each of its steps
is a commit of its own, so that one client waits for the disk most of the time: a worker process runs several clients,
each a worker of its own with its own id ("scale workers independently"), whose commits share the disk's flushes. Four
clients did twice as much as one with a concurrency of 100; eight and sixteen did no more, for more CPU. Claims are as
large as the concurrency, the default.
"""

import asyncio
import os
from typing import Any

import psycopg
import uvloop
from absurd_sdk import AsyncAbsurd, AsyncTaskContext
from absurdctl import BUNDLED_SCHEMA_SQL
from psycopg import sql

from benchmarks.systems._protocol import PROCESSES, Gate, System, main

QUEUE = "bench"
PRODUCERS = 8  # there is no bulk insert: several connections at once are the fastest
CLIENTS = 4  # connections of a worker process
CONCURRENCY = 20  # tasks of each client at a time
POLL = 0.05  # seconds that an idle worker sleeps
_TASKS, _RUNS = (sql.Identifier("absurd", f"{kind}_{QUEUE}") for kind in "tr")


class Absurd(System):
    workloads = (PROCESSES,)
    started = sql.SQL("SELECT extract(epoch FROM min(started_at))::float8 FROM {}").format(_RUNS).as_string()
    ended = sql.SQL("SELECT extract(epoch FROM max(completed_at))::float8 FROM {}").format(_RUNS).as_string()
    finished = sql.SQL("SELECT NOT EXISTS (SELECT FROM {} WHERE state <> 'completed')").format(_TASKS).as_string()

    async def install(self, dsn: str) -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
            await conn.execute(BUNDLED_SCHEMA_SQL.encode())
        absurd = AsyncAbsurd(dsn, queue_name=QUEUE)
        await absurd.create_queue()
        await absurd.close()

    async def fill(self, dsn: str, workload: str, count: int) -> None:
        await asyncio.gather(*(self._produce(dsn, range(i, count, PRODUCERS)) for i in range(PRODUCERS)))

    async def _produce(self, dsn: str, numbers: range) -> None:
        absurd = self._client(dsn)
        for number in numbers:
            await absurd.spawn("three-steps", {"number": number, "done": 0})
        await absurd.close()

    @staticmethod
    def _client(dsn: str) -> AsyncAbsurd:
        absurd = AsyncAbsurd(dsn, queue_name=QUEUE)

        @absurd.register_task("three-steps")
        async def three_steps(params: Any, context: AsyncTaskContext) -> Any:
            done = params["done"]

            async def step() -> int:
                return done + 1

            for name in ("First", "Second", "Third"):
                done = await context.step(name, step)
            return {"done": done}

        return absurd

    async def work(self, dsn: str, workload: str, go: Gate) -> None:
        clients = [self._client(dsn) for _ in range(CLIENTS)]
        for absurd in clients:
            await absurd.list_queues()  # connects
        await go.opens()
        running = [
            absurd.start_worker(worker_id=f"{os.getpid()}.{i}", concurrency=CONCURRENCY, poll_interval=POLL)
            for i, absurd in enumerate(clients)
        ]
        working = asyncio.gather(*running)
        await go.closes()
        for absurd in clients:
            absurd.stop_worker()
        await working
        for absurd in clients:
            await absurd.close()


if __name__ == "__main__":
    main(Absurd(), uvloop.new_event_loop)
