"""The blocking client: one portal and one pool of connections in each process, opened when they are first needed."""

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from types import TracebackType
from typing import Any, Self, TypeVar, cast
from uuid import UUID

import psycopg
from psycopg_pool import AsyncConnectionPool

from commandbus._core.chunks import CHUNK
from commandbus._core.connection import transaction
from commandbus.app import App
from commandbus.blocking.caller import Listener, refuse_in_loop
from commandbus.blocking.proxy import SyncProxy
from commandbus.bus import CommandBus
from commandbus.errors import InvalidOperationError
from commandbus.headers import Headers
from commandbus.migrate import check_schema
from commandbus.models import BatchCancellation, ReceivedReply, SendRequest
from commandbus.payload import MAX_BYTES, check_name
from commandbus.process.base import BaseProcessManager
from commandbus.process.repository import ProcessRepository
from commandbus.replies import ReplyQueue
from commandbus.sync.faces import (
    CommandBusFace,
    ProcessManagerFace,
    ReplyQueueFace,
    SyncProcessRepository,
    SyncTroubleshootingQueue,
)
from commandbus.sync.portal import Portal
from commandbus.troubleshooting import TroubleshootingQueue

_LAST_SECONDS = 5.0  # that an interpreter which ends gives to an open bus
_Item = TypeVar("_Item")


def connect(
    dsn: str,
    *,
    app: App | None = None,
    max_size: int = 10,
    timeout: float = 30.0,
    max_payload: int = MAX_BYTES,
    headers: Headers | None = None,
) -> "SyncCommandBus":
    """Open the bus of the database `dsn` for blocking code: `with connect(dsn, app=app) as bus: bus.send(...)`.

    Parameters and errors as SyncCommandBus and its open().
    """
    return SyncCommandBus(
        dsn, app=app, max_size=max_size, timeout=timeout, max_payload=max_payload, headers=headers
    ).open()


class SyncCommandBus(CommandBusFace):
    """The bus for threads: the methods of CommandBus, which block, and the ways to everything else.

    `dsn` names the database. `app` knows the process managers that `process` finds and operators' actions advance.
    `max_size` bounds its connections, `timeout` is how many seconds a call waits for one. One object serves any number
    of threads. What it needs, an event loop in one thread and a pool of connections, is opened by `open`, by `with`, or
    by the first call, and lasts until `close` or the interpreter's end. A process that was forked opens its own.

    Who owns the transaction:

    - Without `conn` each call is a transaction of its own.
    - `conn=` may be the caller's own blocking psycopg.Connection. The statements run on it, in the caller's thread, as
      part of its open transaction: the caller commits or rolls back. For an autocommit connection without an open
      transaction, the call is one. (SQLAlchemy: `session.connection().connection.driver_connection`; Django:
      `connection.connection`; both with psycopg 3.)
    - `with bus.transaction() as conn` opens one on a connection of the bus; `conn` has psycopg.Connection's methods.

    Ctrl-C, or what a signal handler raises, cancels a call, waits for its rollback, and is raised. From a thread that
    runs an event loop each call raises InvalidOperationError: use CommandBus there.
    """

    def __init__(
        self,
        dsn: str,
        *,
        app: App | None = None,
        max_size: int = 10,
        timeout: float = 30.0,
        max_payload: int = MAX_BYTES,
        headers: Headers | None = None,
    ) -> None:
        if max_size < 1:
            raise ValueError(f"max_size must be at least 1, not {max_size}")
        super().__init__(lambda: self._here().bus)
        self._dsn = dsn
        self._app = app or App()
        self._max_size = max_size
        self._timeout = timeout
        self._max_payload = max_payload
        self._headers = headers
        self._opened: dict[int, _Opened] = {}  # by process id: what a fork inherits is another process's
        self._locks: dict[int, threading.Lock] = {}
        self._is_closed = False
        self._troubleshooting = SyncTroubleshootingQueue(lambda: self._here().troubleshooting)
        self._processes = SyncProcessRepository(lambda: self._here().processes)

    def open(self) -> Self:
        """Connect now rather than at the first call, or again after `close`.

        Raises psycopg.OperationalError when the database cannot be reached, SchemaError when it is not migrated to
        this version of the bus.
        """
        refuse_in_loop("SyncCommandBus.open")
        self._is_closed = False
        self._here()
        return self

    def close(self) -> None:
        """Cancel and roll back what is under way in other threads, and let go of the connections and the loop."""
        with self._lock():
            self._is_closed = True
            opened = self._opened.pop(os.getpid(), None)
        if opened is not None:
            atexit.unregister(opened.abandon)
            opened.portal.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def transaction(self) -> "AbstractContextManager[psycopg.Connection[Any]]":
        """`with bus.transaction() as conn`: a transaction on a connection of the bus, for `conn=` and your own SQL.

        It commits when the block ends, and is rolled back when the block raises.
        """
        refuse_in_loop("SyncCommandBus.transaction")
        here = self._here()
        return cast("AbstractContextManager[psycopg.Connection[Any]]", here.proxy(transaction(here.pool, None)))

    @property
    def troubleshooting(self) -> SyncTroubleshootingQueue:
        """The troubleshooting queue, with the app's process managers at hand."""
        return self._troubleshooting

    @property
    def processes(self) -> SyncProcessRepository:
        """The processes in the database."""
        return self._processes

    def process(self, manager: type[BaseProcessManager] | str) -> "SyncProcessManager":
        """Return a process manager, by its class or process type: `bus.process(OrderProcess).start({...})`.

        Raises InvalidOperationError at its first call for a process type that the app does not have; a class that the
        app does not have is made with the bus's pool.
        """
        return SyncProcessManager(lambda: self._here().manager(manager))

    def replies(self, reply_to: str) -> "SyncReplyQueue":
        """Return the replies at an address, to be received and acknowledged."""
        return SyncReplyQueue(self._here, check_name(reply_to, "reply_to"))

    def send_batch(self, requests: Iterable[SendRequest], *, chunk_size: int = CHUNK) -> int:
        """As CommandBus.send_batch; `requests` are read chunk by chunk in this thread, so they may block."""
        send = super().send_batch
        return _in_chunks(requests, chunk_size, lambda chunk, _: send(chunk, chunk_size=chunk_size), None)

    def cancel_batch(
        self,
        domain: str,
        batch_id: UUID,
        *,
        operator: str = "unknown",
        reason: str = "",
        on_progress: Callable[[int], object] | None = None,
    ) -> BatchCancellation:
        """As CommandBus.cancel_batch, with the app's process managers."""
        refuse_in_loop("CommandBus.cancel_batch")
        here = self._here()
        told = None if on_progress is None else Listener(on_progress)
        cancelled: BatchCancellation = here.bus.cancel_batch(
            domain, batch_id, operator=operator, reason=reason, processes=here.managers, on_progress=told
        )
        return cancelled

    def _lock(self) -> threading.Lock:
        return self._locks.setdefault(os.getpid(), threading.Lock())

    def _here(self) -> "_Opened":
        """What this process has open."""
        opened = self._opened.get(os.getpid())
        if opened is not None:
            return opened
        with self._lock():
            if self._is_closed:
                raise InvalidOperationError("this bus is closed: open() it again, or make another")
            if (opened := self._opened.get(os.getpid())) is None:
                opened = _Opened(self._dsn, self._app, self._max_size, self._timeout, self._max_payload, self._headers)
                self._opened[os.getpid()] = opened
                atexit.register(opened.abandon)
            return opened


class SyncProcessManager(ProcessManagerFace):
    """What one asks of a process manager, in blocking form."""

    def start_many(
        self,
        initial_data: Iterable[dict[str, Any]],
        batch_id: UUID | None = None,
        first_ordinal: int = 0,
        on_progress: Callable[[int], object] | None = None,
        *,
        chunk_size: int = CHUNK,
        conn: psycopg.Connection[Any] | None = None,
    ) -> int:
        """As BaseProcessManager.start_many.

        `initial_data` is read chunk by chunk in this thread, and `on_progress` called in it: they may block, and use
        the bus.
        """
        start = super().start_many
        return _in_chunks(
            initial_data,
            chunk_size,
            lambda chunk, done: start(chunk, batch_id, first_ordinal + done, chunk_size=chunk_size, conn=conn),
            on_progress,
        )


class SyncReplyQueue(ReplyQueueFace):
    """The replies at one address, in blocking form."""

    def __init__(self, here: Callable[[], "_Opened"], reply_to: str) -> None:
        super().__init__(lambda: here().proxy(ReplyQueue(here().pool, reply_to)))
        self.reply_to = reply_to
        self._here = here
        self._stops: set[SyncProxy] = set()

    def listen(
        self, limit: int = 100, lease: float = 30.0, *, poll_interval: float = 1.0, listen: bool = True
    ) -> Iterator[list[ReceivedReply]]:
        """As ReplyQueue.listen: `for replies in queue.listen()`, until the loop is left, or another calls `stop`."""
        refuse_in_loop("ReplyQueue.listen")
        event = asyncio.Event()
        stop = self._here().proxy(event)
        self._stops.add(stop)
        try:
            yield from self._find().listen(limit, lease, poll_interval=poll_interval, listen=listen, stop=event)
        finally:
            self._stops.discard(stop)

    def stop(self) -> None:
        """End every `listen` of this object once it is done with what it has; for threads and signal handlers."""
        for stop in list(self._stops):
            stop.set()


class _Opened:
    """What one process has open, and what it makes of it."""

    def __init__(
        self, dsn: str, app: App, max_size: int, timeout: float, max_payload: int, headers: Headers | None
    ) -> None:
        self.portal = Portal()
        try:
            self.pool: AsyncConnectionPool[Any] = self.portal.call(self._open, dsn, max_size, timeout)
        except BaseException:
            self.portal.close()
            raise
        self.managers = app.processes(self.pool)
        self.bus = self.proxy(CommandBus(self.pool, max_payload=max_payload, headers=headers))
        self.troubleshooting = self.proxy(TroubleshootingQueue(self.pool, processes=self.managers))
        self.processes = self.proxy(ProcessRepository(self.pool))

    def proxy(self, thing: Any) -> SyncProxy:
        """Return the blocking form of `thing`, which works on this loop."""
        return SyncProxy(thing, self.portal)

    def manager(self, wanted: type[BaseProcessManager] | str) -> SyncProxy:
        """Return the blocking form of a process manager."""
        for manager in self.managers:
            if manager.process_type == wanted or type(manager) is wanted:
                return self.proxy(manager)
        if isinstance(wanted, str):
            known = ", ".join(sorted(manager.process_type for manager in self.managers)) or "none"
            raise InvalidOperationError(
                f"the app has no process manager of type {wanted!r} (it has {known}): "
                "add it by app.add_process(...), and give the app by connect(dsn, app=app)"
            )
        return self.proxy(wanted(self.pool))

    def abandon(self) -> None:
        """When the interpreter ends: say good-bye to the server, as far as there is time for it."""
        self.portal.abandon(_LAST_SECONDS)

    async def _open(self, dsn: str, max_size: int, timeout: float) -> AsyncConnectionPool[Any]:
        async with await psycopg.AsyncConnection.connect(dsn) as conn:
            await check_schema(conn)
        pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
            dsn,
            min_size=1,
            max_size=max_size,
            timeout=timeout,
            open=False,
            check=AsyncConnectionPool.check_connection,  # a web application may be idle for long
            name="commandbus-sync",
        )
        self.portal.at_end(pool.close)
        await pool.open()
        return pool


def _in_chunks(
    items: Iterable[_Item],
    size: int,
    store: Callable[[list[_Item], int], int],
    on_progress: Callable[[int], object] | None,
) -> int:
    """Hand `items` on, `size` at a time, with how many were before; returns how many there were."""
    source = iter(items)
    count = 0
    while True:
        chunk = list(islice(source, max(size, 1)))
        if chunk or not count:  # of nothing as well, for what it says of its parameters
            count += store(chunk, count)
        if not chunk:
            return count
        if on_progress is not None:
            on_progress(count)
