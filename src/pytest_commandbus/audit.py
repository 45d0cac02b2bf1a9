"""The audit at the end of a test: the safety invariants always, the liveness ones when the test waited for the end."""

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from . import assertions_sql
from .ledger_sql import LedgerSQL

if TYPE_CHECKING:
    from commandbus._core.connection import Connection
    from commandbus.auditor import Violation

    from .runtime import Runtime

_PATIENCE = 10.0  # seconds for the sessions of workers to go
_VACUUM_PATIENCE = 30.0  # seconds for which it vacuums again, until nothing is left


class Audit:
    """What `cb_audit` offers: the audit of the test's database at any moment."""

    def __init__(self, runtime: "Runtime") -> None:
        self._runtime = runtime

    async def violations(self, *, liveness: bool = False) -> "Sequence[Violation]":
        """Return what is wrong now, in the database or beside what the test saw of the bus.

        liveness: also that everything came to its end.
        """
        from commandbus.auditor import audit

        runtime = self._runtime
        async with runtime.pool.connection() as connection:
            found = await audit(connection, liveness=liveness)
            found += await runtime.ledger.violations(connection)
            if runtime.trail is not None:
                found += await runtime.trail.violations(connection)
        await runtime.remember_trail()
        return found

    def forget(self) -> None:
        """Forget what was sent, what ran, and the audit trail as it was: for a test that prunes."""
        self._runtime.ledger.clear()
        self._runtime.trail = None

    async def left_over(self, *, patience: float = _PATIENCE) -> "Sequence[Violation]":
        """Return which sessions of the workers, which have stopped, are left after `patience` seconds."""
        from commandbus.auditor import Violation

        deadline = time.monotonic() + patience
        while True:
            async with self._runtime.pool.connection() as connection:
                cursor = await connection.execute(LedgerSQL.SESSIONS, {"name": self._runtime.workers_name})
                left = await cursor.fetchall()
            if not left or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.01)
        return [
            Violation("L4", f"session {pid}", f"{state}, with {locks} locks, though every worker has stopped: {query}")
            for pid, state, locks, query in left
        ]

    async def dead_rows(self, *, patience: float = _VACUUM_PATIENCE) -> "Sequence[Violation]":
        """Return in which tables of the bus dead rows are left, at rest, that a VACUUM did not remove (L5).

        patience: seconds for which it vacuums again, since whoever has read may still have to end.
        """
        return (await self._dead_rows(patience))[0]

    async def check(self, *, liveness: bool = False) -> None:
        """Fail the test if anything is wrong in the database now."""
        _fail_for(self._runtime, await self.violations(liveness=liveness))

    async def _dead_rows(self, patience: float) -> "tuple[list[Violation], bool]":
        """Return the tables with dead rows, and whether somebody beside the bus's workers has kept VACUUM from them."""
        from commandbus.auditor import Violation

        deadline = time.monotonic() + patience
        while True:
            async with self._runtime.pool.connection() as connection:
                was_autocommit = connection.autocommit
                await connection.set_autocommit(True)
                try:
                    left, holders = await self._vacuumed(connection)
                finally:
                    await connection.set_autocommit(was_autocommit)
            if not left or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.01)
        by = f", kept by {', '.join(who for who, _ in holders)}" if holders else ""
        found = [Violation("L5", f"table {name}", f"{count} dead rows after a VACUUM{by}") for name, count in left]
        return found, any(not is_worker for _, is_worker in holders)

    async def _vacuumed(self, connection: "Connection") -> tuple[list[Any], list[Any]]:
        """Vacuum; return what is left all the same, and who may be the reason."""
        from psycopg import sql

        tables = await (await connection.execute(LedgerSQL.TABLES)).fetchall()
        names = sql.SQL(", ").join(sql.Identifier("commandbus", name) for (name,) in tables)
        await connection.execute(sql.SQL(LedgerSQL.VACUUM).format(tables=names))
        left = await (await connection.execute(LedgerSQL.DEAD_ROWS)).fetchall()
        parameters = {"name": self._runtime.workers_name}
        return left, await (await connection.execute(LedgerSQL.HOLDERS, parameters)).fetchall() if left else []


def _fail_for(runtime: "Runtime", found: "Sequence[Violation]") -> None:
    from commandbus.auditor import format_violations

    if found:
        faults = runtime.faults
        amid = f"\namid these faults:\n{faults.describe()}" if faults is not None and faults.injected else ""
        pytest.fail(
            f"{format_violations(found)}{amid}\n(mark the test cb_no_audit to turn the audit off)", pytrace=False
        )


async def check(runtime: "Runtime") -> None:
    """Audit at the end of a test, unless it is marked cb_no_audit."""
    if runtime.item.get_closest_marker("cb_no_audit") is None and not runtime.audited_by_another:
        audit = Audit(runtime)
        is_at_rest = runtime.waited and not await _has_sent_more(runtime)
        found = [*await audit.violations(liveness=is_at_rest)]
        if runtime.worker_pools:
            found += await audit.left_over()
            if is_at_rest and not runtime.is_example:  # examples are many, and quick
                found += await _left_by_the_bus(audit)
        _fail_for(runtime, found)


async def remember_end(runtime: "Runtime") -> None:
    """A wait saw the end of what was started so far: remember that, and when it was."""
    runtime.waited = True
    await runtime.remember_trail()
    async with runtime.pool.connection() as connection:
        row = await (await connection.execute(assertions_sql.LAST_EVENT)).fetchone()
    runtime.ended_by = 0 if row is None else int(row[0])


async def _has_sent_more(runtime: "Runtime") -> bool:
    """Tell whether something was sent since, whose end nobody waited for."""
    async with runtime.pool.connection() as connection:
        row = await (await connection.execute(LedgerSQL.MORE_SENT, {"since": runtime.ended_by})).fetchone()
    return row == (True,)


async def _left_by_the_bus(audit: Audit) -> "Sequence[Violation]":
    """Return which dead rows are left though nobody else, such as the test's own open transaction, keeps them."""
    deadline = time.monotonic() + _VACUUM_PATIENCE
    while True:
        found, is_excused = await audit._dead_rows(0)
        if not found or is_excused:
            return []
        if time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.01)
