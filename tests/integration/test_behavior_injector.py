"""The injector around handlers that know nothing of chaos, with real workers."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from commandbus import (
    App,
    Command,
    CommandBus,
    CommandStatus,
    HandlerContext,
    PermanentCommandError,
    RetryPolicy,
    Worker,
)
from commandbus.process import BaseProcessManager, ProcessCommand, ProcessResponse
from pytest_commandbus import behavior_sql, statements
from pytest_commandbus.behavior import (
    BehaviorRepository,
    ChaosInjector,
    ChaosRun,
    StoredBehavior,
    chaos_middleware,
    inject,
)
from pytest_commandbus.chaos import CommandBehavior
from pytest_commandbus.chaos_rules import ChaosRules, StepNames
from pytest_commandbus.oracle import Prediction, ProcessPrediction, predict

pytestmark = pytest.mark.asyncio
DOMAIN = "orders"
SEED = 20_261_122
Pool = AsyncConnectionPool[Any]


class Step(StrEnum):
    RESERVE = "reserve"
    PAY = "pay"
    SHIP = "ship"
    REFUND = "refund"


class Order(BaseProcessManager):
    process_type = "Order"
    domain = DOMAIN
    state_class = dict
    step_class = Step

    def get_first_step(self, state: Any) -> str:
        return Step.RESERVE

    def build_command(self, step: str, state: Any) -> ProcessCommand:
        return ProcessCommand(f"Do.{step}", {})

    def get_next_step(self, current_step: str, response: ProcessResponse, state: Any) -> str | None:
        return {"reserve": Step.PAY, "pay": Step.SHIP}.get(current_step)

    def get_compensation_step(self, step: str) -> str | None:
        return Step.REFUND if step == Step.PAY else None


class Attempts:
    """An application whose handlers only count how often they ran."""

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()
        self.app = App(retry_policy=RetryPolicy(max_attempts=3, backoff_schedule=[10, 60, 300]))
        self.app.add_process(Order)
        for command_type in [*(f"Do.{step}" for step in Step), "SendMail", "Plain"]:
            self.app.registry.add(DOMAIN, command_type, self._plain if command_type == "Plain" else self._handle)

    async def _handle(self, command: Command, ctx: HandlerContext) -> dict[str, Any]:
        self.ran[command.command_type] += 1
        return {"real": True, "type": command.command_type}

    def _plain(self, command: Command, ctx: HandlerContext) -> dict[str, Any]:
        self.ran[command.command_type] += 1
        return {"real": True}


@pytest_asyncio.fixture
async def pool(e2e_dsn: str) -> AsyncIterator[Pool]:
    async with AsyncConnectionPool(e2e_dsn, min_size=1, max_size=16, open=False, kwargs={"autocommit": True}) as opened:
        yield opened


@pytest.fixture
def attempts() -> Attempts:
    return Attempts()


def rules(**behaviors: Any) -> ChaosRules:
    return ChaosRules.from_marker(behaviors, StepNames([Step], ["SendMail", "Plain"]))


@asynccontextmanager
async def working(pool: Pool, attempts: Attempts, *, workers: int = 1, **options: Any) -> AsyncIterator[None]:
    """Run workers, each with an injector of its own."""
    made = [
        Worker(
            pool,
            domain=DOMAIN,
            handler_registry=attempts.app.registry,
            processes=attempts.app.processes(pool),
            retry_policy=attempts.app.retry_policy,
            middleware=[chaos_middleware(pool)],
            **options,
        )
        for _ in range(workers)
    ]
    tasks = [asyncio.create_task(worker.run()) for worker in made]
    try:
        yield
    finally:
        await asyncio.gather(*(worker.stop() for worker in made))
        await asyncio.gather(*tasks)


async def until(pool: Pool, done: Callable[[], Awaitable[bool]], *, skipping: bool = True) -> None:
    """Poll to a deadline, skipping time that nobody works in."""
    async with asyncio.timeout(30):
        while not await done():
            if skipping:
                async with pool.connection() as conn:
                    await conn.execute(behavior_sql.SKIP_CLOCK)
            await asyncio.sleep(0.01)


async def settled(pool: Pool, *command_ids: UUID, skipping: bool = True) -> list[Any]:
    bus = CommandBus(pool)

    async def done() -> bool:
        states = [(await bus.get_command(i)).status for i in command_ids]
        return all(s.is_terminal or s is CommandStatus.IN_TROUBLESHOOTING_QUEUE for s in states)

    await until(pool, done, skipping=skipping)
    return [await bus.get_command(i) for i in command_ids]


async def run_batch(pool: Pool, attempts: Attempts, chaos: ChaosRules, count: int, workers: int) -> Prediction:
    """Run one batch to its end; returns what became of it."""
    repository, bus, manager = BehaviorRepository(pool), CommandBus(pool), Order(pool)
    await repository.store_rules(SEED, chaos)
    batch_id = await bus.create_process_batch(DOMAIN, count)
    await repository.number_batch(batch_id, 1)
    await manager.start_many(({} for _ in range(count)), batch_id=batch_id)

    async def done() -> bool:
        stats = await bus.get_batch(DOMAIN, batch_id)
        return stats.completed_count + stats.canceled_count + stats.in_troubleshooting_count == count

    async with working(pool, attempts, workers=workers):
        await until(pool, done)
    async with pool.connection() as conn:
        rows = await (await conn.execute(statements.OBSERVED.encode(), {"number": 1})).fetchall()
    return Prediction.of(ProcessPrediction(*row) for row in rows)


async def send(pool: Pool, command_type: str, behavior: CommandBehavior | None = None, **options: Any) -> UUID:
    command_id, bus = uuid4(), CommandBus(pool)
    async with pool.connection() as conn, conn.transaction():
        if behavior is not None:
            await BehaviorRepository().add([StoredBehavior(command_id, behavior, {})], conn=conn)
        await bus.send(domain=DOMAIN, command_type=command_type, command_id=command_id, data={}, conn=conn, **options)
    return command_id


@pytest.mark.parametrize("workers", [1, 4])
async def test_every_process_ends_as_the_oracle_told(pool: Pool, attempts: Attempts, workers: int) -> None:
    chaos = rules(
        reserve={"fail_transient_pct": 30},
        pay={"fail_permanent_pct": 10, "timeout_pct": 20, "max_duration_ms": 3},
        ship={"fail_business_rule_pct": 30, "fail_transient_times": 1},
        refund={"fail_permanent_pct": 30},
    )
    observed = await run_batch(pool, attempts, chaos, 120, workers)
    predicted = predict(Order(pool), chaos, count=120, seed=SEED, batch=1, max_attempts=3)
    assert observed == predicted
    assert min(predicted.completed_count, predicted.canceled_count, predicted.in_troubleshooting_count) > 5


async def test_without_any_behavior_handlers_run_once_and_the_trail_says_nothing(
    pool: Pool, attempts: Attempts
) -> None:
    async with working(pool, attempts):
        [command] = await settled(pool, command_id := await send(pool, "SendMail"))
    assert command.status is CommandStatus.COMPLETED
    assert command.result == {"real": True, "type": "SendMail"}
    assert attempts.ran == {"SendMail": 1}
    trail = await CommandBus(pool).get_audit_trail(command_id)
    assert all("chaos" not in event.details for event in trail)


@pytest.mark.parametrize(
    ("behavior", "status", "code", "outcome"),
    [
        ({"fail_permanent_pct": 100}, "IN_TROUBLESHOOTING_QUEUE", "CHAOS_PERMANENT", "permanent"),
        ({"fail_transient_pct": 100, "error_code": "FLAKY"}, "IN_TROUBLESHOOTING_QUEUE", "FLAKY", "transient"),
        ({"fail_business_rule_pct": 100}, "FAILED", "CHAOS_BUSINESS_RULE", "business_rule"),
        ({"timeout_pct": 100}, "IN_TROUBLESHOOTING_QUEUE", "TIMEOUT", "timeout"),
    ],
)
async def test_an_injected_failure_is_told_from_a_real_one(
    pool: Pool, attempts: Attempts, behavior: dict[str, Any], status: str, code: str, outcome: str
) -> None:
    await BehaviorRepository(pool).store_rules(SEED, rules(mail=behavior))
    async with working(pool, attempts):
        [command] = await settled(pool, command_id := await send(pool, "SendMail"))
    assert (command.status, command.error_code) == (status, code)
    assert attempts.ran == {}
    last = (await CommandBus(pool).get_audit_trail(command_id))[-1]
    assert last.details["chaos"] == {"outcome": outcome, "duration_ms": 0}
    assert last.details["code"] == code


async def test_in_real_time_a_timeout_outlasts_the_lease(pool: Pool, attempts: Attempts) -> None:
    await BehaviorRepository(pool).store_rules(SEED, rules(mail={"timeout_pct": 100}), skips_time=False)
    async with working(pool, attempts, visibility_timeout=1.0):
        [command] = await settled(pool, command_id := await send(pool, "SendMail", max_attempts=1), skipping=False)
    assert (command.status, command.error_code) == ("IN_TROUBLESHOOTING_QUEUE", "TIMEOUT")
    trail = await CommandBus(pool).get_audit_trail(command_id)
    assert (trail[-1].timestamp - trail[-2].timestamp).total_seconds() > 0.5
    assert trail[-1].details["chaos"]["outcome"] == "timeout"


@pytest.mark.parametrize(
    ("behavior", "result"),
    [
        ({"response_data": {"real": False, "more": [1]}}, {"real": False, "more": [1], "type": "SendMail"}),
        ({"send_response": False}, None),
    ],
)
async def test_a_success_may_be_answered_otherwise(
    pool: Pool, attempts: Attempts, behavior: dict[str, Any], result: Any
) -> None:
    await BehaviorRepository(pool).store_rules(SEED, rules(mail=behavior))
    async with working(pool, attempts):
        [command] = await settled(pool, await send(pool, "SendMail"))
    assert (command.status, command.result) == (CommandStatus.COMPLETED, result)
    assert attempts.ran == {"SendMail": 1}


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize(
    ("behavior", "result"),
    [({"response_data": {"more": [1]}}, {"real": True, "more": [1]}), ({"send_response": False}, None)],
)
async def test_so_may_one_that_is_completed_in_a_transaction(
    pool: Pool, attempts: Attempts, blocking: bool, behavior: dict[str, Any], result: Any
) -> None:
    @attempts.app.handler(DOMAIN, "BookMail")
    async def book(command: Command, ctx: HandlerContext) -> None:
        async with ctx.transaction():
            await ctx.extend_visibility(60)
            await ctx.complete({"real": True})

    @attempts.app.handler(DOMAIN, "BookPlain")
    def book_plain(command: Command, ctx: HandlerContext) -> None:
        with ctx.sync.transaction():
            ctx.sync.complete({"real": True})

    await BehaviorRepository(pool).store_rules(SEED, ChaosRules())
    async with working(pool, attempts):
        command_id = await send(pool, "BookPlain" if blocking else "BookMail", CommandBehavior(**behavior))
        [command] = await settled(pool, command_id)
    assert (command.status, command.result) == (CommandStatus.COMPLETED, result)


@pytest.mark.parametrize("command_type", ["SendMail", "Plain"])
async def test_a_success_takes_the_time_that_was_rolled(pool: Pool, attempts: Attempts, command_type: str) -> None:
    slow = CommandBehavior(min_duration_ms=200, max_duration_ms=300)
    async with working(pool, attempts):
        await settled(pool, command_id := await send(pool, command_type, slow))
    received, completed = (await CommandBus(pool).get_audit_trail(command_id))[-2:]
    rolled = completed.details["chaos"]
    assert rolled["outcome"] == "success"
    assert 200 <= rolled["duration_ms"] <= 300
    assert (completed.timestamp - received.timestamp).total_seconds() * 1000 >= rolled["duration_ms"]
    assert attempts.ran == {command_type: 1}


async def test_a_commands_own_behavior_comes_before_the_rule(pool: Pool, attempts: Attempts) -> None:
    await BehaviorRepository(pool).store_rules(SEED, rules(mail={"fail_permanent_pct": 100}))
    async with working(pool, attempts):
        own = await send(pool, "SendMail", CommandBehavior(fail_business_rule_pct=100, error_code="OWN"))
        commands = await settled(pool, own, await send(pool, "SendMail"))
    assert [command.error_code for command in commands] == ["OWN", "CHAOS_PERMANENT"]


async def test_a_worker_notes_which_rules_were_for_something_that_ran(pool: Pool, attempts: Attempts) -> None:
    repository = BehaviorRepository(pool)
    await repository.store_rules(SEED, rules(mail={"fail_permanent_pct": 0}, ship={"fail_permanent_pct": 100}))
    async with working(pool, attempts):
        await settled(pool, await send(pool, "SendMail"))
    assert await repository.unmatched() == ["ship"]


async def test_a_handler_that_injects_by_itself_rolls_at_most_once_an_attempt(pool: Pool) -> None:
    """With the middleware or without it, the handler's own call changes nothing about what happens."""
    calls: Counter[bool] = Counter()
    app = App(retry_policy=RetryPolicy(max_attempts=5, backoff_schedule=[]))
    injector = ChaosInjector(pool)

    @app.handler(DOMAIN, "SendMail")
    async def send_mail(command: Command, ctx: HandlerContext) -> dict[str, Any] | None:
        behavior = await injector.behavior_of(ctx)

        async def work() -> dict[str, Any]:
            calls["chaos" in ctx.details] += 1
            return {"real": True}

        return await injector.inject(ctx, behavior, work)

    await BehaviorRepository(pool).store_rules(SEED, ChaosRules())
    twice = CommandBehavior(fail_transient_times=2, response_data={"own": 1})
    for middleware in ([chaos_middleware(pool)], []):
        worker = Worker(
            pool, domain=DOMAIN, handler_registry=app.registry, retry_policy=app.retry_policy, middleware=middleware
        )
        running = asyncio.create_task(worker.run())
        [command] = await settled(pool, command_id := await send(pool, "SendMail", twice))
        await worker.stop()
        await running
        assert (command.attempts, command.result) == (3, {"real": True, "own": 1})
        kinds = [event.event_type for event in await CommandBus(pool).get_audit_trail(command_id)]
        assert Counter(kinds)["RETRY_SCHEDULED"] == 2
    assert calls == {True: 2}


async def test_a_cut_connection_is_waited_out(pool: Pool) -> None:
    """What was claimed is prepared by the next session: no behavior is forgotten, no worker dies."""
    await BehaviorRepository(pool).store_rules(SEED, rules(mail={"fail_permanent_pct": 100}))
    async with pool.connection() as conn:
        own_pid = conn.info.backend_pid
    async with await AsyncConnection.connect(pool.conninfo, autocommit=True) as killer:
        await killer.execute("SELECT pg_terminate_backend(%s, 30000)", [own_pid])
    context, injector = a_context(), chaos_middleware(pool)
    await injector.claimed([context])
    with pytest.raises(PermanentCommandError):
        await injector.handle(context, never)
    assert context.details["chaos"]["outcome"] == "permanent"


async def test_an_attempt_that_was_rolled_is_not_rolled_again() -> None:
    context, run = a_context(), ChaosRun(seed=SEED)

    async def again() -> Any:
        return await inject(context, CommandBehavior(fail_permanent_pct=100), work, run=run)

    async def work() -> Any:
        return {"real": True}

    assert await inject(context, CommandBehavior(), again, run=run) == {"real": True}
    assert context.details["chaos"]["outcome"] == "success"
    with pytest.raises(PermanentCommandError):
        await inject(a_context(), CommandBehavior(fail_permanent_pct=100), never, run=run)


def a_context() -> HandlerContext:
    command = Command(uuid4(), DOMAIN, "SendMail", {}, None, None, datetime.now(UTC))
    return HandlerContext(command, 1, 3, 0, epoch=1, worker_id=1, lease=cast("Any", None))


async def never() -> None:
    raise AssertionError("the handler must not run")
