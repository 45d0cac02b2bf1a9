"""The audit at the end of a test: the safety invariants always, the liveness ones when the test waited for the end."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from commandbus.auditor import Violation

    from .runtime import Runtime


class Audit:
    """What `cb_audit` offers: the audit of the test's database at any moment."""

    def __init__(self, runtime: "Runtime") -> None:
        self._runtime = runtime

    async def violations(self, *, liveness: bool = False) -> "Sequence[Violation]":
        """Return what is wrong in the database now. liveness: also that everything came to its end."""
        from commandbus.auditor import audit

        async with self._runtime.pool.connection() as connection:
            return await audit(connection, liveness=liveness)

    async def check(self, *, liveness: bool = False) -> None:
        """Fail the test if anything is wrong in the database now."""
        from commandbus.auditor import format_violations

        found = await self.violations(liveness=liveness)
        if found:
            faults = self._runtime.faults
            amid = f"\namid these faults:\n{faults.describe()}" if faults is not None and faults.injected else ""
            pytest.fail(
                f"{format_violations(found)}{amid}\n(mark the test cb_no_audit to turn the audit off)", pytrace=False
            )


async def check(runtime: "Runtime") -> None:
    """Audit at the end of a test, unless it is marked cb_no_audit."""
    if runtime.item.get_closest_marker("cb_no_audit") is None and not runtime.audited_by_another:
        await Audit(runtime).check(liveness=runtime.waited)
