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
from psycopg.rows import tuple_row

from commandbus.blocking.proxy import SyncProxy

# What a blocking object of the driver is called where one may await.
_TWINS: tuple[tuple[type[Any], type[Any]], ...] = (
    (psycopg.Connection, psycopg.AsyncConnection),
    (psycopg.ServerCursor, psycopg.AsyncServerCursor),
    (psycopg.Cursor, psycopg.AsyncCursor),
    (psycopg.Copy, psycopg.AsyncCopy),
    (psycopg.Pipeline, psycopg.AsyncPipeline),
)


class ThreadsWork:
    """What a loop asks of one thread, which does it while it waits for its call to end."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._is_broken = False

    def do(self) -> None:
        """In the thread: run what comes, until the end."""
        while (job := self._jobs.get()) is not None:
            job()

    def undo(self) -> None:
        """In the thread, after an error of its own: run what taking back needs, until the end."""
        self._is_broken = True
        self.do()

    def end(self) -> None:
        """From the loop: let the thread go."""
        self._jobs.put(None)

    def tell(self, listener: Callable[..., object]) -> Callable[..., None]:
        """Give what the loop may call in place of `listener`, which the thread calls then, as soon as it can."""

        def told(*args: Any) -> None:
            def job() -> None:
                if not self._is_broken:
                    listener(*args)

            self._jobs.put(job)

        return told

    async def ask(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """On the loop: have the thread call `function`, and wait for what it returns."""
        answer: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def job() -> None:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                result = function(*args, **kwargs)
            except BaseException as error:  # a Ctrl-C as well: it comes back to the thread as the call's outcome
                answer.set_exception(error)
            else:
                answer.set_result(result)

        self._jobs.put(job)
        return await asyncio.wrap_future(answer)


def lend(value: Any, work: ThreadsWork) -> Any:
    """Give the async form of a blocking connection, cursor and the like; anything else is given back as it is."""
    if isinstance(value, SyncProxy):
        twin = type(value._wrapped)
        return (LentConnection if issubclass(twin, psycopg.AsyncConnection) else Lent)(value, twin, work)
    for kind, twin in _TWINS:
        if isinstance(value, kind):
            return (LentConnection if kind is psycopg.Connection else Lent)(value, twin, work)
    return value


class Lent:
    """A blocking object of the driver in the form of its async `twin`."""

    def __init__(self, thing: Any, twin: type[Any], work: ThreadsWork) -> None:
        self._thing = thing
        self._twin = twin
        self._work = work

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._thing, name)
        method = inspect.getattr_static(self._twin, name, None)
        if inspect.iscoroutinefunction(method):

            async def ask(*args: Any, **kwargs: Any) -> Any:
                return self._lent(await self._work.ask(value, *args, **kwargs))

            return ask
        if not inspect.isroutine(method):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._lent(value(*args, **kwargs))

        return call

    async def __aenter__(self) -> Any:
        return self._lent(await self._work.ask(self._thing.__enter__))

    async def __aexit__(self, *how: Any) -> Any:
        return await self._work.ask(self._thing.__exit__, *how)

    def __aiter__(self) -> Any:
        return Lent(iter(self._thing), object, self._work)

    async def __anext__(self) -> Any:
        end = object()
        item = await self._work.ask(next, self._thing, end)
        if item is end:
            raise StopAsyncIteration
        return item

    def _lent(self, value: Any) -> Any:
        if value is self._thing:
            return self
        lent = lend(value, self._work)
        return Lent(value, object, self._work) if lent is value and hasattr(value, "__enter__") else lent


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
