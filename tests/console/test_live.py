"""The one broadcaster: what it tells, to how many, at what cost; its streams over a real socket."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest
from psycopg_pool import AsyncConnectionPool
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from commandbus import App, CommandBus
from commandbus.notify import ListenRefusedError
from commandbus.web import ConsoleSettings, create_console
from commandbus.web import live as live_module
from commandbus.web.live import Live, Snapshot, TooManyWatchersError
from pytest_commandbus.database import Database
from tests.console.conftest import PATIENCE, Served


@pytest.fixture
def console_app() -> App:
    app = App(name="shop")

    @app.handler("orders", "PlaceOrder")
    async def place(command: Any, context: Any) -> None: ...

    return app


@asynccontextmanager
async def opened(live: Live) -> AsyncIterator[Live]:
    try:
        yield live
    finally:
        await live.close()


async def until(subscription: Any, wanted: Callable[[Snapshot], bool]) -> Snapshot:
    async with asyncio.timeout(PATIENCE):
        async for snapshot in subscription:
            if wanted(snapshot):
                return snapshot
    raise AssertionError("the stream ended")


async def send(pool: AsyncConnectionPool[Any]) -> None:
    await CommandBus(pool).send(domain="orders", command_type="PlaceOrder", command_id=uuid4(), data={})


@pytest.mark.asyncio
@pytest.mark.parametrize("listen", [True, False], ids=["notified", "polling"])
async def test_watchers_hear_of_what_is_sent(cb_pool: Any, listen: bool) -> None:
    poll = 3_600.0 if listen else 0.05  # by notification alone, or by polling alone
    async with opened(Live(cb_pool, ["orders"], interval=0.01, poll_interval=poll, listen=listen)) as live:
        async with live.subscribe() as first, live.subscribe() as second:
            before = await until(first, lambda snapshot: True)
            assert before.status.domain("orders").backlog == 0
            if listen:
                await _until_listening(cb_pool)
            await send(cb_pool)
            seen = await asyncio.gather(
                *(until(s, lambda s: s.status.domain("orders").backlog == 1) for s in (first, second))
            )
    assert seen[0] is seen[1], "one look serves all who watch"
    told = json.loads(seen[0].json)
    assert (told["totals"]["backlog"], told["domains"][0]["domain"]) == (1, "orders")


async def _until_listening(pool: AsyncConnectionPool[Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%%'"
    while time.monotonic() < deadline:
        async with pool.connection() as conn:
            row = await (await conn.execute(query)).fetchone()
        if row and row[0]:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("nobody listens")


@pytest.mark.asyncio
async def test_where_listening_is_refused_it_polls(cb_pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from commandbus import notify

    async def refused(*_: Any) -> None:
        raise ListenRefusedError

    monkeypatch.setattr(notify.Listener, "_subscribe", refused)  # as behind a proxy that pools transactions
    async with (
        opened(Live(cb_pool, ["orders"], interval=0.01, poll_interval=0.05)) as live,
        live.subscribe() as watcher,
    ):
        await send(cb_pool)
        await until(watcher, lambda snapshot: snapshot.status.domain("orders").backlog == 1)


@pytest.mark.asyncio
async def test_many_watchers_cost_what_one_costs_and_nobody_costs_nothing(
    cb_pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    real = live_module.status

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal looks
        looks += 1
        return await real(*args, **options)

    monkeypatch.setattr(live_module, "status", counted)
    async with opened(Live(cb_pool, [], max_subscribers=50, interval=0.02, poll_interval=0.02)) as live:
        watchers = [live.subscribe() for _ in range(50)]
        with pytest.raises(TooManyWatchersError, match="50 live streams"):
            live.subscribe()
        last = await until(watchers[0], lambda snapshot: snapshot.number >= 5)
        assert looks <= last.number + 1, "the next look may be under way"
        slow = await anext(watchers[1])  # has not looked until now: only the newest is kept
        assert slow.number >= 5
        for watcher in watchers:
            await watcher.aclose()
        assert live.subscribers == 0
        told = looks
        assert (await live.now()).number <= told + 1
        async with live.subscribe() as again:
            await until(again, lambda snapshot: snapshot.number > told)
    with pytest.raises(StopAsyncIteration):
        await anext(live.subscribe())


@pytest.mark.asyncio
async def test_a_look_that_fails_is_tried_again(cb_pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real, failures = live_module.status, iter([OSError("gone")] * 3)

    async def failing(*args: Any, **options: Any) -> Any:
        if (error := next(failures, None)) is not None:
            raise error
        return await real(*args, **options)

    monkeypatch.setattr(live_module, "status", failing)
    async with opened(Live(cb_pool, [], interval=0.01, poll_interval=0.01)) as live, live.subscribe() as watcher:
        assert (await until(watcher, lambda _: True)).number == 1
    assert next(failures, None) is None


# --- over a socket


@pytest.fixture
def served(console_app: App, cb_database: Database) -> Iterator[Served]:
    def make(pool: AsyncConnectionPool[Any]) -> Any:
        return create_console(console_app, pool, ConsoleSettings(max_sockets=3))

    with Served(cb_database.dsn, make) as found:
        yield found


def session_of(served: Served) -> str:
    answer = httpx.get(served.url, timeout=PATIENCE)
    return "; ".join(f"{name}={value}" for name, value in answer.cookies.items())


def talk(served: Served, **headers: str) -> ClientConnection:
    url = served.url.replace("http", "ws") + "/live/socket"
    origin = headers.pop("origin", served.url)
    return connect(url, origin=origin, additional_headers=headers, open_timeout=PATIENCE, proxy=None)  # type: ignore[arg-type]


def until_closed(socket: ClientConnection) -> None:
    with pytest.raises(ConnectionClosed):
        exhaust(lambda: socket.recv(PATIENCE))


def exhaust(receive: Callable[[], Any]) -> None:
    while True:
        receive()


def test_streams_tell_snapshots_to_sessions_of_our_own_origin_and_end_with_the_console(
    console_app: App, cb_database: Database
) -> None:
    with Served(cb_database.dsn, lambda pool: create_console(console_app, pool)) as served:
        cookie = session_of(served)
        host = served.url.removeprefix("http://")
        refusals: list[dict[str, str]] = [{}, {"cookie": "commandbus_1=x"}]
        refusals += [
            {"cookie": cookie, "origin": origin} for origin in ("http://evil.example", "null", "http://localhost:1")
        ]
        for headers in refusals:
            assert httpx.get(f"{served.url}/live/events", headers=headers, timeout=PATIENCE).status_code == 403, headers
            with pytest.raises(InvalidStatus) as refused:
                talk(served, **headers)
            assert refused.value.response.status_code == 403
        with pytest.raises(InvalidStatus):
            talk(served, cookie=cookie, host="evil.example")
        headers = {"cookie": cookie, "origin": f"http://{host}"}
        with httpx.stream("GET", f"{served.url}/live/events", headers=headers, timeout=PATIENCE) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = answer.iter_lines()
            data = next(line for line in lines if line.startswith("data: "))
            assert json.loads(data.removeprefix("data: "))["totals"]["backlog"] == 0
            with talk(served, cookie=cookie) as socket:
                socket.send("whatever it says")
                told = json.loads(socket.recv(PATIENCE))
                assert set(told) == set(json.loads(data.removeprefix("data: ")))
                ended = threading.Thread(target=lambda: list(lines))
                ended.start()
                served.stop()
                until_closed(socket)
                ended.join(PATIENCE)
                assert not ended.is_alive(), "the stream did not end"


def test_there_are_only_so_many_streams_and_who_leaves_makes_room(served: Served) -> None:
    cookie = session_of(served)
    headers = {"cookie": cookie}
    live = served.console.live

    def until_watched_by(count: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while live.subscribers != count:
            assert time.monotonic() < deadline, f"{live.subscribers} watch, not {count}"
            time.sleep(0.02)

    url = f"{served.url}/live/events"
    with httpx.stream("GET", url, headers=headers, timeout=PATIENCE), talk(served, **headers), talk(served, **headers):
        until_watched_by(3)
        assert httpx.get(url, headers=headers, timeout=PATIENCE).status_code == 503
        with pytest.raises(InvalidStatus):
            talk(served, **headers)
    until_watched_by(0)
    with talk(served, **headers) as socket:
        assert json.loads(socket.recv(PATIENCE))["totals"]["backlog"] == 0
        socket.send("x" * 5_000)  # more than anybody has to tell
        until_closed(socket)
    until_watched_by(0)
