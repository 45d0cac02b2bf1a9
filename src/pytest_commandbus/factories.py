"""What the fixtures cb_worker_pool, cb_process_batch and cb_command_batch give a test."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest

from .runtime import Runtime
from .starting import InitialData, expand_data, start_command_batch, start_process_batch

if TYPE_CHECKING:
    from .command_batch import CommandBatch
    from .oracle import Prediction
    from .process_batch import ProcessBatch
    from .worker_pool import WorkerPool


class WorkerPoolFactory:
    """Makes pools of workers."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def __call__(
        self, workers: int = 2, concurrency: int = 10, processes: bool | None = None, **options: Any
    ) -> "WorkerPool":
        """Return a pool of `workers` workers of `concurrency` slots each, to be entered by `async with`.

        options: of commandbus.Worker, such as visibility_timeout (seconds).
        """
        return self._runtime.worker_pool(workers, concurrency, processes, None, **options)


class ProcessBatchFactory:
    """Makes batches of processes."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def __call__(
        self,
        manager: Any,
        *,
        count: int = 1,
        initial_data: InitialData = None,
        name: str | None = None,
        workers: int = 2,
        concurrency: int = 10,
        processes: bool | None = None,
    ) -> "ProcessBatch":
        """Create a batch of `count` processes of the manager class, start workers when none run, return its handle.

        initial_data: the same for all, or called with each ordinal from 0. workers, concurrency, processes: as of
        cb_worker_pool, workers=0 starts none.
        """
        if count < 0:
            raise pytest.UsageError(f"cb_process_batch: count={count} must be 0 or more")
        return await start_process_batch(
            self._runtime,
            manager,
            count=count,
            initial_data=initial_data,
            name=name,
            workers=workers,
            concurrency=concurrency,
            processes=processes,
        )

    def predict(
        self, manager: Any, *, count: int = 1, path: Sequence[str] | None = None, batch_number: int = 1
    ) -> "Prediction":
        """Return what chaos will make of each process of a batch, before it runs.

        batch_number: which batch of the test it will be, from 1. path: the steps in the order in which they run, where
        that depends on results. Errors: ChaosUsageError when the path cannot be told and was not given.
        """
        return self._runtime.predict(manager, count=count, path=path, batch_number=batch_number)


class CommandBatchFactory:
    """Makes batches of commands."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def __call__(
        self,
        domain: str,
        command_type: str,
        *,
        count: int = 1,
        data: Mapping[str, Any] | Callable[[int], Mapping[str, Any]] | None = None,
        name: str | None = None,
        workers: int = 2,
        concurrency: int = 10,
        processes: bool | None = None,
    ) -> "CommandBatch":
        """Create a batch of `count` commands of one type, start workers when none run, return its handle.

        data: the same for all, or called with each ordinal from 0.
        """
        from commandbus import BatchCommand, uuid7

        if count < 0:
            raise pytest.UsageError(f"cb_command_batch: count={count} must be 0 or more")
        commands = [BatchCommand(command_type, uuid7(), each) for each in expand_data(data, range(count))]
        return await start_command_batch(
            self._runtime, domain, commands, name=name, workers=workers, concurrency=concurrency, processes=processes
        )
