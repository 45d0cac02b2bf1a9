"""Live progress: one broadcaster for each batch that anybody watches; slow clients are dropped, not waited for."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import psycopg
from cachetools import LRUCache, TTLCache
from psycopg_pool import PoolTimeout

from commandbus import CommandBus, CommandStatus

from . import sql
from .batches import OPEN
from .metrics import Metrics
from .process import DOMAIN
from .rows import Pool, Row, fetch, first, single
from .throttle import Throttle

LOOK_EVERY = 0.25  # seconds
MOST_RECENT = 1000  # batches
PATIENCE = 5.0  # with a client that does not read
ERRORS_SHOWN = 5
AT_LEAST = 1.5  # so that with a look every 0.25 seconds no client waits for 2
_EVER_NEW = ("elapsed_seconds", "remaining_seconds", "leads_per_second")
_log = logging.getLogger(__name__)


class Client(Protocol):
    """What is told: a WebSocket, or a test's own."""

    async def send_text(self, data: str) -> None: ...


@dataclass(frozen=True)
class Look:
    """A batch, None when there is none (any more), and its progress as clients are told it: JSON values only."""

    batch: Row | None
    told: Row


class ProgressSource:
    """Reads the progress of a batch."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._bus = CommandBus(pool)
        self._owners: LRUCache[UUID, str] = LRUCache(MOST_RECENT)
        self._recent: TTLCache[UUID, asyncio.Task[Look]] = TTLCache(MOST_RECENT, LOOK_EVERY)

    async def owner(self, batch_id: UUID) -> str | None:
        """Return whose batch it is; that never changes, so many sockets cause one look."""
        owner: str | None = self._owners.get(batch_id)
        if owner is None and (batch := (await self.recent(batch_id)).batch) is not None:
            owner = self._owners[batch_id] = batch["owner"]
        return owner

    async def progress(self, batch_id: UUID) -> Row:
        """Return what clients are told, up to LOOK_EVERY seconds old."""
        return (await self.recent(batch_id)).told

    async def recent(self, batch_id: UUID) -> Look:
        """Look at a batch unless somebody did up to LOOK_EVERY seconds ago: many who ask at once cause one look."""
        look: asyncio.Task[Look] | None = self._recent.get(batch_id)
        if look is None:
            look = self._recent[batch_id] = asyncio.create_task(self.look(batch_id))
        return await asyncio.shield(look)

    async def look(self, batch_id: UUID) -> Look:
        """Look at a batch now."""
        async with single(self._pool) as conn:
            batch = await first(conn, sql.BATCH, batch_id=batch_id)
            if batch is None:
                return Look(None, {"batch_id": str(batch_id), "status": "PRUNED"})
            counts = await first(conn, sql.COUNTS, batch_id=batch_id) or {}
            errors = []
            if counts["failed"]:
                errors = await fetch(conn, sql.LATEST_ERRORS, batch_id=batch_id, limit=ERRORS_SHOWN)
            name = await self._current_lead(conn, batch_id) if batch["status"] == "PROCESSING" else None
        return Look(batch, described(batch, counts, errors, name))

    async def _current_lead(self, conn: Any, batch_id: UUID) -> str | None:
        page = await self._bus.query_commands(DOMAIN, CommandStatus.IN_PROGRESS, limit=50, conn=conn)
        for command in page.items:
            if command.data["batch_id"] == str(batch_id):
                lead = await first(conn, sql.LEAD_NAME, lead_id=command.data["lead_id"])
                return None if lead is None else str(lead["name"])
        return None


def described(batch: Row, counts: Row, errors: list[Row], current_lead: str | None) -> Row:
    """Put a batch's progress into words for its clients. Pure."""
    processed = counts["succeeded"] + counts["failed"] + counts["cancelled"]
    total, elapsed = counts["total"], max(float(batch["elapsed"]), 0.0)
    rate = processed / elapsed if elapsed > 0 else 0.0
    is_open = batch["status"] in OPEN
    return {
        "batch_id": str(batch["batch_id"]),
        "status": batch["status"],
        "processed": processed,
        "total": total,
        "percentage": round(100 * processed / total, 1) if total else 100.0,
        "succeeded": counts["succeeded"],
        "failed": counts["failed"],
        "cancelled": counts["cancelled"],
        "current_lead": current_lead,
        "latest_errors": [dict(error) for error in errors],
        "elapsed_seconds": round(elapsed, 1),
        "remaining_seconds": round((total - processed) / rate, 1) if is_open and rate else None if is_open else 0.0,
        "leads_per_second": round(rate, 2),
    }


class _Watcher:
    """One client: the newest message that it has not been sent yet, and no other."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.news = asyncio.Event()
        self.text = ""
        self.is_last = False

    def put(self, text: str, is_last: bool) -> None:
        self.text, self.is_last = text, is_last
        self.news.set()


class Hub:
    """Who watches what."""

    def __init__(
        self,
        read: Callable[[UUID], Any],
        metrics: Metrics,
        *,
        look_every: float = LOOK_EVERY,
        patience: float = PATIENCE,
        throttle: Callable[[], Throttle] = lambda: Throttle(at_least=AT_LEAST),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._metrics = metrics
        self._look_every = look_every
        self._patience = patience
        self._throttle = throttle
        self._clock = clock
        self._watchers: dict[UUID, set[_Watcher]] = {}
        self._tasks: dict[UUID, asyncio.Task[None]] = {}
        self._latest: dict[UUID, tuple[str, bool]] = {}

    @property
    def watched(self) -> int:
        """How many clients watch, over all batches."""
        return sum(map(len, self._watchers.values()))

    @property
    def broadcasters(self) -> int:
        """How many batches are read for them."""
        return len(self._tasks)

    async def watch(self, batch_id: UUID, client: Client) -> bool:
        """Tell a client until the batch has ended; the latest at once. False when it was dropped for being slow."""
        watcher = _Watcher(client)
        self._watchers.setdefault(batch_id, set()).add(watcher)
        if batch_id in self._latest:
            watcher.put(*self._latest[batch_id])
        if batch_id not in self._tasks:
            self._tasks[batch_id] = asyncio.create_task(self._broadcast(batch_id))
        try:
            while True:
                await watcher.news.wait()
                watcher.news.clear()
                text, is_last = watcher.text, watcher.is_last
                try:
                    async with asyncio.timeout(self._patience):  # wait_for of Python 3.11 may lose a cancellation
                        await client.send_text(text)
                except TimeoutError:
                    self._metrics.dropped.inc()
                    return False
                self._metrics.messages.inc()
                if is_last:
                    return True
        finally:
            self._leave(batch_id, watcher)

    def _leave(self, batch_id: UUID, watcher: _Watcher) -> None:
        watchers = self._watchers[batch_id]
        watchers.discard(watcher)
        if not watchers:
            del self._watchers[batch_id]
            self._latest.pop(batch_id, None)
            self._tasks.pop(batch_id).cancel()

    async def _broadcast(self, batch_id: UUID) -> None:
        throttle, before = self._throttle(), None
        while True:
            try:
                state = await self._read(batch_id)
            except (psycopg.Error, PoolTimeout, OSError) as error:
                _log.warning("progress of batch %s: %s: %s", batch_id, type(error).__name__, error)
                await asyncio.sleep(self._look_every * 4)
                continue
            news = {name: value for name, value in state.items() if name not in _EVER_NEW}
            is_last = state["status"] not in OPEN
            if throttle.is_due(self._clock(), changed=news != before, ended=is_last):
                before = news
                self._latest[batch_id] = json.dumps(state), is_last
                for watcher in self._watchers.get(batch_id, ()):
                    watcher.put(*self._latest[batch_id])
            if is_last:
                return
            await asyncio.sleep(self._look_every)

    async def close(self) -> None:
        """End the broadcasters."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
