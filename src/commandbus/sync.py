"""The bus for blocking code: one portal to an event loop in a thread of its own, and one proxy for whatever is async.

with Portal() as portal:
    bus = SyncProxy(CommandBus(pool), portal)
    bus.send(domain="orders", command_type="ReserveStock", command_id=uuid4(), data={})
"""

import asyncio
import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

from anyio.from_thread import BlockingPortal, start_blocking_portal


class Portal:
    """An event loop in a thread of its own, from its making until `close`; blocking code calls into it."""

    def __init__(self) -> None:
        self._thread = start_blocking_portal("asyncio")
        self._portal: BlockingPortal = self._thread.__enter__()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `function` on the loop, wait for what it returns if that is awaitable, return or raise the outcome."""

        async def run() -> tuple[Any, BaseException | None]:
            try:
                result = function(*args, **kwargs)
                return (await result if inspect.isawaitable(result) else result), None
            except (Exception, asyncio.CancelledError):
                raise
            except BaseException as error:  # raised here it would end the portal: the outcomes of test frameworks
                return None, error

        result, error = self._portal.call(run)
        if error is not None:
            raise error
        return result

    def enter(self, manager: Any) -> AbstractContextManager[Any]:
        """Return an async context manager as a blocking one, entered and left in one task of the loop."""
        return self._portal.wrap_async_context_manager(manager)

    def close(self) -> None:
        """End the loop and its thread."""
        self._thread.__exit__(None, None, None)


class SyncProxy:
    """An object whose coroutine methods and async context managers block instead; what they return is proxied too."""

    def __init__(self, wrapped: Any, portal: Portal) -> None:
        self._wrapped = wrapped
        self._portal = portal
        self._entered: AbstractContextManager[Any] | None = None

    def __repr__(self) -> str:
        return f"SyncProxy({self._wrapped!r})"

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._wrapped, name)
        if not inspect.isroutine(value):
            return self._present(value)

        @functools.wraps(value)
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._present(self._portal.call(value, *args, **kwargs))

        return call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._present(self._portal.call(self._wrapped, *args, **kwargs))

    def __enter__(self) -> Any:
        self._entered = self._portal.enter(self._wrapped)
        entered = self._entered.__enter__()
        return self if entered is self._wrapped else self._present(entered)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        entered, self._entered = self._entered, None
        return None if entered is None else entered.__exit__(kind, error, trace)

    def _present(self, value: Any) -> Any:
        return SyncProxy(value, self._portal) if _is_async(value.__class__) else value


@functools.cache
def _is_async(kind: type[Any]) -> bool:
    """Tell whether objects of this type have something to wait for."""
    if hasattr(kind, "__aenter__"):
        return True
    public = ("__call__", *(name for name in dir(kind) if not name.startswith("_")))
    return any(inspect.iscoroutinefunction(inspect.getattr_static(kind, name, None)) for name in public)
