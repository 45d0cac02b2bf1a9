"""Wake an idle worker within milliseconds of a send, a consumer within milliseconds of a reply: one LISTEN connection
that mends itself.

A wake-up is only ever a hint. It may come twice, and it is lost while the connection is being re-made; so `wake` is
also called each time LISTEN comes into force, and the caller polls besides.
"""

import asyncio
import hashlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from types import TracebackType
from typing import Any, LiteralString, Self

import psycopg
from psycopg import sql

from commandbus._core.connection import Connection, Pool
from commandbus.errors import CommandBusError
from commandbus.jitter import factor

_log = logging.getLogger(__name__)

_LISTEN: LiteralString = "LISTEN {}"
_BACKEND_PID: LiteralString = "SELECT pg_catalog.pg_backend_pid()"
_HEARTBEAT: LiteralString = "SELECT pg_catalog.current_setting('transaction_read_only')"

_REPLY = "reply"  # what a notification carries that is of a waiting reply; the others are of commands
_FIRST_DELAY, _LONGEST_DELAY = 0.05, 2.0  # seconds between attempts to connect again


class ListenRefusedError(CommandBusError):
    """Notifications cannot reach this connection, since a pooling proxy hands its server session to others."""

    def __init__(self) -> None:
        super().__init__(
            "a pooling proxy stands between this program and PostgreSQL, where LISTEN is lost: "
            "run the worker, router or consumer with listen=False (it then polls), "
            "or give it a DSN that leads to PostgreSQL itself"
        )


def channel(domain: str) -> str:
    """The NOTIFY channel of `domain`, as the SQL function commandbus.channel computes it; hashed, as 63 bytes are all
    that LISTEN looks at."""
    return "commandbus_" + hashlib.md5(domain.encode(), usedforsecurity=False).hexdigest()


def reply_channel(reply_to: str) -> str:
    """The NOTIFY channel of the replies at an address; no domain has a colon."""
    return channel(f"reply_to:{reply_to}")


async def connect_beside(pool: Pool) -> Connection:
    """Open a connection as the pool's are, but not one of them: for LISTEN, which lasts as long as its user."""
    conninfo = pool.conninfo
    if callable(conninfo):
        given = conninfo()
        conninfo = given if isinstance(given, str) else await given
    kwargs = pool.kwargs
    if callable(kwargs):
        more = kwargs()
        kwargs = more if isinstance(more, dict) else await more
    conn: Connection = await pool.connection_class.connect(conninfo, **{**(kwargs or {}), "autocommit": True})
    return conn


class Listener:
    """Calls `wake()` at each notification on one of `channels`, and each time listening (re)starts.

    With `on_reply`, a notification that a reply waits calls that instead, and a start calls both.

    `connect` gives a new connection that the listener then owns: straight to PostgreSQL, not borrowed from a pool, with
    TCP keepalives as its conninfo says. Every `heartbeat` seconds without a notification the connection is tried; one
    that does not answer within `heartbeat_timeout` seconds is dropped and made again. `ready` is set while LISTEN is in
    force.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[psycopg.AsyncConnection[Any]]],
        channels: str | Sequence[str],
        wake: Callable[[], None],
        on_reply: Callable[[], None] | None = None,
        *,
        heartbeat: float = 10.0,
        heartbeat_timeout: float = 5.0,
    ) -> None:
        self._connect = connect
        self._channels = (channels,) if isinstance(channels, str) else tuple(channels)
        self._wake = wake
        self._on_reply = on_reply
        self._heartbeat = heartbeat
        self._heartbeat_timeout = heartbeat_timeout
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Listen until cancelled; a lost connection is made again after a jittered delay of at most two seconds.

        Raises ListenRefusedError when a pooling proxy would lose the notifications.
        """
        delay = _FIRST_DELAY
        while True:
            started = monotonic()
            try:
                await self._listen()
            except (psycopg.OperationalError, psycopg.InterfaceError, OSError) as error:
                _log.warning("listening on %s stopped, connecting again: %s", ", ".join(self._channels), error)
            if monotonic() - started > 2 * _LONGEST_DELAY:  # it had worked for a while
                delay = _FIRST_DELAY
            await asyncio.sleep(delay * factor(0.5, 1.0))
            delay = min(2 * delay, _LONGEST_DELAY)

    async def _listen(self) -> None:
        """Listen on one connection until it is lost, which raises psycopg's or the operating system's error."""
        conn = await self._connect()
        try:
            await conn.set_autocommit(True)
            mode = await self._ask(conn, _HEARTBEAT)
            conn.add_notify_handler(lambda notification: self._tell(notification.payload))  # that comes with an answer
            await self._subscribe(conn)
            self.ready.set()
            self._wake()  # whatever was sent before this moment went unheard
            if self._on_reply is not None:
                self._on_reply()
            while True:
                if not await self._hear(conn) and await self._ask(conn, _HEARTBEAT) != mode:
                    raise psycopg.OperationalError("the server takes no writes any more")
        finally:
            self.ready.clear()
            await conn.close()

    async def _hear(self, conn: psycopg.AsyncConnection[Any]) -> bool:
        """Tell of what the server sends, as soon as it is there; False when it sent nothing in `heartbeat` seconds.

        Not by conn.notifies(), which wakes up ten times a second, and takes several turns of the loop to tell.
        """
        loop, descriptor, pgconn = asyncio.get_running_loop(), conn.fileno(), conn.pgconn
        heard: asyncio.Future[None] = loop.create_future()

        def receive() -> None:
            try:
                pgconn.consume_input()
                while (notification := pgconn.notifies()) is not None:
                    self._tell(notification.extra.decode(errors="replace"))
            except psycopg.Error as error:
                if not heard.done():
                    heard.set_exception(error)
            else:
                if not heard.done():
                    heard.set_result(None)

        loop.add_reader(descriptor, receive)
        try:
            async with asyncio.timeout(self._heartbeat):
                await heard
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(descriptor)
        return True

    def _tell(self, payload: str) -> None:
        if payload == _REPLY and self._on_reply is not None:
            self._on_reply()
        else:
            self._wake()

    async def _subscribe(self, conn: psycopg.AsyncConnection[Any]) -> None:
        # a proxy makes up the process id that it tells its clients, while the server knows the true one
        if await self._ask(conn, _BACKEND_PID) != conn.info.backend_pid:
            raise ListenRefusedError
        for name in self._channels:
            await conn.execute(sql.SQL(_LISTEN).format(sql.Identifier(name)))

    async def _ask(self, conn: psycopg.AsyncConnection[Any], question: LiteralString) -> Any:
        """The one value that answers `question`; raises OperationalError when the answer takes too long."""
        # a cancelled query would first ask the server to end it, which takes seconds when nobody answers
        alarm = asyncio.get_running_loop().call_later(self._heartbeat_timeout, _hang_up, conn)
        try:
            row = await (await conn.execute(question)).fetchone()
        finally:
            alarm.cancel()
        return row[0] if row else None


def _hang_up(conn: psycopg.AsyncConnection[Any]) -> None:
    """End the connection on our side, so that whoever waits for the server sees it closed."""
    with socket.socket(fileno=os.dup(conn.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


class Alarm:
    """Says when to look again: after a notification on one of `channels`, `poll_interval` seconds, or at a stop.

    With `listen` False it goes by the clock alone. Used as `async with Alarm(...) as alarm: while await alarm.wait():`.
    """

    def __init__(
        self,
        pool: Pool,
        channels: Sequence[str],
        *,
        poll_interval: float,
        listen: bool = True,
        stop: asyncio.Event | None = None,
    ) -> None:
        if not poll_interval > 0:
            raise ValueError(f"poll_interval must be above 0 seconds, not {poll_interval}")
        self._poll_interval = poll_interval
        self._stop = stop or asyncio.Event()
        self._woken = asyncio.Event()
        self._woken.set()  # what is there already went unheard
        self._listener = Listener(lambda: connect_beside(pool), channels, self._woken.set) if listen else None
        self._tasks: list[asyncio.Task[Any]] = []

    async def __aenter__(self) -> Self:
        self._tasks.append(asyncio.create_task(self._stop.wait(), name="commandbus stop"))
        if self._listener is not None:
            self._tasks.append(asyncio.create_task(self._listener.run(), name="commandbus listen"))
        for task in self._tasks:
            task.add_done_callback(lambda _: self._woken.set())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def wait(self) -> bool:
        """Sleep until it is time to look, at once the first time; False when it was stopped.

        Raises ListenRefusedError as Listener.run does.
        """
        try:
            async with asyncio.timeout(self._poll_interval):
                await self._woken.wait()
        except TimeoutError:
            pass
        self._woken.clear()
        for task in self._tasks[1:]:
            if task.done():
                task.result()
        return not self._stop.is_set()
