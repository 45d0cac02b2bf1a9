"""Procrastinate on psycopg; jobs deferred in bulk (`batch_defer_async`).

`concurrency` 10 in each process (execute multiple jobs at the same time), a pool with a connection for each and two to
spare (limit the number of opened connections: it is smaller otherwise), on uvloop. It fetches and finishes one job at a
time and costs the same at a concurrency of 30. While it has jobs it neither waits for a notification nor for its
`fetch_job_polling_interval`. Finished jobs stay, as they do by default and in the others.
"""

import asyncio
import time

import uvloop
from procrastinate import App, PsycopgConnector

from benchmarks.systems._protocol import Gate, System, main

CHUNK = 1_000
CONCURRENCY = 10  # jobs of a process at a time


class Procrastinate(System):
    started = "SELECT extract(epoch FROM min(at))::float8 FROM procrastinate_events WHERE type = 'started'"
    ended = "SELECT extract(epoch FROM max(at))::float8 FROM procrastinate_events WHERE type = 'succeeded'"
    finished = "SELECT NOT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))"

    def app(self, dsn: str) -> App:
        app = App(connector=PsycopgConnector(conninfo=dsn, min_size=4, max_size=CONCURRENCY + 2))

        @app.task(name="work")
        async def work(n: int) -> None: ...

        @app.task(name="timed")
        async def timed(sent: float) -> None:
            self.handled(sent)

        return app

    async def install(self, dsn: str) -> None:
        app = self.app(dsn)
        async with app.open_async():
            await app.schema_manager.apply_schema_async()

    async def fill(self, dsn: str, workload: str, count: int) -> None:
        app = self.app(dsn)
        async with app.open_async():
            for first in range(0, count, CHUNK):
                jobs = [{"n": first + i} for i in range(min(CHUNK, count - first))]
                await app.tasks["work"].batch_defer_async(*jobs)

    async def work(self, dsn: str, workload: str, go: Gate) -> None:
        app = self.app(dsn)
        async with app.open_async():
            await go.opens()
            running = asyncio.create_task(
                app.run_worker_async(
                    concurrency=CONCURRENCY, install_signal_handlers=False, shutdown_graceful_timeout=1
                )
            )
            await go.closes()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def send(self, dsn: str, count: int, pause: float) -> None:
        app = self.app(dsn)
        async with app.open_async():
            for _ in range(count):
                await app.tasks["timed"].defer_async(sent=time.time())
                await asyncio.sleep(pause)


if __name__ == "__main__":
    main(Procrastinate(), uvloop.new_event_loop)
