"""The campaign: a bus with worker processes under load and under faults, and at each chapter's end an account of it.

Sends that were acknowledged, and handlers that ran, are remembered outside of the database; at the end of a chapter
the trouble stops, all must come to rest, and the account and the audit must agree with what is stored.
"""

import asyncio
import logging
import random
import time
from contextlib import suppress
from typing import Any
from uuid import UUID

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool

from commandbus.auditor import Violation, audit
from commandbus.migrate import migrate
from pytest_commandbus.ledger import Ledger, Trail
from pytest_commandbus.postgres.server import EmbeddedPostgres
from tests.simulator.planting import NO_FENCE
from tests.soak import campaign_sql as sql
from tests.soak.figures import Figures
from tests.soak.fleet import Fleet
from tests.soak.senders import FAULTY, Senders
from tests.soak.troubles import Troubles

WORKERS = 5
SENDING = 2  # senders at once
CHAPTER = 100_000  # commands between two accounts
REST_SECONDS = 180.0
MOST_RUNS = 10_000_000  # handlers that ran and are remembered
LEFTOVER_SECONDS = 60.0
AT_REST = 0.1  # seconds between two looks


def play(target: Figures, seconds: float, seed: int, *, is_fenced: bool = True) -> tuple[Figures, list[Violation]]:
    """Run until all of `target` was reached, or the time is up; returns what was counted, and what was wrong.

    is_fenced: False takes the fence out of the bus, to see that this would be noticed.
    """
    for name in ("commandbus", "psycopg"):  # what they say of the trouble that we make
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with EmbeddedPostgres(crash_safe=True) as server:
        migrate(server.dsn())
        campaign = Campaign(server, target, random.Random(seed), is_fenced=is_fenced)
        return asyncio.run(campaign.run(time.monotonic() + seconds))


class Campaign:
    """One server, one fleet, and as many chapters as there is time for."""

    def __init__(
        self, server: EmbeddedPostgres, target: Figures, rng: random.Random, *, is_fenced: bool = True
    ) -> None:
        self._dsn = server.dsn()
        self._target = target
        self._rng = rng
        self._is_fenced = is_fenced
        self._figures = Figures()
        self._wrong: list[Violation] = []
        self._fleet = Fleet(make_conninfo(self._dsn, application_name="campaign-worker"), WORKERS)
        self._troubles = Troubles(server, self._dsn, self._fleet, rng, target)

    async def run(self, deadline: float) -> tuple[Figures, list[Violation]]:
        """Play chapter after chapter."""
        await self._prepare()
        self._fleet.start()
        try:
            while True:
                await self._play_chapter(deadline)
                if time.monotonic() > deadline or self._is_done(0):
                    break
                await self._troubles.ask(sql.RESET)
            await asyncio.to_thread(self._fleet.stop)
            await self._look_for_leftovers()
        finally:
            self._fleet.close()
            await self._troubles.close()
        self._wrong += [Violation("L4", "fleet", message) for message in self._fleet.died] + self._troubles.wrong
        self._figures.add(self._troubles.done)
        self._figures.violations = len(self._wrong)
        return self._figures, self._wrong

    async def _prepare(self) -> None:
        async with await AsyncConnection.connect(self._dsn, autocommit=True) as conn:
            await conn.execute(sql.SCHEMA)
            if not self._is_fenced:
                await NO_FENCE.planted(conn).__aenter__()  # for good: the server ends with the campaign

    def _is_done(self, sent: int) -> bool:
        return self._figures.commands + sent >= self._target.commands and self._troubles.are_enough()

    async def _play_chapter(self, deadline: float) -> None:
        ledger = Ledger()
        ledger.MOST_RUNS = MOST_RUNS
        dsn = make_conninfo(self._dsn, application_name="campaign-sender")
        async with AsyncConnectionPool(dsn, min_size=4, max_size=8, reconnect_timeout=REST_SECONDS) as pool:
            senders = Senders(pool, self._rng, ledger)
            trail = await self._amid_trouble(senders, deadline)
            helpers = [asyncio.create_task(work()) for work in (senders.consume, senders.operate)]
            try:
                await self._come_to_rest()
            finally:
                await _end(helpers)
        self._wrong += senders.wrong
        await self._account_for(ledger, trail)
        await self._look_for_dead_rows()

    async def _amid_trouble(self, senders: Senders, deadline: float) -> Trail:
        """Send, work and suffer until there was enough of it; returns the audit trail as it was early on."""
        troubles, trail = self._troubles, None
        before = self._figures.commands
        troubles.share = lambda: min(1.0, (before + senders.sent) / max(1, self._target.commands))
        troubles.is_over = False
        suffering = asyncio.create_task(troubles.run())
        works = [senders.consume, senders.operate, *[senders.send] * SENDING]
        tasks = [asyncio.create_task(work()) for work in works]
        try:
            while time.monotonic() < deadline and senders.sent < CHAPTER and not self._is_done(senders.sent):
                for task in (suffering, *tasks):
                    if task.done():
                        task.result()
                if senders.sent > 500 and trail is None:
                    trail = await self._trail()
                await asyncio.sleep(AT_REST)
        finally:
            troubles.is_over = True
            await _end(tasks[2:])
            await suffering
            await _end(tasks[:2])
        return trail or Trail()

    async def _trail(self) -> Trail | None:
        with suppress(psycopg.OperationalError):  # the server may be just away
            async with await AsyncConnection.connect(self._dsn, autocommit=True) as conn:
                return await Trail.read(conn)
        return None

    async def _come_to_rest(self) -> None:
        """Wait until nothing is left to do; what never comes to rest is for the audit to tell."""
        deadline = time.monotonic() + REST_SECONDS
        while time.monotonic() < deadline:
            self._fleet.tend()
            ((left, parked),) = await self._troubles.ask(sql.LEFT, list(FAULTY))
            if left == parked == 0:
                return
            await asyncio.sleep(AT_REST)

    async def _account_for(self, ledger: Ledger, trail: Trail) -> None:
        """Hold the chapter's account against the database, and count."""
        self._read_runs(ledger)
        figures = self._figures
        async with await AsyncConnection.connect(self._dsn, autocommit=True) as conn:
            found = await audit(conn, liveness=True)
            found += await ledger.violations(conn, knows_all_sends=True)
            found += await trail.violations(conn)
            for statement in (sql.UNEXPECTED, sql.EFFECTS):
                cursor = await conn.execute(statement)
                found += [Violation(*map(str, row)) for row in await cursor.fetchall()]
            lost = await _ids(conn, sql.UNENDED, list(ledger.acknowledged))
            twice, doubled = await _ids(conn, sql.SETTLED_TWICE), await _ids(conn, sql.DOUBLE_REPLIES)
            ((ended,),) = await (await conn.execute(sql.ENDED)).fetchall()
        found += [Violation("S1", str(i), "acknowledged, and lost") for i in lost]
        found += [Violation("S4", str(i), "settled twice") for i in twice]
        found += [Violation("S9", str(i), "replied to twice") for i in doubled]
        figures.commands += ended
        figures.lost += len(lost)
        figures.settled_twice += len(twice)
        figures.double_replies += len(doubled)
        self._wrong += found

    def _read_runs(self, ledger: Ledger) -> None:
        text = self._fleet.account.read_text()
        self._fleet.account.write_text("")
        for line in text.splitlines():
            command_id, epoch = line.split()
            ledger.ran(UUID(command_id), int(epoch))

    async def _look_for_dead_rows(self) -> None:
        """None is left after a VACUUM, once no transaction that was under way can see them any more."""
        deadline = time.monotonic() + LEFTOVER_SECONDS
        while True:
            await self._troubles.ask(sql.VACUUM)
            left = await self._troubles.ask(sql.DEAD_ROWS)
            if not left:
                return
            if time.monotonic() > deadline:
                self._wrong += [Violation("L5", name, f"{count} dead rows after VACUUM") for name, count in left]
                return
            await asyncio.sleep(AT_REST)

    async def _look_for_leftovers(self) -> None:
        """No session of a worker is left, as soon as the server has noticed that they are gone."""
        deadline = time.monotonic() + LEFTOVER_SECONDS
        while left := await self._troubles.ask(sql.SESSIONS):
            if time.monotonic() > deadline:
                self._wrong += [Violation("L4", str(pid), f"{state}: {query}") for pid, state, query in left]
                return
            await asyncio.sleep(AT_REST)


async def _ids(conn: AsyncConnection[Any], statement: Any, *values: Any) -> list[Any]:
    return [row[0] for row in await (await conn.execute(statement, values or None)).fetchall()]


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended
