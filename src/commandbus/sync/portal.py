"""One event loop in a thread of its own, for blocking code."""

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import anyio
import anyio._backends._asyncio  # else the portal's thread imports it, and a fork meanwhile could never do so again
from anyio.from_thread import BlockingPortal

from commandbus.blocking.caller import Caller, Ending
from commandbus.errors import InvalidOperationError


class Portal(Caller):
    """An event loop in a thread of its own, from its making until `close`; blocking code calls into it.

    Any number of threads may call at once. The thread is a daemon: an interpreter that ends does not wait for it.
    """

    def __init__(self) -> None:
        started: concurrent.futures.Future[tuple[BlockingPortal, asyncio.AbstractEventLoop]]
        started = concurrent.futures.Future()

        async def serve() -> None:
            async with BlockingPortal() as portal:
                started.set_result((portal, asyncio.get_running_loop()))
                await portal.sleep_until_stopped()

        def run() -> None:
            try:
                anyio.run(serve, backend="asyncio")
            except BaseException as error:
                if started.done():
                    raise
                started.set_exception(error)

        self._pid = os.getpid()
        self._cleanups: list[Callable[[], Coroutine[Any, Any, object]]] = []
        self._thread = threading.Thread(target=run, name="commandbus-portal", daemon=True)
        self._thread.start()
        self._portal, loop = started.result()
        super().__init__(loop)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def at_end(self, cleanup: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Have `cleanup` run on the loop when the portal is closed, once nothing is under way; the last one first."""
        self._cleanups.append(cleanup)

    def close(self) -> None:
        """Cancel what is under way, roll back what is open, end the loop and its thread. Again: does nothing."""
        if os.getpid() != self._pid:
            return
        with suppress(RuntimeError):  # it is closed
            self._portal.call(self._finish)
            self._portal.call(self._portal.stop)
        self._thread.join()

    def abandon(self, seconds: float) -> None:
        """As close, when the interpreter ends: for at most `seconds`, and the thread is left to end with it."""
        if os.getpid() != self._pid:
            self._loop.set_exception_handler(lambda *_: None)  # its tasks are pending for ever in a fork
            return
        with suppress(RuntimeError, TimeoutError, concurrent.futures.CancelledError):
            self._portal.start_task_soon(self._finish).result(seconds)

    async def _finish(self) -> None:
        await self.end()
        while self._cleanups:
            await self._cleanups.pop()()

    def _start(self, work: Callable[[], Coroutine[Any, Any, Ending]]) -> "concurrent.futures.Future[Ending]":
        if os.getpid() != self._pid:
            raise InvalidOperationError(
                "this portal was opened before the process forked, and its thread is not part of the fork: "
                "open one in each process, after the fork"
            )
        try:
            return self._portal.start_task_soon(work)
        except RuntimeError:
            raise self._ended() from None

    def _ended(self) -> Exception:
        return InvalidOperationError("the portal to the event loop is closed; what was under way is rolled back")
