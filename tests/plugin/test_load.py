"""Load tests: one result over all shards, the same for every number of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_commandbus.load_series import MOST_BUCKETS
from pytest_commandbus.report import FORMAT, LATENCIES, RESULT_KEYS
from tests.unit.html_page import Page

from .conftest import Suite

COUNT = 101
ROUGH = """
@pytest.mark.load
@pytest.mark.chaos(
    reserve={"fail_transient_pct": 30, "timeout_pct": 10},
    payment={"fail_permanent_pct": 10},
    ship={"fail_business_rule_pct": 30},
)
"""
EACH_OUTCOME = """
async def test_orders(cb_load, cb_pool, request):
    result = await cb_load(OrderProcess, initial_data=lambda i: {"order": i}, workers=1, processes=False)
    assert result.actual == result.predicted == result.predict()
    assert result.mismatches == []
    assert result.processes == sum(result.outcomes.values())
    async with cb_pool.connection() as connection:
        orders = await (await connection.execute(
            "SELECT (state ->> 'order')::integer, ordinal FROM commandbus.process ORDER BY ordinal")).fetchall()
        shards = await (await connection.execute(
            "SELECT first_ordinal, processes FROM e2e.load_shard ORDER BY shard")).fetchall()
    assert orders == [(i, i) for i in range(result.processes)]
    processes = [
        (each.ordinal, each.outcome, each.failing_step, dict(each.failures), each.retries)
        for each in result.actual.processes
    ]
    told = {"shards": shards, "processes": processes}
    request.path.with_name(f"{request.node.name}.json").write_text(json.dumps(told))
"""


def told(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return found


@pytest.mark.slow
def test_every_number_of_shards_gives_each_process_the_same_outcome(suite: Suite) -> None:
    suite.write("import json\n" + ROUGH + EACH_OUTCOME)
    folder = suite.pytester.path
    options = ("--cb-seed=11", f"--cb-load={COUNT}")

    suite.run(*options, "-n0", "--cb-report=out/zero.json").assert_outcomes(passed=1)
    alone = told(folder, "test_orders")
    assert alone["shards"] == [[0, COUNT]]

    reports = [json.loads((folder / "out" / "zero.json").read_text())]
    for shards in (4,):
        path = f"out/{shards}.json"
        suite.run(*options, f"-n{shards}", f"--cb-report={path}").assert_outcomes(passed=shards)
        reports.append(json.loads((folder / path).read_text()))
        parts = [told(folder, f"test_orders[shard{k + 1}of{shards}]") for k in range(shards)]
        assert all(part["processes"] == alone["processes"] for part in parts)
        firsts = [first for first, _ in parts[0]["shards"]]
        counts = [count for _, count in parts[0]["shards"]]
        assert sum(counts) == COUNT
        assert firsts == [sum(counts[:k]) for k in range(shards)]
        assert max(counts) - min(counts) <= 1

    for report, shards in zip(reports, (1, 4), strict=True):
        assert tuple(report) == RESULT_KEYS
        assert (report["format"], report["seed"], report["processes"], report["shards"]) == (FORMAT, 11, COUNT, shards)
        assert report["outcomes"] == reports[0]["outcomes"] == report["environment"]["predicted"]
        assert report["environment"]["mismatches"] == 0
        assert report["retries"] == reports[0]["retries"] > 0
        assert report["in_troubleshooting"] == report["outcomes"]["WAITING_FOR_TSQ"] > 0
        assert outcomes_by_step(report) == outcomes_by_step(reports[0])


def outcomes_by_step(report: dict[str, Any]) -> dict[str, dict[str, int]]:
    return {name: dict(sorted(step["outcomes"].items())) for name, step in sorted(report["steps"].items())}


def test_the_figures_of_a_run_agree_with_each_other(suite: Suite) -> None:
    suite.write(ROUGH + "async def test_orders(cb_load):\n    await cb_load(OrderProcess, processes=False)\n")
    junit = suite.pytester.path / "junit.xml"
    result = suite.run(f"--cb-load={COUNT}", "--cb-report=out.json", f"--junit-xml={junit}")
    result.assert_outcomes(passed=1)
    report = json.loads((suite.pytester.path / "out.json").read_text())

    assert report["peak_backlog"] == COUNT  # all are sent before the first worker starts
    assert report["workers"] >= 1
    assert report["thresholds"] == []
    assert 0 < report["run_seconds"] < report["total_seconds"]
    assert 0 < report["created_seconds"] < report["total_seconds"]
    assert report["processes_per_second"] == pytest.approx(COUNT / report["run_seconds"], rel=0.05)
    assert report["environment"]["skipped_seconds"] >= 10  # the first delay of the backoff
    all_of_it = report["total_seconds"] * 1000 + 1  # what was skipped is in no latency
    for step in report["steps"].values():
        for kind in LATENCIES:
            assert 0 <= step[kind]["p50"] <= step[kind]["p95"] <= step[kind]["p99"] <= all_of_it
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"] <= all_of_it
    series = report["series"]
    assert max(series["backlog"]) == report["peak_backlog"]
    told = ("processes_per_second", "commands_per_second")
    ended, settled = (round(sum(series[name]) * series["bucket_seconds"]) for name in told)
    attempts = sum(sum(step["outcomes"].values()) for step in report["steps"].values())
    assert (ended, settled) == (COUNT, attempts - report["retries"])
    assert series["bucket_seconds"] * len(series["backlog"]) >= report["total_seconds"] - 0.001
    reserved = report["steps"]["ReserveStock"]["outcomes"]
    assert reserved["COMPLETED"] + reserved["MOVED_TO_TSQ"] == COUNT
    assert sum(step["outcomes"].get("RETRY_SCHEDULED", 0) for step in report["steps"].values()) == report["retries"]

    result.stdout.fnmatch_lines(
        [
            "=* commandbus load *=",
            f"test_it.py::test_orders: {COUNT} processes, 1 shard, *",
            "*oracle*equal: every process ended as its seed predicts",
            "report: *out.json",
        ]
    )
    assert f'name="cb_load_processes" value="{COUNT}"' in junit.read_text()


def test_a_plain_test_and_worker_processes(suite: Suite) -> None:
    suite.write(
        ROUGH
        + """
def test_orders(cb_load):
    result = cb_load(OrderProcess, initial_data={"order": 5}, workers=2)
    assert result.actual == result.predict()
"""
    )
    suite.run("--cb-load=40", "--cb-seed=5").assert_outcomes(passed=1)


def test_the_workers_told_are_those_that_took_part(suite: Suite) -> None:
    suite.write(
        """
@pytest.mark.load
async def test_orders(cb_load, cb_worker_pool):
    async with cb_worker_pool(workers=3, concurrency=1, batch_size=1):
        many = await cb_load(OrderProcess, initial_data={"slow": 0.3}, workers=7)
        assert many.workers == 3
"""
    )
    suite.run("--cb-load=6").assert_outcomes(passed=1)


def test_a_second_run_of_a_test_rolls_anew_and_is_told_beside_the_first(suite: Suite) -> None:
    suite.write(
        ROUGH
        + """
async def test_orders(cb_load):
    first = await cb_load(OrderProcess, processes=False)
    second = await cb_load(OrderProcess, processes=False)
    assert first.mismatches == second.mismatches == []
    assert first.actual != second.actual
"""
    )
    suite.run("--cb-load=60", "--cb-seed=5", "--cb-report=out.json").assert_outcomes(passed=1)
    report = json.loads((suite.pytester.path / "out.json").read_text())
    assert [test["environment"]["run"] for test in report["tests"]] == [1, 2]


def test_a_run_that_ends_otherwise_than_predicted_is_told(suite: Suite) -> None:
    """The failures of handlers are not foreseen."""
    suite.write(
        """
@pytest.mark.load
async def test_orders(cb_load):
    result = await cb_load(OrderProcess, initial_data=lambda i: {"order": i, "slow": "no number" if i == 3 else 0})
    assert [line[:22] for line in result.mismatches] == ["process 3: predicted C"]
"""
    )
    result = suite.run("--cb-load=5")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "*oracle*NOT EQUAL: 1 process ended otherwise, such as",
            "*process 3: predicted COMPLETED (no failed), was WAITING_FOR_TSQ at ReserveStock (3 of *failed)",
        ]
    )


@pytest.mark.slow
def test_a_shard_that_fails_fails_the_others_at_once(suite: Suite) -> None:
    suite.write(
        """
def data(i):
    if i >= 15:
        raise ValueError("no data for this one")
    return {"order": i, "slow": 0.2}

@pytest.mark.load
async def test_orders(cb_load):
    await cb_load(OrderProcess, initial_data=data, workers=1, concurrency=1, processes=False)
"""
    )
    result = suite.run("--cb-load=20", "-n2")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*ShardLostError: shard 2 of 2 failed: ValueError: no data for this one*"])


@pytest.mark.slow
def test_a_shard_whose_process_died_does_not_hold_the_others(suite: Suite) -> None:
    suite.write(
        """
import os

def data(i):
    if i >= 15:
        os._exit(3)
    return {"order": i, "slow": 0.2}

@pytest.mark.load
async def test_orders(cb_load):
    await cb_load(OrderProcess, initial_data=data, workers=1, concurrency=1, processes=False)
""",
        conftest="import pytest_commandbus.load\n\npytest_commandbus.load.SILENT_SECONDS = 3.0\n",
    )
    result = suite.run("--cb-load=20", "-n2")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*ShardLostError: shard 2 of 2 was lost: its process has not been heard of for * s*"])


@pytest.mark.slow
def test_a_hundred_thousand_processes_are_run_in_little_memory_and_told_on_a_small_page(suite: Suite) -> None:
    suite.write(
        """
import resource

def peak_kilobytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

@pytest.mark.load
@pytest.mark.chaos(reserve={"fail_transient_pct": 5}, ship={"fail_business_rule_pct": 1})
async def test_orders(cb_load):
    before = peak_kilobytes()
    result = await cb_load(OrderProcess, initial_data=lambda i: {"order": i})
    assert result.mismatches == []
    assert result.processes == 100_000
    assert peak_kilobytes() - before < 150 * 1024
"""
    )
    suite.run("--cb-load=100000", "--cb-report=out.html", "--cb-report=out.json").assert_outcomes(passed=1)
    text = (suite.pytester.path / "out.html").read_text()
    assert len(text.encode()) < 300_000
    page = Page(text)
    assert page.outside() == []
    series = json.loads((suite.pytester.path / "out.json").read_text())["series"]
    assert 20 < len(series["backlog"]) <= MOST_BUCKETS
    assert len(page.table("By time since the run began")) == 2 + len(series["backlog"])
