"""Absurd: a task of three steps; its schema is the one that absurdctl ships."""

import asyncio
from typing import Any

import psycopg
from absurd_sdk import AsyncAbsurd, AsyncTaskContext
from absurdctl import BUNDLED_SCHEMA_SQL

from benchmarks.systems._protocol import PROCESSES, Gate, System, main

QUEUE = "bench"
PRODUCERS = 4  # there is no bulk insert: a few connections at once are the fastest


class Absurd(System):
    workloads = (PROCESSES,)
    finished = f"SELECT NOT EXISTS (SELECT FROM absurd.t_{QUEUE} WHERE state <> 'completed')"  # noqa: S608  our own name

    async def install(self, dsn: str) -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
            await conn.execute(BUNDLED_SCHEMA_SQL.encode())
        absurd = AsyncAbsurd(dsn, queue_name=QUEUE)
        await absurd.create_queue()
        await absurd.close()

    async def fill(self, dsn: str, workload: str, count: int) -> None:
        await asyncio.gather(*(self._produce(dsn, range(i, count, PRODUCERS)) for i in range(PRODUCERS)))

    async def _produce(self, dsn: str, numbers: range) -> None:
        absurd = AsyncAbsurd(dsn, queue_name=QUEUE)
        self._register(absurd)
        for number in numbers:
            await absurd.spawn("three-steps", {"number": number, "done": 0})
        await absurd.close()

    @staticmethod
    def _register(absurd: AsyncAbsurd) -> None:
        @absurd.register_task("three-steps")
        async def three_steps(params: Any, context: AsyncTaskContext) -> Any:
            done = params["done"]

            async def step() -> int:
                return done + 1

            for name in ("First", "Second", "Third"):
                done = await context.step(name, step)
            return {"done": done}

    async def work(self, dsn: str, workload: str, concurrency: int, go: Gate) -> None:
        absurd = AsyncAbsurd(dsn, queue_name=QUEUE)
        self._register(absurd)
        await absurd.list_queues()
        await go.opens()
        running = asyncio.create_task(absurd.start_worker(concurrency=concurrency, batch_size=200, poll_interval=0.05))
        await go.closes()
        absurd.stop_worker()
        await running
        await absurd.close()


if __name__ == "__main__":
    main(Absurd())
