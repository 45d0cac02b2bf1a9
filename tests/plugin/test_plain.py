"""Plain tests have the same fixtures, which block."""

from uuid import uuid4

import pytest

from .conftest import Suite
from .shop import OrderProcess


@pytest.mark.chaos(ship={"fail_permanent_pct": 50, "fail_transient_pct": 30})
def test_a_plain_test_waits_for_the_same_batch(cb_process_batch, cb_clock, cb_worker_pool):
    with cb_worker_pool(workers=1):
        batch = cb_process_batch(OrderProcess, count=30)
        stats = batch.wait()
    assert 0 < stats.in_troubleshooting_count < 30
    assert batch.observed() == batch.predict()
    before = cb_clock.skipped
    cb_clock.advance(5)
    assert cb_clock.skipped == before + 5


def test_a_plain_test_acts_as_an_operator(cb_command_batch, cb_tsq, cb_bus, cb_audit, cb_app):
    batch = cb_command_batch("mail", "SendMail", count=2, data={"to": "nobody"})
    assert batch.wait().in_troubleshooting_count == 2
    first, second = batch.command_ids()
    cb_tsq.operator_cancel(first, operator="test", reason="no such address")
    cb_tsq.operator_complete(second, {"sent": "by hand"}, operator="test", reason="called them")
    assert [command.status for command in batch.commands()] == ["CANCELED", "COMPLETED"]
    assert cb_bus.get_command(second).result == {"sent": "by hand"}
    cb_audit.check(liveness=True)


def test_a_plain_test_reads_the_database(cb_bus, cb_pool):
    command_id = uuid4()
    cb_bus.send(domain="mail", command_type="SendMail", command_id=command_id, data={"to": "someone"})
    with cb_pool.connection() as connection:
        rows = connection.execute("SELECT command_id FROM commandbus.command").fetchall()
    assert rows == [(command_id,)]


def test_a_plain_test_that_fails_tells_as_much(suite: Suite):
    suite.write(
        """
        def test_it(cb_process_batch):
            batch = cb_process_batch(OrderProcess, count=5)
            batch.wait(timeout=0)
        """
    )
    result = suite.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*BatchTimeoutError: *5 open*", "*- commandbus: batches -*", "*5 open*"])
