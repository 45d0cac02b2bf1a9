"""Workers for a test: in its own process, or in processes of their own."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from commandbus import Worker

    from .runtime import Runtime

DEFAULT_WORKERS, DEFAULT_CONCURRENCY = 2, 10
STOP_SECONDS = 30.0


class WorkerDiedError(AssertionError):
    """A worker ended by itself; the message has its traceback or output."""


class WorkerPool(ABC):
    """Running workers. Leaving it stops them gracefully, and fails the test if one died by itself."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    @abstractmethod
    def running(self) -> bool:
        """Tell whether its workers were started and not stopped."""

    @abstractmethod
    async def start(self) -> None:
        """Start the workers."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop the workers gracefully. Errors: WorkerDiedError."""

    @abstractmethod
    def check(self) -> None:
        """Raise WorkerDiedError if a worker ended by itself."""

    def logs(self) -> Sequence[tuple[str, str]]:
        """Return (worker, end of its output) of the workers that have an output of their own."""
        return ()


class TaskPool(WorkerPool):
    """Workers as tasks of the test's own loop: `workers` for each domain of the App."""

    def __init__(self, runtime: "Runtime", *, workers: int, concurrency: int, options: dict[str, Any]) -> None:
        self._runtime = runtime
        self._workers = workers
        self._concurrency = concurrency
        self._options = options
        self._tasks: dict[asyncio.Task[None], Worker] = {}

    @property
    def running(self) -> bool:
        """Tell whether its workers were started and not stopped."""
        return bool(self._tasks)

    async def start(self) -> None:
        """Start the workers."""
        from commandbus import Worker

        app = self._runtime.require_app("cb_worker_pool")
        middleware = await self._runtime.middleware()
        for domain in sorted(app.domains):
            for number in range(self._workers):
                worker = Worker(
                    self._runtime.pool,
                    domain=domain,
                    handler_registry=app.registry,
                    processes=app.processes(self._runtime.pool),
                    concurrency=self._concurrency,
                    retry_policy=app.retry_policy,
                    middleware=middleware,
                    **self._options,
                )
                task = asyncio.create_task(worker.run(), name=f"worker {number + 1} of {domain}")
                self._tasks[task] = worker

    async def stop(self) -> None:
        """Stop the workers gracefully. Errors: WorkerDiedError."""
        tasks, self._tasks = self._tasks, {}
        died = _traceback_of_dead(tasks)
        await asyncio.gather(
            *(w.stop(timeout=STOP_SECONDS) for t, w in tasks.items() if not t.done()), return_exceptions=True
        )
        await asyncio.gather(*tasks, return_exceptions=True)
        died = died or _traceback_of_dead(task for task in tasks if not task.cancelled() and task.exception())
        if died:
            raise WorkerDiedError(died)

    def check(self) -> None:
        """Raise WorkerDiedError if a worker ended by itself."""
        died = _traceback_of_dead(self._tasks)
        if died:
            raise WorkerDiedError(died)


def _traceback_of_dead(tasks: Any) -> str:
    import traceback

    parts = []
    for task in tasks:
        if task.done():
            error = None if task.cancelled() else task.exception()
            how = "".join(traceback.format_exception(error)) if error else "it returned though nobody stopped it"
            parts.append(f"{task.get_name()} died by itself:\n{how}")
    return "\n".join(parts)
