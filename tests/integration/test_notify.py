"""The listener: wakes on a notification, notices a lost connection, and mends itself."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import psycopg
import pytest
from psycopg import sql

from commandbus.notify import Listener, ListenRefusedError, channel

HOSTILE = ["orders", "x; DROP TABLE t; --", 'quo"te', "ünïcode", "d" * 63]


@asynccontextmanager
async def listening(listener: Listener) -> AsyncIterator[None]:
    task = asyncio.create_task(listener.run())
    try:
        await asyncio.wait_for(listener.ready.wait(), 10)
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def until(holds: Callable[[], bool]) -> None:
    """Poll until `holds()`, for at most five seconds."""
    deadline = monotonic() + 5
    while not holds():
        assert monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.01)


def connector(dsn: str) -> Callable[[], Awaitable[psycopg.AsyncConnection[Any]]]:
    return lambda: psycopg.AsyncConnection.connect(dsn)


async def notify(dsn: str, name: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await conn.execute("SELECT pg_notify(%s, '')", (name,))


async def terminate_listeners(dsn: str, name: str) -> int:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        cursor = await conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = %s",
            (sql.SQL("LISTEN {}").format(sql.Identifier(name)).as_string(conn),),
        )
        return cursor.rowcount


class Proxy:
    """Forwards bytes to the server's socket; `freeze` keeps the connection open but forwards nothing more."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.connections = 0
        self._open = asyncio.Event()
        self._open.set()

    def freeze(self) -> None:
        self._open.clear()

    def thaw(self) -> None:
        self._open.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        server_reader, server_writer = await asyncio.open_unix_connection(self.target)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(reader, server_writer))
                group.create_task(self._forward(server_reader, writer))
        finally:
            server_writer.close()
            writer.close()

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            await self._open.wait()
            sink.write(data)
        sink.close()


@pytest.mark.parametrize("domain", HOSTILE)
def test_the_channel_is_the_one_that_the_database_computes(migrated_dsn: str, domain: str) -> None:
    with psycopg.connect(migrated_dsn) as conn:
        assert conn.execute("SELECT commandbus.channel(%s)", (domain,)).fetchone() == (channel(domain),)
    assert len(channel(domain).encode()) < 63


@pytest.mark.asyncio
async def test_a_notification_wakes_within_50_ms(migrated_dsn: str) -> None:
    woken = asyncio.Event()
    async with listening(Listener(connector(migrated_dsn), channel("orders"), woken.set)):
        await asyncio.wait_for(woken.wait(), 5)  # the wake-up of the start
        delays = []
        async with await psycopg.AsyncConnection.connect(migrated_dsn, autocommit=True) as conn:
            for _ in range(9):
                woken.clear()
                started = monotonic()
                await conn.execute("SELECT pg_notify(commandbus.channel('orders'), '')")
                await asyncio.wait_for(woken.wait(), 5)
                delays.append(monotonic() - started)
        assert sorted(delays)[4] < 0.05


@pytest.mark.asyncio
async def test_another_channel_does_not_wake(migrated_dsn: str) -> None:
    woken = asyncio.Event()
    async with listening(Listener(connector(migrated_dsn), channel("orders"), woken.set)):
        woken.clear()
        await notify(migrated_dsn, channel("invoices"))
        await notify(migrated_dsn, "commandbus_end")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(woken.wait(), 0.2)


@pytest.mark.asyncio
async def test_a_waiting_reply_wakes_only_who_looks_for_replies(migrated_dsn: str) -> None:
    commands, replies = asyncio.Event(), asyncio.Event()
    async with listening(Listener(connector(migrated_dsn), channel("shop"), commands.set, replies.set)):
        assert commands.is_set()  # either may have been there before
        assert replies.is_set()
        async with await psycopg.AsyncConnection.connect(migrated_dsn, autocommit=True) as conn:
            for payload, told, other in (("reply", replies, commands), ("", commands, replies)):
                commands.clear()
                replies.clear()
                await conn.execute("SELECT pg_notify(commandbus.channel('shop'), %s)", (payload,))
                await asyncio.wait_for(told.wait(), 5)
                assert not other.is_set()


@pytest.mark.asyncio
async def test_a_terminated_connection_is_made_again_and_the_caller_polls_once(
    migrated_dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    wakes: asyncio.Queue[None] = asyncio.Queue()
    listener = Listener(connector(migrated_dsn), channel("lost"), lambda: wakes.put_nowait(None))
    with caplog.at_level(logging.WARNING, logger="commandbus.notify"):
        async with listening(listener):
            await asyncio.wait_for(wakes.get(), 5)
            assert await terminate_listeners(migrated_dsn, channel("lost")) == 1
            await asyncio.wait_for(wakes.get(), 10)  # nobody notified: this is the wake-up to poll
            assert listener.ready.is_set()
            await notify(migrated_dsn, channel("lost"))
            await asyncio.wait_for(wakes.get(), 10)
            assert wakes.empty()
    assert "connecting again" in caplog.text
    assert not listener.ready.is_set()


@pytest.mark.asyncio
async def test_a_server_that_refuses_for_a_while_is_asked_again_with_growing_delays(migrated_dsn: str) -> None:
    asked: list[float] = []

    async def connect() -> psycopg.AsyncConnection[Any]:
        asked.append(monotonic())
        if len(asked) < 5:
            raise psycopg.OperationalError("the server is starting up")
        return await psycopg.AsyncConnection.connect(migrated_dsn)

    async with listening(Listener(connect, channel("late"), lambda: None)):
        assert len(asked) == 5
    assert asked[4] - asked[3] > 0.2  # half of 8 times the first delay
    assert asked[1] - asked[0] < 0.2


@pytest.mark.asyncio
async def test_a_half_open_connection_is_noticed_by_the_heartbeat(migrated_dsn: str, tmp_path: Any) -> None:
    parts = psycopg.conninfo.conninfo_to_dict(migrated_dsn)
    proxy = Proxy(f"{parts['host']}/.s.PGSQL.{parts.get('port', 5432)}")
    server = await asyncio.start_unix_server(proxy.serve, tmp_path / ".s.PGSQL.5432")
    through_proxy = psycopg.conninfo.make_conninfo(migrated_dsn, host=str(tmp_path), port=5432)
    wakes: asyncio.Queue[None] = asyncio.Queue()
    listener = Listener(
        connector(through_proxy),
        channel("half-open"),
        lambda: wakes.put_nowait(None),
        heartbeat=0.1,
        heartbeat_timeout=0.3,
    )
    try:
        async with listening(listener):
            await asyncio.wait_for(wakes.get(), 5)
            proxy.freeze()
            await until(lambda: not listener.ready.is_set())
            proxy.thaw()
            await asyncio.wait_for(wakes.get(), 5)
            assert listener.ready.is_set()
    finally:
        server.close()


@pytest.mark.asyncio
async def test_an_idle_listener_stays_on_one_connection_through_heartbeats(migrated_dsn: str) -> None:
    made = 0

    async def connect() -> psycopg.AsyncConnection[Any]:
        nonlocal made
        made += 1
        return await psycopg.AsyncConnection.connect(migrated_dsn)

    woken = asyncio.Event()
    async with listening(Listener(connect, channel("idle"), woken.set, heartbeat=0.02)):
        heartbeat = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE %s AND datname = current_database()"
        asks = ["%'transaction_read_only')"]
        with psycopg.connect(migrated_dsn, autocommit=True) as conn:
            await until(lambda: conn.execute(heartbeat, asks).fetchone() == (1,))
        woken.clear()
        await notify(migrated_dsn, channel("idle"))
        await asyncio.wait_for(woken.wait(), 5)
    assert made == 1


@pytest.mark.asyncio
async def test_a_connection_that_a_proxy_shares_is_refused_loudly(migrated_dsn: str) -> None:
    class ThroughPooler(psycopg.AsyncConnection[Any]):
        """What a client of a pooling proxy sees: a process id that no server process has."""

        @property
        def info(self) -> Any:
            return type("Info", (), {"backend_pid": 1})()

    listener = Listener(lambda: ThroughPooler.connect(migrated_dsn), channel("pooled"), lambda: None)
    with pytest.raises(ListenRefusedError, match="listen=False"):
        await asyncio.wait_for(listener.run(), 10)
