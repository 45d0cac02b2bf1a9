"""A claimed command -> an Outcome: find the handler, run it through the middleware, judge what it did. No SQL."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Executor as Threads
from concurrent.futures import Future
from typing import Any
from uuid import UUID

from commandbus.blocking.caller import Caller, Ending
from commandbus.errors import AttemptEndedError, TransientCommandError
from commandbus.handler import HandlerContext, Middleware, RegisteredHandler, Result
from commandbus.outcome import TIMEOUT, Outcome, completed, failed
from commandbus.policies import RetryPolicy


class Executor:
    """Runs handlers; one instance serves one worker. Plain handlers run in `threads`."""

    def __init__(self, policy: RetryPolicy, middleware: Sequence[Middleware], threads: Threads) -> None:
        self._policy = policy
        self._middleware = tuple(middleware)
        self._threads = threads

    async def execute(self, run: "Run") -> Outcome | None:
        """Run one handler to its outcome; None when there is none to settle (settled by itself, or to be released)."""
        failures, details = run.failures, run.context.details
        try:
            outcome = completed(await self._call(run), failures, details)
        except asyncio.CancelledError as error:
            if run.is_released:
                return None
            _uncancel(run)
            outcome = self._failed(run, TransientCommandError("CANCELLED", str(error) or "the handler was cancelled"))
        except (Exception, SystemExit) as error:
            outcome = self._failed(run, error)
        if run.is_settled:
            return None
        if run.is_timed_out:
            message = "its lease was about to end; the handler was cancelled"
            outcome = self._failed(run, TransientCommandError(TIMEOUT, message))
        return outcome

    def _failed(self, run: "Run", error: BaseException) -> Outcome:
        context = run.context
        return failed(error, run.failures, context.max_attempts, self._policy, context.details)

    def _call(self, run: "Run") -> Awaitable[Result]:
        call: Callable[[], Awaitable[Result]] = self._handler_call(run)
        for layer in reversed(self._middleware):
            call = _wrapped(layer, run.context, call)
        return call()

    def _handler_call(self, run: "Run") -> Callable[[], Awaitable[Result]]:
        function, context = run.handler.function, run.context
        if run.handler.is_async:
            return lambda: function(context.command, context)
        return lambda: self._in_thread(run)

    async def _in_thread(self, run: "Run") -> Any:
        call = contextvars.copy_context().run
        loop = asyncio.get_running_loop()
        run.calls = AttemptCalls(loop, run.context.command.command_id)
        run.thread = loop.run_in_executor(self._threads, call, run.handler.function, run.context.command, run.context)
        try:
            return await asyncio.shield(run.thread)  # a thread cannot be cancelled: it keeps its slot until it returns
        finally:
            await run.calls.end()  # what it has open is rolled back before the outcome is settled


class AttemptCalls(Caller):
    """The calls of a plain handler's thread into the worker's loop, until its attempt ends."""

    def __init__(self, loop: asyncio.AbstractEventLoop, command_id: UUID) -> None:
        super().__init__(loop)
        self._command_id = command_id

    def _start(self, work: Callable[[], Coroutine[Any, Any, Ending]]) -> "Future[Ending]":
        return asyncio.run_coroutine_threadsafe(work(), self._loop)

    def _ended(self) -> Exception:
        return AttemptEndedError(self._command_id)


class Run:
    """One attempt while it runs. `deadline` is in seconds of the loop's clock."""

    __slots__ = (
        "calls",
        "context",
        "deadline",
        "failures",
        "handler",
        "is_released",
        "is_settled",
        "is_timed_out",
        "thread",
    )

    def __init__(self, context: HandlerContext, handler: RegisteredHandler, failures: int, deadline: float) -> None:
        self.context = context
        self.handler = handler
        self.failures = failures
        self.deadline = deadline
        self.is_timed_out = False
        self.is_released = False
        self.is_settled = False
        self.thread: asyncio.Future[Any] | None = None
        self.calls: AttemptCalls | None = None  # of a plain handler's thread


def _wrapped(
    layer: Middleware, context: HandlerContext, call_next: Callable[[], Awaitable[Result]]
) -> Callable[[], Awaitable[Result]]:
    return lambda: layer.handle(context, call_next)


def _uncancel(run: Run) -> None:
    """Take back the cancellation that the worker asked for, so that the slot's task goes on."""
    task = asyncio.current_task()
    if run.is_timed_out and task is not None:
        task.uncancel()
