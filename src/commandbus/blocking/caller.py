"""Calls from threads into an event loop that runs in another thread."""

import asyncio
import concurrent.futures
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Any

from commandbus.blocking.lending import ThreadsWork, lend
from commandbus.blocking.proxy import SyncProxy
from commandbus.errors import InvalidOperationError

# What a call came to. Errors travel as values: raised in the loop, a BaseException would end it.
Ending = tuple[Any, BaseException | None]


class Caller(ABC):
    """Runs functions on a loop for the threads that call it, each of which waits for its own; any number at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_ended = False

    @abstractmethod
    def _start(self, work: Callable[[], Coroutine[Any, Any, Ending]]) -> "concurrent.futures.Future[Ending]":
        """Begin `work` on the loop."""

    @abstractmethod
    def _ended(self) -> Exception:
        """The error of calls that come, or are under way, when it has ended."""

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `function` on the loop, wait for what it returns if that is awaitable, return or raise the outcome.

        A blocking connection among the arguments takes part as an async one; its statements run in this thread. What
        a signal raises here (Ctrl-C) cancels the call, waits until that is through, and is raised. Raises
        InvalidOperationError in a thread that runs a loop itself.
        """
        refuse_in_loop(getattr(function, "__qualname__", None) or repr(function))
        if self._is_ended:
            raise self._ended()
        visit = _Visit()
        args = tuple(self._argument(value, visit) for value in args)
        kwargs = {name: self._argument(value, visit) for name, value in kwargs.items()}

        async def work() -> Ending:
            return await self._run(visit, function, args, kwargs)

        result, error = self._wait(visit, work)
        if error is None:
            return result
        try:
            if isinstance(error, asyncio.CancelledError):
                raise self._cancelled() from error
            raise error
        finally:
            del error  # no cycle of its traceback and this frame

    def enter(self, manager: Any) -> AbstractContextManager[Any]:
        """Return an async context manager as a blocking one, entered and left in one task of the loop."""
        return _Entered(self, manager)

    async def end(self) -> None:
        """On the loop: cancel what is under way, take back what is open, and refuse what comes."""
        self._is_ended = True
        others = self._tasks - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    @property
    def is_ended(self) -> bool:
        """Whether it takes no calls any more."""
        return self._is_ended

    def track(self, task: "asyncio.Task[Any]") -> None:
        """On the loop: have `end` cancel this task."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _cancelled(self) -> Exception:
        return self._ended() if self._is_ended else concurrent.futures.CancelledError()

    def _argument(self, value: Any, visit: "_Visit") -> Any:
        if isinstance(value, SyncProxy) and value._caller is self:
            return value._wrapped
        if isinstance(value, Listener):
            return visit.work.tell(value.function)
        return lend(value, visit.work)  # what blocks by another loop is lent as well

    async def _run(self, visit: "_Visit", function: Callable[..., Any], args: Any, kwargs: Any) -> Ending:
        task = asyncio.current_task()
        if self._is_ended or visit.is_cancelled or task is None:
            return None, asyncio.CancelledError()
        visit.task = task
        self.track(task)
        try:
            result = function(*args, **kwargs)
            return (await result if inspect.isawaitable(result) else result), None
        except BaseException as error:
            return None, error

    def _wait(self, visit: "_Visit", work: Callable[[], Coroutine[Any, Any, Ending]]) -> Ending:
        is_under_way = False
        try:
            future = self._start(work)
            future.add_done_callback(lambda _: visit.work.end())
            is_under_way = True
            visit.work.do()
        except BaseException:  # a signal handler's, as Ctrl-C or a time limit, or a listener's
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(visit.cancel)
            if is_under_way:
                visit.work.undo()  # the rollback may need this thread; a second signal leaves at once
            raise
        return future.result()


class Listener:
    """An argument: a function that the loop is to call in the thread that makes the call."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function


class _Visit:
    """One blocking call: the task that works for it, and the work that the loop has for its thread meanwhile."""

    def __init__(self) -> None:
        self.work = ThreadsWork()
        self.task: asyncio.Task[Any] | None = None
        self.is_cancelled = False

    def cancel(self) -> None:
        """On the loop: cancel the task, or keep it from starting."""
        self.is_cancelled = True
        if self.task is not None:
            self.task.cancel()


class _Entered:
    """An async context manager that a thread entered; a task of its own holds it, so that `end` can take it back."""

    def __init__(self, caller: Caller, manager: Any) -> None:
        self._caller = caller
        self._manager = manager
        self._holder: asyncio.Task[Ending] | None = None
        self._leave: asyncio.Future[tuple[Any, Any, Any]] | None = None

    def __enter__(self) -> Any:
        return self._caller.call(self._begin)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if self._caller.is_ended and error is not None:
            return None  # it was taken back already, and the block knows
        swallow: bool | None = self._caller.call(self._finish, kind, error, trace)
        return swallow

    async def _begin(self) -> Any:
        loop = asyncio.get_running_loop()
        entered: asyncio.Future[Any] = loop.create_future()
        self._leave = loop.create_future()
        self._holder = loop.create_task(self._hold(entered, self._leave))
        self._caller.track(self._holder)
        try:
            await asyncio.wait([entered, self._holder], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._holder.cancel()
            await asyncio.wait([self._holder])
            raise
        if entered.done():
            return entered.result()
        _, error = self._holder.result()
        raise error if error is not None else asyncio.CancelledError

    async def _hold(self, entered: "asyncio.Future[Any]", leave: "asyncio.Future[tuple[Any, Any, Any]]") -> Ending:
        try:
            entered.set_result(await self._manager.__aenter__())
            try:
                how = await leave
            except asyncio.CancelledError as error:
                await self._manager.__aexit__(type(error), error, error.__traceback__)
                return None, error
            return await self._manager.__aexit__(*how), None
        except BaseException as error:
            return None, error

    async def _finish(self, *how: Any) -> Any:
        if self._holder is None or self._leave is None:
            raise InvalidOperationError("this context manager was not entered: use it by `with`")
        if not self._leave.done():
            self._leave.set_result(how)
        try:
            await asyncio.wait([self._holder])
        except asyncio.CancelledError:
            self._holder.cancel()
            await asyncio.wait([self._holder])
            raise
        result, error = self._holder.result()
        if error is not None:
            raise error
        return result


def refuse_in_loop(name: str) -> None:
    """Raise InvalidOperationError in a thread that runs an event loop; `name` is what was called."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise InvalidOperationError(
        f"{name} was called in its blocking form by a thread that runs an event loop, which would stand still: "
        f"await {name} of the async API there, or make this call in another thread, as by asyncio.to_thread"
    )
