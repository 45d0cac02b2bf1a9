"""The bus with handlers that wait: on I/O of 100 ms, and short ones beside long ones of the same domain."""

import asyncio
from typing import Any

from psycopg_pool import AsyncConnectionPool

from benchmarks._trivial import DOMAIN, app
from benchmarks.systems._protocol import Gate, main
from benchmarks.systems.ours import Ours
from commandbus import Command, CommandBus, HandlerContext, SendRequest, uuid7

IO = "io"  # commands that wait for 100 ms
SHORT = "short"  # commands that wait for 10 ms
SHORT_BESIDE_LONG = "short-beside-long"  # the same, behind commands of a capped type that wait for 1 s
LONG_COMMANDS = 500  # of them: more than two workers of the cap can do while the short ones last
IO_CONCURRENCY, CONCURRENCY, CAP = 500, 20, 5
_SECONDS = {"Io": 0.1, "Short": 0.01, "Long": 1.0}
_TYPES = {IO: "Io", SHORT: "Short", SHORT_BESIDE_LONG: "Short"}


class OursWaiting(Ours):
    workloads = (IO, SHORT, SHORT_BESIDE_LONG)
    has_auditor = False  # it is killed with long ones under way
    ended = "SELECT extract(epoch FROM max(completed_at))::float8 FROM commandbus.command WHERE command_type <> 'Long'"
    finished = "SELECT NOT EXISTS (SELECT FROM commandbus.queue WHERE command_type <> 'Long')"

    async def fill(self, dsn: str, workload: str, count: int) -> None:
        async with AsyncConnectionPool(dsn, min_size=1, max_size=2) as pool:
            bus = CommandBus(pool)
            if workload == SHORT_BESIDE_LONG:
                await bus.send_batch(SendRequest(DOMAIN, "Long", uuid7(), {}) for _ in range(LONG_COMMANDS))
            await bus.send_batch(SendRequest(DOMAIN, _TYPES[workload], uuid7(), {}) for _ in range(count))

    async def work(self, dsn: str, workload: str, go: Gate) -> None:
        async def wait(command: Command, context: HandlerContext) -> dict[str, Any]:
            await asyncio.sleep(_SECONDS[command.command_type])
            return {}

        for command_type in _SECONDS:
            app.registry.add(DOMAIN, command_type, wait, max_concurrency=CAP if command_type == "Long" else None)
        self.concurrency = IO_CONCURRENCY if workload == IO else CONCURRENCY
        await super().work(dsn, workload, go)


if __name__ == "__main__":
    main(OursWaiting())
