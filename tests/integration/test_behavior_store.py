"""What chaos is told, in the database: stored once, read by one query."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import pytest_asyncio
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from commandbus.errors import SchemaError
from commandbus.migrate import migrate
from pytest_commandbus.behavior import BehaviorRepository, StoredBehavior, install_e2e
from pytest_commandbus.chaos import CommandBehavior
from pytest_commandbus.chaos_rules import ChaosRule, ChaosRules

pytestmark = pytest.mark.asyncio
RENDER = ChaosRule(("StatementRender", "render_it"), CommandBehavior(fail_permanent_pct=12.5), "render")
MAIL = ChaosRule(("SendMail",), CommandBehavior(response_data={"sent": None}, max_duration_ms=5), "mail")


class Counted(AsyncConnection[Any]):
    """Counts the statements that a session runs."""

    statements = 0

    async def execute(self, *args: Any, **kwargs: Any) -> Any:
        self.statements += 1
        return await super().execute(*args, **kwargs)


@pytest_asyncio.fixture
async def conn(e2e_dsn: str) -> AsyncIterator[Counted]:
    async with await Counted.connect(e2e_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def repository() -> BehaviorRepository:
    return BehaviorRepository()


@pytest.mark.parametrize("seed", [0, -5, 2**80])
async def test_a_run_is_read_as_it_was_stored(repository: BehaviorRepository, conn: Counted, seed: int) -> None:
    await repository.store_rules(seed, ChaosRules([RENDER, MAIL]), skips_time=False, conn=conn)
    run = (await repository.prepare([], [], run=True, conn=conn)).run
    assert run is not None
    assert (run.seed, run.skips_time, len(run.rules)) == (seed, False, 2)
    assert run.rules.find("render_it", None) == RENDER
    assert run.rules.find(None, "SendMail") == MAIL


async def test_a_run_replaces_the_one_before(repository: BehaviorRepository, conn: Counted) -> None:
    await repository.store_rules(1, ChaosRules([RENDER]), conn=conn)
    await repository.store_rules(2, ChaosRules([MAIL]), conn=conn)
    run = (await repository.prepare([], [], run=True, conn=conn)).run
    assert run is not None
    assert (run.seed, run.skips_time, [rule.written for rule in run.rules]) == (2, True, ["mail"])


async def test_a_database_without_a_run_has_none(repository: BehaviorRepository, conn: Counted) -> None:
    assert await repository.prepare([uuid4()], [uuid4()], run=True, conn=conn) == (None, {}, {})


async def test_what_a_claimed_batch_needs_is_one_query(repository: BehaviorRepository, conn: Counted) -> None:
    batch, ids = uuid4(), [uuid4() for _ in range(1_000)]
    behavior = CommandBehavior(fail_transient_times=2, error_code="NO")
    await repository.number_batch(batch, 3, conn=conn)
    before = conn.statements
    await repository.add([StoredBehavior(i, behavior, {"process_id": uuid4()}) for i in ids], conn=conn)
    assert conn.statements == before + 1
    prepared = await repository.prepare([*ids[:500], uuid4()], [batch, uuid4()], run=True, conn=conn)
    assert conn.statements == before + 2
    assert prepared.numbers == {batch: 3}
    assert prepared.behaviors == dict.fromkeys(ids[:500], behavior)


async def test_storing_no_behavior_runs_no_statement(repository: BehaviorRepository, conn: Counted) -> None:
    await repository.add([], conn=conn)
    assert conn.statements == 0


async def test_behavior_is_stored_in_the_senders_transaction(repository: BehaviorRepository, conn: Counted) -> None:
    command_id = uuid4()
    async with conn.transaction():
        await repository.add([StoredBehavior(command_id, CommandBehavior(), {})], conn=conn)
        raise psycopg.Rollback
    assert await repository.get(command_id, conn=conn) is None
    payload = {"process_id": uuid4(), "process_step": "StatementRender"}
    await repository.add([StoredBehavior(command_id, CommandBehavior(timeout_pct=5), payload)], conn=conn)
    assert await repository.get(command_id, conn=conn) == CommandBehavior(timeout_pct=5)
    stored = await (await conn.execute("SELECT payload FROM e2e.test_command")).fetchall()
    assert stored == [({"process_id": str(payload["process_id"]), "process_step": "StatementRender"},)]


async def test_rules_that_matched_nothing_are_told_as_written(repository: BehaviorRepository, conn: Counted) -> None:
    await repository.store_rules(1, ChaosRules([RENDER, MAIL]), conn=conn)
    assert await repository.unmatched(conn=conn) == ["mail", "render"]
    await repository.mark_matched([RENDER.name], conn=conn)
    assert await repository.unmatched(conn=conn) == ["mail"]


async def test_a_database_without_the_schema_is_told_how_to_get_it(empty_dsn: str) -> None:
    async with AsyncConnectionPool(empty_dsn, min_size=1, open=False) as pool:
        with pytest.raises(SchemaError, match=r"lacks the schema e2e.*install_e2e\(dsn\)"):
            await BehaviorRepository(pool).prepare([], [], run=True)


async def test_the_schema_is_installed_once_and_only_on_request(empty_dsn: str) -> None:
    with pytest.raises(SchemaError, match="create it with `commandbus migrate"):
        install_e2e(empty_dsn)
    migrate(empty_dsn)
    async with await AsyncConnection.connect(empty_dsn) as conn:
        found = await (await conn.execute("SELECT to_regnamespace('e2e') IS NULL")).fetchone()
        assert found == (True,), "migrating a production database must not bring the test schema"
    assert install_e2e(empty_dsn)
    assert not install_e2e(empty_dsn)


async def test_the_clock_of_production_is_the_servers(empty_dsn: str) -> None:
    migrate(empty_dsn)
    with psycopg.connect(empty_dsn) as conn:
        assert conn.execute("SELECT commandbus.now() = statement_timestamp()").fetchone() == (True,)
