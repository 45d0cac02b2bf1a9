"""How each kind of fault is injected, and healed."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg

from commandbus.repositories.workers import ALIVE_FOR

from .. import statements
from . import faults_sql as sql
from .active import ActiveRule
from .desk import Desk
from .network import Applied
from .points import Passage
from .rules import FaultUsageError

if TYPE_CHECKING:
    from .private import PrivateServer

FREEZE_SECONDS = 120.0
"""How long a process is frozen at most while nobody takes over what it held."""

MOMENT_SECONDS = 1.0
_LOOK_SECONDS = 0.02
_DATABASE_SECONDS = 60.0

_Injection = Callable[[ActiveRule, int | None, str | None, Sequence[Passage]], Awaitable[None]]


class Injector:
    """Injects into the workers of a desk, and into the server where that is the test's own.

    dsn: leads to the test's database, past the proxy. tasks: the application_name of the sessions of workers that run
    in the test's own process.
    """

    def __init__(self, desk: Desk, dsn: str, server: "PrivateServer | None", tasks: str) -> None:
        self._tasks = tasks
        self._desk = desk
        self._dsn = dsn
        self._server = server
        self._changing_server = asyncio.Lock()
        self._kinds: Mapping[str, _Injection] = {
            "kill": self._kill,
            "freeze": self._freeze,
            "terminate": self._terminate,
            "crash_postgres": self._crash_postgres,
            "restart_postgres": self._restart_postgres,
            "network": self._network,
            "old_snapshot": self._old_snapshot,
            "full_disk": self._full_disk,
        }

    async def inject(self, active: ActiveRule, pid: int | None, point: str | None, hit: Sequence[Passage]) -> None:
        """Inject one fault of a rule, into the worker `pid` where it is one worker's."""
        await self._kinds[active.rule.kind](active, pid, point, hit)

    # processes

    async def _kill(self, active: ActiveRule, pid: int | None, point: str | None, hit: Sequence[Passage]) -> None:
        fleet = self._desk.fleet_of(pid)
        if fleet is None or pid is None:
            self._need_processes(active, pid)
            return
        self._desk.gone.add(pid)
        if await asyncio.to_thread(fleet.replace, pid):
            self._desk.record(active, point, pid, hit)
            parameters = {"pid": pid, "host": socket.gethostname()}
            self._desk.background(self._ask(statements.WORKER_IS_GONE, parameters))

    async def _freeze(self, active: ActiveRule, pid: int | None, point: str | None, hit: Sequence[Passage]) -> None:
        fleet = self._desk.fleet_of(pid)
        if fleet is None or pid is None:
            self._need_processes(active, pid)
            return
        self._desk.frozen.add(pid)
        try:
            if not fleet.signal(pid, signal.SIGSTOP):
                return
            self._desk.record(active, point, pid, hit)
            seconds = active.rule.seconds
            thaw = self._taken_over(pid, hit) if seconds is None else asyncio.sleep(seconds)
            waits = [asyncio.ensure_future(thaw), asyncio.ensure_future(active.ended.wait())]
            await asyncio.wait(waits, timeout=seconds or FREEZE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
            if seconds is None:  # before it goes on: what it claims then is no dead worker's
                alive = {"pid": pid, "host": socket.gethostname(), "alive_for": ALIVE_FOR}
                await self._ask(sql.LIVE_WORKER, alive)
        finally:
            self._desk.frozen.discard(pid)
            fleet.signal(pid, signal.SIGCONT)

    async def _taken_over(self, pid: int, hit: Sequence[Passage]) -> None:
        """Return once nothing of what a frozen process held is held by it any more, by the database."""
        where = {"pid": pid, "host": socket.gethostname()}
        await self._ask(sql.SILENT_WORKER, where)
        if hit:
            held: list[Any] = [(passage.command_id, passage.epoch) for passage in hit]
        else:
            held = await self._ask(sql.HELD_BY, where)
        parameters = {"command_ids": [str(row[0]) for row in held], "epochs": [row[1] for row in held]}
        while True:
            if await self._ask(sql.STILL_HELD, parameters) == [(0,)]:
                return
            await asyncio.sleep(_LOOK_SECONDS)

    def _need_processes(self, active: ActiveRule, pid: int | None) -> None:
        if pid == os.getpid():
            raise FaultUsageError(
                f"{active.rule.kind} needs worker processes, and these workers run in the test's own process: start "
                "them by processes=True, and let the App be importable (a global of a module)"
            )

    # sessions and servers

    async def _terminate(self, active: ActiveRule, pid: int | None, point: str | None, hit: Sequence[Passage]) -> None:
        fleet = self._desk.fleet_of(pid)
        application = self._tasks if fleet is None or pid is None else fleet.application(pid)
        if application is None:
            return
        self._desk.begin_outage()
        try:
            ((ended,),) = await self._ask(sql.TERMINATE, {"application": application})
        finally:
            self._desk.end_outage()
        if ended:
            self._desk.record(active, point, pid, hit, f"{ended} sessions")
        elif point is not None:  # another fault has ended them a moment ago
            active.give_back()

    async def _crash_postgres(
        self, active: ActiveRule, pid: int | None, point: str | None, hit: Sequence[Passage]
    ) -> None:
        async with self._outage(active) as server:
            try:
                await asyncio.to_thread(server.crash)
                self._desk.record(active, point, None, hit)
                if active.rule.seconds:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(active.ended.wait(), active.rule.seconds)
            finally:
                await asyncio.to_thread(server.start)

    async def _restart_postgres(
        self, active: ActiveRule, pid: int | None, point: str | None, hit: Sequence[Passage]
    ) -> None:
        async with self._outage(active) as server:
            await asyncio.to_thread(server.restart)
            self._desk.record(active, point, None, hit)

    @asynccontextmanager
    async def _outage(self, active: ActiveRule) -> "AsyncIterator[PrivateServer]":
        """The test's own server, which nobody else stops or starts meanwhile; the desk knows that it may be away."""
        server = self._own_server(active)
        async with self._changing_server:
            self._desk.begin_outage()
            try:
                yield server
            finally:
                self._desk.end_outage()

    def _own_server(self, active: ActiveRule) -> "PrivateServer":
        if self._server is None:
            raise FaultUsageError(
                f"{active.rule.kind} needs a server of the test's own: let the test ask for the fixture cb_faults, or "
                f"say it in its marker, @pytest.mark.faults({active.rule.kind}=…)"
            )
        return self._server

    # network

    async def _network(self, active: ActiveRule, pid: int | None, point: str | None, hit: Sequence[Passage]) -> None:
        proxy, rule = self._desk.proxy, active.rule
        if proxy is None:
            raise FaultUsageError("there is no proxy before the server: let the test ask for the fixture cb_faults")
        words = [f"{name}={value:g}" for name in ("latency_ms", "jitter_ms") if (value := getattr(rule.toxics, name))]
        words += [name for name in ("reset_peer", "down") if getattr(rule.toxics, name)]
        words += [] if rule.toxics.timeout_ms is None else [f"timeout_ms={rule.toxics.timeout_ms:g}"]
        detail = " ".join(words)
        if rule.lasts:
            told: list[bool] = []

            def tell() -> None:
                if not told:
                    told.append(True)
                    self._desk.record(active, None, None, (), detail)

            self._hold(active, Applied(rule.toxics, on_effect=tell), None)
            return
        self._desk.record(active, point, pid, hit, detail)
        one = self._desk.fleet_of(pid) is not None
        applied = Applied(rule.toxics, pid=pid if one else None)
        if rule.toxics.reset_peer:  # those that are open now, each with its next data
            applied.lines = proxy.open_lines(applied.pid)
        self._hold(active, applied, None if rule.toxics.reset_peer else rule.seconds or MOMENT_SECONDS)

    def _hold(self, active: ActiveRule, applied: Applied, seconds: float | None) -> None:
        """Keep toxics in force until the rule ends, or for so many seconds; what passes a point goes on meanwhile."""
        proxy = self._desk.proxy
        if proxy is None:
            return
        proxy.apply(applied)
        self._desk.begin_outage()

        async def hold() -> None:
            ends = [asyncio.ensure_future(event.wait()) for event in (active.ended, applied.ended)]
            try:
                await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for end in ends:
                    end.cancel()
                proxy.remove(applied)
                self._desk.end_outage()

        task = asyncio.get_running_loop().create_task(hold())
        active.under_way.add(task)
        task.add_done_callback(active.under_way.discard)

    # what lasts

    async def _old_snapshot(
        self, active: ActiveRule, pid: int | None, point: str | None, hit: Sequence[Passage]
    ) -> None:
        conn = await psycopg.AsyncConnection.connect(self._dsn, autocommit=True, application_name="cb-old-snapshot")
        await conn.execute(sql.BEGIN_OLD_SNAPSHOT)
        await conn.execute(sql.TAKE_SNAPSHOT)
        self._desk.record(active, None, None, ())

        async def hold() -> None:
            try:
                await active.ended.wait()
            finally:
                await conn.close()

        self._keep(active, hold())

    async def _full_disk(self, active: ActiveRule, pid: int | None, point: str | None, hit: Sequence[Passage]) -> None:
        from .disk import SmallDisk

        server = self._own_server(active)
        disk = await asyncio.to_thread(SmallDisk.under, server, self._dsn)
        self._desk.begin_outage()
        await asyncio.to_thread(disk.fill)
        self._desk.record(active, None, None, ())

        async def hold() -> None:
            try:
                await active.ended.wait()
            finally:
                await asyncio.to_thread(disk.free)
                self._desk.end_outage()

        self._keep(active, hold())

    @staticmethod
    def _keep(active: ActiveRule, hold: Any) -> None:
        task = asyncio.get_running_loop().create_task(hold)
        active.under_way.add(task)
        task.add_done_callback(active.under_way.discard)

    async def _ask(self, statement: LiteralString, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run a statement past the proxy, also when the server is just away; return its rows, if it has any."""
        deadline = asyncio.get_running_loop().time() + _DATABASE_SECONDS
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as conn:
                    cursor = await conn.execute(statement, parameters)
                    return [] if cursor.description is None else await cursor.fetchall()
            except psycopg.OperationalError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(_LOOK_SECONDS)
