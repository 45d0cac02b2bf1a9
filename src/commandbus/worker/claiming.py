"""The claim loop: how much to claim, and what a claimed command becomes."""

import asyncio
import logging
from collections.abc import Sequence

from commandbus._core.connection import Connection, Pool
from commandbus._core.queue_sql import Claimed
from commandbus.errors import HandlerNotFoundError
from commandbus.executor import Run
from commandbus.handler import HandlerContext, HandlerRegistry, Middleware
from commandbus.headers import load_headers
from commandbus.logging import about
from commandbus.models import Command
from commandbus.payload import load_payload
from commandbus.repositories import queue, workers
from commandbus.settlement import Settlement
from commandbus.worker.lanes import Lane, Pending
from commandbus.worker.leases import CommandLease, margin
from commandbus.worker.reserved import ReservedConnection
from commandbus.worker.settling import Settling
from commandbus.worker.slots import Slots

_log = logging.getLogger(__name__)

_PAUSE = 1.0  # seconds after a middleware failed
_FULL_SCAN = 1.0  # seconds between claims that look at the whole queue, for expired leases and late commits
_SCAN_SHARE = 20  # times as long as such a claim took is the least time to the next one
_QUICK_SCAN = 0.02  # seconds: when it takes no longer, it is made whenever nothing else is found
_ROW = 0.0001  # seconds that a claim may take for each command that it finds: what is left went into looking


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
        self._usable = lease - margin(lease)  # seconds that a handler may take

    def room(self, lane: Lane, batch_size: int) -> int:
        """How many commands to claim for a lane now."""
        unsettled = self._settling.waiting
        if lane.only is None:
            return lane.room(batch_size, self.lease, unsettled)
        return 0 if unsettled > 2 * batch_size else lane.room(batch_size, self.lease, 0)

    def known(self) -> set[int]:
        """The seqs of everything that the worker knows it has claimed."""
        waiting = {pending.claimed.seq for lane in self.slots.lanes for pending in lane.pending}
        return waiting | {pending.claimed.seq for pending in self.slots.running.values()} | self._settling.seqs()

    def surplus(self, lane: Lane, batch_size: int) -> list[Claimed]:
        """Give up what turned out to be more of a new command type than a worker is to keep from others."""
        return lane.take_surplus(asyncio.get_running_loop().time(), batch_size, self.lease)

    async def take(self, lane: Lane, claims: Sequence[Claimed], claimed_at: float) -> tuple[list[Claimed], float]:
        """Start what was claimed; returns what is to be released, and for how many seconds that is left to others.

        That is nothing, or all when a middleware could not prepare for them or the worker stops.
        """
        # What has no handler here is given back by the settle loop, for a worker that has one.
        runs = [pending for claimed in claims if (pending := self._pending(lane, claimed, claimed_at)) is not None]
        try:
            for layer in self._middleware:
                await layer.claimed([pending.run.context for pending in runs])
        except Exception:  # a user's middleware may raise anything; the worker lives on
            _log.exception(
                "a middleware could not prepare for %d commands; they are released",
                len(runs),
                extra=about(domain=self.settlement.domain, worker_id=self.settlement.worker_id),
            )
            return [pending.claimed for pending in runs], _PAUSE
        if self.is_stopping:
            return [pending.claimed for pending in runs], 0.0
        self.slots.add(lane, runs)
        return [], 0.0

    def _pending(self, lane: Lane, claimed: Claimed, claimed_at: float) -> Pending | None:
        lease = CommandLease(claimed, self._pool, self.settlement, self._settling.hooks)
        try:
            handler = self._registry.get(self.settlement.domain, claimed.command_type)
        except HandlerNotFoundError:
            self._settling.add_unhandled(claimed)
            return None
        context = context_of(claimed, self.settlement, lease)
        run = Run(context, handler, claimed.failures, claimed_at + self._usable)
        lease.run = run
        return Pending(claimed, run, claimed_at, lane)


def context_of(claimed: Claimed, settlement: Settlement, lease: CommandLease) -> HandlerContext:
    """What the handler of a claimed command is given."""
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
    context = HandlerContext(  # by position: names would take as long again
        command,
        claimed.failures + 1,
        claimed.max_attempts,
        claimed.past_failures + claimed.failures,
        claimed.epoch,
        settlement.worker_id,
        lease,
        claimed.process_id,
        claimed.process_type,
        claimed.process_batch_id,
        claimed.ordinal if claimed.process_id is None else claimed.process_ordinal,
        claimed.step,
        claimed.visit or 1,
    )
    if claimed.headers is not None:
        context.headers = load_headers(claimed.headers)
    return context


class Place:
    """Where the next claim of a lane begins, and whether there is anything to claim."""

    def __init__(self) -> None:
        self.after = 0  # seq that the last claim ended with
        self.full_scan_at = 0.0
        self.claim_seconds = 0.0  # that the server took for the last claim
        self.scan_seconds = 0.0  # of those, what the last claim from the very beginning spent on looking
        self.is_short = False  # the last claim was not filled, and looking for more took no time
        self.is_drained = False  # nothing was left, as far as is known


class Claiming:
    """Claims whenever a lane has room, sleeps while there is nothing to claim."""

    def __init__(
        self,
        conn: ReservedConnection,
        intake: Intake,
        lanes: Sequence[Lane],
        counts: workers.WorkerCounts,
        max_attempts: int,
        poll_interval: float,
        batch_size: int,
    ) -> None:
        self.highest = 0  # seq that this worker has claimed
        self.others_types: frozenset[str] = frozenset()  # that only other live workers of the domain handle
        self._conn = conn
        self._intake = intake
        self._places = {lane: Place() for lane in lanes}
        self._capped = frozenset(lane.only for lane in lanes if lane.only is not None)
        self._counts = counts
        self._max_attempts = max_attempts
        self._poll_interval = poll_interval
        self._batch_size = batch_size
        self._news = asyncio.Event()  # something may be due, or there may be room
        self._is_woken = False
        self._look_at: float | None = None  # when something drained is to be looked at again
        self._is_stopping = False
        self._is_unanswered = False  # the last claim may have leased something that nobody here knows of

    def wake(self) -> None:
        """Something may be due."""
        self._is_woken = True
        self._news.set()

    def look(self) -> None:
        """There may be room again."""
        self._news.set()

    def stop(self) -> None:
        """Claim nothing new; run() ends once a claim under way has its answer, so that no lease is forgotten."""
        self._is_stopping = self._intake.is_stopping = True
        self._news.set()

    async def run(self) -> None:
        """Claim until stopped or cancelled."""
        while not self._is_stopping:
            if self._is_woken:
                self._is_woken, self._look_at = False, None
                for place in self._places.values():
                    place.is_drained = False
            self._news.clear()
            for lane in self._places:
                if surplus := self._intake.surplus(lane, self._batch_size):
                    await self._release(lane, surplus)
            open_lanes = [lane for lane, place in self._places.items() if not place.is_drained and self._room(lane) > 0]
            for lane in open_lanes:
                if (limit := self._room(lane)) <= 0:  # the lanes before it may have taken what there was
                    continue
                self._places[lane].is_drained = await self._claim(lane, limit) < limit
                if self._intake.is_stopping:
                    break
            if not open_lanes:
                await self._pause()

    def _room(self, lane: Lane) -> int:
        return self._intake.room(lane, self._batch_size)

    async def _claim(self, lane: Lane, limit: int) -> int:
        """Claim once, from where the last claim ended; now and then, and before giving up, from the very beginning.

        From there at once while the queue is short: then that is all there is.
        """
        place = self._places[lane]
        if place.is_short or asyncio.get_running_loop().time() >= place.full_scan_at:
            found = await self._claim_from_start(lane, limit)
        else:
            found = await self._claim_after(lane, limit)
            is_done = found == limit or place.after == 0 or self._is_stopping
            if not is_done and place.scan_seconds <= _QUICK_SCAN:
                found += await self._claim_from_start(lane, limit - found)
        place.is_short = found < limit and place.scan_seconds <= _QUICK_SCAN
        return found

    async def _claim_from_start(self, lane: Lane, limit: int) -> int:
        """Claim from the very beginning of the queue, which may lead past many commands of other lanes.

        So that looking never takes more than its share of the time, the next such claim waits accordingly, but not
        longer than a lease.
        """
        place = self._places[lane]
        place.after = 0
        found = await self._claim_after(lane, limit)
        place.scan_seconds = 0.0 if found == limit else max(0.0, place.claim_seconds - found * _ROW)
        wait = max(_FULL_SCAN, min(_SCAN_SHARE * place.scan_seconds, self._intake.lease))
        place.full_scan_at = asyncio.get_running_loop().time() + wait
        return found

    async def _claim_after(self, lane: Lane, limit: int) -> int:
        intake, place = self._intake, self._places[lane]
        claimed_at = asyncio.get_running_loop().time()
        claims = await self._conn.retrying(lambda conn: self._ask(conn, lane, limit), "claim")
        if not claims:
            return 0
        place.after = claims[-1].seq
        self.highest = max(self.highest, claims[-1].seq)
        self._counts.add_claims([(claimed.command_type, claimed.waited) for claimed in claims])
        released, pause = await intake.take(lane, claims, claimed_at)
        if not released:
            return len(claims)
        await self._release(lane, released)
        await asyncio.sleep(pause)
        return limit  # there is more for whoever has room first

    async def _release(self, lane: Lane, claims: Sequence[Claimed]) -> None:
        domain, worker_id = self._intake.settlement.domain, self._intake.settlement.worker_id
        await self._conn.retrying(lambda conn: queue.release(conn, domain, worker_id, claims), "release")
        place = self._places[lane]
        place.after, place.is_drained = 0, False

    async def _ask(self, conn: Connection, lane: Lane, limit: int) -> list[Claimed]:
        place, settlement = self._places[lane], self._intake.settlement
        if self._is_unanswered:
            known = self._intake.known()  # before the database is asked: what is settled meanwhile is no surprise
            await queue.release_unknown(conn, settlement.domain, settlement.worker_id, known)
        self._is_unanswered = True
        began = asyncio.get_running_loop().time()  # of this attempt: an outage before it is no slow look
        claims = await queue.claim(
            conn,
            settlement.domain,
            settlement.worker_id,
            limit=limit,
            lease=self._intake.lease,
            max_attempts=self._max_attempts,
            after=place.after,
            only=lane.only,
            excluding=() if lane.only else [*self._capped, *self.others_types],
        )
        place.claim_seconds = asyncio.get_running_loop().time() - began
        self._is_unanswered = False
        return claims

    async def _pause(self) -> None:
        """Wait until woken, until there is room, or until what is drained or on trial deserves another look."""
        is_drained = any(place.is_drained for place in self._places.values())
        if is_drained and self._look_at is None:
            await asyncio.sleep(0)  # what was claimed starts before the queue is asked anything else
            self._look_at = await self._next_look()
        looks = [lane.trial_ends for lane in self._places] + [self._look_at if is_drained else None]
        try:
            async with asyncio.timeout_at(min((at for at in looks if at is not None), default=None)):
                await self._news.wait()
        except TimeoutError:
            self._is_woken = True

    async def _next_look(self) -> float:
        """When the next retry is due, or an idle worker looks by itself, or may look from the very beginning again."""
        domain = self._intake.settlement.domain
        due = await self._conn.retrying(lambda conn: queue.next_due(conn, domain), "poll")
        seconds = self._poll_interval if due is None else max(0.0, min(due, self._poll_interval))
        put_off = [p.full_scan_at for p in self._places.values() if p.is_drained and p.scan_seconds > _QUICK_SCAN]
        return min([asyncio.get_running_loop().time() + seconds, *put_off])
