"""What a running handler can do with its lease."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection

from commandbus._core.connection import Connection, Pool
from commandbus._core.queue_sql import Claimed
from commandbus.blocking import Caller
from commandbus.errors import InvalidOperationError, LeaseLostError
from commandbus.executor import Run
from commandbus.handler import HandlerContext, Result
from commandbus.outcome import completed
from commandbus.repositories import queue
from commandbus.settlement import Finished, Settlement
from commandbus.worker.hooks import SettleHooks

# A transaction whose worker hangs is ended by the server, so that its row locks do not outlive it.
_IDLE_LIMIT = "SELECT pg_catalog.set_config('idle_in_transaction_session_timeout', %s, true)"


def margin(lease: float) -> float:
    """Seconds before a lease's end at which its handler is cancelled, so that the settle still gets through."""
    return min(1.0, lease / 10)


class CommandLease:
    """The lease of one claimed command (the Lease of its HandlerContext)."""

    __slots__ = ("_claimed", "_conn", "_hooks", "_is_lost", "_is_recorded", "_pool", "_recorded", "_settlement", "run")

    def __init__(self, claimed: Claimed, pool: Pool, settlement: Settlement, hooks: SettleHooks | None = None) -> None:
        self._claimed = claimed
        self._pool = pool
        self._settlement = settlement
        self._hooks = hooks or SettleHooks()
        self._recorded: list[Finished] = []
        self._conn: Connection | None = None
        self._is_lost = False
        self._is_recorded = False
        self.run: Run | None = None

    @property
    def pool(self) -> Pool:
        """The worker's pool."""
        return self._pool

    @property
    def calls(self) -> Caller:
        """The way from the handler's thread into this loop."""
        if self.run is None or self.run.calls is None:
            raise InvalidOperationError(
                "ctx.sync is for plain handlers, which run in a thread; this one is async: await the methods of ctx"
            )
        return self.run.calls

    async def extend(self, context: HandlerContext, seconds: float) -> None:
        """Prolong the lease to `seconds` from now."""
        if not seconds > 0:
            raise ValueError(f"seconds must be above 0, not {seconds}")
        asked = asyncio.get_running_loop().time()
        async with self._pool.connection() as conn:
            kept = await queue.renew(conn, self._settlement.worker_id, [self._claimed], seconds, audited=True)
        if not kept:
            raise LeaseLostError(context.command.command_id)
        if self.run is not None:
            self.run.deadline = asked + seconds - margin(seconds)

    @asynccontextmanager
    async def transaction(self, context: HandlerContext) -> AsyncIterator[AsyncConnection[Any]]:
        """Open the handler's transaction; commits on leaving, with the completion if there was one."""
        if self._conn is not None:
            raise InvalidOperationError(
                "this handler's transaction is already open, and it has one at a time: use its connection"
            )
        async with self._pool.connection() as conn:
            try:
                async with conn.transaction():
                    await conn.execute(_IDLE_LIMIT, ("30s",))
                    self._conn = conn
                    try:
                        yield conn
                    finally:
                        self._conn = None
                    if self._is_lost:  # the handler swallowed the error: no write commits without the completion
                        raise LeaseLostError(context.command.command_id)
                    if self._is_recorded and await self._is_still_claimed(conn):
                        self._is_recorded = False  # a savepoint of the handler took the completion back
            except BaseException:  # rolled back: what was recorded in it is not, what an earlier one committed is
                self._is_recorded = self.run is not None and self.run.is_settled
                raise
            if self._is_recorded and self.run is not None:
                self.run.is_settled = True
                recorded, self._recorded = self._recorded, []  # once, if the handler opens another transaction
                await self._hooks.after(recorded)

    async def _is_still_claimed(self, conn: Connection) -> bool:
        settlement = self._settlement
        return bool(await queue.lock_claims(conn, settlement.worker_id, [self._claimed]))

    async def complete(self, context: HandlerContext, result: Result) -> None:
        """Settle as COMPLETED in the open transaction: the ordinary settlement of a batch of one."""
        if self._conn is None:
            raise InvalidOperationError(
                "complete() works inside `async with ctx.transaction()`, or `with ctx.sync.transaction()`, only"
            )
        if self._is_recorded:
            raise InvalidOperationError("this command is already completed in this transaction: call complete() once")
        outcome = completed(result, self._claimed.failures, context.details)
        self._recorded = [Finished(self._claimed, outcome, context=context)]
        await self._hooks.before(self._recorded)
        if await self._settlement.settle(self._conn, self._recorded):
            self._is_lost = True
            raise LeaseLostError(context.command.command_id)
        self._is_recorded = True
