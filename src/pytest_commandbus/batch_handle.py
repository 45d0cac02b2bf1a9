"""What batches of processes and of commands have in common under test: counts, and waiting for the end."""

import asyncio
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from commandbus import BatchMetadata, CommandBus

from . import assertions, statements
from .audit import remember_end
from .counts import describe, settled_count
from .failure_report import describe_stuck
from .sent import AssertsSent, Sendings

if TYPE_CHECKING:
    from .runtime import Runtime

DEFAULT_TIMEOUT, TIMEOUT_WITH_FAULTS = 60.0, 180.0
FIRST_PAUSE, LONGEST_PAUSE = 0.002, 0.2
FIRST_SKIP_PAUSE = 0.02
_PAUSE_GROWTH = 1.5
_LOOK_SHARE = 5  # a look at the database is followed by a pause this many times as long
_SWEEP_SECONDS = 0.5


class BatchTimeoutError(AssertionError):
    """A batch did not end in time; the message tells what is stuck, in which step, and why."""

    __module__ = "builtins"  # what pytest shows is its name alone, and more of the message


class BatchParkedError(AssertionError):
    """A batch that had to complete has members in the troubleshooting queue."""

    __module__ = "builtins"


class BatchStats(BatchMetadata):
    """The counts of a batch, as an assertion that fails shows them: in one line."""

    @classmethod
    def of(cls, batch: BatchMetadata) -> "BatchStats":
        """Return what was read of a batch in this form."""
        return cls(**{field.name: getattr(batch, field.name) for field in fields(BatchMetadata)})

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """Return the names of all that is known of a batch, its counts among them."""
        return tuple(field.name for field in fields(BatchMetadata))

    def __eq__(self, other: object) -> bool:
        """Compare with other counts, or with a dict of some of them: {"completed_count": 9}; the rest may be any."""
        if isinstance(other, Mapping):
            known = set(self.field_names())
            return all(name in known and getattr(self, name) == value for name, value in other.items())
        if isinstance(other, BatchMetadata):
            return all(getattr(self, name) == getattr(other, name) for name in self.field_names())
        return NotImplemented

    __hash__ = BatchMetadata.__hash__

    def __repr__(self) -> str:
        return f"BatchStats({describe(self)})"


class BatchHandle(AssertsSent):
    """One batch of a test."""

    _members: ClassVar[assertions.Members]

    def __init__(self, runtime: "Runtime", domain: str, batch_id: UUID, stats: BatchMetadata) -> None:
        self._runtime = runtime
        self._bus = CommandBus(runtime.pool)
        self._stats = BatchStats.of(stats)
        self.domain = domain
        self.batch_id = batch_id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.batch_id}, {describe(self._stats)})"

    @property
    def stats(self) -> BatchStats:
        """The counts as of the last `wait`, `complete` or `refresh`."""
        return self._stats

    async def refresh(self) -> BatchStats:
        """Count again, and return the counts."""
        self._stats = BatchStats.of(await self._bus.get_batch(self.domain, self.batch_id))
        return self._stats

    async def wait(self, *, timeout: float | None = None) -> BatchStats:
        """Wait until every member is terminal or parked in the troubleshooting queue; return the counts.

        timeout: seconds of real time, 60 when not given and 180 in tests with faults. Errors: BatchTimeoutError,
        WorkerDiedError.
        """
        __tracebackhide__ = True
        await self._wait(timeout)
        return self._stats

    async def complete(self, *, timeout: float | None = None) -> BatchStats:
        """Wait until every member is terminal; return the counts.

        timeout: as of wait. Errors: BatchParkedError when one is parked, BatchTimeoutError, WorkerDiedError.
        """
        __tracebackhide__ = True
        await self._wait(timeout)
        if self._stats.in_troubleshooting_count:
            raise BatchParkedError(
                f"{self._stats.in_troubleshooting_count} of {self._stats.total_count} wait in the troubleshooting "
                f"queue (use wait() if that is expected):\n{await self._stuck_lines()}"
            )
        return self._stats

    async def assert_completed(self) -> None:
        """Assert that every member is COMPLETED. Errors: AssertionError, which shows some that are not, and why."""
        __tracebackhide__ = True
        stats = await self.refresh()
        await assertions.check_outcomes(
            self._runtime, self, self._members, {"COMPLETED": stats.total_count}, "assert_completed"
        )

    async def assert_outcomes(self, expected: Mapping[str, int]) -> None:
        """Assert how many members have each status, such as {"COMPLETED": 9, "CANCELED": 1}; of others there is none.

        Errors: AssertionError, which shows members of each status that has more; pytest.UsageError for a status or a
        number that cannot be.
        """
        __tracebackhide__ = True
        await assertions.check_outcomes(self._runtime, self, self._members, expected, "assert_outcomes")

    def _sendings(self) -> Sendings:
        return Sendings(self._runtime, batch_id=self.batch_id)

    async def assert_nothing_left(self, *, within: float = 0) -> None:
        """Assert that every member has ended, none is parked, and no reply to one is unread.

        within: seconds of real time to wait for that. Errors: AssertionError, which shows what is left, and why.
        """
        __tracebackhide__ = True
        await assertions.check_nothing_left(self._runtime, self, within)

    @abstractmethod
    def _stuck_statement(self) -> str:
        """Return the statement that groups what is not finished."""

    async def _wait(self, given_timeout: float | None) -> None:
        __tracebackhide__ = True
        usual = DEFAULT_TIMEOUT if self._runtime.faults is None else TIMEOUT_WITH_FAULTS
        timeout = usual if given_timeout is None else given_timeout
        deadline = time.monotonic() + timeout
        pause, swept_at, last = FIRST_PAUSE, time.monotonic(), None
        while True:
            looked_at = time.monotonic()
            self._runtime.check_workers()
            if settled_count(await self._runtime.outlasting(self.refresh)) >= self._stats.total_count:
                await self._runtime.outlasting(partial(remember_end, self._runtime))
                return
            if looked_at > deadline:
                raise BatchTimeoutError(await self._timeout_text(timeout))
            moved = self._stats != last
            last = self._stats
            if not moved and looked_at - swept_at > _SWEEP_SECONDS:
                swept_at = looked_at
                moved = await self._runtime.outlasting(self._runtime.sweep) > 0
            if self._runtime.skips_time:
                moved = await self._runtime.outlasting(self._runtime.clock.skip) > 0 or moved
            cost = time.monotonic() - looked_at
            pause = FIRST_PAUSE if moved else min(pause * _PAUSE_GROWTH, LONGEST_PAUSE)
            await self._idle(min(max(pause, cost * _LOOK_SHARE), max(deadline - looked_at, 0.001)))

    async def _idle(self, seconds: float) -> None:
        """Let time pass between two looks, and skip it meanwhile: to count a large batch takes longer than to skip."""
        until, pause = time.monotonic() + seconds, FIRST_SKIP_PAUSE
        while self._runtime.skips_time and time.monotonic() + pause < until:
            await asyncio.sleep(pause)
            moved = await self._runtime.outlasting(self._runtime.clock.skip) > 0
            pause = FIRST_SKIP_PAUSE if moved else min(pause * _PAUSE_GROWTH, LONGEST_PAUSE)
        await asyncio.sleep(max(until - time.monotonic(), 0))

    async def _timeout_text(self, timeout: float) -> str:
        live, known = (await self._rows(statements.LIVE_WORKERS, {}))[0]
        time_is = "skipped" if self._runtime.skips_time else "real: mark the test cb_clock to skip what nobody works in"
        return (
            f"the batch {self.batch_id} of domain {self.domain!r} did not end within {timeout:g} s: "
            f"{describe(self._stats)}.\n{await self._stuck_lines()}\n"
            f"{live} of {known} workers are alive; time is {time_is}"
        )

    async def _stuck_lines(self) -> str:
        rows = await self._rows(self._stuck_statement(), {"batch_id": self.batch_id})
        return "\n".join(f"  {describe_stuck(row)}" for row in rows)

    async def _rows(self, statement: str, parameters: dict[str, Any]) -> Sequence[tuple[Any, ...]]:
        async with self._runtime.pool.connection() as connection:
            return await (await connection.execute(statement, parameters)).fetchall()
