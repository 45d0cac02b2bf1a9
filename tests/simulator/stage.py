"""Where schedules are played: one database with its connections, kept open from one schedule to the next."""

import random
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

from psycopg.rows import tuple_row

from pytest_commandbus.ledger import Ledger
from tests.simulator.gates import Gate, GatedConnection, OneConnection, QuickConnection
from tests.simulator.sagas import ENDS, UNDO, Step

SETTINGS: LiteralString = """
    SET synchronous_commit = off; SET plan_cache_mode = force_generic_plan; SET deadlock_timeout = '20ms'; SET jit = off
"""
SCHEMA: LiteralString = """
    CREATE TABLE public.clock (skipped interval NOT NULL);
    INSERT INTO public.clock VALUES ('0');
    CREATE OR REPLACE FUNCTION commandbus.now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT pg_catalog.statement_timestamp() + (SELECT skipped FROM public.clock) $$;
    CREATE TABLE public.effect (command_id uuid NOT NULL, epoch integer NOT NULL);
    CREATE TABLE public.prepared (command_id uuid NOT NULL);
    CREATE TABLE public.handled_reply (reply_id bigint NOT NULL, command_id uuid NOT NULL);
"""
# All of one schedule; worker rows are kept, since the actors live on.
RESET: LiteralString = """
    DELETE FROM commandbus.command; DELETE FROM commandbus.uncompleted; DELETE FROM commandbus.queue;
    DELETE FROM commandbus.scheduled; DELETE FROM commandbus.troubleshooting; DELETE FROM commandbus.event;
    DELETE FROM commandbus.batch; DELETE FROM commandbus.process; DELETE FROM commandbus.reply;
    DELETE FROM public.effect; DELETE FROM public.prepared; DELETE FROM public.handled_reply;
    UPDATE public.clock SET skipped = '0';
"""
VACUUM: LiteralString = """
    VACUUM commandbus.command, commandbus.uncompleted, commandbus.queue, commandbus.scheduled,
           commandbus.troubleshooting, commandbus.event, commandbus.batch, commandbus.process, commandbus.reply,
           public.effect, public.prepared, public.handled_reply, public.clock
"""
VACUUM_EVERY = 40  # schedules: dead rows of the ones before make each look longer


@dataclass(frozen=True)
class Mood:
    """What a schedule has more of than another: each seed has its own, so that rare troubles come together."""

    ends: dict[str, float]
    max_attempts: int
    stepwise: float  # of all steps are stopped before each statement
    time: float  # the weight of the clock among all that may happen
    crashes: float  # the weight of a crash, and of an answer that is lost
    people: float  # how busy operators are
    care: float  # how often workers release, renew and sweep

    @staticmethod
    def draw(rng: random.Random) -> "Mood":
        """Draw one."""
        ends = {end: weight * rng.choice((0, 1, 1, 6)) for end, weight in ENDS.items()}
        return Mood(
            ends=ends | {"ok": ends["ok"] + 1},
            max_attempts=rng.choice((1, 2, 3)),
            stepwise=rng.choice((0.0, 0.3, 0.8)),
            time=rng.choice((0.6, 1.5, 5.0)),
            crashes=rng.choice((0.2, 0.5, 2.0)),
            people=rng.choice((0.3, 1.0, 4.0)),
            care=rng.choice((0.3, 1.0, 4.0)),
        )


class Stage:
    """One database, and what the actors of one schedule share. `schedules` counts those played."""

    def __init__(self, dsn: str, actors: int) -> None:
        self.dsn = dsn
        self.schedules = 0
        self.rng = random.Random()
        self.mood = Mood.draw(self.rng)
        self.ledger = Ledger()
        self.is_calm = False  # no more trouble: the schedule runs to its end
        self.trace: list[str] = []
        self.errors: list[Exception] = []  # that nobody expects of the bus
        self.may_be_parked = False  # whether there is anything for operators to look for
        self.may_be_answered = False  # and for routers and consumers
        self.names: dict[UUID, str] = {}
        self.pools: list[OneConnection] = []
        self._actors = actors
        self._stack = AsyncExitStack()
        self.conn: QuickConnection

    async def __aenter__(self) -> "Stage":
        self.conn = await self._connect(QuickConnection)
        for _ in range(self._actors):
            self.pools.append(OneConnection(await self._connect(GatedConnection), Gate()))
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def _connect(self, kind: Any) -> Any:
        conn = await kind.connect(self.dsn, autocommit=True, row_factory=tuple_row)
        self._stack.push_async_callback(conn.close)
        await conn.execute(SETTINGS)
        return conn

    async def begin(self, seed: int) -> None:
        """Clear the stage for a schedule."""
        self.rng = random.Random(seed)
        self.mood = Mood.draw(self.rng)
        self.ledger.clear()
        self.names.clear()
        self.trace.clear()
        self.errors.clear()
        self.is_calm = self.may_be_parked = self.may_be_answered = False
        await self.conn.execute(RESET)
        if self.schedules % VACUUM_EVERY == 0:
            await self.conn.execute(VACUUM)
        self.schedules += 1

    async def rows(self, statement: LiteralString, *values: Any) -> list[tuple[Any, ...]]:
        """Ask the database beside all actors."""
        return await (await self.conn.execute(statement, values or None)).fetchall()

    async def skip(self, seconds: float) -> None:
        """Move the bus's clock forward."""
        self.log(f"clock +{seconds:g}")
        await self.conn.execute("UPDATE public.clock SET skipped = skipped + %s * interval '1 second'", (seconds,))

    def log(self, line: str) -> None:
        """Remember what happened; equal for equal seeds."""
        self.trace.append(line)

    def name_of(self, thing_id: UUID) -> str:
        """A name that is the same each time the seed is played."""
        return self.names.setdefault(thing_id, f"#{len(self.names) + 1}")

    def draw_end(self, step: str) -> str:
        """How the next handler ends: well more often for first steps, else there were little to undo."""
        if self.is_calm or (step == Step.BOOK and self.rng.random() < 0.5):
            return "ok"
        if step in UNDO.values() and self.rng.random() < 0.3:
            return "broken"
        return self.rng.choices(list(self.mood.ends), list(self.mood.ends.values()))[0]
