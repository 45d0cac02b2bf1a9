"""An async class in blocking form: the same methods by name and signature, each a call through a portal."""

import functools
import inspect
from collections.abc import Callable, Collection, Iterator
from typing import Any

import psycopg

from commandbus.blocking.caller import Listener, refuse_in_loop
from commandbus.blocking.proxy import SyncProxy


class Face:
    """The blocking form of an object; a subclass names the class of the object: `class X(Face, of=CommandBus)`.

    Its methods are that class's public coroutine methods, or those in `only`, but those in `without`. A blocking
    psycopg connection may be given wherever a connection is taken. Iterators are read, and `on_progress` is called, in
    the calling thread.
    """

    def __init__(self, find: Callable[[], SyncProxy]) -> None:
        self._find = find

    def __init_subclass__(
        cls, *, of: type[Any] | None = None, only: Collection[str] | None = None, without: Collection[str] = ()
    ) -> None:
        super().__init_subclass__()
        for name in () if of is None else coroutine_methods(of):
            if name not in without and (only is None or name in only):
                setattr(cls, name, _blocking(f"{getattr(of, '__name__', of)}.{name}", getattr(of, name)))


def coroutine_methods(kind: type[Any]) -> list[str]:
    """Return the names of a class's public methods that one awaits or iterates over, sorted."""
    return [
        name
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
        and not isinstance(inspect.getattr_static(kind, name), staticmethod)
        and (inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method))
    ]


def _blocking(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(self: Face, *args: Any, **kwargs: Any) -> Any:
        refuse_in_loop(name)
        given = signature.bind(self, *args, **kwargs).arguments
        del given["self"]
        return getattr(self._find(), method.__name__)(**{key: _argument(key, value) for key, value in given.items()})

    return call


def _argument(name: str, value: Any) -> Any:
    if name == "on_progress" and value is not None:
        return Listener(value)
    if name == "conn" and not isinstance(value, psycopg.Connection | SyncProxy | None):
        raise TypeError(
            f"conn is a {type(value).__module__}.{type(value).__qualname__}; give the psycopg.Connection that it wraps "
            "(SQLAlchemy, Django: see SyncCommandBus), or what `with bus.transaction() as conn` gives"
        )
    return list(value) if isinstance(value, Iterator) else value
