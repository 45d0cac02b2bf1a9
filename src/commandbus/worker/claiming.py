"""The claim loop: how much to claim, and what a claimed command becomes."""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence

from commandbus._core.connection import Pool
from commandbus._core.queue_sql import Claimed
from commandbus.errors import HandlerNotFoundError
from commandbus.executor import Run
from commandbus.handler import HandlerContext, HandlerRegistry, Middleware
from commandbus.models import Command
from commandbus.payload import load_payload
from commandbus.repositories import queue, workers
from commandbus.settlement import Settlement
from commandbus.worker.leases import CommandLease, margin
from commandbus.worker.reserved import ReservedConnection
from commandbus.worker.settling import Settling
from commandbus.worker.slots import Pending, Slots

_log = logging.getLogger(__name__)

_PAUSE = 1.0  # seconds after a middleware failed
_AHEAD = 1.0  # seconds of work that a worker may keep from idle ones
_FULL_SCAN = 1.0  # seconds between claims that look at the whole queue, for expired leases and late commits


class Intake:
    """Turns claimed commands into pending runs, and says how many more there is room for."""

    def __init__(
        self,
        pool: Pool,
        registry: HandlerRegistry,
        settlement: Settlement,
        middleware: Sequence[Middleware],
        settling: Settling,
        slots: Slots,
        lease: float,
    ) -> None:
        self.settlement = settlement
        self.slots = slots
        self.lease = lease
        self.is_stopping = False
        self._pool = pool
        self._registry = registry
        self._middleware = tuple(m for m in middleware if type(m).claimed is not Middleware.claimed)
        self._settling = settling

    def room(self, batch_size: int) -> int:
        """How many commands to claim now: 0 while enough are in hand.

        No more than can be started within half a lease, and within a second, by the slowest type's mean duration; no
        more than the slots while a type in hand, or any type, was not measured yet.
        """
        size = self.slots.size
        durations = self.slots.durations
        target = size
        if durations and not self.slots.has_unmeasured:
            by_time = size * min(self.lease / 2, _AHEAD) / max(*durations.values(), 1e-6)
            target = max(size, min(2 * batch_size, int(by_time)))
        in_hand = self.slots.in_hand + self._settling.waiting
        if in_hand >= target or (in_hand >= size and in_hand > target // 2):
            return 0
        return min(batch_size, target - in_hand)

    async def take(self, claims: Sequence[Claimed], claimed_at: float) -> list[Claimed]:
        """Start what was claimed; returns what is to be released.

        That is too many of a type that was never measured, or all when a middleware could not prepare for them or the
        worker stops.
        """
        runs: list[Pending] = []
        unmeasured = Counter({name: n for name, n in self.slots.by_type.items() if name not in self.slots.durations})
        excess: list[Claimed] = []
        for claimed in claims:
            if claimed.command_type not in self.slots.durations:
                unmeasured[claimed.command_type] += 1
                if unmeasured[claimed.command_type] > self.slots.size:
                    excess.append(claimed)
                    continue
            if (pending := self._pending(claimed, claimed_at)) is not None:
                runs.append(pending)
        try:
            for layer in self._middleware:
                await layer.claimed([pending.run.context for pending in runs])
        except Exception:  # a user's middleware may raise anything; the worker lives on
            _log.exception("a middleware could not prepare for %d commands; they are released", len(runs))
            await asyncio.sleep(_PAUSE)
            return excess + [pending.claimed for pending in runs]
        if self.is_stopping:
            return excess + [pending.claimed for pending in runs]
        self.slots.add(runs)
        return excess

    def _pending(self, claimed: Claimed, claimed_at: float) -> Pending | None:
        lease = CommandLease(claimed, self._pool, self.settlement)
        try:
            handler = self._registry.get(self.settlement.domain, claimed.command_type)
        except HandlerNotFoundError:
            self._settling.add_unhandled(claimed)
            return None
        context = _context(claimed, self.settlement, lease)
        run = Run(context, handler, claimed.failures, claimed_at + self.lease - margin(self.lease))
        lease.run = run
        return Pending(claimed, run, claimed_at)


def _context(claimed: Claimed, settlement: Settlement, lease: CommandLease) -> HandlerContext:
    command = Command(
        claimed.command_id,
        settlement.domain,
        claimed.command_type,
        load_payload(claimed.payload),
        claimed.correlation_id,
        claimed.reply_to,
        claimed.created_at,
        claimed.batch_id,
    )
    return HandlerContext(
        command=command,
        attempt=claimed.failures + 1,
        max_attempts=claimed.max_attempts,
        total_failures=claimed.past_failures + claimed.failures,
        epoch=claimed.epoch,
        worker_id=settlement.worker_id,
        lease=lease,
        process_id=claimed.process_id,
        process_type=claimed.process_type,
        process_batch_id=claimed.process_batch_id,
        ordinal=claimed.ordinal if claimed.process_id is None else claimed.process_ordinal,
        step=claimed.step,
        visit=claimed.visit or 1,
    )


class Claiming:
    """Claims whenever there is room, sleeps while there is nothing to claim."""

    def __init__(
        self,
        conn: ReservedConnection,
        intake: Intake,
        counts: workers.WorkerCounts,
        max_attempts: int,
        poll_interval: float,
        batch_size: int,
    ) -> None:
        self.highest = 0  # seq that this worker has claimed
        self._conn = conn
        self._intake = intake
        self._counts = counts
        self._max_attempts = max_attempts
        self._poll_interval = poll_interval
        self._batch_size = batch_size
        self._woken = asyncio.Event()
        self._space = asyncio.Event()
        self._after = 0
        self._full_scan_at = 0.0
        self._is_stopping = False
        self._has_released = False

    def wake(self) -> None:
        """Something may be due."""
        self._woken.set()

    def look(self) -> None:
        """There may be room again."""
        self._space.set()

    def stop(self) -> None:
        """Claim nothing new; run() ends once a claim under way has its answer, so that no lease is forgotten."""
        self._is_stopping = self._intake.is_stopping = True
        self._woken.set()
        self._space.set()

    async def run(self) -> None:
        """Claim until stopped or cancelled."""
        while not self._is_stopping:
            limit = self._intake.room(self._batch_size)
            if limit == 0:
                await self._wait_for_space()
                continue
            self._woken.clear()
            if await self._claim(limit) < limit and not self._is_stopping:
                await self._sleep()

    async def _wait_for_space(self) -> None:
        self._space.clear()
        if self._intake.room(self._batch_size) == 0 and not self._is_stopping:
            await self._space.wait()

    async def _claim(self, limit: int) -> int:
        """Claim once, from where the last claim began; now and then, and before giving up, from the very beginning."""
        now = asyncio.get_running_loop().time()
        if now >= self._full_scan_at:
            self._after, self._full_scan_at = 0, now + _FULL_SCAN
        count = await self._claim_after(limit)
        if count < limit and self._after > 0 and not (self._is_stopping or self._has_released):
            self._after, self._full_scan_at = 0, now + _FULL_SCAN
            count += await self._claim_after(limit - count)
        return count

    async def _claim_after(self, limit: int) -> int:
        settlement, intake = self._intake.settlement, self._intake
        claimed_at = asyncio.get_running_loop().time()
        claims = await self._conn.retrying(
            lambda conn: queue.claim(
                conn,
                settlement.domain,
                settlement.worker_id,
                limit=limit,
                lease=intake.lease,
                max_attempts=self._max_attempts,
                after=self._after,
            ),
            "claim",
        )
        if not claims:
            return 0
        self._after = claims[-1].seq
        self._has_released = False
        self.highest = max(self.highest, claims[-1].seq)
        self._counts.claimed += len(claims)
        excess = await intake.take(claims, claimed_at)
        if excess:
            await self._conn.retrying(
                lambda conn: queue.release(conn, settlement.domain, settlement.worker_id, excess), "release"
            )
            self._has_released = True  # for others first: whoever claims at once would only get it back
            return 0
        return len(claims)

    async def _sleep(self) -> None:
        """Until notified, until the next retry is due, or for the poll interval; room is needed as well."""
        domain = self._intake.settlement.domain
        if self._woken.is_set():
            return
        due = await self._conn.retrying(lambda conn: queue.next_due(conn, domain), "poll")
        seconds = self._poll_interval if due is None else max(0.0, min(due, self._poll_interval))
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass
