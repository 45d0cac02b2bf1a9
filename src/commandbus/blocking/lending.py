"""A thread's own blocking connection, lent to an event loop for the time of one call.

The loop sees an async connection. What blocks is run by the thread that waits for the call, so that the connection
never leaves its thread, and the statements are part of whatever transaction is open on it.
"""

import asyncio
import concurrent.futures
import inspect
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from commandbus.blocking.proxy import SyncProxy

# What a blocking object of the driver is called where one may await.
_TWINS: tuple[tuple[type[Any], type[Any]], ...] = (
    (psycopg.Cursor, psycopg.AsyncCursor),
    (psycopg.ServerCursor, psycopg.AsyncServerCursor),
    (psycopg.Copy, psycopg.AsyncCopy),
    (psycopg.Pipeline, psycopg.AsyncPipeline),
)


class ThreadsWork:
    """What a loop asks of one thread, which does it while it waits for its call to end."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._is_broken = False

    def do(self) -> None:
        """In the thread: run what comes, until the end."""
        while (call := self._calls.get()) is not None:
            call()

    def undo(self) -> None:
        """In the thread, after an error of its own: run what taking back needs, until the end."""
        self._is_broken = True
        self.do()

    def end(self) -> None:
        """From the loop: let the thread go."""
        self._calls.put(None)

    def tell(self, listener: Callable[..., object]) -> Callable[..., None]:
        """Give what the loop may call in place of `listener`, which the thread calls then, as soon as it can."""

        def told(*args: Any) -> None:
            def call() -> None:
                if not self._is_broken:
                    listener(*args)

            self._calls.put(call)

        return told

    async def ask(self, conn: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """On the loop: have the thread call `function`, which uses `conn`, and wait for what it returns."""
        answer: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def call() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                if _is_interruption(error, conn):
                    if conn.info.transaction_status is TransactionStatus.ACTIVE:
                        conn.close()  # the driver left it amid a statement: it is of no use to anyone
                    raise  # the thread's own affair, which no one on the loop may swallow
                answer.set_exception(error)
            else:
                answer.set_result(result)

        self._calls.put(call)
        return await asyncio.wrap_future(answer)


def _is_interruption(error: BaseException, conn: Any) -> bool:
    """Whether a signal handler raised it, rather than the driver: then a statement may still be on its way."""
    if not isinstance(error, Exception):
        return True
    return not isinstance(error, psycopg.Error) and conn.info.transaction_status is TransactionStatus.ACTIVE


def lend(value: Any, work: ThreadsWork) -> Any:
    """Give the async form of a blocking connection; anything else is given back as it is."""
    if isinstance(value, SyncProxy):
        twin = type(value._wrapped)
        return LentConnection(value, twin, work, value) if issubclass(twin, psycopg.AsyncConnection) else value
    if isinstance(value, psycopg.Connection):
        return LentConnection(value, psycopg.AsyncConnection, work, value)
    return value


class Lent:
    """A blocking object of the driver in the form of its async `twin`."""

    def __init__(self, thing: Any, twin: type[Any], work: ThreadsWork, conn: Any) -> None:
        self._thing = thing
        self._twin = twin
        self._work = work
        self._conn = conn

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._thing, name)
        method = inspect.getattr_static(self._twin, name, None)
        if inspect.iscoroutinefunction(method):

            async def ask(*args: Any, **kwargs: Any) -> Any:
                return self._lent(await self._work.ask(self._conn, value, *args, **kwargs))

            return ask
        if not inspect.isroutine(method):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            made = value(*args, **kwargs)
            is_iterated = inspect.isasyncgenfunction(method)
            return Lent(made, object, self._work, self._conn) if is_iterated else self._lent(made)

        return call

    async def __aenter__(self) -> Any:
        return self._lent(await self._work.ask(self._conn, self._thing.__enter__))

    async def __aexit__(self, *how: Any) -> Any:
        return await self._work.ask(self._conn, self._thing.__exit__, *how)

    def __aiter__(self) -> Any:
        return Lent(iter(self._thing), object, self._work, self._conn)

    async def __anext__(self) -> Any:
        end = object()
        item = await self._work.ask(self._conn, next, self._thing, end)
        if item is end:
            raise StopAsyncIteration
        return item

    def _lent(self, value: Any) -> Any:
        if value is self._thing:
            return self
        if value is self._conn:
            return LentConnection(value, psycopg.AsyncConnection, self._work, value)
        twin = type(value._wrapped) if isinstance(value, SyncProxy) else object
        for blocking, asynchronous in _TWINS:
            if isinstance(value, blocking):
                twin = asynchronous
        is_blocking = twin is not object or hasattr(value, "__enter__")
        return Lent(value, twin, self._work, self._conn) if is_blocking else value


class LentConnection(Lent):
    """A blocking connection in the form of an async one; its rows are tuples, whatever its owner prefers."""

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """As AsyncConnection.cursor."""
        kwargs.setdefault("row_factory", tuple_row)
        return self._lent(self._thing.cursor(*args, **kwargs))

    async def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        """As AsyncConnection.execute."""
        binary = options.pop("binary", False)
        return await self.cursor(binary=binary).execute(query, params, **options)
