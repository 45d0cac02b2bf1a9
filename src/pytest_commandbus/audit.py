"""The audit at the end of a test: the safety invariants always, the liveness ones when the test waited for the end."""

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from .ledger_sql import LedgerSQL

if TYPE_CHECKING:
    from commandbus.auditor import Violation

    from .runtime import Runtime


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

    async def left_over(self, *, patience: float = 10.0) -> "Sequence[Violation]":
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

    async def check(self, *, liveness: bool = False) -> None:
        """Fail the test if anything is wrong in the database now."""
        _fail_for(self._runtime, await self.violations(liveness=liveness))


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
        found = [*await audit.violations(liveness=runtime.waited)]
        if runtime.worker_pools:
            found += await audit.left_over()
        _fail_for(runtime, found)
