"""The worker: what it is made of, how it starts, and how it stops."""

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from commandbus._core.connection import Connection, Pool
from commandbus._core.queue_sql import Claimed
from commandbus.errors import InvalidOperationError, PoolTooSmallError
from commandbus.executor import Executor
from commandbus.handler import HandlerRegistry, Middleware
from commandbus.logging import about
from commandbus.migrate import check_schema
from commandbus.notify import Listener, channel, connect_beside
from commandbus.payload import check_name
from commandbus.policies import RetryPolicy
from commandbus.process.base import BaseProcessManager
from commandbus.process.router import ProcessReplyRouter
from commandbus.repositories import workers
from commandbus.settlement import Settlement
from commandbus.worker.claiming import Claiming, Intake
from commandbus.worker.hooks import SettleHooks
from commandbus.worker.lanes import lanes
from commandbus.worker.reserved import ReservedConnection
from commandbus.worker.settling import Settling
from commandbus.worker.slots import Slots
from commandbus.worker.upkeep import Upkeep

_log = logging.getLogger(__name__)

_LISTENING = 5  # times as long as else until one that hears of every reply looks for some by itself
_LAST_WORDS = 10.0  # seconds that stopping tries to reach a database which is away
KEPT_CONNECTIONS = 2  # of the pool, by each worker; the LISTEN connection is not one of the pool's


class Worker:
    """Works through the commands of one domain until it is stopped.

    `processes` are the managers whose processes it may advance. At most `concurrency` handlers run at a time, each
    for at most `visibility_timeout` seconds. `poll_interval` (seconds) is how often an idle worker looks by itself,
    beside being notified (for replies to its processes a fifth as often); `listen=False` makes it poll only, for a
    transaction-pooling proxy. `batch_size` bounds one
    claim. The pool is the handlers' too: the worker keeps two of its connections.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        domain: str,
        handler_registry: HandlerRegistry,
        processes: Sequence[BaseProcessManager] = (),
        concurrency: int = 10,
        visibility_timeout: float = 30.0,
        retry_policy: RetryPolicy | None = None,
        poll_interval: float = 1.0,
        batch_size: int = 1_000,
        middleware: Sequence[Middleware] = (),
        listen: bool = True,
    ) -> None:
        _check_numbers(concurrency, visibility_timeout, poll_interval, batch_size)
        self.domain = check_name(domain, "domain")
        self.worker_id: int | None = None
        self.ready = asyncio.Event()  # set once it is registered
        self.counts = workers.WorkerCounts()
        self.was_asked = False  # by commandbus.stop_workers, to stop
        self._pool = pool
        self._registry = handler_registry
        self._processes = tuple(processes)
        self._concurrency = concurrency
        self._lease = float(visibility_timeout)
        self._policy = retry_policy or RetryPolicy()
        self._poll_interval = poll_interval
        self._batch_size = batch_size
        self._middleware = tuple(middleware)
        self._listen = listen
        self._stopping = asyncio.Event()
        self._stopped = asyncio.Event()
        self._is_running = False
        self._stop_timeout: float | None = None

    async def run(self) -> None:
        """Work until stop() is called, the task is cancelled, or `commandbus.stop_workers` asks it to stop.

        Raises SchemaError for a database that is not migrated to this version, PoolTooSmallError for a pool that
        cannot serve the worker and a handler, and whatever ends the worker unasked.
        """
        if self._is_running:
            raise InvalidOperationError(
                f"this worker of domain {self.domain!r} is running already: call run() once, or make another Worker"
            )
        self._is_running = True
        claim_conn, settle_conn = (ReservedConnection(self._pool, session=self._listen) for _ in range(2))
        threads = ThreadPoolExecutor(self._concurrency, thread_name_prefix="commandbus-handler")
        try:
            await self._open(claim_conn, settle_conn)
            self.ready.set()
            await self._work(claim_conn, settle_conn, threads)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            await claim_conn.close()
            await settle_conn.close()
            if self.worker_id is not None:
                self._say_ended(self.worker_id)
            self._is_running = False
            self._stopped.set()

    async def stop(self, timeout: float | None = None) -> None:
        """Claim nothing new, let running handlers end, settle them, release the rest; returns once run() has ended.

        Handlers that still run after `timeout` seconds are cancelled and their commands released.
        """
        self._stop_timeout = timeout
        self._stopping.set()
        if self._is_running:
            await self._stopped.wait()

    def _asked_to_stop(self) -> None:
        if not self._stopping.is_set():
            _log.info("worker %s is asked to stop: stopping once its running handlers have ended", self.worker_id)
        self.was_asked = True
        self._stopping.set()

    async def _open(self, claim_conn: ReservedConnection, settle_conn: ReservedConnection) -> None:
        if self._pool.max_size <= KEPT_CONNECTIONS:
            raise PoolTooSmallError(
                f"the pool {self._pool.name!r} has max_size={self._pool.max_size}, but a worker keeps "
                f"{KEPT_CONNECTIONS} connections and its handlers need at least 1 more: "
                f"set max_size to {KEPT_CONNECTIONS + 1} or more for each worker of this pool"
            )
        await claim_conn.open()
        await settle_conn.open()
        self.worker_id = await claim_conn.retrying(self._register, "start")
        claim_conn.about = settle_conn.about = self._about()
        _log.info(
            "worker %d started: domain %s, %d at once",
            self.worker_id,
            self.domain,
            self._concurrency,
            extra=self._about(),
        )

    async def _register(self, conn: Connection) -> int:
        await check_schema(conn)
        return await workers.register(
            conn,
            self.domain,
            self._registry.command_types(self.domain),
            [p.process_type for p in self._processes],
            self._concurrency,
            self.counts,
        )

    def _say_ended(self, worker_id: int) -> None:
        done = self.counts
        _log.info(
            "worker %d ended: claimed %d, completed %d, failed %d, retried %d, parked %d",
            worker_id,
            done.claimed,
            done.completed,
            done.failed,
            done.retried,
            done.parked,
            extra=self._about(),
        )

    def _about(self) -> dict[str, Any]:
        return about(domain=self.domain, worker_id=self.worker_id)

    async def _work(
        self, claim_conn: ReservedConnection, settle_conn: ReservedConnection, threads: ThreadPoolExecutor
    ) -> None:
        worker_id = self.worker_id or 0
        settlement = Settlement(self.domain, worker_id, {p.process_type: p for p in self._processes})
        router = ProcessReplyRouter(self._processes)
        hooks = SettleHooks(self._middleware)
        looks_for_replies = self._poll_interval * (_LISTENING if self._listen else 1)
        settling = Settling(settle_conn, settlement, router, self.counts, looks_for_replies, hooks)
        executor = Executor(self._policy, self._middleware, threads)
        by_lane = lanes(self._concurrency, self._registry.caps(self.domain))
        slots = Slots(self._concurrency, by_lane, executor, settling.add)
        intake = Intake(self._pool, self._registry, settlement, self._middleware, settling, slots, self._lease)
        claiming = Claiming(
            claim_conn, intake, by_lane, self.counts, self._policy.max_attempts, self._poll_interval, self._batch_size
        )
        claiming.others_types = await claim_conn.retrying(
            lambda conn: workers.others_types(conn, worker_id), "look for other workers"
        )
        settling.on_space, settling.on_delayed = claiming.look, claiming.wake
        upkeep = Upkeep(
            claim_conn, worker_id, self.domain, slots, claiming, self.counts, self._lease, self._asked_to_stop
        )

        if self._stopping.is_set():
            claiming.stop()

        claims = asyncio.create_task(claiming.run(), name=f"commandbus claim {self.domain}")
        tasks = [
            claims,
            asyncio.create_task(settling.run(), name=f"commandbus settle {self.domain}"),
            asyncio.create_task(upkeep.run(), name=f"commandbus upkeep {self.domain}"),
        ]
        if self._listen:
            listener = Listener(
                lambda: connect_beside(self._pool), channel(self.domain), claiming.wake, settling.wake_router
            )
            tasks.append(asyncio.create_task(listener.run(), name=f"commandbus listen {self.domain}"))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()  # an unasked end is an error: say which
            claiming.stop()
            await asyncio.wait([claims], timeout=_LAST_WORDS)
            await _end(claims)
            await self._drain(slots, settling, upkeep)
        finally:
            await _end(claims)
            slots.take_pending()
            slots.cancel_all()
            await slots.drain()
            await _end(stopping, *tasks)

    async def _drain(self, slots: Slots, settling: Settling, upkeep: Upkeep) -> None:
        """Release what was not started, let the rest end, settle it, say good-bye.

        A database that is away does not hold the worker for ever: its leases run out by themselves.
        """
        await _try_for(_LAST_WORDS, upkeep.release(slots.take_pending()))
        cut_off: list[Claimed] = []
        try:
            async with asyncio.timeout(self._stop_timeout):
                await slots.drain()
        except TimeoutError:
            cut_off = [pending.claimed for pending in slots.running.values()]
            slots.cancel_all()
            await slots.drain()
        await _try_for(_LAST_WORDS, _last_words(settling, upkeep, cut_off))


async def _last_words(settling: Settling, upkeep: Upkeep, cut_off: Sequence[Claimed]) -> None:
    await settling.flush()
    await upkeep.release(cut_off)
    await upkeep.say_goodbye()


async def _try_for(seconds: float, work: Awaitable[None]) -> None:
    """Await `work`, but no longer than `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await work
    except TimeoutError:
        _log.error("the database gave no answer for %g s; what is not settled comes back when its lease ends", seconds)


async def _end(*tasks: asyncio.Task[None] | asyncio.Task[bool]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _check_numbers(concurrency: int, visibility_timeout: float, poll_interval: float, batch_size: int) -> None:
    for name, value in (("concurrency", concurrency), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    for name, seconds in (("visibility_timeout", visibility_timeout), ("poll_interval", poll_interval)):
        if not seconds > 0:
            raise ValueError(f"{name} must be above 0 seconds, not {seconds}")
