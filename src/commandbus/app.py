"""The composition root: what an application handles, and which processes it manages."""

from collections.abc import Callable
from typing import Any, TypeVar

from commandbus._core.connection import Pool
from commandbus.handler import HandlerRegistry
from commandbus.policies import RetryPolicy
from commandbus.process.base import BaseProcessManager

_Declared = TypeVar("_Declared", bound=Callable[..., Any])
ManagerFactory = Callable[[Pool], BaseProcessManager]


class App:
    """An application on the bus: handlers, process managers, retry policy. The database comes at run time.

    The same object serves the workers, the command line, the console and the tests.
    """

    def __init__(self, *, retry_policy: RetryPolicy | None = None, name: str | None = None) -> None:
        self.name = name
        self.retry_policy = retry_policy or RetryPolicy()
        self.registry = HandlerRegistry()
        self._factories: list[ManagerFactory] = []

    def handler(
        self, domain: str, command_type: str, *, max_concurrency: int | None = None
    ) -> Callable[[_Declared], _Declared]:
        """Declare a function as the handler of a command type; with `max_concurrency`, so many at a time, a worker."""
        return self.registry.handler(domain, command_type, max_concurrency=max_concurrency)

    def add_process(self, factory: ManagerFactory) -> None:
        """Add a process manager: its class, or what makes one when called with the pool."""
        if not callable(factory):
            raise TypeError(f"add_process takes a process manager's class or a factory, not {type(factory).__name__}")
        self._factories.append(factory)

    def processes(self, pool: Pool) -> tuple[BaseProcessManager, ...]:
        """Make the process managers for a pool."""
        return tuple(factory(pool) for factory in self._factories)

    def domains(self, pool: Pool) -> frozenset[str]:
        """The domains that need a worker of this application: those of its handlers and of its processes."""
        return self.registry.domains | {manager.domain for manager in self.processes(pool)}
