"""The proxy between workers and server: each toxic, in each direction, against a server that answers each line."""

import asyncio
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from time import monotonic

import pytest
import pytest_asyncio

from pytest_commandbus.faults.network import PORT, Address, Applied, Proxy
from pytest_commandbus.faults.rules import Toxics

pytestmark = pytest.mark.asyncio
PATIENCE = 30.0


class Bench:
    """A proxy, the server behind it, and what that has heard."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.heard: list[str] = []
        self.clients: list[Client] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while line := await reader.readline():
                self.heard.append(line.decode().strip())
                writer.write(b"re: " + line)
        writer.close()

    async def client(self) -> "Client":
        client = Client(*await asyncio.open_unix_connection(f"{self.proxy.directory}/.s.PGSQL.{PORT}"))
        self.clients.append(client)
        return client


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def close(self) -> None:
        self._writer.close()

    def say(self, text: str) -> None:
        self._writer.write(text.encode() + b"\n")

    async def hear(self) -> str:
        """The next line, "" when the connection is gone."""
        async with asyncio.timeout(PATIENCE):
            try:
                return (await self._reader.readline()).decode().strip()
            except OSError:
                return ""

    async def ask(self, text: str) -> str:
        self.say(text)
        return await self.hear()


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    with tempfile.TemporaryDirectory() as folder:
        proxy = Proxy(Address(folder, PORT), seed=1)
        bench = Bench(proxy)
        server = await asyncio.start_unix_server(bench.serve, f"{folder}/.s.PGSQL.{PORT}")
        await proxy.start()
        yield bench
        for client in bench.clients:
            client.close()
        await proxy.close()
        server.close()
        assert not proxy.directory.exists()


async def test_without_toxics_all_goes_through_and_nobody_else_gets_in(bench: Bench) -> None:
    one, two = await bench.client(), await bench.client()
    assert [await one.ask("a"), await two.ask("b"), await one.ask("c")] == ["re: a", "re: b", "re: c"]
    assert stat.S_IMODE(Path(bench.proxy.directory).stat().st_mode) == 0o700


async def test_latency_delays_and_ends_at_once(bench: Bench) -> None:
    client = await bench.client()
    told: list[int] = []
    slow = Applied(Toxics(latency_ms=60, stream="upstream"), on_effect=lambda: told.append(1))
    bench.proxy.apply(slow)
    began = monotonic()
    assert await client.ask("a") == "re: a"
    assert monotonic() - began > 0.05
    assert told == [1]  # one way only
    bench.proxy.remove(slow)
    endless = Applied(Toxics(latency_ms=3_600_000))
    bench.proxy.apply(endless)
    client.say("b")
    bench.proxy.remove(endless)
    assert await client.hear() == "re: b"


async def test_a_black_hole_swallows_until_it_is_gone_and_the_connection_with_it(bench: Bench) -> None:
    client, idle = await bench.client(), await bench.client()
    assert await idle.ask("x") == "re: x"
    swallowed = asyncio.Event()
    hole = Applied(Toxics(timeout_ms=0), on_effect=swallowed.set)
    bench.proxy.apply(hole)
    client.say("a")
    await asyncio.wait_for(swallowed.wait(), PATIENCE)
    assert bench.heard == ["x"]
    bench.proxy.remove(hole)
    assert await client.hear() == ""
    assert await idle.ask("y") == "re: y"  # nothing of its was lost
    assert "a" not in bench.heard


async def test_a_black_hole_may_time_out(bench: Bench) -> None:
    bench.proxy.apply(Applied(Toxics(timeout_ms=10)))
    assert await (await bench.client()).ask("a") == ""


async def test_a_reset_downstream_loses_the_answer_of_what_was_done(bench: Bench) -> None:
    client = await bench.client()
    assert await client.ask("a") == "re: a"
    reset = Applied(Toxics(reset_peer=True, stream="downstream"), lines=bench.proxy.open_lines(None))
    bench.proxy.apply(reset)
    assert await client.ask("b") == ""
    assert bench.heard == ["a", "b"]
    assert await (await bench.client()).ask("c") == "re: c"  # it was for those that were open


async def test_a_reset_upstream_loses_the_question(bench: Bench) -> None:
    bench.proxy.apply(Applied(Toxics(reset_peer=True, stream="upstream")))
    assert await (await bench.client()).ask("a") == ""
    assert bench.heard == []


async def test_a_network_that_is_down_cuts_and_refuses_until_it_is_up(bench: Bench) -> None:
    client = await bench.client()
    assert await client.ask("a") == "re: a"
    down = Applied(Toxics(down=True))
    bench.proxy.apply(down)
    assert await client.hear() == ""
    with suppress(OSError):
        assert await (await bench.client()).ask("b") == ""
    bench.proxy.remove(down)
    assert await (await bench.client()).ask("c") == "re: c"
    assert bench.heard == ["a", "c"]


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="the peer's process is told by Linux")
async def test_toxics_may_be_for_one_process(bench: Bench) -> None:
    client = await bench.client()
    assert await client.ask("a") == "re: a"
    bench.proxy.apply(Applied(Toxics(down=True), pid=os.getpid() + 1))
    assert await client.ask("b") == "re: b"
    bench.proxy.apply(Applied(Toxics(down=True), pid=os.getpid()))
    assert await client.hear() == ""


async def test_a_server_that_is_away_is_away_behind_the_proxy_too() -> None:
    proxy = Proxy(Address(tempfile.gettempdir(), 1), seed=1)
    await proxy.start()
    try:
        client = await Bench(proxy).client()
        assert await client.hear() == ""
        client.close()
    finally:
        await proxy.close()
