"""Handlers: how they are declared, found, and what they are given."""

import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar, cast
from uuid import UUID

from psycopg import AsyncConnection, Connection
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from commandbus.blocking import Caller, SyncProxy
from commandbus.errors import HandlerAlreadyRegisteredError, HandlerNotFoundError
from commandbus.models import Command
from commandbus.payload import check_name

Result = dict[str, Any] | None
# (Command, HandlerContext) -> a dict or None; async, or plain and then run in a thread.
HandlerFunction = Callable[..., Any]
_Declared = TypeVar("_Declared", bound=Callable[..., Any])

_DECLARATION = "__commandbus_handles__"


class Lease(Protocol):
    """What a running command can do with its own lease; the worker provides it."""

    @property
    def pool(self) -> AsyncConnectionPool[Any]:
        """The worker's pool."""

    @property
    def calls(self) -> Caller:
        """The way from the handler's thread into the worker's loop. Raises InvalidOperationError for an async one."""

    async def extend(self, context: "HandlerContext", seconds: float) -> None:
        """Prolong it to `seconds` from now."""

    def transaction(self, context: "HandlerContext") -> AbstractAsyncContextManager[AsyncConnection[Any]]:
        """Open a transaction in which the command may be completed."""

    async def complete(self, context: "HandlerContext", result: Result) -> None:
        """Settle as COMPLETED within the open transaction."""


@dataclass(slots=True)
class HandlerContext:
    """What a handler may know of its command, and do with it.

    `attempt` counts from 1 in this life, `total_failures` over all lives. `ordinal` is the place of the command, or
    of its process, in its batch (from 0); `step` and `visit` (from 1) are set for a process's command.
    What is put into `details` goes into the details of the outcome's audit event. `headers` came with the command; as
    the handler leaves them they go with its reply, or with its process's next command.
    """

    command: Command
    attempt: int
    max_attempts: int
    total_failures: int
    epoch: int
    worker_id: int
    lease: Lease
    process_id: UUID | None = None
    process_type: str | None = None
    process_batch_id: UUID | None = None
    ordinal: int | None = None
    step: str | None = None
    visit: int = 1
    details: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def pool(self) -> AsyncConnectionPool[Any]:
        """The pool of the worker, for what the handler reads or writes by itself."""
        return self.lease.pool

    @property
    def sync(self) -> "BlockingContext":
        """The methods below and the pool in blocking form, for a plain handler, which runs in a thread."""
        return BlockingContext(self)

    async def extend_visibility(self, seconds: float) -> None:
        """Prolong the lease to `seconds` from now. Raises LeaseLostError when it is no longer this worker's."""
        await self.lease.extend(self, seconds)

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection[Any]]:
        """Open a transaction for the handler's own writes; `complete` inside settles the command in it.

        Both commit together or not at all. Raises LeaseLostError on leaving when the command is no longer ours.
        """
        return self.lease.transaction(self)

    async def complete(self, result: Result = None) -> None:
        """Settle the command as COMPLETED within `transaction()`; what the handler returns is then ignored.

        Raises InvalidOperationError outside such a transaction or the second time, LeaseLostError as above.
        """
        await self.lease.complete(self, result)


class BlockingContext:
    """What a plain handler can do with its command, from its thread: the methods of HandlerContext, which block here.

    Once the attempt has ended (its lease was about to end, or the worker stops) while the thread still runs, what it
    has open is rolled back, and each of these raises AttemptEndedError, a LeaseLostError.
    """

    def __init__(self, context: HandlerContext) -> None:
        self._context = context
        self._calls = context.lease.calls

    @property
    def pool(self) -> "ConnectionPool[Any]":
        """The pool of the worker: `with ctx.sync.pool.connection() as conn`."""
        return cast("ConnectionPool[Any]", SyncProxy(self._context.pool, self._calls))

    def extend_visibility(self, seconds: float) -> None:
        """As HandlerContext.extend_visibility."""
        self._calls.call(self._context.extend_visibility, seconds)

    def transaction(self) -> "AbstractContextManager[Connection[Any]]":
        """As HandlerContext.transaction: `with ctx.sync.transaction() as conn`, which has psycopg.Connection's methods.

        Handed on as `conn=` to the blocking bus (`commandbus.sync`), what that stores commits with the completion.
        """
        return cast("AbstractContextManager[Connection[Any]]", SyncProxy(self._context.transaction(), self._calls))

    def complete(self, result: Result = None) -> None:
        """As HandlerContext.complete, within `with ctx.sync.transaction()`."""
        self._calls.call(self._context.complete, result)


class Ended(NamedTuple):
    """An attempt that has ended, with the audit event that records its outcome, such as COMPLETED."""

    context: HandlerContext
    event: str


class Middleware:
    """A hook around handlers. Subclass it and override what you need; one instance serves one worker."""

    async def claimed(self, batch: Sequence[HandlerContext]) -> None:
        """Prepare for many commands at once, before any of them is handled."""

    async def handle(self, context: HandlerContext, call_next: Callable[[], Awaitable[Result]]) -> Result:
        """Run around one handler: `await call_next()` runs it. What is raised or returned is the outcome."""
        return await call_next()

    async def settling(self, batch: Sequence[Ended]) -> None:
        """Look at outcomes just before the database records them; what is raised is logged and changes nothing."""

    async def settled(self, batch: Sequence[Ended]) -> None:
        """Look at outcomes that are recorded; LATE_OUTCOME_DROPPED for those of leases that were lost."""


@dataclass(frozen=True, slots=True)
class RegisteredHandler:
    """One handler with what its calls need to know of it."""

    domain: str
    command_type: str
    function: HandlerFunction
    is_async: bool
    name: str
    max_concurrency: int | None = None


def handler(*, domain: str, command_type: str, max_concurrency: int | None = None) -> Callable[[_Declared], _Declared]:
    """Declare a function or method as a handler, to be found by register or register_instance.

    With `max_concurrency` each worker runs at most so many of them at a time; commands of other types are claimed and
    handled meanwhile.
    """
    key = (check_name(domain, "domain"), check_name(command_type, "command type"), _check_cap(max_concurrency))

    def declare(function: _Declared) -> _Declared:
        setattr(function, _DECLARATION, key)
        return function

    return declare


class HandlerRegistry:
    """The handlers of an application, one for each domain and command type."""

    def __init__(self) -> None:
        self._handlers: dict[tuple[str, str], RegisteredHandler] = {}

    def handler(
        self, domain: str, command_type: str, *, max_concurrency: int | None = None
    ) -> Callable[[_Declared], _Declared]:
        """Declare and register a function as the handler of a command type.

        With `max_concurrency` each worker runs at most so many of them at a time.
        """

        def add(function: _Declared) -> _Declared:
            self.add(domain, command_type, function, max_concurrency=max_concurrency)
            return function

        return add

    def add(
        self, domain: str, command_type: str, function: HandlerFunction, *, max_concurrency: int | None = None
    ) -> None:
        """Register `function(command, context)`; raises TypeError when it cannot be called so.

        Raises HandlerAlreadyRegisteredError for a second one.
        """
        domain, command_type = check_name(domain, "domain"), check_name(command_type, "command type")
        key = (domain, command_type)
        if not callable(function):
            raise TypeError(f"the handler of {command_type!r} must be callable, not {type(function).__name__}")
        name = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"
        if key in self._handlers:
            raise HandlerAlreadyRegisteredError(domain, command_type, self._handlers[key].name, name)
        _check_parameters(function, name)
        called = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
        self._handlers[key] = RegisteredHandler(
            domain, command_type, function, inspect.iscoroutinefunction(called), name, _check_cap(max_concurrency)
        )

    def register(self, function: HandlerFunction) -> None:
        """Register a function that `@handler` declared."""
        declared = getattr(function, _DECLARATION, None)
        if declared is None:
            raise TypeError(f"{function!r} is no handler: decorate it with @handler(domain=, command_type=)")
        domain, command_type, max_concurrency = declared
        self.add(domain, command_type, function, max_concurrency=max_concurrency)

    def register_instance(self, instance: object) -> None:
        """Register every method of `instance` that `@handler` declared."""
        names = [n for n in dir(type(instance)) if hasattr(getattr(type(instance), n, None), _DECLARATION)]
        if not names:
            raise TypeError(f"{type(instance).__name__} has no method decorated with @handler(domain=, command_type=)")
        for name in names:
            self.register(getattr(instance, name))

    def get(self, domain: str, command_type: str) -> RegisteredHandler:
        """Return the handler. Raises HandlerNotFoundError when there is none."""
        try:
            return self._handlers[domain, command_type]
        except KeyError:
            raise HandlerNotFoundError(domain, command_type) from None

    def command_types(self, domain: str) -> list[str]:
        """Return the command types of one domain, sorted."""
        return sorted(t for d, t in self._handlers if d == domain)

    def caps(self, domain: str) -> dict[str, int]:
        """Return the command types of one domain that have a max_concurrency, with it."""
        return {t: h.max_concurrency for (d, t), h in self._handlers.items() if d == domain and h.max_concurrency}

    @property
    def domains(self) -> frozenset[str]:
        """The domains that have a handler."""
        return frozenset(d for d, _ in self._handlers)

    def __iter__(self) -> Iterator[RegisteredHandler]:
        return iter(self._handlers.values())

    def __len__(self) -> int:
        return len(self._handlers)


def _check_cap(max_concurrency: int | None) -> int | None:
    if max_concurrency is not None and max_concurrency < 1:
        raise ValueError(f"max_concurrency must be at least 1, not {max_concurrency}; leave it out for no cap")
    return max_concurrency


def _check_parameters(function: HandlerFunction, name: str) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some written in C tell none
        return
    try:
        signature.bind(None, None)
    except TypeError:
        raise TypeError(
            f"the handler {name} is called with (command, context), which {signature} does not take"
        ) from None
