"""What one test has of the bus: its database, pools, workers, clock and chaos, and how all of it ends."""

import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest

from . import markers
from .application import check_app, path_of
from .run import RUN, Run

if TYPE_CHECKING:
    from commandbus import App, TroubleshootingQueue
    from commandbus.process import BaseProcessManager
    from commandbus.sync import Portal

    from .chaos_rules import ChaosRules
    from .command_batch import CommandBatch
    from .database import Database
    from .faults.session import Faults
    from .ledger import Trail
    from .oracle import Prediction
    from .process_batch import ProcessBatch
    from .worker_pool import WorkerPool

T = TypeVar("T")
LONGEST_OUTAGE = 60.0
_LOOK_SECONDS = 0.05


class Runtime:
    """The bus as one test has it. Everything opens at its first use on the test's loop, and ends on it in `finish`.

    database: the test's own or shared one. app: the App under test, None until a fixture that needs it was asked for.
    waited: a wait saw the end of what was started, so that liveness is audited too, unless more was sent after
    the event ended_by. audited_by_another: this test shares its database with one that audits it. skips_time: waiting
    takes no real time. sections: (title, text) of the failure report. objections: what the test fails for at its
    end. batches, worker_pools: what the test made so far. is_example: one of many of this test; its idle_markers
    are what chaos markers say in vain, which another example may not. ledger, trail: what it saw of the bus from
    outside, and the audit trail as it was at the first look.
    """

    def __init__(self, item: pytest.Item, database: "Database") -> None:
        from .clock import Clock
        from .ledger import Ledger
        from .pools import LazyPool

        self.item = item
        self.run: Run = item.config.stash[RUN]
        self.seed = self.run.seed
        self.database = database
        self.app: App | None = None
        self.waited = False
        self.ended_by = 0  # the last audit event when it saw that
        self.audited_by_another = False
        self.finished = False
        self.skips_time = markers.clock_is_skipped(item)
        self.sections: list[tuple[str, str]] = []
        self.objections: list[str] = []
        self.batches: list[ProcessBatch | CommandBatch] = []
        self.worker_pools: list[WorkerPool] = []
        self.ledger = Ledger()
        self.trail: Trail | None = None
        self.workers_name = f"cb-{os.getpid()}-{id(self):x}"  # as the server knows its workers
        self.is_example = False
        self.idle_markers: Sequence[str] = ()
        with_faults = markers.has_faults(item)
        self.pool: LazyPool = LazyPool(database.dsn, name=f"cb-{database.name}", checked=with_faults)
        self.clock: Clock = Clock(self.pool)
        self.batch_numbers: dict[str, int] = {}
        self.faults: Faults | None = None
        self._numbers = itertools.count(1)
        self._is_async = markers.is_async_test(item)
        self._portal: Portal | None = None
        self._profiles = self.run.profiles
        self._rules: ChaosRules | None = None
        self._added_rules: frozenset[str] = frozenset()
        self._rules_stored = False
        self._managers: tuple[BaseProcessManager, ...] | None = None
        self._stack = AsyncExitStack()
        self._explained: BaseException | None = None

    def set_app(self, app: object, profiles: object) -> None:
        """Take what the fixtures cb_app and cb_chaos_profiles returned, which must fit. Errors: pytest.UsageError."""
        self.app = check_app(app, "what the fixture cb_app returns")
        self._profiles = self.run.profiles.with_fixture(profiles)
        _ = self.rules

    def start_faults(self) -> None:
        """Make what injects the faults of the test, if it has any."""
        if self.faults is None and markers.has_faults(self.item):
            from .faults.session import Faults

            server = self.run.private_server() if markers.needs_private_server(self.item) else None
            self.faults = Faults(self, server)

    def successor(self, database: "Database") -> "Runtime":
        """Return the runtime of one more example of this test: the same App, profiles and portal, and nothing else."""
        runtime = Runtime(self.item, database)
        runtime.app, runtime._profiles, runtime._portal = self.app, self._profiles, self._portal
        runtime._is_async = self._is_async  # at run time the test is what pytest-asyncio has made of it
        runtime.is_example = True
        if self.faults is not None:
            runtime.start_faults()
        return runtime

    @property
    def used(self) -> bool:
        """Tell whether anything has opened the database through this runtime."""
        return self.pool.home_loop is not None

    def troubleshooting_queue(self) -> "TroubleshootingQueue":
        """Return what an operator acts on; it advances processes by the App's managers when there is an App."""
        from commandbus import TroubleshootingQueue

        return TroubleshootingQueue(self.pool, processes=() if self.app is None else self.managers)

    def require_app(self, who: str) -> "App":
        """Return the App under test, for the fixture `who` which needs it."""
        if self.app is None:
            raise pytest.UsageError(f"{who} needs the App under test: let the test, or a fixture of it, ask for cb_app")
        return self.app

    @property
    def managers(self) -> "tuple[BaseProcessManager, ...]":
        """The process managers of the App, on this test's pool."""
        if self._managers is None:
            self._managers = tuple(self.require_app("cb_process_batch").processes(self.pool))
        return self._managers

    def manager(self, wanted: Any) -> "BaseProcessManager":
        """Return the App's own manager for a manager class. Errors: pytest.UsageError when the App lacks it."""
        for manager in self.managers:
            if manager is wanted or type(manager) is wanted:
                return manager
        for manager in self.managers:
            if isinstance(wanted, type) and isinstance(manager, wanted):
                return manager
        name = getattr(wanted, "__name__", repr(wanted))
        known = ", ".join(sorted(type(m).__name__ for m in self.managers)) or "none"
        raise pytest.UsageError(
            f"the App of cb_app does not know the process manager {name} (it knows: {known}): "
            f"add it by app.add_process({name}), or override the fixture cb_app with an App that has it"
        )

    @property
    def app_path(self) -> str | None:
        """The path by which other processes can import the App, None when they cannot."""
        try:
            return path_of(self.require_app("worker processes"), self.item.config)
        except pytest.UsageError:
            return None

    def next_batch_number(self) -> int:
        """Number the batches of the test from 1: the number is part of every roll's key."""
        return next(self._numbers)

    # chaos

    @property
    def rules(self) -> "ChaosRules":
        """The chaos rules of the test, by the run's profile and its markers. Errors: pytest.UsageError."""
        if self._rules is None:
            self._rules = self._read_rules()
        return self._rules

    def _read_rules(self) -> "ChaosRules":
        from . import layers
        from .chaos_rules import ChaosRules

        given = list(markers.chaos_markers(self.item))
        profile = self.run.options.chaos
        if not given and (profile is None or self.app is None):
            return ChaosRules()
        app = self.require_app("@pytest.mark.chaos")
        return layers.merge(profile, given, self._profiles, layers.names_of(app, self.managers))

    def add_rules(self, profiles: Sequence[str], steps: Mapping[str, Any]) -> None:
        """Lay more rules over those of the markers, as long as nobody has rolled. Errors: pytest.UsageError."""
        from . import layers
        from .chaos_rules import ChaosRules

        who = "cb_chaos"
        if self._rules_stored:
            raise pytest.UsageError(f"{who}: a batch or workers have begun already: call it before the first of them")
        names = layers.names_of(self.require_app(who), self.managers)
        added = layers.merge(None, [markers.ChaosMarker(tuple(profiles), steps)], self._profiles, names, who)
        self._rules = ChaosRules.merge(self.rules, added)
        self._added_rules |= added.names

    async def store_rules(self) -> None:
        """Put the seed and the rules of the test into its database, once, where all workers find them."""
        if self._rules_stored:
            return
        from . import statements
        from .behavior import BehaviorRepository

        async with self.pool.connection() as connection, connection.transaction():
            shared = markers.load_marker(self.item) is not None
            if shared:
                await connection.execute(statements.LOCK_CHAOS_RUN)
                row = await (await connection.execute(statements.HAS_CHAOS_RUN)).fetchone()
            if not shared or row != (True,):
                await BehaviorRepository().store_rules(
                    self.seed, self.rules, skips_time=self.skips_time, conn=connection
                )
        self._rules_stored = True

    async def unmatched_rules(self) -> list[str]:
        """Return what the test's markers say, as written, that was for nothing that ran."""
        if not self.rules:
            return []
        from . import layers
        from .behavior import BehaviorRepository

        await self.store_rules()
        unmatched = await BehaviorRepository(self.pool).unmatched()
        # An example may draw a rule for a step that it never comes to.
        may_be_idle = self._added_rules if self.is_example else frozenset[str]()
        asked = [rule for rule in self.rules if rule.name not in may_be_idle]
        return layers.idle(asked, markers.chaos_markers(self.item), unmatched)

    def predict(
        self,
        manager: Any,
        *,
        count: int,
        path: Sequence[str] | None = None,
        command_types: Mapping[str, str] | None = None,
        batch_number: int = 1,
        first_ordinal: int = 0,
    ) -> "Prediction":
        """Return what chaos makes of each process of a batch. Errors: ChaosUsageError when the path cannot be told."""
        from .oracle import predict

        policy = self.require_app("predict").retry_policy
        return predict(
            self.manager(manager),
            self.rules,
            count=count,
            seed=self.seed,
            batch=batch_number,
            max_attempts=policy.max_attempts,
            fails_when_exhausted=policy.on_exhausted == "fail",
            first_ordinal=first_ordinal,
            path=path,
            command_types=command_types,
        )

    async def observed(self, batch_number: int) -> "Prediction":
        """Return what became of every process of the test's batch of this number, in the form of `predict`."""
        from .observation import observe

        return await observe(self.pool, batch_number)

    # workers and batches

    def worker_pool(
        self, workers: int, concurrency: int, processes: bool | None, cluster: str | None = None, **options: Any
    ) -> "WorkerPool":
        """Return a pool of workers, to be entered by `async with`. The options are those of commandbus.Worker.

        processes: None for what suits the test: processes where it has faults and its App can be imported by path.
        cluster: the Dask scheduler on whose hosts they run.
        """
        if workers < 1 or concurrency < 1:
            raise pytest.UsageError(
                f"cb_worker_pool: workers={workers} and concurrency={concurrency} must both be at least 1"
            )
        from .process_pool import make_pool

        pool = make_pool(self, workers, concurrency, processes, cluster, options)
        self.worker_pools.append(pool)
        return pool

    async def ensure_workers(
        self, workers: int, concurrency: int, processes: bool | None, cluster: str | None = None
    ) -> None:
        """Start workers that end with the test, unless some run. cluster: the Dask scheduler on whose hosts."""
        if any(pool.running for pool in self.worker_pools):
            return
        await self._stack.enter_async_context(self.worker_pool(workers, concurrency, processes, cluster))

    async def outlasting(self, look: Callable[[], Awaitable[T]]) -> T:
        """Look at the database; in a test with faults, look again when the server or the connection was lost."""
        if self.faults is None:
            return await look()
        import psycopg
        from psycopg_pool import PoolTimeout

        deadline = time.monotonic() + LONGEST_OUTAGE
        while True:
            try:
                return await look()
            except (psycopg.OperationalError, PoolTimeout):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_LOOK_SECONDS)

    async def remember_trail(self) -> None:
        """Remember the audit trail as it is now, unless an earlier one is remembered: it only grows."""
        from .ledger import Trail

        if self.trail is None:
            async with self.pool.connection() as connection:
                self.trail = await Trail.read(connection)

    def check_workers(self) -> None:
        """Raise WorkerDiedError if a worker ended by itself."""
        __tracebackhide__ = True
        for pool in self.worker_pools:
            pool.check()
        if self.faults is not None:
            self.faults.check()

    async def sweep(self) -> int:
        """Park the commands that lost their last lease, in every domain of the App; return how many."""
        from commandbus._core.queue_sql import QueueSQL

        swept = 0
        async with self.pool.connection() as connection:
            for domain in sorted(self.require_app("a batch").domains(self.pool)):
                row = await (await connection.execute(QueueSQL.SWEEP, {"domain": domain, "upto": None})).fetchone()
                swept += 0 if row is None else int(row[0])
        return swept

    # the end

    async def finish(self, error: BaseException | None) -> None:
        """End the test's workers, check what must hold at its end, and close everything, on the running loop.

        error: what the test's body raised, or None. Raises what the end itself finds, when the body raised nothing.
        """
        from .ending import end

        if not self.finished:
            self.finished = True
            await end(self, self._stack, error)

    def finish_plain(self, error: BaseException | None) -> None:
        """As `finish`, for a plain test: on the loop of its portal."""
        if self._portal is not None:
            self._portal.call(self.finish, error)

    async def explain(self, error: BaseException) -> None:
        """Collect the sections of the failure report for what the test's body raised, while its workers still run."""
        from . import failure_report

        if self._explained is None:
            self._explained = error
            self.sections.extend(await failure_report.collect(self))

    def forget_explained(self, error: BaseException | None) -> None:
        """Drop what was collected for an error that the test's body caught."""
        if self._explained is not error:
            self._explained = None
            self.sections.clear()

    def explain_failed_setup(self) -> None:
        """Collect the sections of a test whose fixtures failed, so that it never ran."""
        from . import failure_report

        if self.batches:
            self.sections.extend(failure_report.collect_elsewhere(self))

    def finish_interrupted(self, error: BaseException) -> None:
        """As `finish`, where the loop was left with the body under way, as pytest-timeout does; else does nothing."""
        loop = self.pool.home_loop
        if not self.finished and self._is_async and loop is not None and not (loop.is_running() or loop.is_closed()):
            loop.run_until_complete(self.finish(error))

    def abandon(self) -> None:
        """Let go of what a test that never ran has opened."""
        if self._portal is not None:
            if not self.finished:
                self.finish_plain(pytest.skip.Exception("the test did not run"))
            self._portal.close()
        elif not self.finished:
            self.pool.abandon()
        if self.faults is not None:
            self.faults.close()

    def present(self, thing: T) -> T:
        """Return a fixture's value as it is to an async test, and as a blocking proxy to a plain one."""
        if self._is_async:
            return thing
        from commandbus.sync import Portal, SyncProxy

        if self._portal is None:
            self._portal = Portal()
        return cast("T", SyncProxy(thing, self._portal))
