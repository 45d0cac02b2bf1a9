"""The bus's clock under test: time that nobody works in is skipped, or moved by hand."""

from typing import TYPE_CHECKING

import pytest

from . import behavior_sql

if TYPE_CHECKING:
    from .pools import LazyPool


LONGEST = 3e9
"""Seconds by which the clock can be advanced at once: nearly a hundred years."""


class Clock:
    """The clock of one test database. Scheduling, leases and audit go by it; heartbeats, rates and latencies do not."""

    def __init__(self, pool: "LazyPool") -> None:
        self._pool = pool
        self._skipped = 0.0

    @property
    def skipped(self) -> float:
        """Seconds by which this test has moved the clock so far, waiting and by hand."""
        return self._skipped

    async def advance(self, seconds: float) -> None:
        """Move the clock on by hand, whoever is at work: what is due then becomes due, leases run out.

        seconds: 0 to 3e9; the clock never goes back. Errors: pytest.UsageError.
        """
        __tracebackhide__ = True
        _check(seconds)
        async with self._pool.connection() as connection:
            await connection.execute(behavior_sql.ADVANCE_CLOCK, {"seconds": seconds})
        self._skipped += seconds

    async def skip(self) -> float:
        """Move the clock to the next due moment if nothing is due and no live worker is at work; return the seconds."""
        async with self._pool.connection() as connection:
            row = await (await connection.execute(behavior_sql.SKIP_CLOCK)).fetchone()
        seconds = 0.0 if row is None else float(row[0])
        self._skipped += seconds
        return seconds


def _check(seconds: object) -> None:
    __tracebackhide__ = True
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= LONGEST:
        raise pytest.UsageError(
            f"cb_clock.advance({seconds!r}): give a number of seconds from 0 to {LONGEST:g}; the clock never goes back"
        )
