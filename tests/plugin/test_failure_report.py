"""What the report of a failed test tells, and that its re-run line works as it stands."""

import re
import shlex

import pytest

from .conftest import Suite

FAILING = """
    @pytest.mark.chaos(payment={"fail_permanent_pct": 40}, reserve={"fail_transient_pct": 30})
    @pytest.mark.parametrize("name", ["a b", "it's"])
    async def test_it(cb_process_batch, name):
        batch = await cb_process_batch(OrderProcess, count=20)
        stats = await batch.wait()
        assert stats.in_troubleshooting_count == 0
"""


def ask(suite: Suite, psql: str, question: str) -> list[str]:
    return suite.shell(f"{psql} -Atc {shlex.quote(question)}").outlines


def parked(result: pytest.RunResult) -> list[str]:
    return re.findall(r"process (\d+) of its batch: WAITING_FOR_TSQ", result.stdout.str())


def test_it_tells_seed_stats_and_timelines(suite: Suite):
    suite.write(FAILING)
    result = suite.run("--cb-seed=7", "test_it.py::test_it[a b]")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*in_troubleshooting_count == 0*",
            "*BatchStats(IN_PROGRESS: 20 in all, * in troubleshooting, 0 open)*",
            "*- commandbus: seed -*",
            "seed 7, run again with:",
            "*pytest *test_it.py::test_it[[]a b]* --cb-seed=7",
            "*- commandbus: batches -*",
            "* of domain 'orders', IN_PROGRESS: 20 in all, *",
            "* s of waiting were skipped",
            "*- commandbus: Order *",
            "process * of its batch: WAITING_FOR_TSQ in step TakePayment",
            "*+0.00 s  ReserveStock  SENT",
            "*TakePayment  MOVED_TO_TSQ  attempt 1  worker *  injected CHAOS_PERMANENT: chaos: injected permanent *",
        ]
    )
    assert len(parked(result)) == 3
    text = result.stdout.str()
    assert re.search(r"^\d+\.\d\d s of waiting were skipped$", text, re.MULTILINE)
    assert all(re.fullmatch(r"\d+\.\d\d", seconds) for seconds in re.findall(r"\+(\S+) s  ", text))


@pytest.mark.parametrize(
    "arguments", [(), pytest.param(("-n2",), marks=pytest.mark.slow)], ids=["without xdist", "with xdist"]
)
def test_its_line_runs_the_test_again_with_the_same_outcome(suite: Suite, arguments: tuple[str, ...]):
    suite.write(FAILING)
    first = suite.run_process("test_it.py", *arguments)
    first.assert_outcomes(failed=2)
    lines = re.findall(r"^python -m pytest .*--cb-seed=\d+$", first.stdout.str(), re.MULTILINE)
    assert len(lines) == 2
    again = suite.shell(lines[0])
    again.assert_outcomes(failed=1)
    assert parked(again) == parked(first)[:3]


def test_a_real_failure_is_told_from_an_injected_one(suite: Suite):
    suite.write(
        """
        from commandbus import BusinessRuleError

        @pytest.fixture
        def broken(monkeypatch):
            async def refuse(command, context):
                raise BusinessRuleError("NO_STOCK", "all sold")
            registered = app.registry.get("orders", "ReserveStock")
            monkeypatch.setitem(app.registry._handlers, ("orders", "ReserveStock"), type(registered)(
                "orders", "ReserveStock", refuse, True, "refuse"))

        async def test_it(broken, cb_process_batch):
            batch = await cb_process_batch(OrderProcess, count=1)
            assert (await batch.wait()).completed_count == 1
        """
    )
    result = suite.run()
    result.stdout.fnmatch_lines(
        [
            "process 0 of its batch: CANCELED in step ReserveStock, NO_STOCK: all sold",
            "*ReserveStock  BUSINESS_RULE_FAILED  attempt 1  worker *  real NO_STOCK: all sold",
        ]
    )


def test_a_plain_failure_without_the_bus_has_no_section(suite: Suite):
    suite.write("def test_it():\n    assert False\n", head="")
    suite.run().stdout.no_fnmatch_line("*commandbus:*")


def test_worker_processes_leave_their_logs(suite: Suite):
    suite.write(
        """
        async def test_it(cb_process_batch):
            batch = await cb_process_batch(OrderProcess, processes=True, workers=1)
            await batch.complete()
            assert False
        """
    )
    suite.run().stdout.fnmatch_lines(["*- commandbus: worker process * -*", "*worker ready: shop:app*"])


def test_keep_leaves_the_database_of_a_failed_test_with_its_psql_line(suite: Suite):
    suite.write(
        """
        async def test_bad(cb_bus):
            await cb_bus.create_process_batch("orders", 5)
            assert False

        async def test_good(cb_bus):
            await cb_bus.create_process_batch("orders", 5)
        """
    )
    result = suite.run_process("--cb-keep", embedded=True)
    result.assert_outcomes(failed=1, passed=1)
    lines = [line for line in result.outlines if "psql" in line and "dbname" in line]
    ending = result.outlines[result.outlines.index("PostgreSQL goes on for them; end and remove it with:") + 1]
    try:
        assert len(set(lines)) == 1
        assert ask(suite, lines[0], "SELECT total_count FROM commandbus.batch") == ["5"]
        others = "SELECT datname FROM pg_database WHERE datname LIKE 'cb_%' AND datname NOT LIKE 'cb_template_%'"
        assert len(ask(suite, lines[0], others)) == 1
    finally:
        suite.shell(ending)
    assert suite.shell(f"{lines[0]} -c 'SELECT 1'").ret != 0


@pytest.mark.parametrize("distribution", [(), ("-n2",)], ids=["without xdist", "with xdist"])
def test_keep_on_a_server_of_the_user(suite: Suite, distribution: tuple[str, ...]):
    suite.write("async def test_bad(cb_bus):\n    assert False\n")
    result = suite.run("--cb-keep", *distribution)
    line = next(line for line in result.outlines if "psql" in line and "dbname" in line)
    assert result.outlines.count(line) == 2
    assert ask(suite, line, "SELECT count(*) FROM commandbus.batch") == ["0"]
