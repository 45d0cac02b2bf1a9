"""Portals and proxies: what is async on the loop of another thread, in blocking form."""

import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from commandbus import InvalidOperationError
from commandbus.blocking.caller import Listener
from commandbus.sync import Portal, SyncProxy


@pytest.fixture
def portal() -> Iterator[Portal]:
    with Portal() as portal:
        yield portal
        assert portal.call(lambda: "alive") == "alive"


class Outcome(BaseException):
    """What a test framework raises."""


class Counter:
    """Something async."""

    def __init__(self) -> None:
        self.step = 1
        self.is_closed = False

    async def add(self, value: int) -> int:
        await asyncio.sleep(0)
        return value + self.step

    def clone(self) -> "Counter":
        return Counter()

    async def count(self, upto: int) -> AsyncIterator[int]:
        try:
            for n in range(upto):
                yield n
        finally:
            self.is_closed = True


async def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("error", [ValueError("no"), Outcome("no"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_whatever_a_call_raises_is_raised_here_and_leaves_the_loop_alive(portal: Portal, error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        portal.call(fail, error)
    assert raised.value is error


def test_a_call_that_is_cancelled_on_the_loop_is_an_ordinary_error(portal: Portal) -> None:
    with pytest.raises(concurrent.futures.CancelledError):
        portal.call(fail, asyncio.CancelledError())


def test_context_variables_go_along(portal: Portal) -> None:
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("mine")
    assert portal.call(variable.get) == "mine"


def test_a_listener_is_called_by_the_thread_that_waits(portal: Portal) -> None:
    heard: list[tuple[int, bool]] = []
    here = threading.get_ident()

    async def tell(listener: Any) -> int:
        for n in (1, 2):
            assert listener(n) is None
            await asyncio.sleep(0)
        return threading.get_ident()

    there = portal.call(tell, Listener(lambda n: heard.append((n, threading.get_ident() == here))))
    assert heard == [(1, True), (2, True)]
    assert there != here


def test_a_context_manager_is_entered_and_left_in_one_task(portal: Portal) -> None:
    tasks: list[Any] = []

    @asynccontextmanager
    async def manager() -> AsyncIterator[str]:
        async with asyncio.timeout(60):  # refuses to be left by another task
            tasks.append(asyncio.current_task())
            yield "value"
            tasks.append(asyncio.current_task())

    with portal.enter(manager()) as value:
        assert value == "value"
    assert tasks[0] is tasks[1]


@pytest.mark.parametrize("error", [ValueError("no"), Outcome("no"), KeyboardInterrupt()], ids=repr)
def test_errors_go_through_a_context_manager_both_ways(portal: Portal, error: BaseException) -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def manager(where: str) -> AsyncIterator[None]:
        if where == "enter":
            raise error
        try:
            yield
        except BaseException as raised:
            seen.append(f"{where} {raised is error}")
            if where == "through":
                raise
        if where == "leave":
            raise error

    for where in ("enter", "leave"):
        with pytest.raises(type(error)) as told, portal.enter(manager(where)):
            pass
        assert told.value is error
    with pytest.raises(type(error)), portal.enter(manager("through")):
        raise error
    with portal.enter(manager("swallowed")):
        raise error
    assert seen == ["through True", "swallowed True"]


def test_a_proxy_blocks_where_the_object_awaits(portal: Portal) -> None:
    counter = Counter()
    proxy = SyncProxy(counter, portal)
    assert proxy.add(2) == 3
    proxy.step = 10
    assert counter.step == 10
    assert proxy.clone().add(2) == 3
    assert "SyncProxy(<" in repr(proxy)
    assert list(proxy.count(3)) == [0, 1, 2]
    for n in proxy.count(10):
        if n == 1:
            break
    assert counter.is_closed
    with pytest.raises(TypeError, match="Counter cannot be iterated over"):
        list(proxy)
    with pytest.raises(AttributeError):
        proxy.nothing  # noqa: B018


def test_an_iterator_that_is_left_early_is_closed_at_once(portal: Portal) -> None:
    counter = Counter()
    items = iter(SyncProxy(counter, portal).count(10))
    assert next(items) == 0
    assert not counter.is_closed
    items.close()  # type: ignore[attr-defined]
    assert counter.is_closed


def test_a_closed_portal_says_so_also_to_whom_it_left_in_the_middle() -> None:
    ended: list[str] = []

    @asynccontextmanager
    async def manager() -> AsyncIterator[None]:
        try:
            yield
        except asyncio.CancelledError:
            ended.append("taken back")
            raise

    portal = Portal()
    unharmed, harmed = portal.enter(manager()), portal.enter(manager())
    unharmed.__enter__()
    harmed.__enter__()
    portal.close()
    portal.close()
    assert ended == ["taken back", "taken back"]
    with pytest.raises(InvalidOperationError, match="the portal to the event loop is closed"):
        portal.call(len, "")
    with pytest.raises(InvalidOperationError, match="closed"):
        unharmed.__exit__(None, None, None)
    error = ValueError("the block's own")
    assert harmed.__exit__(ValueError, error, None) is None


def test_a_context_manager_that_was_not_entered_cannot_be_left(portal: Portal) -> None:
    @asynccontextmanager
    async def manager() -> AsyncIterator[None]:
        yield

    with pytest.raises(InvalidOperationError, match="was not entered"):
        portal.enter(manager()).__exit__(None, None, None)
