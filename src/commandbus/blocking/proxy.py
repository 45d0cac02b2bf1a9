"""What is async on a loop of another thread, in blocking form."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Any, Protocol

from psycopg import AsyncConnection, AsyncCursor
from psycopg_pool import AsyncConnectionPool

_FETCHED = 1_000  # rows of a cursor in one call, when it is iterated over
# These only make what is awaited later: they need neither the loop nor its thread.
_MAKERS: tuple[tuple[type[Any], frozenset[str]], ...] = (
    (AsyncConnection, frozenset({"cursor", "transaction", "pipeline"})),
    (AsyncCursor, frozenset({"copy"})),
    (AsyncConnectionPool, frozenset({"connection"})),
)


class Calls(Protocol):
    """What a proxy needs of the loop."""

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `function` on the loop and wait."""

    def enter(self, manager: Any) -> AbstractContextManager[Any]:
        """Return an async context manager as a blocking one."""


class SyncProxy:
    """An object whose coroutine methods, iterators and context managers block instead; what they return does too."""

    def __init__(self, wrapped: Any, caller: Calls) -> None:
        object.__setattr__(self, "_wrapped", wrapped)
        object.__setattr__(self, "_caller", caller)
        object.__setattr__(self, "_entered", None)

    def __repr__(self) -> str:
        return f"SyncProxy({self._wrapped!r})"

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._wrapped, name)
        if not inspect.isroutine(value):
            return self._present(value)

        is_maker = any(isinstance(self._wrapped, kind) and name in makers for kind, makers in _MAKERS)
        if is_maker or inspect.isasyncgenfunction(value):
            return lambda *args, **kwargs: self._present(value(*args, **kwargs))

        @functools.wraps(value)
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._present(self._caller.call(value, *args, **kwargs))

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._wrapped, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._present(self._caller.call(self._wrapped, *args, **kwargs))

    def __enter__(self) -> Any:
        entered = self._caller.enter(self._wrapped)
        value = entered.__enter__()
        object.__setattr__(self, "_entered", entered)
        return self if value is self._wrapped else self._present(value)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        entered: AbstractContextManager[Any] | None = self._entered
        object.__setattr__(self, "_entered", None)
        return None if entered is None else entered.__exit__(kind, error, trace)

    def __iter__(self) -> Iterator[Any]:
        if hasattr(self._wrapped, "fetchmany"):
            while rows := self._caller.call(self._wrapped.fetchmany, _FETCHED):
                yield from rows
            return
        if not hasattr(self._wrapped, "__aiter__"):
            raise TypeError(f"{type(self._wrapped).__name__} cannot be iterated over")
        items = self._wrapped.__aiter__()
        try:
            with suppress(StopAsyncIteration):
                while True:
                    yield self._present(self._caller.call(items.__anext__))
        finally:
            if hasattr(items, "aclose"):
                self._caller.call(items.aclose)

    def _present(self, value: Any) -> Any:
        return SyncProxy(value, self._caller) if _is_async(value.__class__) else value


@functools.cache
def _is_async(kind: type[Any]) -> bool:
    """Tell whether objects of this type have something to wait for."""
    if hasattr(kind, "__aenter__") or hasattr(kind, "__aiter__"):
        return True
    public = ("__call__", *(name for name in dir(kind) if not name.startswith("_")))
    return any(inspect.iscoroutinefunction(inspect.getattr_static(kind, name, None)) for name in public)
