"""What befalls the campaign: worker processes killed and frozen, sessions ended, the server crashed."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, LiteralString

import psycopg

from commandbus.auditor import Violation
from pytest_commandbus.postgres.server import EmbeddedPostgres
from tests.soak import campaign_sql as sql
from tests.soak.figures import Figures
from tests.soak.fleet import Fleet, WorkerProcess
from tests.soak.shop import LEASE

TAKE_OVER = 120.0  # seconds after which somebody must have taken what a frozen worker held
LOOK = 0.05
TEND = 0.2
ZOMBIES_AT_ONCE = 2


class Troubles:
    """Injects faults until all of `target` are counted in `done`, in the measure in which commands are sent."""

    def __init__(self, server: EmbeddedPostgres, dsn: str, fleet: Fleet, rng: random.Random, target: Figures) -> None:
        self.done = Figures()
        self.wrong: list[Violation] = []
        self.share: Callable[[], float] = lambda: 0.0  # of its commands that the campaign has sent
        self.is_over = False
        self._server = server
        self._dsn = dsn
        self._fleet = fleet
        self._rng = rng
        self._target = target
        self._conn: psycopg.AsyncConnection[Any] | None = None
        self._asking = asyncio.Lock()

    def are_enough(self) -> bool:
        """Whether there were as many of each kind as there are to be."""
        kinds = ("worker_kills", "postgres_kills", "terminations", "zombies")
        return all(getattr(self.done, kind) >= getattr(self._target, kind) for kind in kinds)

    async def run(self) -> None:
        """Until `is_over`; then what is frozen goes on, and the server runs."""
        zombies = [self._each("zombies", self._make_zombie) for _ in range(ZOMBIES_AT_ONCE)]
        await asyncio.gather(
            self._tend(),
            self._each("worker_kills", self._kill_worker),
            self._each("terminations", self._terminate),
            self._each("postgres_kills", self._crash),
            *zombies,
        )

    async def ask(self, statement: LiteralString, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the database as nobody who is part of the campaign, also when it is just away."""
        async with self._asking:
            while True:
                try:
                    if self._conn is None or self._conn.closed:
                        self._conn = await psycopg.AsyncConnection.connect(
                            self._dsn, autocommit=True, application_name="campaign"
                        )
                    cursor = await self._conn.execute(statement, values or None)
                    return [] if cursor.description is None else await cursor.fetchall()
                except psycopg.OperationalError:
                    await asyncio.sleep(LOOK)

    async def close(self) -> None:
        """Ask nothing any more."""
        if self._conn is not None:
            await self._conn.close()

    async def _each(self, kind: str, inject: Callable[[], Awaitable[bool]]) -> None:
        most = getattr(self._target, kind)
        while not self.is_over and most:
            done = getattr(self.done, kind)
            if done >= most or done / most > self.share():
                await asyncio.sleep(LOOK * self._rng.uniform(0.2, 1.8))
            elif await inject():
                setattr(self.done, kind, getattr(self.done, kind) + 1)

    async def _tend(self) -> None:
        while not self.is_over:
            self._fleet.tend()
            await asyncio.sleep(TEND)

    async def _victim(self) -> WorkerProcess | None:
        """Some worker that has claims in hand and is not frozen."""
        holders = {row[0] for row in await self.ask(sql.HOLDERS)}
        members = [m for m in self._fleet.members if m.pid in holders and not m.is_frozen]
        if not members:
            await asyncio.sleep(LOOK)
            return None
        return self._rng.choice(members)

    async def _kill_worker(self) -> bool:
        victim = await self._victim()
        return victim is not None and self._fleet.kill(victim)

    async def _terminate(self) -> bool:
        return bool(await self.ask(sql.TERMINATE))

    async def _crash(self) -> bool:
        await asyncio.to_thread(self._server.crash)
        await asyncio.to_thread(self._server.start)
        return True

    async def _make_zombie(self) -> bool:
        """Freeze a worker until others have claimed what it held; it counts as a zombie only then."""
        victim = await self._victim()
        if victim is None or victim.is_frozen or victim.process.exitcode is not None:
            return False
        self._fleet.freeze(victim)
        try:
            held = await self.ask(sql.HELD_BY, victim.pid)
            claims = [row[0] for row in held], [row[1] for row in held]
            deadline = asyncio.get_running_loop().time() + TAKE_OVER
            while True:
                ((still, again),) = await self.ask(sql.STILL_HELD, *claims)
                if still == 0:
                    return bool(again)
                if self.is_over:
                    return False
                if asyncio.get_running_loop().time() > deadline:
                    self.wrong.append(
                        Violation(
                            "L2", str(victim.pid), f"{still} of its leases, {LEASE:g} s long, were taken by nobody"
                        )
                    )
                    return False
                await asyncio.sleep(LOOK)
        finally:
            self._fleet.thaw(victim)
