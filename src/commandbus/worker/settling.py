"""The settle loop: settles whatever has ended while the last settle was under way, and routes replies."""

import asyncio
import logging
from collections.abc import Callable, Sequence

import psycopg

from commandbus._core.connection import Connection
from commandbus._core.queue_sql import Claimed
from commandbus.errors import PermanentCommandError
from commandbus.logging import about
from commandbus.outcome import SETTLE_FAILED, Outcome, failed, handler_not_found
from commandbus.policies import RetryPolicy
from commandbus.process.router import ProcessReplyRouter
from commandbus.repositories import workers
from commandbus.settlement import Finished, Settlement, split_group
from commandbus.worker import outcome_log
from commandbus.worker.hooks import SettleHooks
from commandbus.worker.lanes import Pending
from commandbus.worker.reserved import ReservedConnection

_log = logging.getLogger(__name__)

_GIVE_BACK = 5.0  # seconds that a command without a handler here waits for a worker that has one
_LARGEST = 1_000  # outcomes in one settle


class Settling:
    """Collects outcomes and settles them in groups."""

    def __init__(
        self,
        conn: ReservedConnection,
        settlement: Settlement,
        router: ProcessReplyRouter,
        counts: workers.WorkerCounts,
        poll_interval: float,
        hooks: SettleHooks | None = None,
    ) -> None:
        self.hooks = hooks or SettleHooks()
        self.on_space: Callable[[], None] = lambda: None
        self.on_delayed: Callable[[], None] = lambda: None  # something is due later
        self._conn = conn
        self._settlement = settlement
        self._router = router
        self._counts = counts
        self._poll_interval = poll_interval
        self._finished: list[Finished] = []
        self._unhandled: list[Claimed] = []
        self._settling = 0
        self._under_way: list[Claimed] = []  # neither waits nor is done
        self._work = asyncio.Event()
        self._flushed = asyncio.Event()
        self._flushed.set()
        self._is_routing_due = True
        self._about = about(domain=settlement.domain, worker_id=settlement.worker_id)

    @property
    def waiting(self) -> int:
        """How many outcomes are not settled yet."""
        return len(self._finished) + len(self._unhandled) + self._settling

    def seqs(self) -> set[int]:
        """The seqs of what is not settled yet."""
        return {f.claimed.seq for f in self._finished} | {c.seq for c in (*self._unhandled, *self._under_way)}

    def add(self, pending: Pending, outcome: Outcome | None) -> None:
        """Take an attempt's outcome; None when there is nothing to settle."""
        if outcome is None:
            if pending.run.is_settled and pending.seconds is not None:  # in its handler's own transaction
                self._counts.add_outcomes([(pending.claimed.command_type, "COMPLETED", pending.seconds)])
                pending.seconds = None
            self.on_space()
            return
        self._finished.append(Finished(pending.claimed, outcome, pending.seconds, pending.run.context))
        self._flushed.clear()
        self._work.set()

    def add_unhandled(self, claimed: Claimed) -> None:
        """Take a command that has no handler here."""
        self._unhandled.append(claimed)
        self._flushed.clear()
        self._work.set()

    def wake_router(self) -> None:
        """A reply may wait."""
        self._is_routing_due = True
        self._work.set()

    async def flush(self) -> None:
        """Wait until everything that was added is settled."""
        await self._flushed.wait()

    async def run(self) -> None:
        """Settle and route until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._poll_interval):
                    await self._work.wait()
            except TimeoutError:
                self._is_routing_due = True
            self._work.clear()
            await self._settle_all()
            if self._is_routing_due:
                self._is_routing_due = False
                await self._route()

    async def _settle_all(self) -> None:
        while self._finished or self._unhandled:
            unhandled, self._unhandled = self._unhandled, []
            self._settling = len(unhandled)
            self._under_way = unhandled
            for claimed in unhandled:
                self._finished.append(Finished(claimed, await self._not_found(claimed)))
            group, self._finished = split_group(self._finished, _LARGEST)
            self._settling = len(group)
            self._under_way = [finished.claimed for finished in group]
            await self.hooks.before(group)
            lost = await self._settle(group)
            await self.hooks.after(group, lost)
            self._count(group, lost)
            self._settling = 0
            self._under_way = []
            self.on_space()
            if any(finished.outcome.delay is not None for finished in group):
                self.on_delayed()
        self._flushed.set()

    async def _settle(self, group: Sequence[Finished]) -> set[int]:
        """Settle a group; one that the database refuses is settled one by one, and the culprit is parked."""
        try:
            return await self._conn.retrying(lambda conn: self._settlement.settle(conn, group), "settle")
        except psycopg.Error as error:
            if len(group) > 1:
                _log.warning(
                    "a group of %d outcomes was refused, settling one by one: %s", len(group), error, extra=self._about
                )
                return set().union(*[await self._settle([finished]) for finished in group])
            outcome = group[0].outcome
            if outcome.error_code == SETTLE_FAILED:
                raise
            refused = PermanentCommandError(SETTLE_FAILED, f"the database refused the outcome {outcome.event}: {error}")
            again = failed(refused, outcome.failures, 1, RetryPolicy(), {})
            again.failures = group[0].claimed.failures + 1
            group[0].outcome = again
            return await self._settle(group)

    async def _not_found(self, claimed: Claimed) -> Outcome:
        domain, command_type = self._settlement.domain, claimed.command_type
        live = await self._conn.retrying(lambda conn: workers.handles(conn, domain, command_type), "look for a handler")
        return handler_not_found(command_type, claimed.failures, live_elsewhere=live, delay=_GIVE_BACK)

    async def _route(self) -> None:
        try:
            await self._conn.retrying(self._route_all, "route replies")
        except psycopg.Error:
            _log.exception("replies could not be routed; they stay where they are", extra=self._about)

    async def _route_all(self, conn: Connection) -> int:
        return await self._router.route(conn)

    def _count(self, group: Sequence[Finished], lost: set[int]) -> None:
        self._counts.add_outcomes(
            [(f.claimed.command_type, f.outcome.event, f.seconds) for f in group if f.claimed.seq not in lost]
        )
        self._counts.dropped += len(lost)
        outcome_log.tell(group, lost, self._settlement.domain, self._settlement.worker_id)
