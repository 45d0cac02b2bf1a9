"""The faults of one test: what the fixture `cb_faults` offers, and what the marker asks for."""

import asyncio
import os
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import psycopg
import pytest
from psycopg_pool import PoolTimeout

from .. import markers
from ..postgres.dsn import Dsn
from .active import ActiveRule
from .desk import Desk, Fleet
from .injecting import Injector
from .journal import Injection, render
from .network import PORT, Address, Proxy
from .points import Passage
from .rules import LASTING, FaultRule, FaultUsageError, rule_of, with_steps

if TYPE_CHECKING:
    from collections.abc import Generator

    from ..runtime import Runtime
    from .private import PrivateServer

T = TypeVar("T")
RECOVERY_SECONDS = 60.0
WAIT_SECONDS = 30.0
_LOOK_SECONDS = 0.02


class NeverInjectedError(AssertionError):
    """A fault was asked for, and nothing that ran gave it an occasion."""


class Fault:
    """One fault of a test. `async with` injects it while the block lasts, and heals what it did at its end.

    A fault without `at` and `rate` that does not last (kill, freeze, …) is awaited instead: it is injected once, now.
    """

    def __init__(self, faults: "Faults", rule: FaultRule) -> None:
        self._faults = faults
        self._rule = rule
        self._active: ActiveRule | None = None

    if TYPE_CHECKING:

        def __await__(self) -> "Generator[Any, None, Sequence[Injection]]": ...

    async def __aenter__(self) -> Self:
        if self._rule.is_once:
            raise pytest.UsageError(
                f"cb_faults.{self._rule.kind}(): in a block, say when it is to be injected, by at= or rate=; to inject "
                f"it once, now, write `await cb_faults.{self._rule.kind}()`"
            )
        self._active = await self._faults.begin_fault(self._rule)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        active = self._active
        if active is not None:
            await self._faults.end_fault(active)
            if error is None and not active.injections:
                raise NeverInjectedError(never_injected(f"cb_faults.{self._rule.written}"))

    @property
    def injected(self) -> list[Injection]:
        """What was injected so far."""
        return [] if self._active is None else list(self._active.injections)

    async def wait(self, count: int = 1, *, timeout: float = WAIT_SECONDS) -> list[Injection]:
        """Wait until it was injected so many times; return what was. timeout: real seconds. Errors: TimeoutError."""
        deadline = time.monotonic() + timeout
        while len(self.injected) < count:
            self._faults.check()
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"cb_faults.{self._rule.written} was injected {len(self.injected)} of {count} times in "
                    f"{timeout:g} s: start workers and work for it, or give a longer timeout="
                )
            await asyncio.sleep(_LOOK_SECONDS)
        return self.injected


class FaultNow(Fault):
    """A fault to be injected once, by awaiting it."""

    def __await__(self) -> "Generator[Any, None, Sequence[Injection]]":
        return self._now().__await__()

    async def _now(self) -> Sequence[Injection]:
        self._active = await self._faults.inject_now(self._rule)
        return self.injected


class Faults:
    """Faults of the machinery. Each method takes the fields of the marker; see the reference."""

    def __init__(self, runtime: "Runtime", server: "PrivateServer | None") -> None:
        self._runtime = runtime
        self._server = server
        self._random = random.Random(runtime.seed)
        self._marked: list[tuple[str, ActiveRule]] | None = None
        self._desk = Desk(runtime.seed, runtime.batch_numbers)
        if markers.needs_proxy(runtime.item):
            self._desk.proxy = Proxy(_address(runtime.database.dsn), runtime.seed)
        self._desk.start(Injector(self._desk, runtime.database.dsn, server, runtime.workers_name))

    # for tests

    def kill(self, **given: Any) -> Fault:
        """SIGKILL a worker process; another takes its place."""
        return self._fault("kill", given)

    def freeze(self, **given: Any) -> Fault:
        """SIGSTOP a worker process, and SIGCONT it after `seconds`, or once others have taken over what it held."""
        return self._fault("freeze", given)

    def terminate(self, **given: Any) -> Fault:
        """End the sessions of a worker process by pg_terminate_backend, the one that listens too."""
        return self._fault("terminate", given)

    def crash_postgres(self, **given: Any) -> Fault:
        """SIGKILL the server, and start it again after `seconds`."""
        return self._fault("crash_postgres", given)

    def restart_postgres(self, **given: Any) -> Fault:
        """Shut the server down in order, and start it again."""
        return self._fault("restart_postgres", given)

    def network(self, **given: Any) -> Fault:
        """Delay, swallow or cut the connections between workers and server."""
        return self._fault("network", given)

    def old_snapshot(self, **given: Any) -> Fault:
        """Hold a snapshot, so that nothing that is deleted meanwhile can be vacuumed."""
        return self._fault("old_snapshot", given)

    def full_disk(self, **given: Any) -> Fault:
        """Leave the tables of the test's database no room to grow. Skips the test where no tmpfs may be mounted."""
        return self._fault("full_disk", given)

    def halt(self) -> None:
        """Inject nothing any more in this test, and heal what was injected."""
        self._desk.is_halted = True
        self._desk.call_soon(self._desk.halt())

    @property
    def injected(self) -> list[Injection]:
        """Everything that was injected in this test so far, oldest first."""
        return list(self._desk.journal)

    # for blocks

    async def begin_fault(self, rule: FaultRule) -> ActiveRule:
        """Put a rule in force, once the workers that just start are ready."""
        await self.begin()
        await self._stand()
        return await self._asked(self._desk.add(self._resolved(rule, f"cb_faults.{rule.kind}")))

    async def end_fault(self, active: ActiveRule) -> None:
        """End it, heal what it did, and wait until all stands again."""
        await self._desk.call(self._desk.remove(active))
        await self._stand()
        self.check()

    async def inject_now(self, rule: FaultRule) -> ActiveRule:
        """Inject a fault once; workers that just start are waited for."""
        await self._stand()
        injecting = asyncio.ensure_future(self._asked(self._desk.once(rule, self._random.random())))
        while not injecting.done():
            await asyncio.wait([injecting], timeout=_LOOK_SECONDS)
            if self._runtime.skips_time:  # what a frozen process holds is taken over when its lease has run out
                with suppress(psycopg.OperationalError, PoolTimeout):
                    await self._runtime.clock.skip()
        active = await injecting
        await self._stand()
        self.check()
        if not active.injections:
            raise NeverInjectedError(
                f"cb_faults.{rule.written}: there was nobody to hit: start workers first, by cb_worker_pool or a batch"
            )
        return active

    def check(self) -> None:
        """Raise what went wrong in the desk, such as a user's where=."""
        problem, self._desk.problem = self._desk.problem, None
        if isinstance(problem, FaultUsageError):
            raise pytest.UsageError(str(problem)) from None
        if problem is not None:
            raise problem

    # for the test's life

    async def begin(self) -> None:
        """Put the marker's rules in force, before the first workers start."""
        if self._marked is None:
            self._marked = []
            for rule in markers.fault_rules(self._runtime.item):
                resolved = self._resolved(rule, "@pytest.mark.faults")
                self._marked.append((rule.written, await self._asked(self._desk.add(resolved))))

    def join(self, fleet: Fleet) -> None:
        """Have faults injected into worker processes."""
        self._desk.fleets.append(fleet)

    async def leave(self, fleet: Fleet) -> None:
        """Leave worker processes alone, which are about to be stopped."""
        await self._desk.call(self._desk.leave(fleet))

    async def recover(self, *, wait: bool) -> None:
        """End all faults. wait: until the bus has come to rest again, where the test has seen it do so before."""
        await self._desk.call(self._desk.halt())
        if not wait:
            return
        await self._serve()
        self.check()
        if self._runtime.waited and any(pool.running for pool in self._runtime.worker_pools):
            await self._rest()

    def check_injected(self) -> None:
        """Fail the test when a fault of its marker was never injected."""
        for written, active in self._marked or []:
            if not active.injections:
                pytest.fail(never_injected(f"@pytest.mark.faults: {written}"), pytrace=False)
        if self._marked is None and markers.fault_rules(self._runtime.item):
            pytest.fail(never_injected("@pytest.mark.faults"), pytrace=False)

    def close(self) -> None:
        """Heal all, and end the desk."""
        self._desk.close()

    def describe(self) -> str:
        """Return a line for each fault that was injected."""
        return render(self._desk.journal)

    def was_disturbed_since(self, moment: float) -> bool:
        """Tell whether a worker process that was started then may have failed for a fault."""
        return self._desk.was_disturbed_since(moment)

    async def passing(self, point: str, passages: Sequence[Passage]) -> None:
        """The way to the desk of workers in the test's own process."""
        await self._desk.call(self._desk.passing(os.getpid(), point, passages))

    @property
    def desk_path(self) -> str:
        """The socket of the desk, for worker processes."""
        return self._desk.path

    def worker_dsn(self, application: str) -> Dsn:
        """Return the connection string for workers: through the proxy if there is one, and told apart by name."""
        from psycopg.conninfo import conninfo_to_dict, make_conninfo

        parts = {**conninfo_to_dict(self._runtime.database.dsn), "application_name": application}
        if self._desk.proxy is not None:
            parts.pop("hostaddr", None)
            parts |= {"host": str(self._desk.proxy.directory), "port": str(PORT)}
        return Dsn(make_conninfo("", **parts))

    def _fault(self, kind: str, given: dict[str, Any]) -> Fault:
        try:
            rule = rule_of(kind, given, f"cb_faults.{kind}()")
        except FaultUsageError as error:
            raise pytest.UsageError(str(error)) from None
        if kind not in LASTING and rule.is_once:
            return FaultNow(self, rule)
        return Fault(self, rule)

    def _resolved(self, rule: FaultRule, where: str) -> FaultRule:
        if rule.step is None:
            return rule
        from .. import layers
        from ..chaos import ChaosUsageError

        app = self._runtime.require_app(where)
        try:
            target = layers.names_of(app, self._runtime.managers).resolve(rule.step, where)
        except ChaosUsageError as error:
            raise pytest.UsageError(str(error)) from None
        return with_steps(rule, target.names)

    async def _asked(self, work: Any) -> ActiveRule:
        try:
            active: ActiveRule = await self._desk.call(work)
        except FaultUsageError as error:
            raise pytest.UsageError(str(error)) from None
        return active

    async def _serve(self) -> None:
        """Have the server of the test's own run."""
        if self._server is not None:
            await asyncio.to_thread(self._server.start)

    async def _stand(self) -> None:
        """Wait until the server answers, and every pool has its number of workers that are ready."""
        await self._serve()
        deadline = time.monotonic() + RECOVERY_SECONDS
        pools = [pool for pool in self._runtime.worker_pools if pool.running]
        while not all(pool.is_ready() for pool in pools):
            self._runtime.check_workers()
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"after the faults, the workers were not ready again within {RECOVERY_SECONDS:g} s: the report "
                    "shows their output"
                )
            await asyncio.sleep(_LOOK_SECONDS)

    async def _rest(self) -> None:
        """Wait until nothing is under way any more; what never comes to rest is for the audit to tell."""
        from ..audit import Audit

        deadline = time.monotonic() + RECOVERY_SECONDS
        while await Audit(self._runtime).violations(liveness=True) and time.monotonic() < deadline:
            self._runtime.check_workers()
            if self._runtime.skips_time:
                await self._runtime.clock.skip()
            await self._runtime.sweep()
            await asyncio.sleep(_LOOK_SECONDS)


def never_injected(what: str) -> str:
    """Say that a fault found no occasion, and what to do."""
    return (
        f"{what} was never injected: no worker of this test gave it an occasion. Remove it, widen its scope, or let "
        "the test run what it is for"
    )


def _address(dsn: Dsn) -> Address:
    with psycopg.connect(dsn) as connection:
        return Address(connection.info.host, connection.info.port)
