"""Live progress: the hub with clients of the test's own, then real sockets."""

import asyncio
import dataclasses
import gc
import json
import time
import tracemalloc
from uuid import UUID, uuid4

import pytest
import websockets
from batch_report_runner import tokens
from batch_report_runner.metrics import Metrics
from batch_report_runner.throttle import Throttle
from batch_report_runner.watching import Hub
from conftest import serving
from websockets.extensions.permessage_deflate import PerMessageDeflate

BATCH = UUID(int=1)


class Reader:
    """Keeps what it is told, or is stuck."""

    def __init__(self, is_stuck: bool = False) -> None:
        self.told = []
        self.is_stuck = is_stuck

    async def send_text(self, data: str) -> None:
        if self.is_stuck:
            await asyncio.Event().wait()
        self.told.append(json.loads(data))


class Source:
    """A batch whose progress the test moves on."""

    def __init__(self) -> None:
        self.state = {"status": "PROCESSING", "processed": 0}
        self.reads = 0

    async def read(self, batch_id: UUID) -> dict:
        self.reads += 1
        return dict(self.state)


def make_hub(source: Source, **more) -> Hub:
    options = {"look_every": 0.001, "patience": 0.05, "throttle": lambda: Throttle(0, 0)} | more
    return Hub(source.read, Metrics(), **options)


async def test_all_are_told_by_one_broadcaster_a_late_one_at_once():
    source = Source()
    hub = make_hub(source, throttle=lambda: Throttle(1000, 2000), clock=lambda: 0.0)  # one message, then silence
    early, late = Reader(), Reader()
    first = asyncio.create_task(hub.watch(BATCH, early))
    async with asyncio.timeout(60):
        while not early.told:
            await asyncio.sleep(0)
        second = asyncio.create_task(hub.watch(BATCH, late))
        while not late.told:
            await asyncio.sleep(0)
        assert (hub.watched, hub.broadcasters) == (2, 1)
        assert late.told == early.told
        source.state = {"status": "COMPLETED", "processed": 9}
        assert await asyncio.gather(first, second) == [True, True]
    assert early.told[-1] == late.told[-1] == source.state
    assert (hub.watched, hub.broadcasters) == (0, 0)
    assert hub._latest == {}


async def test_a_slow_client_is_dropped_and_keeps_nobody_waiting():
    source = Source()
    hub = make_hub(source)
    quick, stuck = Reader(), Reader(is_stuck=True)
    watching = asyncio.create_task(hub.watch(BATCH, quick))
    async with asyncio.timeout(60):
        assert await hub.watch(BATCH, stuck) is False
        count = len(quick.told)
        while len(quick.told) <= count + 3:  # the others are told all the while, and afterwards
            await asyncio.sleep(0)
    assert hub.watched == 1
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await hub.close()
    assert (hub.watched, hub.broadcasters) == (0, 0)


@pytest.mark.slow
async def test_memory_stays_flat_over_ten_minutes_of_updates():
    """600 updates for clients that read, and one that never does; all keep one message at most."""
    source, now = Source(), [0.0]
    hub = make_hub(source, look_every=0, patience=600, throttle=lambda: Throttle(1, 2), clock=lambda: now[0])

    class Forgetful(Reader):
        async def send_text(self, data: str) -> None:
            self.told = [data]

    watching = [asyncio.create_task(hub.watch(BATCH, Forgetful())) for _ in range(20)]
    watching.append(asyncio.create_task(hub.watch(BATCH, Reader(is_stuck=True))))

    async def minutes(count: int) -> int:
        for _ in range(60 * count):
            now[0] += 1
            source.state["processed"] += 1
            reads = source.reads
            while source.reads < reads + 2:
                await asyncio.sleep(0)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        async with asyncio.timeout(120):
            warm = await minutes(2)
            assert await minutes(10) - warm < 100_000  # a message is about 50 bytes; 600 of 21 clients were 630,000
    finally:
        tracemalloc.stop()
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)


async def test_a_source_that_fails_is_asked_again():
    source = Source()
    broken = [2]

    async def read(batch_id: UUID) -> dict:
        if broken[0]:
            broken[0] -= 1
            raise OSError("the database is away")
        return {"status": "COMPLETED"}

    source.read = read
    reader = Reader()
    assert await asyncio.wait_for(make_hub(source).watch(BATCH, reader), 60) is True
    assert reader.told == [{"status": "COMPLETED"}]


def with_token(url: str, token: str) -> str:
    return url.partition("?")[0] + f"?token={token}"


async def closing(url: str) -> int:
    async with websockets.connect(url, open_timeout=60) as socket:
        with pytest.raises(websockets.ConnectionClosed):
            await asyncio.wait_for(socket.recv(), 60)
        return socket.close_code


async def test_a_socket_tells_the_progress_from_wherever_it_is(site, cb_worker_pool):
    begun = await site.start(40)
    async with websockets.connect(begun["websocket_url"], open_timeout=60) as early:
        state = json.loads(await asyncio.wait_for(early.recv(), 60))
        assert (state["status"], state["processed"], state["total"], state["percentage"]) == ("PROCESSING", 0, 40, 0)
        assert any(isinstance(extension, PerMessageDeflate) for extension in early.protocol.extensions)
        async with websockets.connect(begun["websocket_url"], open_timeout=60) as late:
            assert json.loads(await asyncio.wait_for(late.recv(), 60))["total"] == 40
            async with cb_worker_pool(workers=1):
                last = [json.loads(message) async for message in late][-1]
        assert (last["status"], last["processed"], last["succeeded"]) == ("COMPLETED", 40, 40)
        assert late.close_code == 1000
        seen = [json.loads(message)["processed"] async for message in early]
        assert seen == sorted(seen)
    async with websockets.connect(begun["websocket_url"], open_timeout=60) as after:  # again, when all is over
        assert json.loads(await asyncio.wait_for(after.recv(), 60))["status"] == "COMPLETED"
    async with asyncio.timeout(60):
        while site.state.hub.watched or site.state.socket_limit.count:
            await asyncio.sleep(0.01)


async def test_who_may_not_watch_is_told_so_with_4003(site, settings):
    begun = await site.start(1)
    batch, secret, soon = UUID(begun["batch_id"]), settings.secret, time.time() + 600
    url = begun["websocket_url"]
    wrong = [
        tokens.issue("a guess", batch, "ann", soon),  # wrong
        tokens.issue(secret, batch, "ann", time.time() - 1),  # expired
        tokens.issue(secret, uuid4(), "ann", soon),  # of another batch
        tokens.issue(secret, batch, "bob", soon),  # signed by us, for somebody whose batch it is not
        "",
    ]
    assert [await closing(with_token(url, token)) for token in wrong] == [4003] * len(wrong)
    nowhere = uuid4()
    token = tokens.issue(secret, nowhere, "ann", soon)
    assert await closing(with_token(url.replace(str(batch), str(nowhere)), token)) == 4003
    assert await closing(with_token(url.replace(str(batch), "1%20OR%201=1"), token)) == 4003


async def test_sockets_by_user_are_limited_and_a_proxy_s_tls_is_known(settings, leads_dsn):
    few = dataclasses.replace(settings, sockets_per_user=1)
    async with serving(few, leads_dsn) as site:
        begun = await site.start(1)
        async with websockets.connect(begun["websocket_url"], open_timeout=60) as only:
            await asyncio.wait_for(only.recv(), 60)
            assert await closing(begun["websocket_url"]) == 4029
            async with site.client() as client:
                assert "report_websocket_connections 1.0" in (await client.get("/metrics")).text
        async with site.client() as client:
            behind = {"x-forwarded-proto": "https"}
            state = (await client.get(f"/api/batch/{begun['batch_id']}/status", headers=behind)).json()
            assert state["websocket_url"].startswith("wss://127.0.0.1:")


@pytest.mark.slow
async def test_a_thousand_clients_and_a_hundred_that_vanish(settings, leads_dsn, cb_worker_pool):
    wide = dataclasses.replace(settings, sockets_per_user=2000)
    async with serving(wide, leads_dsn) as site:
        begun = await site.start(100)
        opening = asyncio.Semaphore(50)

        async def connect():
            async with opening:
                socket = await websockets.connect(begun["websocket_url"], open_timeout=120, ping_interval=None)
            await asyncio.wait_for(socket.recv(), 120)
            return socket

        sockets = await asyncio.gather(*(connect() for _ in range(1000)))
        assert (site.state.hub.watched, site.state.hub.broadcasters) == (1000, 1)
        for socket in sockets[:100]:
            socket.transport.abort()  # no goodbye
        async with asyncio.timeout(120):
            while site.state.hub.watched > 900:
                await asyncio.sleep(0.05)

        async def until_the_end(socket) -> str:
            return json.loads([message async for message in socket][-1])["status"]

        async with cb_worker_pool(workers=1):
            ends = await asyncio.wait_for(asyncio.gather(*map(until_the_end, sockets[100:])), 200)
        assert set(ends) == {"COMPLETED"}
        async with asyncio.timeout(60):
            while site.state.hub.watched or site.state.socket_limit.count:
                await asyncio.sleep(0.05)
        assert site.state.hub.broadcasters == 0
        assert site.state.metrics.sockets._value.get() == 0
