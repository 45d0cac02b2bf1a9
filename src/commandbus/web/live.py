"""One look at the bus, told to everybody who watches: the broadcaster, and its streams by SSE and WebSocket.

However many watch, the database is asked at most twice a second, after a notification or when a second has gone by,
and only while somebody watches. A watcher who is slow misses snapshots in between; nothing is kept for him.
"""

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import orjson
import psycopg
from fastapi import APIRouter, HTTPException, Request, Response, WebSocket
from fastapi.responses import StreamingResponse
from psycopg_pool import PoolTimeout
from starlette.types import Receive, Scope, Send

from commandbus._core.connection import Pool
from commandbus.errors import CommandBusError
from commandbus.history import Point, history
from commandbus.notify import Alarm, ListenRefusedError, channel
from commandbus.status import BusStatus, status

if TYPE_CHECKING:
    from commandbus.web.console import Console

_log = logging.getLogger(__name__)

WINDOW = 60  # seconds over which rates and latencies are told
HISTORY, STEP = 900, 5  # seconds of the charts, and of one of their points
_LATE = 4 * STEP  # seconds that are read again: workers may store them late
_WORKERS = 200  # told at most, in each snapshot
_STILL_HERE = 15.0  # seconds after which a stream that has nothing to tell says so


class TooManyWatchersError(CommandBusError):
    """As many watch as the console's settings admit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(f"{limit} live streams are open, which is as many as max_sockets admits; close some")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look at the bus: `number` counts up, `json` is what streams send of `status`."""

    number: int
    status: BusStatus
    json: bytes


class Live:
    """The broadcaster of one console. `interval`: seconds between looks at least, `poll_interval` at most."""

    def __init__(
        self,
        pool: Pool,
        domains: Sequence[str],
        *,
        max_subscribers: int = 100,
        interval: float = 0.5,
        poll_interval: float = 1.0,
        listen: bool = True,
    ) -> None:
        self._pool = pool
        self._channels = [channel(domain) for domain in domains]
        self._max = max_subscribers
        self._interval, self._poll_interval, self._listen = interval, poll_interval, listen and bool(domains)
        self._subscriptions: set[Subscription] = set()
        self._task: asyncio.Task[None] | None = None
        self._latest: Snapshot | None = None
        self._looked_at = -1e9
        self._points: tuple[Point, ...] = ()
        self._pointed_at = -1e9
        self._looking, self._pointing = asyncio.Lock(), asyncio.Lock()
        self._is_closed = False

    @property
    def subscribers(self) -> int:
        """How many watch."""
        return len(self._subscriptions)

    def subscribe(self) -> "Subscription":
        """Watch: an async iterator over the snapshots from now on, to be closed (`async with` does). The first comes
        at once. Raises TooManyWatchersError."""
        if len(self._subscriptions) >= self._max:
            raise TooManyWatchersError(self._max)
        subscription = Subscription(self._left)
        if self._is_closed:
            subscription.end()
            return subscription
        self._subscriptions.add(subscription)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="commandbus live")
        elif self._latest is not None:
            subscription.put(self._latest)
        return subscription

    async def now(self) -> Snapshot:
        """Return the latest snapshot, a new one when that is older than the broadcaster's interval allows."""
        async with self._looking:
            if self._latest is None or monotonic() - self._looked_at > self._poll_interval:
                await self._look()
            if self._latest is None:
                raise RuntimeError("a look at the bus found nothing")  # it raises itself when it fails
            return self._latest

    async def points(self) -> tuple[Point, ...]:
        """Return the last quarter of an hour in steps of five seconds; read once in a step, whoever asks."""
        async with self._pointing:
            age = monotonic() - self._pointed_at
            if not self._points or age > HISTORY - _LATE:
                self._points = await history(self._pool, seconds=HISTORY, step=STEP)
                self._pointed_at = monotonic()
            elif age >= STEP / 2:
                newer = await history(self._pool, seconds=_LATE + (int(age) // STEP + 1) * STEP, step=STEP)
                kept = [point for point in self._points if point.at < newer[0].at]
                self._points = (*kept, *newer)[-HISTORY // STEP :]
                self._pointed_at = monotonic()
            return self._points

    async def close(self) -> None:
        """End all subscriptions; there are none from then on."""
        self._is_closed = True
        for subscription in list(self._subscriptions):
            subscription.end()
        self._subscriptions.clear()
        await self._stop()

    def _left(self, subscription: "Subscription") -> None:
        self._subscriptions.discard(subscription)
        if not self._subscriptions and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            try:
                await self._watch()
            except ListenRefusedError as refused:
                _log.warning("the console polls: %s", refused)
                self._listen = False

    async def _watch(self) -> None:
        """Look and tell until cancelled."""
        async with Alarm(self._pool, self._channels, poll_interval=self._poll_interval, listen=self._listen) as alarm:
            while await alarm.wait():
                try:
                    async with self._looking:
                        snapshot = await self._look()
                except (psycopg.Error, PoolTimeout, OSError) as error:
                    _log.warning("the console cannot look at the bus, it tries again: %s", error)
                else:
                    for subscription in list(self._subscriptions):
                        subscription.put(snapshot)
                await asyncio.sleep(self._interval)

    async def _look(self) -> Snapshot:
        found = await status(self._pool, window=WINDOW)
        number = 1 if self._latest is None else self._latest.number + 1
        self._latest = Snapshot(number, found, orjson.dumps(told(found) | {"number": number}))
        self._looked_at = monotonic()
        return self._latest


class Subscription:
    """One watcher's place: holds the newest snapshot that he has not seen, and no more."""

    def __init__(self, leave: "Any") -> None:
        self._leave = leave
        self._news = asyncio.Event()
        self._latest: Snapshot | None = None
        self._has_ended = False

    def put(self, snapshot: Snapshot) -> None:
        """Tell of a snapshot."""
        self._latest = snapshot
        self._news.set()

    def end(self) -> None:
        """Let the iteration end."""
        self._has_ended = True
        self._news.set()

    async def aclose(self) -> None:
        """Leave."""
        self.end()
        self._leave(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Snapshot:
        await self._news.wait()
        if self._has_ended or self._latest is None:
            raise StopAsyncIteration
        self._news.clear()
        return self._latest

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def told(found: BusStatus) -> dict[str, Any]:
    """What streams tell of the bus: aggregates, no payload and no id of a command; times as ISO text."""
    domains, workers = [], []
    for domain in found.domains:
        workers += [dataclasses.asdict(worker) for worker in domain.workers]
        told_of = {name: getattr(domain, name) for name in _DOMAIN}
        types = [dataclasses.asdict(kind) for kind in domain.types]
        domains.append(told_of | {"rates": dataclasses.asdict(domain.rates), "types": types})
    return {
        "taken_at": found.taken_at,
        "window": found.window,
        "totals": totals(found),
        "domains": domains,
        "workers": workers[:_WORKERS],
        "waiting_replies": found.waiting_replies,
    }


_DOMAIN = (
    "domain", "backlog", "oldest_due", "in_flight", "expired_leases", "scheduled", "parked", "estimated", "at_least",
    "live_workers",
)  # fmt: skip


def totals(found: BusStatus) -> dict[str, float]:
    """The sums over all domains."""
    counts = {
        name: sum(getattr(domain, name) for domain in found.domains)
        for name in ("backlog", "in_flight", "expired_leases", "scheduled", "live_workers")
    }
    rates = {
        name: sum(getattr(domain.rates, name) for domain in found.domains)
        for name in ("claimed", "completed", "failed", "retried")
    }
    parked = sum(sum(domain.parked.values()) for domain in found.domains)
    return {**counts, "parked": parked, **{f"{name}_per_second": rate for name, rate in rates.items()}}


def router(console: "Console") -> APIRouter:
    """Return the routes /live/events (SSE) and /live/socket (WebSocket): the same snapshots."""
    routes = APIRouter(include_in_schema=False)
    live, site = console.live, console.site

    @routes.get("/live/events", name="live_events")
    async def events(request: Request) -> Response:
        if site.session(request) is None and "authorization" not in request.headers:
            raise HTTPException(403, "Load a page of the console first: streams are for its sessions.")
        try:
            subscription = live.subscribe()
        except TooManyWatchersError as error:
            raise HTTPException(503, str(error), {"retry-after": "10"}) from error
        return _EventStream(subscription)

    @routes.websocket("/live/socket")
    async def talk(socket: WebSocket) -> None:
        if site.session(socket) is None and "authorization" not in socket.headers:
            await socket.close(1008, "no session")
            return
        try:
            subscription = live.subscribe()
        except TooManyWatchersError:
            await socket.close(1013, "too many watchers")
            return
        async with subscription:
            await socket.accept()
            sending = asyncio.create_task(_send(socket, subscription))
            hearing = asyncio.create_task(_hear(socket))
            await asyncio.wait([sending, hearing], return_when=asyncio.FIRST_COMPLETED)
            for task in (sending, hearing):
                task.cancel()
            await asyncio.gather(sending, hearing, return_exceptions=True)

    return routes


class _EventStream(StreamingResponse):
    """Snapshots as server-sent events, until the browser goes or the console ends."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        super().__init__(self._events(), media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._subscription:
            sending = asyncio.create_task(self.stream_response(send))
            leaving = asyncio.create_task(self.listen_for_disconnect(receive))
            try:
                await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (sending, leaving):
                    task.cancel()
                await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _events(self) -> AsyncIterator[bytes]:
        yield b"retry: 2000\n\n"
        while True:
            try:
                async with asyncio.timeout(_STILL_HERE):
                    snapshot = await anext(self._subscription)
            except TimeoutError:
                yield b": still here\n\n"
            except StopAsyncIteration:
                return
            else:
                yield b"event: snapshot\nid: %d\ndata: %s\n\n" % (snapshot.number, snapshot.json)


async def _send(socket: WebSocket, subscription: Subscription) -> None:
    async for snapshot in subscription:
        await socket.send_text(snapshot.json.decode())
    await socket.close(1001, "the console ends")


async def _hear(socket: WebSocket) -> None:
    """Until the other side goes; what it says means nothing."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass
