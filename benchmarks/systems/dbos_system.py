"""DBOS: a workflow of three steps on a queue of its system database.

Workflows and steps are plain functions: DBOS runs them in threads, and they cost a fifth less CPU than async ones. Each
process has an `executor_id` of its own and a `worker_concurrency` (queue reference), the queue is polled 20 times a
second instead of once (`polling_interval_sec`), and the pool keeps its documented 20 connections, as many as run at
once. The backlog is enqueued by `DBOSClient.enqueue_in_transaction`, many to a transaction, since there is no call for
several at once. Processes are launched before the start, and listen within the second after they register the queue.
"""

import asyncio
import os
import shlex
from typing import Any

import sqlalchemy
from dbos import DBOS, DBOSClient, DBOSConfig

from benchmarks.systems._protocol import PROCESSES, Gate, System, main

APP, VERSION, QUEUE = "bench", "1", "bench"
CHUNK = 100  # workflows enqueued in one transaction
CONCURRENCY = 20  # workflows of a process at a time
POLL = 0.05  # seconds


@DBOS.step()
def step(done: int) -> int:
    return done + 1


@DBOS.workflow(name="three_steps")
def three_steps(number: int) -> Any:
    done = 0
    for _ in range(3):
        done = step(done)
    return {"done": done}


class Dbos(System):
    workloads = (PROCESSES,)
    started = "SELECT min(started_at_epoch_ms) / 1000.0::float8 FROM dbos.workflow_status"
    ended = "SELECT max(updated_at) / 1000.0::float8 FROM dbos.workflow_status"
    finished = "SELECT NOT EXISTS (SELECT FROM dbos.workflow_status WHERE status IN ('ENQUEUED', 'PENDING', 'DELAYED'))"

    @staticmethod
    def _url(dsn: str) -> str:
        parts = dict(part.split("=", 1) for part in shlex.split(dsn))
        return f"postgresql+psycopg://{parts['user']}@/{parts['dbname']}?host={parts['host']}"

    def _launch(self, dsn: str) -> None:
        config: DBOSConfig = {
            "name": APP,
            "system_database_url": self._url(dsn),
            "application_version": VERSION,
            "executor_id": str(os.getpid()),
            "log_level": "ERROR",
            "sys_db_pool_size": CONCURRENCY,
        }
        DBOS(config=config)
        DBOS.launch()

    async def install(self, dsn: str) -> None:
        self._launch(dsn)
        DBOS.destroy()

    async def fill(self, dsn: str, workload: str, count: int) -> None:
        url = self._url(dsn)
        client, engine = DBOSClient(system_database_url=url), sqlalchemy.create_engine(url)
        for first in range(0, count, CHUNK):
            with engine.begin() as conn:
                for number in range(first, min(first + CHUNK, count)):
                    client.enqueue_in_transaction(
                        conn,
                        {
                            "queue_name": QUEUE,
                            "workflow_name": "three_steps",
                            "app_version": VERSION,
                            "application_name": APP,
                        },
                        number,
                    )
        client.destroy()

    async def work(self, dsn: str, workload: str, go: Gate) -> None:
        self._launch(dsn)
        await go.opens()
        await asyncio.to_thread(DBOS.register_queue, QUEUE, worker_concurrency=CONCURRENCY, polling_interval_sec=POLL)
        await go.closes()
        DBOS.destroy()


if __name__ == "__main__":
    main(Dbos())
