"""From every level of the schema to the newest, with data in it: nothing is lost, and the bus goes on with it."""

import asyncio
import dataclasses
import hashlib
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg_pool import AsyncConnectionPool

import commandbus
from commandbus import App, BatchStatus, Command, CommandBus, HandlerContext, RetryPolicy, TroubleshootingQueue, Worker
from commandbus.auditor import audit, format_violations
from commandbus.errors import MigrationError, SchemaError
from commandbus.migrate import check_schema, migrate
from commandbus.process import ProcessResponse, ProcessStatus
from tests import order_process
from tests.integration import levels
from tests.integration.levels import OWN
from tests.integration.servers import Server
from tests.integration.worker_kit import eventually, running
from tests.order_process import Step

NAMES = [migration.name for migration in OWN]
LEVELS = pytest.mark.parametrize("level", [m.version for m in OWN], ids=[f"V{m.version:03}" for m in OWN])
REST = """
    SELECT (SELECT count(*) FROM commandbus.queue) + (SELECT count(*) FROM commandbus.scheduled)
         + (SELECT count(*) FROM commandbus.troubleshooting)
         + (SELECT count(*) FROM commandbus.reply WHERE process_id IS NOT NULL)
         + (SELECT count(*) FROM commandbus.process WHERE completed_at IS NULL)"""


@dataclass
class OrderState(order_process.OrderState):
    done: list[str] = field(default_factory=list)


class OrderProcess(order_process.OrderProcess):
    """The manager of the processes in upgrades/V002.sql."""

    domain = "shop"
    state_class = OrderState

    def update_state(self, state: OrderState, step: Step, response: ProcessResponse) -> None:
        state.done.append(step)


app = App(retry_policy=RetryPolicy(max_attempts=3, backoff_schedule=[0]))
app.add_process(OrderProcess)


@app.handler("shop", "Reserve")
@app.handler("shop", "Pay")
@app.handler("shop", "Ship")
@app.handler("shop", "Return")
async def work(command: Command, context: HandlerContext) -> dict[str, Any]:
    return {"did": command.command_type}


def named(name: str) -> UUID:
    """The id of what the data call so."""
    return UUID(hashlib.md5(name.encode(), usedforsecurity=False).hexdigest())


@pytest.fixture(scope="module")
def fresh_dsn(postgres_server: Server) -> Iterator[str]:
    """A database that never had another level than the newest."""
    with postgres_server.database("fresh") as dsn:
        migrate(dsn)
        yield dsn


@pytest.fixture(scope="module")
def fresh_schema(fresh_dsn: str) -> str:
    return levels.schema(fresh_dsn)


def test_the_data_have_rows_in_every_table_and_processes_in_every_state(empty_dsn: str) -> None:
    levels.bring_to(empty_dsn, len(OWN))
    data = levels.rows(empty_dsn)
    empty = [table for table, found in data.items() if not found]
    assert empty == [], "add rows of these to tests/integration/upgrades/V<number of their migration>.sql"
    left_by_the_bus = set(ProcessStatus) - {ProcessStatus.PENDING, ProcessStatus.IN_PROGRESS}
    assert {row["status"] for row in data["process"]} == left_by_the_bus


@LEVELS
def test_an_upgraded_database_has_the_schema_of_a_fresh_one_and_all_its_data(
    empty_dsn: str, fresh_dsn: str, fresh_schema: str, level: int
) -> None:
    levels.bring_to(empty_dsn, level)
    before = levels.rows(empty_dsn)
    assert migrate(empty_dsn) == NAMES[level:]
    assert levels.lost(before, levels.rows(empty_dsn)) == {}
    assert levels.schema(empty_dsn).splitlines() == fresh_schema.splitlines()
    assert levels.history(empty_dsn) == levels.history(fresh_dsn)


@LEVELS
@pytest.mark.asyncio
async def test_workers_finish_what_an_older_level_left(empty_dsn: str, level: int) -> None:
    levels.bring_to(empty_dsn, level)
    migrate(empty_dsn)
    async with opened(empty_dsn) as pool, running(make_worker(pool)):
        operators = TroubleshootingQueue(pool, processes=app.processes(pool))

        async def at_rest() -> bool | None:
            async with pool.connection() as conn:
                rows = await (await conn.execute("SELECT command_id FROM commandbus.troubleshooting")).fetchall()
            for (command_id,) in rows:
                await operators.operator_retry(command_id, operator="ann", reason="upgraded")
            return (await one(pool, REST))[0] == 0 or None

        await eventually(at_rest, "the end of everything")
        bus = CommandBus(pool)
        assert (await bus.get_command(named("last lease"))).status == "COMPLETED"
        assert (await bus.get_batch("shop", named("half batch"))).status is BatchStatus.COMPLETED
        if level >= 5:
            assert (await bus.get_batch("shop", named("orders"))).completed_count == 2
        replies = await one(pool, "SELECT coalesce(json_agg(reply_to), '[]') FROM commandbus.reply")
        assert replies[0] == (["web"] if level >= 4 else [])
        async with pool.connection() as conn:
            violations = await audit(conn, liveness=True)
        assert not violations, format_violations(violations)
        ends = await one(
            pool, "SELECT json_object_agg(process_id, status) FROM commandbus.process WHERE domain = 'shop'"
        )
    expected = {
        "first": "COMPLETED", "second": "COMPLETED", "stuck": "COMPLETED", "undoing": "CANCELED",
        "shipped": "COMPLETED", "undone": "COMPENSATED", "sold out": "CANCELED", "broken": "FAILED",
    }  # fmt: skip
    expected |= {"answered": "COMPLETED"} if level >= 4 else {}
    expected |= {"member 0": "COMPLETED", "member 1": "COMPLETED"} if level >= 5 else {}
    assert ends[0] == ({str(named(name)): status for name, status in expected.items()} if level >= 2 else None)


def test_a_migration_that_fails_leaves_the_level_below_whole(empty_dsn: str) -> None:
    for migration in OWN:
        before = (levels.schema(empty_dsn), levels.rows(empty_dsn)) if migration.version > 1 else None
        broken = dataclasses.replace(migration, text=migration.text + "\nSELECT 1 / 0;\n")
        told = rf"{migration.name}.* failed and left nothing behind: division by zero"
        with pytest.raises(MigrationError, match=told):
            levels.apply(empty_dsn, broken)
        if before is not None:
            assert (levels.schema(empty_dsn), levels.rows(empty_dsn)) == before
        levels.apply(empty_dsn, migration)
        levels.fill(empty_dsn, migration.version)
    assert migrate(empty_dsn) == []


# What the next version of this library may bring: it changes tables that every worker uses, adds one, restates a
# function, and makes another anew with one column more.
NEXT = f"V{len(OWN) + 1:03}__next.sql"
NEXT_TEXT = r"""
ALTER TABLE commandbus.command ADD COLUMN later text NOT NULL DEFAULT 'x';
ALTER TABLE commandbus.queue ADD COLUMN later text;
ALTER TABLE commandbus.event ADD COLUMN later text;
CREATE TABLE commandbus.later (id integer PRIMARY KEY);
CREATE OR REPLACE FUNCTION commandbus.channel(p_domain text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT 'commandbus_' || pg_catalog.md5(p_domain || '') $$;

-- claim tells one thing more.
DO $do$
DECLARE
    v_takes text;
    v_gives text;
    v_calls text;
BEGIN
    SELECT pg_get_function_arguments(p.oid), pg_get_function_result(p.oid),
           (SELECT string_agg('$' || i, ', ') FROM generate_series(1, p.pronargs) i)
      INTO v_takes, v_gives, v_calls
      FROM pg_proc p WHERE p.proname = 'claim' AND p.pronamespace = 'commandbus'::regnamespace;
    ALTER FUNCTION commandbus.claim RENAME TO claim_before;
    EXECUTE format('CREATE FUNCTION commandbus.claim(%s) RETURNS %s LANGUAGE sql AS %L', v_takes,
                   regexp_replace(v_gives, '\)$', ', later text)'),
                   format('SELECT c.*, NULL::text FROM commandbus.claim_before(%s) c', v_calls));
END
$do$;
"""


@pytest.fixture
def next_version(tmp_path: Path) -> Path:
    """The folder of an installation of the next version."""
    shutil.copytree(
        Path(commandbus.__file__).parent, tmp_path / "commandbus", ignore=shutil.ignore_patterns("__pycache__")
    )
    folder = tmp_path / "commandbus" / "migrations"
    folder.mkdir(exist_ok=True)
    for migration in OWN:
        (folder / migration.name).write_text(migration.text)
    (folder / NEXT).write_text(NEXT_TEXT)
    return tmp_path


async def migrate_with(installation: Path, dsn: str) -> str:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from commandbus import migrate; print(*migrate(sys.argv[2]))"
    )
    done = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(installation), dsn, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await done.communicate()
    assert done.returncode == 0, err.decode()
    return out.decode().strip()


@pytest.mark.asyncio
async def test_workers_of_the_old_version_go_on_while_the_next_one_migrates(empty_dsn: str, next_version: Path) -> None:
    migrate(empty_dsn)
    async with opened(empty_dsn) as pool, running(make_worker(pool)), running(make_worker(pool)) as worker:
        bus, sent = CommandBus(pool), 0
        orders = OrderProcess(pool)

        async def keep_sending() -> None:
            nonlocal sent
            while True:
                await bus.send(domain="shop", command_type="Reserve", command_id=uuid4(), data={})
                await orders.start({"order": 1})
                sent += 1

        sending = asyncio.create_task(keep_sending())
        await eventually(lambda: claimed(worker, 20), "work under way")
        assert await migrate_with(next_version, empty_dsn) == NEXT
        migrated = worker.counts.claimed
        await eventually(lambda: claimed(worker, migrated + 20), "work that goes on")
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await eventually(lambda: at_rest(pool), "the end of everything")
        failures = "SELECT count(*) FROM commandbus.event WHERE type IN ('RETRY_SCHEDULED', 'MOVED_TO_TSQ')"
        assert await one(pool, failures) == (0,)
        assert (await one(pool, "SELECT count(*) FROM commandbus.process WHERE status = 'COMPLETED'"))[0] >= sent
        async with pool.connection() as conn:
            violations = await audit(conn, liveness=True)
        assert not violations, format_violations(violations)
        await asyncio.wait_for(refused_start(pool), timeout=20)


async def claimed(worker: Worker, count: int) -> bool | None:
    return worker.counts.claimed >= count or None


async def at_rest(pool: AsyncConnectionPool[Any]) -> bool | None:
    return (await one(pool, REST))[0] == 0 or None


async def refused_start(pool: AsyncConnectionPool[Any]) -> None:
    """A worker of the old version that is started now says that it is too old."""
    with pytest.raises(SchemaError, match=rf"has {NEXT}, which is newer than this program knows .*upgrade the package"):
        await make_worker(pool).run()
    async with pool.connection() as conn:
        with pytest.raises(SchemaError, match="newer than this program"):
            await check_schema(conn)


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[AsyncConnectionPool[Any]]:
    async with AsyncConnectionPool(dsn, min_size=1, max_size=20, open=False) as pool:
        yield pool


def make_worker(pool: AsyncConnectionPool[Any]) -> Worker:
    return Worker(
        pool, domain="shop", handler_registry=app.registry, processes=app.processes(pool), retry_policy=app.retry_policy
    )


async def one(pool: AsyncConnectionPool[Any], statement: str) -> tuple[Any, ...]:
    async with pool.connection() as conn:
        row = await (await conn.execute(statement.encode())).fetchone()
    assert row is not None
    return row
