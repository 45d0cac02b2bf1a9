"""Tests under @given: each example has a fresh database and the fixtures anew, and what fails shrinks to the least."""

import ast
import re

import psycopg
import pytest

from pytest_commandbus.postgres.dsn import with_database

from .conftest import Suite

HEAD = """
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pytest_commandbus.strategies import behaviors, chaos_rules, command_batches, payloads, process_batches
from shop import OrderProcess, app

settings.register_profile("suite", max_examples=4, derandomize=True, database=None)
settings.load_profile("suite")

@pytest.fixture
def cb_app():
    return app
"""


def write(suite: Suite, text: str) -> None:
    suite.write(text, head=HEAD)


def run(suite: Suite, *arguments: str) -> pytest.RunResult:
    return suite.run_process("-p", "hypothesispytest", "--cb-seed=5", *arguments)


@pytest.mark.slow
def test_examples_are_as_fresh_as_tests(suite: Suite):
    write(
        suite,
        """
        import psycopg
        from uuid import UUID

        seen = {}

        orders_of_three = process_batches(OrderProcess, max_count=3, initial_data=st.just({}))

        @given(chaos=chaos_rules(OrderProcess), orders=orders_of_three)
        async def test_async(cb_chaos, cb_process_batch, cb_database, cb_pool, cb_audit, request, chaos, orders):
            assert seen.setdefault(cb_database.name, request.node.name) == request.node.name
            assert len(seen) == len(set(seen))
            cb_chaos(**chaos)
            prediction = cb_process_batch.predict(OrderProcess, count=orders["count"])
            batch = await cb_process_batch(**orders)
            stats = await batch.wait()
            assert (stats.total_count, batch.number) == (orders["count"], 1)
            assert await batch.observed() == prediction
            await cb_audit.check(liveness=True)
            async with cb_pool.connection() as connection:
                found = await (await connection.execute("SELECT count(*) FROM commandbus.process")).fetchone()
            assert found == (orders["count"],)

        @given(mails=command_batches("mail", "SendMail", data=payloads(), max_count=3))
        def test_plain(cb_command_batch, cb_bus, cb_tsq, cb_clock, mails):
            batch = cb_command_batch(**mails)
            assert batch.complete().completed_count == mails["count"]
            assert sorted(map(repr, (c.data for c in batch.commands()))) == sorted(map(repr, mails["data"]))
            with cb_bus.watching() as seen:
                cb_bus.send(domain="mail", command_type="SendMail", command_id=UUID(int=7), data={})
            seen.assert_sent("SendMail")
            cb_clock.advance(10)
            assert (cb_clock.skipped, cb_tsq.count_troubleshooting()) == (10, 0)

        @pytest.mark.parametrize("step", ["reserve", "ship"])
        class TestGiven:
            @pytest.mark.chaos(ship={"fail_permanent_pct": 100})
            @given(count=st.integers(0, 2), data=st.data())
            async def test_method_of_a_class(self, cb_process_batch, cb_worker_pool, step, count, data):
                assume(count != 1)
                async with cb_worker_pool(workers=1):
                    batch = await cb_process_batch(OrderProcess, count=count)
                    await batch.wait()
                await batch.assert_outcomes({"WAITING_FOR_TSQ": count})
        """,
    )
    run(suite).assert_outcomes(passed=4)


@pytest.mark.slow
def test_what_is_wrong_in_one_example_is_the_failure(suite: Suite):
    write(
        suite,
        """
        @given(count=st.integers(1, 9))
        async def test_body(cb_process_batch, cb_chaos, count):
            cb_chaos(ship={"fail_permanent_pct": 100})
            batch = await cb_process_batch(OrderProcess, count=count)
            assert (await batch.wait()).in_troubleshooting_count < 2

        @given(count=st.integers(1, 9))
        async def test_audit(cb_process_batch, cb_pool, count):
            batch = await cb_process_batch(OrderProcess, count=count)
            await batch.complete()
            async with cb_pool.connection() as connection:
                await connection.execute("DELETE FROM commandbus.event WHERE type = 'SENT'")

        @pytest.mark.chaos(ship={"fail_permanent_pct": 100})
        @given(count=st.integers(0, 2))
        async def test_idle_marker(cb_process_batch, cb_chaos, count):
            cb_chaos(reserve={"fail_permanent_pct": 100})
            await (await cb_process_batch(OrderProcess, count=count)).wait()
        """,
    )
    result = run(suite, "--cb-keep")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            "*Failing test case: test_body(*",
            "*count=2,",
            "*seed 5, run again with:*",
            "*test_body --cb-seed=5",
            "*: batches -*",
            "*: 2 in all, *2 in troubleshooting*",
            "*: Order *",
            "*ShipParcel *MOVED_TO_TSQ * injected CHAOS_PERMANENT*",
        ]
    )
    result.stdout.fnmatch_lines(["*the audit found *", "*Failing test case: test_audit(*", "*count=1,"])
    result.stdout.fnmatch_lines(["*chaos(ship=…) matched nothing that ran*"])
    result.stdout.fnmatch_lines(["*kept databases of failed tests*", "*psql *"])
    kept = re.search(r"kept database -+\n.*dbname=(\w+)", result.stdout.str())
    assert kept
    with psycopg.connect(with_database(suite.dsn, kept[1])) as connection:
        assert connection.execute("SELECT count(*) FROM commandbus.process").fetchall() == [(2,)]


def test_what_examples_cannot_have(suite: Suite):
    write(
        suite,
        """
        from uuid import uuid4
        import pytest_asyncio

        @pytest.fixture
        def own():
            return 1

        @pytest_asyncio.fixture
        async def seeded(cb_bus):
            await cb_bus.create_process_batch("orders", 0)

        @given(count=st.integers(0, 2))
        async def test_own_fixture(cb_bus, own, count):
            pass

        @pytest.mark.cb_database(scope="module")
        @given(count=st.integers(0, 2))
        async def test_shared(cb_bus, count):
            pass

        @pytest.mark.usefixtures("seeded")
        @given(count=st.integers(0, 2))
        async def test_seeded(cb_bus, count):
            pass

        @pytest.mark.load
        @given(count=st.integers(0, 2))
        async def test_load(cb_load, count):
            pass

        @given(count=st.integers(0, 2))
        @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
        async def test_own_fixture_if_you_say_so(cb_bus, own, count):
            assert own == 1
        """,
    )
    result = run(suite, "--cb-load=10")
    result.assert_outcomes(failed=4, passed=1)
    result.stdout.fnmatch_lines_random(
        [
            "E *FailedHealthCheck: *test_own_fixture' uses a function-scoped fixture*",
            "E *test_shared: each example of @given begins with a fresh database: remove the marker cb_database*",
            "E *test_seeded: each example *, and a fixture has used the one before the first *",
            "E *test_load: each example *, and cb_load works on one for the whole test*",
        ]
    )


@pytest.mark.slow
def test_five_hundred_processes_under_much_chaos_shrink_to_one_and_one_rule(suite: Suite):
    write(
        suite,
        """
        import pathlib

        thirty = behaviors(percentage=st.sampled_from([30, 100]))

        @given(
            chaos=chaos_rules(OrderProcess, behavior=thirty, min_rules=1),
            orders=process_batches(OrderProcess, max_count=500),
        )
        @settings(max_examples=60)
        async def test_stock_is_never_returned(cb_chaos, cb_process_batch, chaos, orders):
            cb_chaos(**chaos)
            batch = await cb_process_batch(**orders)
            await batch.wait()
            canceled = await batch.processes("CANCELED")
            with pathlib.Path("examples").open("a") as examples:
                print(repr((chaos, orders["count"], len(canceled))), file=examples)
            for process in canceled:
                await batch.assert_compensated(process.process_id, [])
        """,
    )
    result = run(suite)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*assert_compensated*", "*Failing test case: *", "*commandbus: Order *"])
    examples = [ast.literal_eval(line) for line in (suite.pytester.path / "examples").read_text().splitlines()]
    chaos, count, canceled = examples[-1]
    assert max(most for _, most, _ in examples) > 100
    assert (count, canceled, len(chaos)) == (1, 1, 1)
    assert [*chaos] in (["TakePayment"], ["ShipParcel"])
    assert [*next(iter(chaos.values()))] == ["fail_business_rule_pct"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("cb_chaos(shp={'fail_permanent_pct': 1})", "*cb_chaos: no step or command type is called 'shp'*did you mean*"),
        ("cb_chaos(ship={'fail_permanent_pct': 101})", "*cb_chaos(ship=…): fail_permanent_pct=101 is no percentage*"),
        ("cb_chaos('flaky')", "*cb_chaos: no chaos profile is called 'flaky'*"),
        (
            "cb_process_batch(OrderProcess); cb_chaos(ship={'fail_permanent_pct': 1})",
            "*cb_chaos: a batch or workers have begun already*",
        ),
        (
            "cb_chaos(send_mail={'fail_permanent_pct': 1}); cb_process_batch(OrderProcess).wait()",
            "*matched nothing that ran*",
        ),
        (
            "cb_process_batch(OrderProcess, count=2, initial_data=[{}])",
            "*a list of data has one for each member, and 1 were given for 2*",
        ),
    ],
)
def test_misuse_is_told(suite: Suite, call: str, message: str):
    suite.write(f"def test_it(cb_chaos, cb_process_batch):\n    {call}\n")
    result = suite.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([message])
