"""The audit at the end of every test that used the bus."""

import pytest

from .conftest import Suite

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
        async def start(cb_process_batch, cb_worker_pool, wait):
            batch = await cb_process_batch(OrderProcess, count=1)
            if wait:
                await batch.complete()
            await cb_process_batch(OrderProcess, count=1, initial_data={"slow": 30}, workers=0)

        async def test_waited(cb_process_batch, cb_bus):
            batch = await cb_process_batch(OrderProcess, count=1)
            await batch.complete()
            await cb_bus.send(domain="nowhere", command_type="Lost", command_id=__import__("uuid").uuid4(), data={})

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
