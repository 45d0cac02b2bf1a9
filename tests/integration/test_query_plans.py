"""The plans of listings and of replies: whatever the tables hold, a page costs no more than a page.

Twice: among 20,000 commands with functions that look at 200 rows a call, and, slow, among 1,000,000 with the true ones.
"""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from commandbus import BatchStatus, BatchType, CommandBus, CommandStatus, ReplyQueue, SendRequest
from commandbus._core.process_sql import ProcessSQL
from commandbus.migrate import migrate
from commandbus.process import ProcessRepository, ProcessStatus, repository
from tests.integration.process_kit import open_hand
from tests.integration.servers import Server
from tests.integration.test_plans import WATCH, nodes, parsed, touched
from tests.integration.worker_kit import open_bench

LIMIT = 20
LANES = 6  # each command type of each domain
BEGIN = datetime(2026, 5, 1, tzinfo=UTC)
BATCH = UUID("01980000-0000-7000-8000-000000000000")
PROCESSES = UUID("01980000-0000-7000-8000-000000000001")
TABLES = ("command", "queue", "scheduled", "troubleshooting", "uncompleted", "reply", "batch", "process")

NARROW = """
    SELECT replace(regexp_replace(pg_get_functiondef(oid), ':= (10000|6000);', ':= 200;'), ':= 100000;', ':= 500;')
      FROM pg_proc
     WHERE pronamespace = 'commandbus'::regnamespace AND prosrc LIKE '%c_most%'"""
QUIET = """
    SELECT format('ALTER TABLE %s SET (autovacuum_enabled = off)', oid::regclass) FROM pg_class
     WHERE relnamespace = 'commandbus'::regnamespace AND relkind = 'r'"""

UPDATES = """
    SELECT relname, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables
     WHERE relname IN ('command', 'queue', 'reply') ORDER BY relname"""

# The older half has ended, the newer one is a backlog whose head is leased. One in a hundred is not as the others; one
# type is rare, one domain small; all of one type is one batch; every fifth ended one left a reply. A command a second.
FILL = (
    """
    CREATE TEMPORARY TABLE new AS
    SELECT n, lpad(to_hex(n), 32, '0')::uuid AS command_id, %(begin)s + n * interval '1 second' AS created_at,
           CASE WHEN n %% 51 = 7 THEN 'billing' ELSE 'orders' END AS domain,
           CASE WHEN n %% 10 = 3 THEN 'Pay' WHEN n %% (%(count)s / 10) = 5 THEN 'Rare' ELSE 'Reserve' END
               AS command_type,
           CASE WHEN n > %(count)s / 2 THEN CASE WHEN n %% 97 = 11 THEN 'scheduled' ELSE 'queue' END
                WHEN n %% 97 = 0 THEN 'FAILED' WHEN n %% 97 = 1 THEN 'CANCELED'
                WHEN n %% 97 = 2 THEN 'IN_TROUBLESHOOTING_QUEUE' ELSE 'COMPLETED' END AS place
      FROM generate_series(1, %(count)s) AS n""",
    """
    INSERT INTO commandbus.command (command_id, domain, command_type, payload, status, created_at, updated_at,
                                    completed_at, batch_id, ordinal)
    SELECT command_id, domain, command_type, '{"order": 17}',
           CASE WHEN place IN ('queue', 'scheduled') THEN 'PENDING' ELSE place END, created_at, created_at,
           CASE WHEN place NOT IN ('queue', 'scheduled', 'IN_TROUBLESHOOTING_QUEUE') THEN created_at END,
           CASE WHEN command_type = 'Pay' THEN %(batch_id)s::uuid END, CASE WHEN command_type = 'Pay' THEN n END
      FROM new ORDER BY n""",
    """
    INSERT INTO commandbus.uncompleted
    SELECT domain, command_type, place, created_at, command_id FROM new WHERE place IN ('FAILED', 'CANCELED')""",
    """
    INSERT INTO commandbus.queue (domain, command_id, command_type, queued_at, worker_id, lease_until)
    SELECT domain, command_id, command_type, created_at, w, CASE WHEN w IS NOT NULL THEN timestamptz '2999-01-01' END
      FROM (SELECT *, CASE WHEN n < %(count)s / 2 + 50 THEN 1 END AS w FROM new WHERE place = 'queue' ORDER BY n) n""",
    """
    INSERT INTO commandbus.scheduled
    SELECT command_id, domain, command_type, 1, 1, 0, 0, 3, '2999-01-01' FROM new WHERE place = 'scheduled'""",
    """
    INSERT INTO commandbus.troubleshooting
    SELECT command_id, domain, command_type, 1, 1, 0, 0, 3, created_at FROM new
     WHERE place = 'IN_TROUBLESHOOTING_QUEUE'""",
    """
    INSERT INTO commandbus.process (process_id, domain, process_type, status, current_step, state, command_id, visits,
                                    created_at, updated_at, batch_id)
    SELECT command_id, domain, 'Order', CASE WHEN n %% 1000 = 5 THEN 'FAILED' ELSE 'WAITING_FOR_REPLY' END, 'Reserve',
           '{}', command_id, '{"Reserve": 1}', created_at, created_at,
           CASE WHEN n > %(count)s / 4 THEN %(processes)s::uuid END
      FROM new WHERE n <= %(count)s / 2 AND n %% 10 = 5""",
    """
    INSERT INTO commandbus.batch (batch_id, domain, batch_type, status, total_count, created_at)
    VALUES (%(processes)s, 'orders', 'PROCESS', 'IN_PROGRESS', %(count)s / 40,
            %(begin)s + %(count)s / 4 * interval '1 second')""",
    """
    INSERT INTO commandbus.reply (reply_to, command_id, process_id, outcome, created_at, epoch, lease_until)
    SELECT CASE WHEN n %% 2 = 0 THEN 'shop' ELSE 'process:Order' END, command_id,
           CASE WHEN n %% 2 = 1 THEN command_id END, 'SUCCESS', created_at, w,
           CASE WHEN w = 1 THEN timestamptz '2999-01-01' END
      FROM (SELECT *, (n < 500)::integer AS w FROM new WHERE n <= %(count)s / 2 AND n %% 5 = 0) n ORDER BY n""",
    """
    INSERT INTO commandbus.batch (batch_id, domain, batch_type, status, total_count, created_at, completed_at)
    SELECT CASE n WHEN 1 THEN %(batch_id)s ELSE gen_random_uuid() END,
           CASE WHEN n %% 50 = 7 THEN 'billing' ELSE 'orders' END,
           CASE WHEN n %% 1000 = 0 THEN 'PROCESS' ELSE 'COMMAND' END,
           CASE WHEN n = 1 OR n %% 100 = 0 THEN 'IN_PROGRESS' ELSE 'COMPLETED' END,
           CASE n WHEN 1 THEN %(count)s / 10 ELSE 10 END, %(begin)s + n * interval '1 minute', %(begin)s
      FROM generate_series(1, %(count)s / 20) AS n""",
)


MATCHING = """
    SELECT count(*) FROM (
        SELECT FROM commandbus.command
         WHERE (%(domain)s::text IS NULL OR domain = %(domain)s) AND (%(status)s::text IS NULL OR status = %(status)s)
           AND (%(command_type)s::text IS NULL OR command_type = %(command_type)s)
           AND (%(created_before)s::timestamptz IS NULL OR created_at < %(created_before)s)
         LIMIT %(limit)s) AS found"""


@dataclass(frozen=True)
class Filled:
    """A database with so many commands, in which a call looks at `most` rows in search of some."""

    dsn: str
    count: int
    most: int

    @property
    def middle(self) -> datetime:
        """The time between the ended ones and the backlog."""
        return BEGIN + timedelta(seconds=self.count / 2)


def fill(dsn: str, count: int, *, most: int) -> Filled:
    migrate(dsn)
    with psycopg.connect(dsn) as conn:
        for statement in [row[0] for row in conn.execute(QUIET).fetchall()]:
            conn.execute(statement)
        if most != 10_000:
            for (function,) in conn.execute(NARROW).fetchall():
                conn.execute(function)
        for statement in FILL:
            with psycopg.ClientCursor(conn) as cursor:
                cursor.execute(
                    statement.encode(), {"begin": BEGIN, "count": count, "batch_id": BATCH, "processes": PROCESSES}
                )
    return Filled(dsn, count, most)


def analyze(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("ANALYZE")


@pytest.fixture(scope="module")
def few(postgres_server: Server) -> Filled:
    return fill(postgres_server.create("plans_few"), 20_000, most=200)


@pytest.fixture(scope="module")
def many(postgres_server: Server) -> Iterator[Filled]:
    with postgres_server.database("plans_many") as dsn:
        yield fill(dsn, 1_000_000, most=10_000)


class Cost:
    """What a session's statements touch while they are watched."""

    def __init__(self, conn: psycopg.AsyncConnection[Any]) -> None:
        self.plans: list[dict[str, Any]] = []
        conn.add_notice_handler(lambda diagnostic: self.plans.extend(parsed(diagnostic.message_primary or "")))

    def faults(self, most: float) -> list[str]:
        """What touched more rows of one table than `most`, more pages than it takes to look each of them up, or all."""
        found, rows, pages = [], dict.fromkeys(TABLES, 0.0), 0
        for plan in self.plans:
            scans = [node for node in nodes(plan["Plan"]) if node.get("Relation Name") in TABLES]
            pages += sum(node["Shared Hit Blocks"] + node["Shared Read Blocks"] for node in scans)
            for node in scans:
                rows[node["Relation Name"]] += touched(node) if "Scan" in node["Node Type"] else 0
                if node["Node Type"] == "Seq Scan":
                    found.append(f"sequential scan of {node['Relation Name']}: {plan['Query Text'][:80]}")
        found += [f"{touches:,.0f} rows of {table}" for table, touches in rows.items() if touches > most]
        return found + ([f"{pages:,} pages"] if pages > 6 * most else [])


def matching(filled: Filled, filters: dict[str, Any]) -> int:
    """How many commands three pages should have."""
    with psycopg.connect(filled.dsn) as conn:
        row = conn.execute(MATCHING, filters | {"limit": 3 * LIMIT}).fetchone()
    return int(row[0]) if row else 0


Ask = Callable[[CommandBus, Any], Awaitable[Any]]


async def commands(bus: CommandBus, conn: Any, pages: int = 3, **filters: Any) -> list[Any]:
    """So many pages of commands."""
    found: list[Any] = []
    cursor = None
    for _ in range(pages):
        page = await bus.query_commands(limit=LIMIT, cursor=cursor, conn=conn, **filters)
        found += page.items
        if (cursor := page.next_cursor) is None:
            break
    return found


async def check(filled: Filled, ask: Ask, most: float, *, before: int = 0) -> Any:
    """Ask once with an eye on what it touches; `before` times before, after five PostgreSQL may use a generic plan."""
    async with AsyncConnectionPool(filled.dsn, min_size=1, max_size=1, open=False) as pool, pool.connection() as conn:
        bus = CommandBus(pool)
        for _ in range(before):
            async with conn.transaction(force_rollback=True):
                await ask(bus, conn)
        for statement in (*WATCH, "SET auto_explain.log_buffers = on"):
            await conn.execute(statement.encode())
        cost = Cost(conn)
        async with conn.transaction(force_rollback=True):
            answer = await ask(bus, conn)
    assert cost.plans
    assert cost.faults(most) == []
    return answer


def test_the_command_types_of_a_domain_are_found_by_a_look_each(few: Filled) -> None:
    statement = """
        EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON)
        SELECT FROM commandbus.find_newest_commands(
            'orders', NULL, 'CANCELED', '-infinity', 'infinity', 'infinity', gen_random_uuid(), 1)"""
    pages = "SELECT pg_relation_size('commandbus.ix_command_created_at') / 8192"
    with psycopg.connect(few.dsn, autocommit=True) as conn:
        conn.execute(statement)  # the system's tables are read once
        ((found,),) = conn.execute(statement).fetchall()
        ((whole,),) = conn.execute(pages).fetchall()
    assert found[0]["Plan"]["Shared Hit Blocks"] + found[0]["Plan"]["Shared Read Blocks"] < whole / 2


async def check_listings(filled: Filled) -> None:
    """Listings to which an index leads: a page costs what it has, for each command type that it has to look at."""
    page = 3 * (LANES + 2) * (LIMIT + 4)
    newest = (None, CommandStatus.FAILED, CommandStatus.CANCELED)
    for status in newest:
        for domain, command_type in (("orders", "Reserve"), ("billing", None), (None, "Pay"), (None, None)):
            filters = {"domain": domain, "command_type": command_type, "status": status, "created_before": None}
            found = await check(filled, lambda b, c: commands(b, c, **filters), page)  # noqa: B023
            assert len(found) == matching(filled, filters)
    for status in newest:
        found = await check(
            filled,
            lambda b, c: commands(b, c, status=status, created_before=filled.middle - timedelta(hours=1)),  # noqa: B023
            page,
            before=6,
        )
        assert len(found) == 3 * LIMIT
    rare = await check(filled, lambda b, c: commands(b, c, command_type="Rare"), page)
    assert len(rare) == 10


async def check_searches(filled: Filled) -> None:
    """Listings for which some have to be found among others: a page costs what one call may look at."""
    page = 3 * (LANES + 2) * (LIMIT + 4)
    search = 3 * (2.2 * filled.most + page)
    found = await check(filled, lambda b, c: commands(b, c, status=CommandStatus.PENDING), search, before=6)
    assert len(found) == 3 * LIMIT  # the newest of all
    found = await check(filled, lambda b, c: commands(b, c, status=CommandStatus.IN_PROGRESS, domain="orders"), search)
    with psycopg.connect(filled.dsn) as conn:  # all of them, at the head of the queue
        leased = conn.execute("SELECT count(*) FROM commandbus.queue WHERE worker_id = 1 AND domain = 'orders'")
        assert leased.fetchone() == (len(found),)
    for status in set(CommandStatus) - {CommandStatus.FAILED, CommandStatus.CANCELED}:
        for domain, before in (("orders", None), ("billing", None), (None, None), (None, filled.middle)):
            filters = {"domain": domain, "status": status, "created_before": before}
            found = await check(filled, lambda b, c: commands(b, c, **filters), search)  # noqa: B023
            if status is CommandStatus.COMPLETED:
                assert len(found) == (3 * LIMIT if before else 0 if domain != "billing" else len(found))


async def check_batches(filled: Filled) -> None:
    page = 3 * (LIMIT + 2)
    found = await check(filled, lambda b, c: b.list_batch_commands(BATCH, limit=LIMIT, conn=c), page, before=6)
    assert len(found.items) == LIMIT
    for status in CommandStatus:
        await check(filled, lambda b, c: b.list_batch_commands(BATCH, status, LIMIT, conn=c), 2.2 * filled.most)  # noqa: B023
    for domain in ("orders", "billing", None):
        found = await check(filled, lambda b, c: b.list_batches(domain, limit=LIMIT, conn=c), page, before=6)  # noqa: B023
        assert len(found.items) == LIMIT
    for kind in (None, *BatchType):
        for ended in BatchStatus:
            await check(filled, lambda b, c: b.list_batches(None, kind, ended, LIMIT, conn=c), 3 * filled.most)  # noqa: B023


async def check_processes(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is full at once costs a page, a search what one call may look at, a batch's a few more."""
    monkeypatch.setattr(repository, "_MOST_LOOKED_AT", filled.most)
    monkeypatch.setattr(repository, "_FEW", filled.most // 10)
    processes, page, search = ProcessRepository(None), 4 * LIMIT, 2.2 * filled.most  # type: ignore[arg-type]

    async def found(most: float, *filters: Any, **options: Any) -> int:
        options |= {"limit": LIMIT}
        listed = await check(filled, lambda _, c: processes.list_processes(*filters, **options, conn=c), most, before=6)
        return len(listed.items)

    few = filled.most // 10 + 1
    for newest_first in (False, True):
        assert await found(page, newest_first=newest_first) == LIMIT
        assert await found(2.2 * page + search, None, ProcessStatus.CANCELED, newest_first=newest_first) == 0
    assert await found(few + page, PROCESSES) == LIMIT
    assert await found(few + page + 11 * LIMIT, PROCESSES, ProcessStatus.WAITING_FOR_REPLY) == LIMIT
    assert await found(few + page, PROCESSES, ProcessStatus.FAILED) == min(LIMIT, filled.count // 4000)
    assert await found(few + search, PROCESSES, None, "Another") == 0


async def check_replies(filled: Filled) -> None:
    leased = 50  # at the head, which every receive has to pass
    queue = ReplyQueue(None, "shop")  # type: ignore[arg-type]

    async def consume(_: CommandBus, conn: Any) -> None:
        replies = await queue.receive(LIMIT, conn=conn)
        assert len(replies) == LIMIT
        await queue.release(replies[:5], conn=conn)
        assert await queue.acknowledge(replies[5:], conn=conn) == []

    await check(filled, consume, leased + 5 * LIMIT, before=6)


async def check_routing(filled: Filled) -> None:
    for addresses in (["process:Order"], ["process:Order", "process:Other"], ["process:Other"]):
        params = {"addresses": addresses, "limit": LIMIT, "declaring": [], "declared": []}

        async def take(_: CommandBus, conn: Any) -> list[Any]:
            cursor = await conn.execute(ProcessSQL.TAKE_REPLIES, params)  # noqa: B023
            return list(await cursor.fetchall())

        found = await check(filled, take, 2 * LIMIT, before=6)
        assert len(found) == (LIMIT if "process:Order" in addresses else 0)


async def check_all(filled: Filled, *, analyzed: bool) -> None:
    if analyzed:
        analyze(filled.dsn)
    await check_listings(filled)
    await check_searches(filled)
    await check_batches(filled)
    await check_replies(filled)
    await check_routing(filled)


@pytest.mark.asyncio
@pytest.mark.parametrize("analyzed", [False, True], ids=["never analyzed", "analyzed"])
async def test_a_page_costs_a_page(few: Filled, analyzed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    await check_all(few, analyzed=analyzed)
    await check_processes(few, monkeypatch)


@pytest.mark.slow
@pytest.mark.asyncio
@pytest.mark.parametrize("analyzed", [False, True], ids=["never analyzed", "analyzed"])
async def test_a_page_costs_a_page_among_a_million(
    many: Filled, analyzed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await check_all(many, analyzed=analyzed)
    await check_processes(many, monkeypatch)


@pytest.mark.asyncio
async def test_the_guard_sees_a_walk(few: Filled) -> None:
    """Without this, a guard that looks at nothing would pass as well."""

    async def walk(_: CommandBus, conn: Any) -> None:
        await conn.execute("SET LOCAL enable_seqscan = off")
        await conn.execute("SELECT count(*) FROM commandbus.command WHERE domain = 'orders' AND status = 'FAILED'")

    with pytest.raises(AssertionError, match="rows of command"):
        await check(few, walk, 5 * few.most)

    async def scan(_: CommandBus, conn: Any) -> None:
        await conn.execute("SELECT count(*) FROM commandbus.queue WHERE worker_id = 1")

    with pytest.raises(AssertionError, match="sequential scan of queue"):
        await check(few, scan, 5 * few.most)


@pytest.mark.asyncio
async def test_no_index_of_listings_makes_the_common_path_dearer(empty_dsn: str) -> None:
    """Claiming and settling a command and receiving its reply update each row in place, without an index entry."""
    migrate(empty_dsn)
    async with open_bench(empty_dsn) as bench, open_hand(bench) as hand:
        requests = [SendRequest(bench.domain, "Reserve", uuid4(), {}, reply_to="shop") for _ in range(500)]
        await bench.bus.send_batch(requests)
        while claims := await hand.claim(100):
            assert await hand.settle(*[(claimed, {"shelf": 4}) for claimed in claims]) == set()
        async with AsyncConnectionPool(empty_dsn, min_size=1, open=False) as pool:
            assert len(await ReplyQueue(pool, "shop").receive(1_000)) == 500
        await hand.conn.execute("SELECT pg_stat_force_next_flush()")  # a session that goes on tells its counts later
        counted = await bench.execute(UPDATES)
    assert counted == [("command", 500, 500), ("queue", 500, 500), ("reply", 500, 500)]
