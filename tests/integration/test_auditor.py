"""The auditor finds nothing wrong in a sound database, and says readably what it finds in another."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from commandbus.auditor import (
    AUDIT_RULES,
    LIVENESS_STATEMENTS,
    SAFETY_STATEMENTS,
    SHOWN_PER_RULE,
    AuditError,
    Violation,
    audit,
    check,
    format_violations,
)
from commandbus.errors import InvalidOperationError
from commandbus.migrate import migrate
from tests.integration.bus_history import DOMAIN, Bus, write_history


@pytest.fixture
def bus(empty_dsn: str) -> Iterator[Bus]:
    migrate(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        yield Bus(conn)


async def audited(dsn: str, **options: Any) -> list[Violation]:
    async with await AsyncConnection.connect(dsn) as conn:
        return await audit(conn, **options)


async def at_rest(dsn: str) -> set[tuple[str, str]]:
    """The rules broken with those of liveness, each with its subject."""
    return {(violation.rule, violation.subject) for violation in await audited(dsn, liveness=True)}


def break_path(bus: Bus, *names: str) -> None:
    """Make these commands claimed without having been sent."""
    ids = [bus.ids[name] for name in names]
    bus.rows("DELETE FROM commandbus.event WHERE type = 'SENT' AND command_id = ANY(%(ids)s)", ids=ids)


@pytest.mark.asyncio
async def test_an_empty_bus_is_sound(bus: Bus, empty_dsn: str) -> None:
    assert await audited(empty_dsn, liveness=True) == []


@pytest.mark.asyncio
async def test_a_history_of_every_kind_is_sound(bus: Bus, empty_dsn: str) -> None:
    write_history(bus)
    types = {row["type"] for row in bus.rows("SELECT DISTINCT type FROM commandbus.event")}
    assert len(types) == 14
    assert await audited(empty_dsn) == []


@pytest.mark.asyncio
async def test_a_command_that_nobody_claims_is_not_at_rest(bus: Bus, empty_dsn: str) -> None:
    bus.send("waiting")
    assert await audited(empty_dsn) == []
    assert await at_rest(empty_dsn) == {("L1", str(bus.ids["waiting"]))}


@pytest.mark.asyncio
async def test_a_command_in_progress_is_not_at_rest(bus: Bus, empty_dsn: str) -> None:
    bus.send("leased")
    bus.claim("leased")
    assert await at_rest(empty_dsn) == {("L1", str(bus.ids["leased"]))}


@pytest.mark.asyncio
async def test_a_retry_is_at_rest_until_it_is_due(bus: Bus, empty_dsn: str) -> None:
    bus.send("later", "due")
    bus.fail("later", delay=3600)
    bus.fail("due", delay=0)
    assert await at_rest(empty_dsn) == {("L1", str(bus.ids["due"]))}


@pytest.mark.asyncio
async def test_a_lease_may_run_out_only_while_no_worker_lives(bus: Bus, empty_dsn: str) -> None:
    bus.send("lost")
    bus.claim("lost", lease="0")
    subject = str(bus.ids["lost"])
    assert await at_rest(empty_dsn) == {("L1", subject)}
    bus.rows(
        "INSERT INTO commandbus.worker (domain, host, pid, command_types, process_types, concurrency,"
        " started_at, heartbeat_at, alive_until)"
        " SELECT %(domain)s, 'here', 1, '{}', '{}', 1, now, now, now + '1 hour' FROM clock_timestamp() AS now",
        domain=DOMAIN,
    )
    assert await at_rest(empty_dsn) == {("L1", subject), ("L2", subject)}
    bus.rows("UPDATE commandbus.worker SET stopped_at = clock_timestamp()")
    assert await at_rest(empty_dsn) == {("L1", subject)}


@pytest.mark.asyncio
async def test_a_process_is_at_rest_when_it_ended_or_is_parked(bus: Bus, empty_dsn: str) -> None:
    for process in ("parked", "ended", "answered"):
        bus.start(process)
    bus.park("parked.one")
    bus.advance("ended", "one", status="COMPLETED")
    bus.settle(bus.claim("answered.one"), reply_to="process:Order")
    assert await at_rest(empty_dsn) == {("L3", str(bus.ids["answered"]))}


@pytest.mark.asyncio
async def test_a_claim_that_began_before_a_release_is_stamped_after_it(bus: Bus, empty_dsn: str) -> None:
    clock = bus.rows("SELECT pg_get_functiondef('commandbus.now'::regproc) AS text")[0]["text"]
    bus.send("given back")
    claim = bus.claim("given back")
    bus.rows(clock.replace("statement_timestamp()", "statement_timestamp() + interval '1 minute'"))
    bus.release(claim)
    bus.rows(clock)
    bus.claim("given back", worker=2, lease="1 hour")
    assert await audited(empty_dsn) == []


@pytest.mark.asyncio
async def test_findings_are_bounded_and_counted(bus: Bus, empty_dsn: str) -> None:
    names = [f"command {number}" for number in range(SHOWN_PER_RULE + 5)]
    bus.send(*names)
    for name in names:
        bus.settle(bus.claim(name))
    break_path(bus, *names)
    found = await audited(empty_dsn)
    assert {violation.rule for violation in found} == {"S3"}
    assert len(found) == SHOWN_PER_RULE + 1
    assert found[-1] == Violation("S3", "trail", "and 5 more like these")


@pytest.mark.asyncio
async def test_an_audit_of_one_domain_says_nothing_of_others(bus: Bus, empty_dsn: str) -> None:
    bus.send("done")
    bus.settle(bus.claim("done"))
    break_path(bus, "done")
    assert [violation.rule for violation in await audited(empty_dsn, domains=[DOMAIN])] == ["S3"]
    assert await audited(empty_dsn, domains=["shipping"]) == []


@pytest.mark.asyncio
async def test_check_raises_what_a_person_can_read(bus: Bus, empty_dsn: str) -> None:
    bus.send("done")
    bus.settle(bus.claim("done"))
    break_path(bus, "done")
    async with await AsyncConnection.connect(empty_dsn) as conn:
        with pytest.raises(AuditError, match="RECEIVED cannot follow nothing") as caught:
            await check(conn)
    assert [violation.subject for violation in caught.value.violations] == [str(bus.ids["done"])]
    assert str(caught.value).splitlines()[1] == f"S3: {AUDIT_RULES['S3']}"


@pytest.mark.asyncio
async def test_an_open_transaction_is_refused(bus: Bus, empty_dsn: str) -> None:
    async with await AsyncConnection.connect(empty_dsn) as conn:
        await conn.execute("SELECT 1")
        with pytest.raises(InvalidOperationError, match="commit or roll it back"):
            await audit(conn)


@pytest.mark.asyncio
async def test_the_connection_is_left_as_it_was(bus: Bus, empty_dsn: str) -> None:
    bus.send("done")
    async with await AsyncConnection.connect(empty_dsn, autocommit=True, row_factory=dict_row) as conn:
        assert await audit(conn) == []
        row = await (await conn.execute("SELECT current_setting('enable_nestloop') AS nested")).fetchone()
        assert row == {"nested": "on"}
        await conn.execute("DELETE FROM commandbus.queue")
        assert [violation.rule for violation in await audit(conn)] == ["S12"]


def test_nothing_found_reads_as_such() -> None:
    assert format_violations([]) == "the audit found nothing wrong"


def test_every_rule_is_checked_by_some_statement() -> None:
    checked = {rule for statement in SAFETY_STATEMENTS + LIVENESS_STATEMENTS for rule in statement.rules}
    assert checked == set(AUDIT_RULES)
