"""Thresholds: what a limit may be, which figure is judged, which side of the limit is met."""

import math
from typing import Any

import pytest

from pytest_commandbus.thresholds import KINDS, broken_lines, failed_pct, judge, problem_with
from tests.unit.load_results import result


@pytest.mark.parametrize("limit", [True, False, "5", None, -1, -0.1, math.nan, math.inf])
@pytest.mark.parametrize("name", KINDS)
def test_a_limit_is_a_number_from_0_up(name: str, limit: Any) -> None:
    problem = problem_with(name, limit)
    assert problem is not None
    assert problem.startswith(f"{name}={limit!r} is not a number of {KINDS[name].unit}, from 0 ")


def test_a_percentage_goes_to_100() -> None:
    assert problem_with("max_failed_pct", 100) is None
    assert problem_with("max_failed_pct", 100.5) == "max_failed_pct=100.5 is not a number of %, from 0 to 100"
    assert [problem_with(name, 0) for name in KINDS] == [None] * len(KINDS)


@pytest.mark.parametrize(
    ("name", "figure", "met", "broken"),
    [
        ("p99_ms", 1234.5, 1234.5, 1234.4),
        ("min_per_second", 2500.0, 2500, 2500.1),
        ("max_failed_pct", 3.0, 3, 2.9),
        ("max_seconds", 5.25, 5.25, 5.2),
    ],
)
def test_a_limit_that_is_just_reached_is_met(name: str, figure: float, met: float, broken: float) -> None:
    (threshold,) = judge({name: met}, result())
    assert (threshold["name"], threshold["limit"], threshold["figure"]) == (name, met, figure)
    assert threshold["passed"]
    assert not judge({name: broken}, result())[0]["passed"]


def test_p99_is_that_of_the_step_that_is_handled_longest() -> None:
    steps = result()["steps"] | {
        "Query": {**result()["steps"]["Render"], "handling_ms": {"p99": 2000.0}},
        "Idle": {"handling_ms": {}},
    }
    (threshold,) = judge({"p99_ms": 1}, result(steps=steps))
    assert (threshold["figure"], threshold["step"]) == (2000.0, "Query")
    (threshold,) = judge({"p99_ms": 1}, result(steps={}))
    assert (threshold["figure"], threshold["passed"]) == (None, False)


def test_all_that_is_not_completed_has_failed() -> None:
    assert failed_pct(result(processes=8, outcomes={"COMPLETED": 6, "CANCELED": 1, "WAITING_FOR_TSQ": 1})) == 25
    assert failed_pct(result(processes=8, outcomes={"CANCELED": 8})) == 100


def test_all_broken_thresholds_of_all_runs_are_told() -> None:
    first = result(thresholds=judge({"p99_ms": 500, "max_failed_pct": 1, "max_seconds": 60}, result()))
    second = result(thresholds=judge({"max_seconds": 60}, result()))
    assert broken_lines([first, second]) == [
        "load run 1 of tests/test_a.py::test_reports broke 2 of 3 thresholds:",
        "  p99_ms: 1,234.5 ms in Render, limit: at most 500 ms",
        "  max_failed_pct: 3 %, limit: at most 1 %",
    ]
