"""The desk: a thread of the test's process that worker processes ask at each named point, and that injects faults.

It has a loop of its own, so that faults go on while the test's loop is busy, and so that plain tests have them too.
"""

import asyncio
import json
import os
import random
import shutil
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .active import ActiveRule
from .journal import Injection
from .network import Proxy, _private_directory
from .points import Passage
from .rules import FaultRule

if TYPE_CHECKING:
    from .injecting import Injector

T = TypeVar("T")
_LONGEST_LINE = 1 << 27  # bytes of a message: a claim's passages with their data
_LOOK_SECONDS = 0.02
_TEND_SECONDS = 0.05


class Fleet(Protocol):
    """Worker processes that faults may be injected into, and that are kept at their number."""

    def alive(self) -> list[int]:
        """Return the process ids of those that run."""

    def replace(self, pid: int) -> bool:
        """SIGKILL one and start another in its place; False when there is no such process."""

    def signal(self, pid: int, number: int) -> bool:
        """Send it a signal; False when there is no such process."""

    def application(self, pid: int) -> str | None:
        """Return the application_name of its sessions, None when there is no such process."""

    def tend(self) -> None:
        """Start those again that died of a fault before they were ready."""


class Desk:
    """Injects what the rules in force ask for. Its methods but `call` and `close` run on its own loop.

    seed: of every roll. batches: numbers of the test's batches by id, which may grow.
    """

    def __init__(self, seed: int, batches: Mapping[str, int]) -> None:
        self.seed = seed
        self.journal: list[Injection] = []
        self.problem: BaseException | None = None
        self.fleets: list[Fleet] = []
        self.frozen: set[int] = set()
        self.gone: set[int] = set()
        self.proxy: Proxy | None = None
        self.is_halted = False
        self.directory = _private_directory()
        self._batches = batches
        self._began: float | None = None
        self._numbers = 0
        self._rules: list[ActiveRule] = []
        self._seen: dict[int, None] = {}
        self._turns: dict[int, asyncio.Lock] = {}
        self._outages = 0
        self._outage_ended = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None
        self._injector: Injector | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="pytest-commandbus faults", daemon=True)

    @property
    def path(self) -> str:
        """The socket that worker processes ask at."""
        return f"{self.directory}/desk"

    def start(self, injector: "Injector") -> None:
        """Begin; `injector` knows how each kind is injected."""
        self._injector = injector
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something on the desk's loop, from the test's."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def call_soon(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run something on the desk's loop, from any thread, without waiting for it."""
        self._loop.call_soon_threadsafe(self.background, work)

    def close(self) -> None:
        """Heal all, and end the thread."""
        if not self._thread.is_alive():
            return
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        shutil.rmtree(self.directory, ignore_errors=True)

    # rules

    async def add(self, rule: FaultRule) -> ActiveRule:
        """Put a rule in force; what lasts begins now."""
        self._numbers += 1
        active = ActiveRule(rule, self._numbers, self.seed, self._batches)
        self._began = self._began or time.monotonic()
        self._rules.append(active)
        if rule.lasts and not self.is_halted:
            await self._inject(active, None, None, ())
        elif rule.rate is not None:
            self.background(self._at_rate(active, rule.rate))
        return active

    async def remove(self, active: ActiveRule) -> None:
        """End a rule, and heal what it did."""
        active.ended.set()
        if active in self._rules:
            self._rules.remove(active)
        while active.under_way:
            await asyncio.gather(*active.under_way, return_exceptions=True)

    async def halt(self) -> None:
        """Inject nothing any more, and heal all."""
        self.is_halted = True
        for active in list(self._rules):
            await self.remove(active)

    async def once(self, rule: FaultRule, random_number: float) -> ActiveRule:
        """Inject a fault now, into a worker of those that run where it is one worker's."""
        active = ActiveRule(rule, 0, self.seed, self._batches)
        self._began = self._began or time.monotonic()
        pids = self._candidates() or [pid for fleet in self.fleets for pid in fleet.alive()]
        victim = pids[int(random_number * len(pids))] if pids else None
        await self._inject(active, victim, None, ())
        return active

    def record(
        self, active: ActiveRule, point: str | None, pid: int | None, hit: Sequence[Passage], detail: str = ""
    ) -> None:
        """Write down what was injected."""
        at = time.monotonic() - (self._began or time.monotonic())
        labels = tuple(passage.label for passage in hit)
        injection = Injection(active.rule.kind, point, at, pid, labels, detail)
        active.injections.append(injection)
        self.journal.append(injection)

    # for injectors

    def fleet_of(self, pid: int | None) -> Fleet | None:
        """Return the worker processes that this one is of, None for workers of the test's own process."""
        return next((fleet for fleet in self.fleets if pid in fleet.alive()), None)

    def begin_outage(self) -> None:
        """Note that from now on a worker process may fail to start, for no fault of its own."""
        self._outages += 1

    def end_outage(self) -> None:
        """Note that it is over."""
        self._outages -= 1
        self._outage_ended = time.monotonic()

    def was_disturbed_since(self, moment: float) -> bool:
        """Tell whether there was an outage since a moment of time.monotonic()."""
        return self._outages > 0 or self._outage_ended >= moment

    def background(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run something beside, until the desk closes."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._note)

    # points

    async def passing(self, pid: int, point: str, passages: Sequence[Passage]) -> bool:
        """Inject what is to be injected as commands pass a point; False when the worker died of it."""
        if pid != os.getpid() and self.fleet_of(pid) is None:  # about to be stopped
            return True
        self._seen[pid] = None
        async with self._turns.setdefault(pid, asyncio.Lock()):
            for active in list(self._rules):
                if pid in self.gone or self.is_halted:
                    break
                try:
                    hit = active.hit(point, passages)
                except Exception as error:  # a user's where= may raise anything: the test is to tell
                    self.problem = self.problem or error
                    active.ended.set()
                    continue
                if hit:
                    await self._inject(active, pid, point, hit)
        return pid not in self.gone

    async def leave(self, fleet: Fleet) -> None:
        """Leave worker processes alone, which are about to be stopped: what is frozen goes on."""
        if fleet in self.fleets:
            pids = set(fleet.alive())
            self.fleets.remove(fleet)
            for active in list(self._rules):
                if active.rule.kind == "freeze" and self.frozen & pids:
                    await self.remove(active)

    async def _inject(self, active: ActiveRule, pid: int | None, point: str | None, hit: Sequence[Passage]) -> None:
        if self._injector is None:
            return
        work = self._injector.inject(active, pid, point, hit)
        task = self._loop.create_task(work)
        active.under_way.add(task)
        task.add_done_callback(active.under_way.discard)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if point is None and active.rule.rate is None:  # by hand, or for a block: who asked is told
                raise
            self.problem = self.problem or error
            active.ended.set()

    async def _at_rate(self, active: ActiveRule, rate: float) -> None:
        """The first one comes as soon as some worker has claimed something, the others as the seed draws."""
        draw = random.Random(f"{self.seed}|{active.number}")
        while not active.is_over and not self.is_halted:
            pids = self._candidates()
            if not pids:
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            before = len(active.injections)
            active.take()
            await self._inject(active, pids[int(draw.random() * len(pids))], None, ())
            if len(active.injections) == before:
                active.give_back()
            with suppress(TimeoutError):
                await asyncio.wait_for(active.ended.wait(), draw.expovariate(rate))

    def _candidates(self) -> list[int]:
        """Return the workers that have passed a point, so that each gets somewhere, and are not frozen."""
        own = [pid for fleet in self.fleets for pid in fleet.alive()]
        seen = [pid for pid in own if pid in self._seen] if self.fleets else list(self._seen)
        return [pid for pid in seen if pid not in self.frozen and pid not in self.gone]

    # the thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    async def _open(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path, limit=_LONGEST_LINE)
        if self.proxy is not None:
            await self.proxy.start()
        self.background(self._tend())

    async def _close(self) -> None:
        await self.halt()
        if self._server is not None:
            self._server.close()
        if self.proxy is not None:
            await self.proxy.close()
        others = asyncio.all_tasks(self._loop) - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _tend(self) -> None:
        while True:
            for fleet in list(self.fleets):
                await asyncio.to_thread(fleet.tend)
            await asyncio.sleep(_TEND_SECONDS)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                self.background(self._answer(json.loads(line), writer))
        except (OSError, ValueError):
            return
        finally:
            writer.close()

    async def _answer(self, message: Mapping[str, Any], writer: asyncio.StreamWriter) -> None:
        passages = [Passage(**passage) for passage in message["passages"]]
        if await self.passing(message["pid"], message["point"], passages) and not writer.is_closing():
            with suppress(OSError):
                writer.write(b"%d\n" % message["number"])

    def _note(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.problem = self.problem or error
