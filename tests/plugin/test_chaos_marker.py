"""`@pytest.mark.chaos`: what it does to processes whose handlers know nothing of it, and how misuse is told."""

import pytest

from .conftest import Suite
from .shop import OrderProcess


@pytest.mark.chaos(payment={"fail_permanent_pct": 100})
async def test_a_permanent_failure_parks_every_process(cb_process_batch):
    batch = await cb_process_batch(OrderProcess, count=20)
    stats = await batch.wait()
    assert stats.in_troubleshooting_count == 20
    assert {process.current_step for process in await batch.processes("WAITING_FOR_TSQ")} == {"TakePayment"}


@pytest.mark.chaos(SHIP={"fail_business_rule_pct": 100, "error_code": "NO_TRUCK"})
async def test_a_broken_business_rule_undoes_what_was_done(cb_process_batch):
    batch = await cb_process_batch(OrderProcess, count=10)
    stats = await batch.complete()
    assert stats.canceled_count == 10
    process = (await batch.processes("CANCELED"))[0]
    assert process.error_code == "NO_TRUCK"
    steps = [entry.step for entry in await batch.timeline(process.process_id) if entry.event == "COMPLETED"]
    assert steps == ["ReserveStock", "TakePayment", "ReturnStock"]


@pytest.mark.chaos(ReserveStock={"fail_transient_times": 2})
async def test_the_first_attempts_fail_for_certain(cb_process_batch, cb_clock):
    batch = await cb_process_batch(OrderProcess, count=5)
    assert (await batch.complete()).completed_count == 5
    observed = await batch.observed()
    assert [dict(process.failures) for process in observed.processes] == [{"ReserveStock": 2}] * 5
    assert cb_clock.skipped > 60


@pytest.mark.chaos(sendmail={"fail_permanent_pct": 100})
async def test_a_command_without_a_process_is_found_by_its_type(cb_command_batch):
    batch = await cb_command_batch("mail", "SendMail", count=3, data=lambda i: {"to": f"{i}@example.org"})
    assert (await batch.wait()).in_troubleshooting_count == 3
    assert [command.error_code for command in await batch.commands()] == ["CHAOS_PERMANENT"] * 3


@pytest.mark.chaos(pay={"response_data": {"paid": "by chaos"}})
async def test_a_path_that_may_depend_on_results_is_asked_for(cb_process_batch):
    with pytest.raises(ValueError, match="path="):
        cb_process_batch.predict(OrderProcess, count=1)
    path = ["ReserveStock", "TakePayment", "ShipParcel"]
    batch = await cb_process_batch(OrderProcess, count=3)
    await batch.complete()
    assert await batch.observed() == batch.predict(path=path)


def test_markers_of_module_class_and_function_merge_and_the_nearest_wins(suite: Suite):
    suite.write(
        """
        pytestmark = pytest.mark.chaos(pay={"fail_permanent_pct": 100}, ship={"fail_business_rule_pct": 100})

        @pytest.mark.chaos(payment={"fail_permanent_pct": 0})
        class TestOrders:
            @pytest.mark.chaos(reserve={"fail_transient_times": 1})
            async def test_near(self, cb_process_batch):
                batch = await cb_process_batch(OrderProcess, count=4)
                stats = await batch.complete()
                assert stats.canceled_count == 4
                first = (await batch.observed()).processes[0]
                assert first.failing_step == "ShipParcel"
                assert first.failures == {"ReserveStock": 1, "ShipParcel": 1}

        async def test_far(cb_process_batch, cb_bus):
            batch = await cb_process_batch(OrderProcess, count=4)
            assert (await batch.wait()).in_troubleshooting_count == 4
            pytest.skip("the rule for ship cannot match here")
        """
    )
    suite.run().assert_outcomes(passed=1, skipped=1)


def test_a_marker_that_matched_nothing_fails_the_test(suite: Suite):
    suite.write(
        """
        @pytest.mark.chaos(reserve={"fail_permanent_pct": 100}, ship={"fail_transient_pct": 1})
        async def test_it(cb_process_batch):
            batch = await cb_process_batch(OrderProcess, count=4)
            await batch.wait()
        """
    )
    result = suite.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*@pytest.mark.chaos(ship=*) matched nothing that ran*"])
    result.stdout.no_fnmatch_line("*reserve=*matched nothing*")


def test_a_marker_on_a_test_without_the_bus_fails_it(suite: Suite):
    suite.write(
        """
        pytestmark = pytest.mark.chaos(reserve={"fail_permanent_pct": 100})

        def test_it():
            pass

        async def test_it_async():
            pass
        """
    )
    result = suite.run()
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["@pytest.mark.chaos matched nothing that ran: the test uses no fixture of the bus*"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ('reserve={"fail_sometimes_pct": 1}', "*chaos(reserve=*unknown field 'fail_sometimes_pct'; the fields are *"),
        (
            'reserve={"fail_permanent_pct": 101}',
            "*chaos(reserve=*fail_permanent_pct=101 is no percentage from 0 to 100*",
        ),
        ('reserve={"timeout_pct": -1}', "*timeout_pct=-1 is no percentage from 0 to 100*"),
        ('reserve="often"', "*chaos(reserve=*a behavior is a dict of *; 'often' is none*"),
        ("", "*@pytest.mark.chaos takes steps by keyword, and at least one*"),
        ('{"reserve": {}}', "*@pytest.mark.chaos takes steps by keyword, and at least one*"),
    ],
)
def test_a_wrong_behavior_is_a_usage_error_at_collection(suite: Suite, arguments: str, message: str):
    suite.write(
        f"""
        @pytest.mark.chaos({arguments})
        async def test_it(cb_process_batch):
            pass
        """
    )
    result = suite.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shop", "*no step or command type is called 'shop'*valid are *ReserveStock*"),
        ("stock", "*'stock' is ambiguous: it is part of ReserveStock, ReturnStock; write one in full*"),
        ("reservestok", "*did you mean ReserveStock?*"),
    ],
)
def test_an_unknown_or_ambiguous_step_says_what_would_be_valid(suite: Suite, name: str, message: str):
    suite.write(
        f"""
        @pytest.mark.chaos({name}={{"fail_permanent_pct": 1}})
        async def test_it(cb_process_batch):
            pass
        """
    )
    result = suite.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([message])
