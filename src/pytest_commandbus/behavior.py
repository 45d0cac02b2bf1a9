"""Chaos at work: where behavior is kept, and the injector that applies it around any handler.

A command's own behavior (stored when it was sent) comes before the rule for its step or command type.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import orjson
import psycopg
from psycopg_pool import PoolTimeout

from commandbus._core.connection import Connection, Pool, transaction
from commandbus.errors import BusinessRuleError, PermanentCommandError, SchemaError, TransientCommandError
from commandbus.handler import HandlerContext, Middleware, Result

from . import behavior_sql as sql
from .answers import AnsweringLease, answer
from .chaos import CommandBehavior, RollKey, roll
from .chaos_rules import ChaosRule, ChaosRules

CHAOS = "chaos"
"""The key under which a roll stands in the details of the outcome's audit event."""

_ERRORS = {
    "permanent": PermanentCommandError,
    "transient": TransientCommandError,
    "business_rule": BusinessRuleError,
    "timeout": TransientCommandError,
}
_FIRST_DELAY, _LONGEST_DELAY = 0.05, 2.0  # seconds between tries of a read that the server did not answer
_OUTCOMES = "commandbus.worker.outcome_log"  # the logger that tells what became of commands
_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")


class StoredBehavior(NamedTuple):
    """The behavior that one command carries, with what is shown of it: its payload, process and step."""

    command_id: UUID
    behavior: CommandBehavior
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ChaosRun:
    """How a database's run rolls. Without `skips_time` a rolled timeout lasts until the worker cancels it."""

    seed: int = 0
    rules: ChaosRules = field(default_factory=ChaosRules)
    skips_time: bool = False


class Prepared(NamedTuple):
    """What the database says for a claimed batch; `run` is None when it was not asked for, or never stored."""

    run: ChaosRun | None
    numbers: Mapping[UUID, int]
    behaviors: Mapping[UUID, CommandBehavior]


def install_e2e(dsn: str) -> bool:
    """Give the migrated database at `dsn` the plugin's schema; returns whether it lacked it.

    For test databases and the E2E application only: it replaces the bus's clock. Any number of processes may call it
    at once. Raises SchemaError when the database is not migrated.
    """
    folder = resources.files("pytest_commandbus").joinpath("schema")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    with psycopg.connect(dsn) as conn:
        conn.execute(sql.LOCK_INSTALL)
        if _is(conn, sql.IS_INSTALLED):
            return False
        if not _is(conn, sql.IS_MIGRATED):
            raise SchemaError("the database has no commandbus schema; create it with `commandbus migrate --dsn ...`")
        for file in files:
            conn.execute(file.read_bytes())
    return True


def _is(conn: psycopg.Connection[Any], question: Any) -> bool:
    row = conn.execute(question).fetchone()
    return row is not None and bool(row[0])


class BehaviorRepository:
    """What chaos is told, in the schema e2e. Given a `conn`, a method works in the caller's transaction."""

    def __init__(self, pool: Pool | None = None) -> None:
        self._pool = pool

    async def store_rules(
        self, seed: int, rules: ChaosRules, *, skips_time: bool = True, conn: Connection | None = None
    ) -> None:
        """Store how this database's run rolls, before its first worker starts. Replaces what was stored before.

        skips_time: the test's clock skips waiting, so that a rolled timeout fails at once.
        """
        rows = [
            {"name": r.name, "names": list(r.names), "written": r.written, "behavior": r.behavior.model_dump()}
            for r in rules
        ]
        async with transaction(self._pool, conn) as own:
            await own.execute(sql.STORE_RUN, {"seed": str(seed), "skips_time": skips_time})
            await own.execute(sql.CLEAR_RULES)
            if rows:
                await own.execute(sql.STORE_RULES, {"rules": orjson.dumps(rows).decode()})

    async def number_batch(self, batch_id: UUID, number: int, *, conn: Connection | None = None) -> None:
        """Store which batch of the test this is, before any of its commands can be claimed."""
        async with transaction(self._pool, conn) as own:
            await own.execute(sql.NUMBER_BATCH, {"batch_id": batch_id, "number": number})

    async def add(self, commands: Sequence[StoredBehavior], *, conn: Connection | None = None) -> None:
        """Store the behaviors of commands by one statement, in the transaction that sends them; none for none."""
        if not commands:
            return
        written = {id(c.behavior): c.behavior for c in commands}  # many commands share one
        dumped = {key: behavior.model_dump(exclude_defaults=True) for key, behavior in written.items()}
        rows = [
            {"command_id": c.command_id, "behavior": dumped[id(c.behavior)], "payload": c.payload} for c in commands
        ]
        async with transaction(self._pool, conn) as own:
            await own.execute(sql.STORE_COMMANDS, {"commands": orjson.dumps(rows).decode()})

    async def get(self, command_id: UUID, *, conn: Connection | None = None) -> CommandBehavior | None:
        """Return the behavior that a command carries, None without one."""
        async with transaction(self._pool, conn) as own:
            row = await (await own.execute(sql.BEHAVIOR_OF, {"command_id": command_id})).fetchone()
        return None if row is None else CommandBehavior.model_validate(row[0])

    async def prepare(
        self, command_ids: Sequence[UUID], batch_ids: Sequence[UUID], *, run: bool, conn: Connection | None = None
    ) -> Prepared:
        """Read by one query what a claimed batch may need. Raises SchemaError when the schema e2e is not there."""
        params = {"run": run, "batch_ids": list(batch_ids), "command_ids": list(command_ids)}
        try:
            async with transaction(self._pool, conn) as own:
                row = await (await own.execute(sql.PREPARE, params)).fetchone()
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
            raise SchemaError(
                "the database lacks the schema e2e that the chaos middleware reads: give a test database "
                "pytest_commandbus.behavior.install_e2e(dsn), and a production worker no chaos middleware"
            ) from error
        stored, numbers, behaviors = row or (None, None, None)
        return Prepared(
            None if stored is None else _run(stored),
            {UUID(batch_id): number for batch_id, number in (numbers or {}).items()},
            {UUID(key): CommandBehavior.model_validate(value) for key, value in (behaviors or {}).items()},
        )

    async def mark_matched(self, names: Sequence[str], *, conn: Connection | None = None) -> None:
        """Note that rules were for something that ran."""
        async with transaction(self._pool, conn) as own:
            await own.execute(sql.MARK_MATCHED, {"names": list(names)})

    async def unmatched(self, *, conn: Connection | None = None) -> list[str]:
        """Return the rules, as written, that were for nothing that ran so far."""
        async with transaction(self._pool, conn) as own:
            return [row[0] for row in await (await own.execute(sql.UNMATCHED)).fetchall()]


def _run(stored: Mapping[str, Any]) -> ChaosRun:
    rules = ChaosRules(
        ChaosRule(tuple(r["names"]), CommandBehavior.model_validate(r["behavior"]), r["written"])
        for r in stored["rules"] or ()
    )
    return ChaosRun(int(stored["seed"]), rules, stored["skips_time"])


class ChaosInjector(Middleware):
    """Rolls for each attempt of a command that has a behavior, once, around its handler.

    Handlers that apply chaos by themselves use `behavior_of` and `inject` of an injector of their own; where the
    middleware has rolled already, `inject` just goes on.
    """

    def __init__(self, pool: Pool) -> None:
        self._repository = BehaviorRepository(pool)
        self._run: ChaosRun | None = None
        self._numbers: dict[UUID, int] = {}
        self._own: dict[tuple[UUID, int], CommandBehavior] = {}
        self._matched: set[str] = set()

    async def claimed(self, batch: Sequence[HandlerContext]) -> None:
        """Read what the batch needs, in one query, and note which rules it matches."""
        if not batch:
            return
        command_ids = [context.command.command_id for context in batch]
        batch_ids = {b for context in batch if (b := _batch_id(context)) is not None} - self._numbers.keys()
        prepared = await _patiently(
            lambda: self._repository.prepare(command_ids, list(batch_ids), run=self._run is None)
        )
        self._run = prepared.run or self._run
        self._numbers.update(prepared.numbers)
        matching: set[str] = set()
        for context in batch:
            own = prepared.behaviors.get(context.command.command_id)
            if own is not None:
                self._own[context.command.command_id, context.epoch] = own
            elif (rule := self._rule(context)) is not None:
                matching.add(rule.name)
        if news := matching - self._matched:
            await _patiently(lambda: self._repository.mark_matched(sorted(news)))
            self._matched |= news

    async def handle(self, context: HandlerContext, call_next: Callable[[], Awaitable[Result]]) -> Result:
        """Roll for one attempt, and do what was rolled."""
        own = self._own.pop((context.command.command_id, context.epoch), None)
        return await self.inject(context, own or self._ruled(context), call_next)

    async def behavior_of(self, context: HandlerContext) -> CommandBehavior | None:
        """Return the behavior that applies to a command, None for none; for handlers that inject by themselves."""
        if CHAOS in context.details:
            return None
        await self.claimed([context])
        own = self._own.pop((context.command.command_id, context.epoch), None)
        return own or self._ruled(context)

    async def inject(
        self, context: HandlerContext, behavior: CommandBehavior | None, call_next: Callable[[], Awaitable[Result]]
    ) -> Result:
        """Roll `behavior`, if there is one, for this attempt and do what was rolled; see the function `inject`."""
        batch_id = _batch_id(context)
        number = 0 if batch_id is None else self._numbers.get(batch_id, 0)
        return await inject(context, behavior, call_next, run=self._run or ChaosRun(), batch_number=number)

    def _rule(self, context: HandlerContext) -> ChaosRule | None:
        return None if self._run is None else self._run.rules.find(context.step, context.command.command_type)

    def _ruled(self, context: HandlerContext) -> CommandBehavior | None:
        rule = self._rule(context)
        return None if rule is None else rule.behavior


def chaos_middleware(pool: Pool) -> ChaosInjector:
    """Make the injector of one worker: `commandbus worker --middleware pytest_commandbus.behavior:chaos_middleware`.

    From then on this process logs what was injected at DEBUG only: a load test asks for thousands of failures.
    """
    logging.getLogger(_OUTCOMES).addFilter(_tell_injected_as_debug)
    return ChaosInjector(pool)


def _tell_injected_as_debug(record: logging.LogRecord) -> bool:
    """Keep a record, unless it tells of a failure that was injected and nobody reads DEBUG."""
    rolled = (getattr(record, "details", None) or {}).get(CHAOS, {}).get("outcome", "success")
    if rolled == "success":
        return True
    record.levelno, record.levelname = logging.DEBUG, logging.getLevelName(logging.DEBUG)
    return logging.getLogger(_OUTCOMES).isEnabledFor(logging.DEBUG)


async def inject(
    context: HandlerContext,
    behavior: CommandBehavior | None,
    call_next: Callable[[], Awaitable[Result]],
    *,
    run: ChaosRun,
    batch_number: int = 0,
) -> Result:
    """Roll `behavior` for this attempt and do what was rolled: raise, wait and go on, or outlast the lease.

    At most once an attempt: the roll is noted in the context's details, and so in the audit trail. Raises
    PermanentCommandError, TransientCommandError or BusinessRuleError as rolled, and whatever `call_next` raises.
    """
    if behavior is None or CHAOS in context.details:
        return await call_next()
    rolled = roll(run.seed, roll_key(context, batch_number), behavior)
    context.details[CHAOS] = {"outcome": rolled.outcome, "duration_ms": rolled.duration_ms}
    if rolled.outcome == "timeout" and not run.skips_time:
        await asyncio.Event().wait()  # until the worker cancels it, just before its lease ends
    if rolled.outcome != "success":
        raise _ERRORS[rolled.outcome](rolled.error_code or rolled.outcome, rolled.error_message or "")
    if rolled.duration_ms:
        await asyncio.sleep(rolled.duration_ms / 1000)
    if behavior.changes_response:  # also for a handler that completes in a transaction
        context.lease = AnsweringLease(context.lease, behavior)
    return answer(behavior, await call_next())


def roll_key(context: HandlerContext, batch_number: int) -> RollKey:
    """Give the facts that this attempt's roll depends on. Outside a batch it is known by its process's or own id."""
    ordinal: int | str | None = context.ordinal
    if ordinal is None:
        ordinal = str(context.process_id or context.command.command_id)
    step = context.step or context.command.command_type
    return RollKey(batch_number, ordinal, step, context.visit, context.total_failures)


def _batch_id(context: HandlerContext) -> UUID | None:
    return context.process_batch_id if context.process_id is not None else context.command.batch_id


async def _patiently(read: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """Wait out a server that is restarting or a connection that was cut: the claimed commands wait with us."""
    delay = _FIRST_DELAY
    while True:
        try:
            return await read()
        except (psycopg.OperationalError, PoolTimeout) as error:
            _log.warning("chaos could not read its behaviors, again in %.2f s: %s", delay, error)
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LONGEST_DELAY)
