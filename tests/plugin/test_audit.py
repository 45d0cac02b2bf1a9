"""The audit at the end of every test that used the bus."""

import re
from pathlib import Path

import pytest

from commandbus.auditor import AUDIT_RULES, OUTSIDE_RULES

from .conftest import Suite

EXPLANATION = Path(__file__).parents[2] / "docs" / "explanation" / "how-it-is-tested.md"

PLANTED = """
    {marker}
    async def test_it(cb_process_batch, cb_pool, cb_audit):
        batch = await cb_process_batch(OrderProcess, count=3)
        await batch.complete()
        async with cb_pool.connection() as connection:
            await connection.execute(
                "DELETE FROM commandbus.event WHERE type = 'COMPLETED' AND command_id = (SELECT command_id"
                " FROM commandbus.command WHERE status = 'COMPLETED' LIMIT 1)")
        {body}
"""


def planted(marker: str = "", body: str = "pass") -> str:
    return PLANTED.format(marker=marker, body=body)


def test_a_broken_invariant_fails_a_test_that_passed(suite: Suite):
    suite.write(planted())
    result = suite.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*S3*", "*(mark the test cb_no_audit to turn the audit off)*"])


def test_a_test_that_failed_by_itself_tells_of_that(suite: Suite):
    suite.write(planted(body="assert False, 'by itself'"))
    result = suite.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*AssertionError: by itself*"])
    result.stdout.no_fnmatch_line("*turn the audit off*")


@pytest.mark.parametrize("marker", ["@pytest.mark.cb_no_audit"])
def test_its_marker_turns_it_off(suite: Suite, marker: str):
    suite.write(planted(marker))
    suite.run().assert_outcomes(passed=1)


def test_the_fixture_tells_what_is_wrong_at_any_moment(suite: Suite):
    suite.write(
        planted(
            "@pytest.mark.cb_no_audit",
            "assert 'S3' in {v.rule for v in await cb_audit.violations()}; await cb_audit.check(liveness=True)",
        )
    )
    result = suite.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*S3*"])


def test_liveness_is_audited_only_after_a_wait(suite: Suite):
    suite.write(
        """
        async def test_waited(cb_process_batch, cb_bus):
            await cb_bus.send(domain="nowhere", command_type="Lost", command_id=__import__("uuid").uuid4(), data={})
            batch = await cb_process_batch(OrderProcess, count=1)
            await batch.complete()

        async def test_did_not_wait(cb_process_batch, cb_bus):
            await cb_process_batch(OrderProcess, count=1, workers=0)
        """
    )
    result = suite.run()
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        [
            "FAILED test_it.py::test_waited*",
        ]
    )


SEEN_FROM_OUTSIDE = """
    import uuid

    import psycopg
    import pytest

    from commandbus import Middleware
    from commandbus.executor import Executor

    DELETE = "DELETE FROM commandbus.{} WHERE command_id = %s"

    async def test_a_send_is_lost(cb_bus, cb_pool):
        sent = await cb_bus.send(domain="nowhere", command_type="Lost", command_id=uuid.uuid4(), data={})
        async with cb_pool.connection() as connection:
            for table in ("event", "queue", "command"):
                await connection.execute(DELETE.format(table), (sent,))

    async def test_a_batch_is_thinned(cb_command_batch, cb_pool):
        batch = await cb_command_batch("nowhere", "Lost", count=2, workers=0)
        async with cb_pool.connection() as connection:
            cursor = await connection.execute("SELECT command_id FROM commandbus.command LIMIT 1")
            (sent,) = await cursor.fetchone()
            for table in ("event", "queue", "command"):
                await connection.execute(DELETE.format(table), (sent,))

    async def test_an_attempt_runs_twice(cb_process_batch, monkeypatch):
        call = Executor._call

        async def call_twice(self, run):
            await call(self, run)
            return await call(self, run)

        monkeypatch.setattr(Executor, "_call", call_twice)
        await (await cb_process_batch(OrderProcess, count=1)).complete()

    async def test_the_trail_is_cut(cb_process_batch, cb_pool, cb_audit):
        await (await cb_process_batch(OrderProcess, count=1)).complete()
        async with cb_pool.connection() as connection:
            await connection.execute("UPDATE commandbus.event SET details = '{}' WHERE type = 'SENT'")

    async def test_a_test_that_prunes_says_so(cb_bus, cb_pool, cb_audit):
        sent = await cb_bus.send(domain="nowhere", command_type="Lost", command_id=uuid.uuid4(), data={})
        async with cb_pool.connection() as connection:
            for table in ("event", "queue", "command"):
                await connection.execute(DELETE.format(table), (sent,))
        assert {v.rule for v in await cb_audit.violations()} == {"S1"}
        cb_audit.forget()

    class Leaks(Middleware):
        left = []

        async def claimed(self, batch):
            self.left.append(await psycopg.AsyncConnection.connect(batch[0].pool.conninfo))

    async def test_a_session_is_left(cb_process_batch, cb_worker_pool, cb_audit):
        async with cb_worker_pool(middleware=[Leaks()]):
            await (await cb_process_batch(OrderProcess, count=1)).complete()
        assert {v.rule for v in await cb_audit.left_over(patience=0)} == {"L4"}
        for connection in Leaks.left:
            await connection.close()
        assert await cb_audit.left_over() == []
"""


def test_what_was_seen_from_outside_is_held_against_the_database(suite: Suite):
    suite.write(SEEN_FROM_OUTSIDE)
    result = suite.run()
    result.assert_outcomes(failed=4, passed=2)
    result.stdout.fnmatch_lines_random(
        [
            "*its send was acknowledged, but it is not stored*",
            "*batch of 2 members, of which 1 are stored*",
            "*handled 2 times under epoch 1*",
            "S14: the audit trail only grows*",
        ]
    )


def test_what_vacuum_leaves_and_what_nobody_waited_for(suite: Suite):
    suite.write(
        """
        import uuid

        import psycopg
        from pytest_commandbus import audit
        from pytest_commandbus.ledger_sql import LedgerSQL

        @pytest.fixture
        def holder(cb_database):
            with psycopg.connect(cb_database.dsn) as connection:
                connection.execute("SELECT txid_current()")
                yield connection

        async def test_dead_rows(cb_process_batch, cb_audit, holder):
            await (await cb_process_batch(OrderProcess, count=1)).complete()
            left = await cb_audit.dead_rows(patience=0)
            assert {violation.rule for violation in left} == {"L5"}
            kept, by = left[0].message.split(", kept by ")  # others may be at it for a moment
            assert f"session {holder.info.backend_pid} (" in by and "dead rows" in kept
            assert "table queue" in [violation.subject for violation in left]
            holder.rollback()
            assert await cb_audit.dead_rows(patience=60) == []

        async def test_an_open_transaction_of_the_test_is_none_of_the_bus(cb_process_batch, holder):
            await (await cb_process_batch(OrderProcess, count=1)).complete()

        async def test_nobody_else_has_kept_them(cb_process_batch, holder, monkeypatch):
            monkeypatch.setattr(LedgerSQL, "HOLDERS", "SELECT 'nobody', false WHERE false")
            monkeypatch.setattr(audit, "_VACUUM_PATIENCE", 0.0)
            await (await cb_process_batch(OrderProcess, count=1)).complete()

        async def test_more_is_sent(cb_process_batch, cb_bus):
            await (await cb_process_batch(OrderProcess, count=1)).complete()
            await cb_bus.send(domain="nowhere", command_type="Lost", command_id=uuid.uuid4(), data={})
        """
    )
    result = suite.run()
    result.assert_outcomes(failed=1, passed=3)
    result.stdout.fnmatch_lines_random(
        ["L5: no dead rows are left after a VACUUM, at rest", "*table queue: * dead rows*"]
    )


def test_the_documentation_says_where_each_rule_is_checked():
    rows = re.findall(r"^\| ([SL])(\d+)(?: to [SL](\d+))? \|", EXPLANATION.read_text(encoding="utf-8"), re.MULTILINE)
    told = [f"{kind}{number}" for kind, first, last in rows for number in range(int(first), int(last or first) + 1)]
    assert sorted(told) == sorted([*AUDIT_RULES, *OUTSIDE_RULES])
