"""The bus of this repository, as its command line serves it."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool

from benchmarks._trivial import DOMAIN, ThreeSteps, app
from benchmarks.systems._protocol import COMMANDS, PROCESSES, Gate, System, main
from commandbus import Command, CommandBus, HandlerContext, Middleware, SendRequest, Worker, migrate, uuid7
from commandbus._core.connection import Pool
from commandbus.auditor import audit, format_violations
from commandbus.cli.serving import spare_the_collector


class Ours(System):
    workloads: Sequence[str] = (COMMANDS, PROCESSES)
    has_auditor = True
    concurrency = 10  # handlers of a worker process at a time, the default
    started = "SELECT extract(epoch FROM min(ts))::float8 FROM commandbus.event WHERE type = 'RECEIVED'"
    ended = "SELECT extract(epoch FROM max(completed_at))::float8 FROM commandbus.command"
    finished = "SELECT NOT EXISTS (SELECT FROM commandbus.queue)"

    async def install(self, dsn: str) -> None:
        await asyncio.to_thread(migrate, dsn)

    def middleware(self, pool: Pool) -> Sequence[Middleware]:
        """What stands around the handlers."""
        return ()

    async def fill(self, dsn: str, workload: str, count: int) -> None:
        async with AsyncConnectionPool(dsn, min_size=1, max_size=2) as pool:
            bus = CommandBus(pool)
            if workload == PROCESSES:
                batch_id = await bus.create_process_batch(DOMAIN, count)
                await ThreeSteps(pool).start_many(({"number": i} for i in range(count)), batch_id)
            else:
                await bus.send_batch(SendRequest(DOMAIN, "First", uuid7(), {"done": i}) for i in range(count))

    async def work(self, dsn: str, workload: str, go: Gate) -> None:
        @app.handler(DOMAIN, "Timed")
        async def timed(command: Command, context: HandlerContext) -> dict[str, Any]:
            self.handled(command.data["sent"])
            return {}

        async with AsyncConnectionPool(dsn, min_size=3, max_size=10) as pool:
            worker = Worker(
                pool,
                domain=DOMAIN,
                handler_registry=app.registry,
                processes=app.processes(pool),
                concurrency=self.concurrency,
                middleware=self.middleware(pool),
            )
            spare_the_collector()
            await go.opens()
            running = asyncio.create_task(worker.run())
            await go.closes()
            await worker.stop()
            await running

    async def audit(self, dsn: str) -> None:
        async with await psycopg.AsyncConnection.connect(dsn) as conn:
            violations = await audit(conn, liveness=True)
        if violations:
            raise SystemExit(format_violations(violations))

    async def send(self, dsn: str, count: int, pause: float) -> None:
        async with AsyncConnectionPool(dsn, min_size=1, max_size=2) as pool:
            bus = CommandBus(pool)
            for _ in range(count):
                await bus.send(domain=DOMAIN, command_type="Timed", command_id=uuid7(), data={"sent": time.time()})
                await asyncio.sleep(pause)


if __name__ == "__main__":
    main(Ours())
