"""A load run: many processes of one manager, over all shards of a load test, and their merged result.

Each process of the test run takes a shard, stores its processes in bulk, and works until they are terminal or parked;
then it takes the next shard that nobody has begun. Once the last shard has finished, whoever comes first reads the
figures of the whole run from the database that they share, and every shard's test gets this one result.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from commandbus.repositories.workers import library_version

from . import markers, thresholds, xdist
from .connections import demand_of, room_for
from .load_ledger import LoadLedger, Shard, ShardState
from .load_result import LoadResult, figures, judgement
from .oracle import Prediction
from .starting import start_process_batch

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from .chaos_rules import ChaosRules
    from .process_batch import ProcessBatch
    from .runtime import Runtime

BEAT_SECONDS = 2.0
SILENT_SECONDS = 60.0
"""A shard whose process has not told for so long that it lives is lost."""
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.5
CONCURRENCY = 100

InitialData = Mapping[str, Any] | Callable[[int], Mapping[str, Any]] | None


class ShardLostError(AssertionError):
    """Another shard of the load test failed, or its process died; the message tells which, and why."""


@dataclass(frozen=True)
class Order:
    """What the test asked for."""

    manager: Any
    initial_data: InitialData
    path: Sequence[str] | None
    workers: int
    concurrency: int
    processes: bool
    timeout: float
    cluster: str | None = None


class LoadTest:
    """The value of the fixture `cb_load`: call it to run the load.

    count: processes of a run, over all shards. shard, shards: the one of this item and how many there are. watching:
    shows a run while it goes. publish: takes its result.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        count: int,
        shard: int,
        shards: int,
        watching: Callable[[], AbstractContextManager[None]],
        publish: Callable[[dict[str, Any]], None],
    ) -> None:
        self._runtime = runtime
        self._ranges = xdist.split(count, shards)
        self._shard = shard
        self._watching = watching
        self._publish = publish
        self._runs = itertools.count(1)

    async def __call__(
        self,
        manager: Any,
        *,
        initial_data: InitialData = None,
        path: Sequence[str] | None = None,
        workers: int | None = None,
        concurrency: int = CONCURRENCY,
        processes: bool | None = None,
        timeout: float | None = None,
    ) -> LoadResult:
        """Start the processes of all shards together, wait until each is terminal or parked, and return the result.

        manager: the process manager's class. initial_data: of each process, or a function of its ordinal over all
        shards. path: the order of steps, where that depends on results, for the oracle. workers: of this shard
        (default: the processors, shared by the shards), as processes of the operating system, or not, by `processes`
        (default: where the App can be imported); with --cb-cluster, processes of its hosts, by default one for each
        thread of its Dask workers. concurrency: commands that a worker handles at once. timeout: seconds of real time
        for a shard (default: 120 and one for every 50 processes). The marker's broken thresholds
        fail the test at its end. Errors: BatchTimeoutError, WorkerDiedError, ShardLostError.
        """
        count, cluster = self._ranges[-1].stop, self._runtime.run.options.cluster
        order = Order(
            manager=manager,
            initial_data=initial_data,
            path=path,
            workers=await self._workers(workers, processes),
            concurrency=concurrency,
            processes=cluster is not None or (self._runtime.app_path is not None if processes is None else processes),
            timeout=120 + count / 50 if timeout is None else timeout,
            cluster=cluster,
        )
        run = _LoadRun(self._runtime, order, number=next(self._runs), batch_number=self._runtime.next_batch_number())
        with self._watching():
            await run.work(self._ranges, own=self._shard)
        result, merged = await run.result()
        self._publish(merged)
        item = self._runtime.item
        if xdist.judges(item.nodeid, (other.nodeid for other in item.session.items)):
            self._runtime.objections += thresholds.broken_lines([merged])
        return result

    async def _workers(self, asked: int | None, processes: bool | None) -> int:
        """How many workers this shard has. Errors: pytest.UsageError when the cluster cannot run so many."""
        shards, cluster = len(self._ranges), self._runtime.run.options.cluster
        if cluster is None:
            return asked or max(1, (os.cpu_count() or 1) // shards)
        if processes is False or self._runtime.faults is not None:
            why = "processes=False" if processes is False else "a test with faults"
            raise pytest.UsageError(
                f"--cb-cluster runs workers as processes of other hosts, and {why} needs them here: leave one out"
            )
        from .cluster import threads_of

        threads = await threads_of(cluster, self._runtime.database.dsn)
        if shards * (asked or 1) > threads:
            raise pytest.UsageError(
                f"--cb-cluster={cluster}: its Dask workers have {threads} threads, one for each worker, and the load "
                f"test wants {asked or 1} for each of its {shards} shards: start more Dask workers, or ask for fewer"
            )
        return asked or threads // shards


class _LoadRun:
    """One call of cb_load, in one process of the test run."""

    def __init__(self, runtime: Runtime, order: Order, *, number: int, batch_number: int) -> None:
        self._runtime = runtime
        self._order = order
        self._number = number
        self._batch_number = batch_number
        self._ledger = LoadLedger(runtime.pool, number, batch_number)
        self._taken: list[int] = []

    async def work(self, ranges: Sequence[range], own: int) -> None:
        """Work on shards until the last one of the run has finished."""
        self._count = ranges[-1].stop
        demand = demand_of(self._runtime, self._order.workers, self._order.processes)
        demand.check(await room_for(self._runtime))  # before anything is created that they then could not work on
        await self._ledger.open(ranges)
        async with self._beating():
            try:
                await self._work(own)
            except Exception as error:
                await self._ledger.failed(self._taken, f"{type(error).__name__}: {error}")
                raise

    async def result(self) -> tuple[LoadResult, dict[str, Any]]:
        """The merged result, as an object for the test and as the dict that is published."""
        actual = await self._runtime.observed(self._batch_number)
        oracle = self._oracle()

        async def make(connection: AsyncConnection[Any]) -> dict[str, Any]:
            environment = {
                "test": xdist.without_shard(self._runtime.item.nodeid),
                "run": self._number,
                "time": "skipped" if self._runtime.skips_time else "real",
                **({} if (profile := self._runtime.run.options.chaos) is None else {"chaos_profile": profile}),
                **({} if not (chaos := self._runtime.rules) else {"chaos": _told(chaos)}),
                **({} if self._order.cluster is None else {"cluster": self._order.cluster}),
                "pytest_commandbus": library_version(),
                **judgement(oracle, actual),
            }
            marker = markers.load_marker(self._runtime.item)
            return figures(
                await self._ledger.measure(connection),
                seed=self._runtime.seed,
                environment=environment,
                limits={} if marker is None else marker.limits,
            )

        merged, made_here = await self._ledger.result(make)
        self._runtime.audited_by_another = not made_here
        return LoadResult(**merged, actual=actual, oracle=oracle), merged

    async def _work(self, own: int) -> None:
        pause = FIRST_PAUSE
        while True:
            shard = await self._ledger.take(own)
            if shard is not None:
                await self._run_shard(shard)
                continue
            states = await self._ledger.states()
            _raise_if_lost(states)
            if all(state.finished for state in states):
                return
            self._runtime.check_workers()
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _run_shard(self, shard: Shard) -> None:
        self._taken.append(shard.index)
        batch = await self._create(shard)
        await self._ledger.created(shard)
        if batch is not None:
            await self._start_workers()
            await batch.wait(timeout=self._order.timeout)
        await self._ledger.finished(shard)

    async def _create(self, shard: Shard) -> ProcessBatch | None:
        if not shard.ordinals:
            return None
        return await start_process_batch(
            self._runtime,
            self._order.manager,
            count=len(shard.ordinals),
            initial_data=self._order.initial_data,
            first_ordinal=shard.ordinals.start,
            batch_number=self._batch_number,
            workers=0,
        )

    async def _start_workers(self) -> None:
        """Start this process's workers with its first shard; they go on while any shard is unfinished."""
        if len(self._taken) == 1:
            order = self._order
            await self._runtime.ensure_workers(order.workers, order.concurrency, order.processes, order.cluster)

    @asynccontextmanager
    async def _beating(self) -> AsyncIterator[None]:
        async def beat() -> None:
            while True:
                await asyncio.sleep(BEAT_SECONDS)
                await self._ledger.beat(self._taken)

        beating = asyncio.create_task(beat(), name="heartbeat of load shards")
        try:
            yield
        finally:
            beating.cancel()
            with suppress(asyncio.CancelledError):
                await beating

    def _oracle(self) -> Callable[[Sequence[str] | None], Prediction]:
        def predict(path: Sequence[str] | None) -> Prediction:
            return self._runtime.predict(
                self._order.manager,
                count=self._count,
                path=path or self._order.path,
                batch_number=self._batch_number,
            )

        return predict


def _told(rules: ChaosRules) -> dict[str, Any]:
    return {rule.names[0]: rule.behavior.model_dump(mode="json", exclude_defaults=True) for rule in rules}


def _raise_if_lost(states: Sequence[ShardState]) -> None:
    for state in states:
        if state.error is not None:
            raise ShardLostError(f"shard {state.shard + 1} of {len(states)} failed: {state.error}")
        if state.taken and not state.finished and (state.silent_seconds or 0) > SILENT_SECONDS:
            raise ShardLostError(
                f"shard {state.shard + 1} of {len(states)} was lost: its process has not been heard of for "
                f"{state.silent_seconds:.0f} s; see the output of its xdist worker for why it died"
            )
