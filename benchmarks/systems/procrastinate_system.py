"""Procrastinate on psycopg; jobs deferred in bulk."""

import asyncio
import time

from procrastinate import App, PsycopgConnector

from benchmarks.systems._protocol import Gate, System, main

CHUNK = 1_000


class Procrastinate(System):
    can_send = True
    finished = "SELECT NOT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))"

    def app(self, dsn: str) -> App:
        app = App(connector=PsycopgConnector(conninfo=dsn))

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

    async def work(self, dsn: str, workload: str, concurrency: int, go: Gate) -> None:
        app = self.app(dsn)
        async with app.open_async():
            await go.opens()
            running = asyncio.create_task(
                app.run_worker_async(
                    concurrency=concurrency, install_signal_handlers=False, shutdown_graceful_timeout=1
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
    main(Procrastinate())
