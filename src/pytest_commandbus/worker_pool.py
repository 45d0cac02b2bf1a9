"""Workers for a test: in its own process, or in processes of their own."""

import asyncio
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from . import statements
from .connections import KEPT, Demand, demand_of, room_for

if TYPE_CHECKING:
    from commandbus import App, Worker

    from .pools import LazyPool
    from .runtime import Runtime

DEFAULT_WORKERS, DEFAULT_CONCURRENCY = 2, 10
STOP_SECONDS, CLAIM_SECONDS = 30.0, 30.0
_CLAIM_POLL = 0.01


class WorkerDiedError(AssertionError):
    """A worker ended by itself; the message has its traceback or output."""

    __module__ = "builtins"  # what pytest shows is its name alone, and more of the message


class WorkerPool(ABC):
    """Running workers. Leaving it stops them gracefully, and fails the test if one died by itself."""

    _are_processes: ClassVar[bool]

    def __init__(self, runtime: "Runtime", workers: int) -> None:
        self._runtime = runtime
        self._workers = workers
        self._told = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            await self._runtime.explain(error)  # as it is now: workers that stop would change it
        await self.stop()

    @property
    @abstractmethod
    def running(self) -> bool:
        """Tell whether its workers were started and not stopped."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Tell whether every worker has opened its sessions and claims."""

    @abstractmethod
    async def start(self) -> None:
        """Start the workers."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop the workers gracefully. Errors: WorkerDiedError."""

    @abstractmethod
    def _died(self) -> str:
        """Say which workers ended by themselves, with their last words; empty when none did."""

    def check(self) -> None:
        """Raise WorkerDiedError if a worker ended by itself."""
        __tracebackhide__ = True
        self._tell(self._died())

    def _tell(self, died: str) -> None:
        """Raise WorkerDiedError if there is something to tell, but once: a test may expect it."""
        __tracebackhide__ = True
        if died and not self._told:
            self._told = True
            raise WorkerDiedError(died)

    async def size_pool(self, wanted: int) -> int:
        """Return how large the connection pool of one process may be, `wanted` at most, so that all workers fit.

        Errors: pytest.UsageError, before any worker starts, with the arithmetic.
        """
        others = [pool for pool in self._runtime.worker_pools if pool is not self and pool.running]
        demand = self.demand(beside=sum(pool.demand().least for pool in others))
        return demand.pool_size(await room_for(self._runtime), wanted)

    def demand(self, beside: int = 0) -> Demand:
        """Return what these workers ask of the server. beside: connections that other workers of the test have."""
        return demand_of(self._runtime, self._workers, self._are_processes, beside)

    async def claimed(self, count: int = 1, *, timeout: float = CLAIM_SECONDS) -> None:
        """Wait until workers have claimed `count` commands in the test's database. Errors: TimeoutError."""
        deadline = time.monotonic() + timeout
        while True:
            died = self._died()  # before the count: what a worker claimed and then died of is claimed
            if await self._claims() >= count:
                return
            self._tell(died)
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"the workers did not claim {count} commands within {timeout:g} s: send that many first, or give a "
                    "longer timeout="
                )
            await asyncio.sleep(_CLAIM_POLL)

    async def _claims(self) -> int:
        async with self._runtime.pool.connection() as connection:
            row = await (await connection.execute(statements.CLAIMS)).fetchone()
        return 0 if row is None else int(row[0])

    def logs(self) -> Sequence[tuple[str, str]]:
        """Return (worker, end of its output) of the workers that have an output of their own, and were not told of."""
        return ()


class TaskPool(WorkerPool):
    """Workers as tasks of the test's own loop: `workers` for each domain of the App."""

    _are_processes = False

    def __init__(self, runtime: "Runtime", *, workers: int, concurrency: int, options: dict[str, Any]) -> None:
        super().__init__(runtime, workers)
        self._concurrency = concurrency
        self._options = options
        self._tasks: dict[asyncio.Task[None], Worker] = {}
        self._pool: LazyPool | None = None

    @property
    def running(self) -> bool:
        """Tell whether its workers were started and not stopped."""
        return bool(self._tasks)

    def is_ready(self) -> bool:
        """Tell whether every worker has opened its sessions and claims."""
        return all(worker.ready.is_set() for worker in self._tasks.values())

    async def start(self) -> None:
        """Start the workers."""
        from psycopg.conninfo import make_conninfo

        from .pools import POOL_SIZE, LazyPool

        app = self._runtime.require_app("cb_worker_pool")
        domains = sorted(app.domains(self._runtime.pool))
        size = await self.size_pool(len(domains) * self._workers * KEPT + POOL_SIZE)
        await self._runtime.store_rules()
        faults = self._runtime.faults
        if faults is not None:
            await faults.begin()
        name = self._runtime.workers_name
        dsn = self._runtime.database.dsn if faults is None else faults.worker_dsn(name)
        self._pool = LazyPool(
            make_conninfo(dsn, application_name=name), max_size=size, name=f"cb-workers-{self._runtime.database.name}"
        )
        for domain in domains:
            for number in range(1, self._workers + 1):
                worker = self._worker(app, domain, self._pool)
                self._tasks[asyncio.create_task(worker.run(), name=f"worker {number} of {domain}")] = worker

    def _worker(self, app: "App", domain: str, pool: "LazyPool") -> "Worker":
        from commandbus import Worker

        from .behavior import chaos_middleware
        from .witness import Witness

        options = dict(self._options)
        # The test's own come before chaos, so that they see what it raises.
        middleware = [Witness(self._runtime.ledger), *options.pop("middleware", ())]
        if self._runtime.faults is not None:
            from .faults.middleware import FaultPoints

            middleware.append(FaultPoints(self._runtime.faults))
        if self._runtime.rules:
            middleware.append(chaos_middleware(pool))
        return Worker(
            pool,
            domain=domain,
            handler_registry=app.registry,
            processes=app.processes(pool),
            concurrency=self._concurrency,
            retry_policy=app.retry_policy,
            middleware=middleware,
            **options,
        )

    async def stop(self) -> None:
        """Stop the workers gracefully. Errors: WorkerDiedError."""
        tasks, self._tasks = self._tasks, {}
        died = _traceback_of_dead(tasks)
        stopping = [worker.stop(timeout=STOP_SECONDS) for task, worker in tasks.items() if not task.done()]
        await asyncio.gather(*stopping, *tasks, return_exceptions=True)
        died = died or _traceback_of_dead(task for task in tasks if task.cancelled() or task.exception())
        if self._pool is not None:
            await self._pool.close()
        self._tell(died)

    def _died(self) -> str:
        return _traceback_of_dead(self._tasks)


def _traceback_of_dead(tasks: Iterable["asyncio.Task[None]"]) -> str:
    parts = []
    for task in tasks:
        if task.done():
            error = None if task.cancelled() else task.exception()
            how = "".join(traceback.format_exception(error)) if error else "it returned though nobody stopped it"
            parts.append(f"{task.get_name()} died by itself:\n{how}")
    return "\n".join(parts)
