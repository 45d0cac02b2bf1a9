"""DBOS: a workflow of three steps on a queue of its system database."""

import asyncio
import shlex
from typing import Any

from dbos import DBOS, DBOSConfig

from benchmarks.systems._protocol import PROCESSES, Gate, System, main

QUEUE = "bench"
PRODUCERS = 20  # workflows enqueued at a time: there is no bulk insert
POLL = 0.05  # seconds; a queue is polled, by default once a second


@DBOS.step()
async def step(done: int) -> int:
    return done + 1


@DBOS.workflow()
async def three_steps(number: int) -> Any:
    done = 0
    for _ in range(3):
        done = await step(done)
    return {"done": done}


class Dbos(System):
    workloads = (PROCESSES,)
    finished = "SELECT NOT EXISTS (SELECT FROM dbos.workflow_status WHERE status IN ('ENQUEUED', 'PENDING', 'DELAYED'))"

    def launch(self, dsn: str, *, listening: bool) -> None:
        parts = dict(part.split("=", 1) for part in shlex.split(dsn))
        url = f"postgresql+psycopg://{parts['user']}@/{parts['dbname']}?host={parts['host']}"
        config: DBOSConfig = {
            "name": "bench",
            "system_database_url": url,
            "application_version": "1",
            "log_level": "ERROR",
            "sys_db_pool_size": 20,
        }
        DBOS(config=config)
        DBOS.listen_queues([QUEUE] if listening else [])
        DBOS.launch()

    async def install(self, dsn: str) -> None:
        self.launch(dsn, listening=False)
        DBOS.destroy()

    async def fill(self, dsn: str, workload: str, count: int) -> None:
        self.launch(dsn, listening=False)
        await DBOS.register_queue_async(QUEUE)
        numbers = iter(range(count))

        async def produce() -> None:
            for number in numbers:
                await DBOS.enqueue_workflow_async(QUEUE, three_steps, number)

        await asyncio.gather(*(produce() for _ in range(PRODUCERS)))
        DBOS.destroy()

    async def work(self, dsn: str, workload: str, concurrency: int, go: Gate) -> None:
        await go.opens()
        self.launch(dsn, listening=True)
        await DBOS.register_queue_async(QUEUE, worker_concurrency=concurrency, polling_interval_sec=POLL)
        await go.closes()
        DBOS.destroy()


if __name__ == "__main__":
    main(Dbos())
