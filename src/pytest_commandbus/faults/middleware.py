"""What a worker does at the named points: it tells the test's process of it, and waits until it may go on."""

import asyncio
import itertools
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from commandbus import Ended, HandlerContext, Middleware

from .points import Passage

DESK = "CB_FAULTS_DESK"
"""The environment variable that tells a worker process where the test's desk is."""

FAULT_MIDDLEWARE = "pytest_commandbus.faults.middleware:fault_points"
Result = dict[str, Any] | None


class Link(Protocol):
    """The way to the desk."""

    async def passing(self, point: str, passages: Sequence[Passage]) -> None:
        """Tell what passes a point; returns when it may go on."""


class FaultPoints(Middleware):
    """Stops at each named point until the desk has injected what it wants to, if anything."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def claimed(self, batch: Sequence[HandlerContext]) -> None:
        """Pass after_claim."""
        await self._pass("after_claim", batch)

    async def handle(self, context: HandlerContext, call_next: Callable[[], Awaitable[Result]]) -> Result:
        """Pass before_handler and after_handler, whatever the handler's outcome."""
        await self._pass("before_handler", [context])
        try:
            result = await call_next()
        except Exception:
            await self._pass("after_handler", [context])
            raise
        await self._pass("after_handler", [context])
        return result

    async def settling(self, batch: Sequence[Ended]) -> None:
        """Pass before_settle."""
        await self._pass("before_settle", [ended.context for ended in batch])

    async def settled(self, batch: Sequence[Ended]) -> None:
        """Pass after_settle_before_ack."""
        await self._pass("after_settle_before_ack", [ended.context for ended in batch])

    async def _pass(self, point: str, contexts: Sequence[HandlerContext]) -> None:
        if contexts:
            await self._link.passing(point, [Passage.of(context) for context in contexts])


class DeskLink:
    """A worker process's way to the desk of its test, by the desk's socket. Without a desk nothing is injected."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._is_gone = False

    async def passing(self, point: str, passages: Sequence[Passage]) -> None:
        """Tell what passes a point; returns when it may go on."""
        await self._open()
        if self._is_gone or self._writer is None:
            return
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        message = {"number": number, "pid": os.getpid(), "point": point, "passages": [p.as_dict() for p in passages]}
        try:
            self._writer.write(json.dumps(message).encode() + b"\n")
            await answer
        finally:
            self._waiting.pop(number, None)

    async def _open(self) -> None:
        async with self._opening:
            if self._writer is not None or self._is_gone:
                return
            try:
                reader, self._writer = await asyncio.open_unix_connection(self._path)
            except OSError:  # the test has ended
                self._is_gone = True
                return
            self._reading = asyncio.create_task(self._read(reader), name="pytest-commandbus faults")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while line := await reader.readline():
                answer = self._waiting.get(int(line))
                if answer is not None and not answer.done():
                    answer.set_result(None)
        self._is_gone = True
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_result(None)


def fault_points(pool: object) -> FaultPoints:
    """Make the middleware of one worker of a process that a test started; `--middleware` gives it the pool."""
    path = os.environ.get(DESK)
    if path is None:
        raise RuntimeError(f"{FAULT_MIDDLEWARE} is for worker processes that a test starts, which sets {DESK}")
    return FaultPoints(DeskLink(path))
