"""What a worker does by the clock: heartbeat, sweep, renew or release what was not started, cancel what is overdue."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from commandbus._core.connection import Connection
from commandbus._core.queue_sql import Claimed
from commandbus.repositories import queue, workers
from commandbus.worker.claiming import Claiming
from commandbus.worker.lanes import Pending
from commandbus.worker.leases import margin
from commandbus.worker.reserved import ReservedConnection
from commandbus.worker.slots import Slots

_log = logging.getLogger(__name__)

_FORGET_EVERY = 60.0  # seconds
_SHARE = 20  # times as long as a sweep took is the least time to the next one


class Upkeep:
    """Looks after one worker's leases and its place in the list of workers; calls `stop` when it is asked to there."""

    def __init__(
        self,
        conn: ReservedConnection,
        worker_id: int,
        domain: str,
        slots: Slots,
        claiming: Claiming,
        counts: workers.WorkerCounts,
        lease: float,
        stop: Callable[[], None],
    ) -> None:
        self._conn = conn
        self._worker_id = worker_id
        self._domain = domain
        self._slots = slots
        self._claiming = claiming
        self._counts = counts
        self._lease = lease
        self._stop = stop
        self._has_gone = False

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_deadlines())
            tasks.create_task(self._keep())

    async def release(self, claims: Sequence[Claimed]) -> None:
        """Give commands back that were not started."""
        if claims:
            await self._conn.retrying(
                lambda conn: queue.release(conn, self._domain, self._worker_id, claims), "release"
            )

    async def say_goodbye(self) -> None:
        """Tell that the worker has stopped; no heartbeat that still waits for the connection tells otherwise."""

        async def goodbye(conn: Connection) -> None:
            self._has_gone = True
            await workers.heartbeat(conn, self._worker_id, self._counts, stopped=True)

        await self._conn.retrying(goodbye, "last heartbeat")

    async def _watch_deadlines(self) -> None:
        """Cancel handlers just before their leases end; precise to a small part of the lease."""
        loop = asyncio.get_running_loop()
        tick = min(0.5, margin(self._lease) / 4)
        while True:
            self._slots.cancel_overdue(loop.time())
            await asyncio.sleep(tick)

    async def _keep(self) -> None:
        """Heartbeat, sweep, and look after unstarted leases, each when it is due."""
        loop = asyncio.get_running_loop()
        tick = min(workers.HEARTBEAT, self._lease / 8)
        beat_at = sweep_at = forget_at = loop.time()
        full_sweep_at = loop.time()
        while True:
            now = loop.time()
            await self._keep_unstarted(now)
            if now >= beat_at:
                beat_at = now + workers.HEARTBEAT
                await self._conn.retrying(self._beat, "heartbeat")
            if now >= forget_at:
                forget_at = now + _FORGET_EVERY
                await self._conn.retrying(workers.forget, "forget old statistics")
            if now >= sweep_at:
                sweep_at = now + min(workers.HEARTBEAT, self._lease / 2)
                is_full = now >= full_sweep_at
                if is_full:
                    full_sweep_at = now + self._lease
                upto = None if is_full else self._claiming.highest
                took = 0.0 if upto == 0 else await self._sweep(upto)  # where nothing was claimed nothing is lost
                sweep_at = max(sweep_at, now + min(_SHARE * took, self._lease))
            await asyncio.sleep(tick)

    async def _beat(self, conn: Connection) -> None:
        if self._has_gone:
            return
        self._claiming.others_types, is_to_stop = await workers.heartbeat(conn, self._worker_id, self._counts)
        if is_to_stop:
            self._stop()

    async def _sweep(self, upto: int | None) -> float:
        """Return the seconds that the server took, without those for which it was away."""
        took = 0.0

        async def sweep(conn: Connection) -> int:
            nonlocal took
            began = asyncio.get_running_loop().time()
            parked = await queue.sweep(conn, self._domain, upto)
            took = asyncio.get_running_loop().time() - began
            return parked

        parked = await self._conn.retrying(sweep, "sweep")
        if parked:
            _log.error("parked for an operator: %d commands that lost their last lease", parked, extra=self._conn.about)
        return took

    async def _keep_unstarted(self, now: float) -> None:
        """Release what waits for over half a lease, since others may be free; renew what waits for over a quarter."""
        for lane in self._slots.lanes:
            old = [p for p in lane.pending if now - p.leased_at > self._lease / 4]
            if old and now - old[0].claimed_at > self._lease / 2:
                await self.release(lane.take_pending())
            elif old:
                await self._renew(old, now)

    async def _renew(self, old: Sequence[Pending], now: float) -> None:
        claims = [p.claimed for p in old]
        kept = await self._conn.retrying(lambda conn: queue.renew(conn, self._worker_id, claims, self._lease), "renew")
        for pending in old:
            if pending.claimed.seq in kept:
                pending.leased_at = now
                pending.run.deadline = now + self._lease - margin(self._lease)
