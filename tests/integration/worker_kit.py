"""What tests of workers share: a domain of their own, workers that run while a block runs, a clock to move."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, LiteralString, TypeVar
from uuid import UUID, uuid4

import psycopg
from psycopg_pool import AsyncConnectionPool

from commandbus import AuditEvent, CommandBus, CommandMetadata, CommandStatus, HandlerRegistry, RetryPolicy, Worker
from commandbus.auditor import audit, format_violations

_Found = TypeVar("_Found")

PATIENCE = 20.0  # seconds until a test gives up waiting
AT_ONCE = RetryPolicy(max_attempts=3, backoff_schedule=[0])
NEVER = 3_600.0  # a poll interval that no test lives to see

_CLOCK = """
    CREATE TABLE public.clock (skipped interval NOT NULL);
    INSERT INTO public.clock VALUES ('0');
    CREATE OR REPLACE FUNCTION commandbus.now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT pg_catalog.statement_timestamp() + (SELECT skipped FROM public.clock) $$"""


def make_clock(dsn: str) -> None:
    """Give a migrated database a clock that can be moved forward."""
    with psycopg.connect(dsn) as conn:
        conn.execute(_CLOCK)


@dataclass
class Bench:
    """One test's domain with its pool, bus and registry."""

    dsn: str
    pool: AsyncConnectionPool[Any]
    domain: str = field(default_factory=lambda: f"d{uuid4().hex}")
    registry: HandlerRegistry = field(default_factory=HandlerRegistry)

    def __post_init__(self) -> None:
        self.bus = CommandBus(self.pool)

    def handler(self, command_type: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register a handler in the test's domain."""
        return self.registry.handler(self.domain, command_type)

    def make_worker(self, pool: AsyncConnectionPool[Any] | None = None, **options: Any) -> Worker:
        """Make a worker of the test's domain; retries are due at once unless told otherwise."""
        options = {"domain": self.domain, "handler_registry": self.registry, "retry_policy": AT_ONCE} | options
        return Worker(pool or self.pool, **options)

    @asynccontextmanager
    async def worker(self, pool: AsyncConnectionPool[Any] | None = None, **options: Any) -> AsyncIterator[Worker]:
        """Run a worker while the block runs; an error of the worker is the test's."""
        async with running(self.make_worker(pool, **options)) as worker:
            yield worker

    async def send(self, command_type: str, data: dict[str, Any] | None = None, **options: Any) -> UUID:
        """Send one command to the test's domain."""
        options = {"domain": self.domain, "command_id": uuid4()} | options
        return await self.bus.send(command_type=command_type, data=data or {}, **options)

    async def until(self, command_id: UUID, *statuses: CommandStatus) -> CommandMetadata:
        """Wait until the command has one of these states (COMPLETED when none is named)."""
        wanted = statuses or (CommandStatus.COMPLETED,)

        async def look() -> CommandMetadata | None:
            command = await self.bus.get_command(command_id)
            return command if command.status in wanted else None

        return await eventually(look, f"command {command_id} in {', '.join(wanted)}")

    async def until_event(self, command_id: UUID, event_type: str, count: int = 1) -> AuditEvent:
        """Wait for the count-th event of a type in the command's trail."""

        async def look() -> AuditEvent | None:
            found = [e for e in await self.bus.get_audit_trail(command_id) if e.event_type == event_type]
            return found[count - 1] if len(found) >= count else None

        return await eventually(look, f"{event_type} number {count} of command {command_id}")

    async def trail(self, command_id: UUID) -> list[str]:
        """The types of the command's events, oldest first."""
        return [e.event_type for e in await self.bus.get_audit_trail(command_id)]

    async def skip(self, seconds: float) -> None:
        """Move the bus's clock forward."""
        await self.execute("UPDATE public.clock SET skipped = skipped + %s * interval '1 second'", seconds)
        await self.execute("SELECT pg_notify(commandbus.channel(%s), '')", self.domain)

    async def execute(self, statement: LiteralString, *values: Any) -> list[Any]:
        """Run one statement, beside the pool; returns its rows."""
        async with await psycopg.AsyncConnection.connect(self.dsn, autocommit=True) as conn:
            cursor = await conn.execute(statement, values)
            return await cursor.fetchall() if cursor.description else []


@asynccontextmanager
async def open_bench(dsn: str) -> AsyncIterator[Bench]:
    """A bench on a database with a clock; on leaving, the auditor looks at its domain."""
    async with AsyncConnectionPool(dsn, min_size=1, max_size=20, open=False) as pool:
        bench = Bench(dsn, pool)
        yield bench
        async with pool.connection() as conn:
            violations = await audit(conn, domains=[bench.domain])
        assert not violations, format_violations(violations)


@asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[Worker]:
    """Run a worker while the block runs, then stop it."""
    task = asyncio.create_task(worker.run())
    ready = asyncio.create_task(worker.ready.wait())
    try:
        await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield worker
    finally:
        ready.cancel()
        async with asyncio.timeout(PATIENCE):
            await worker.stop(timeout=0)
            await task


async def eventually(look: Callable[[], Awaitable[_Found | None]], what: str, *, patience: float = PATIENCE) -> _Found:
    """Poll until `look` finds something, for at most `patience` seconds."""
    deadline = monotonic() + patience
    while (found := await look()) is None:
        assert monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.01)
    return found
