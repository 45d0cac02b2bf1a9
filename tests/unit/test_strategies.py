"""What the strategies draw is valid wherever it goes, shrinks towards less, and misuse is told."""

import subprocess
import sys
from collections.abc import Callable
from enum import StrEnum

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

from commandbus.payload import dump_payload, load_payload
from pytest_commandbus.chaos import behavior_of
from pytest_commandbus.chaos_rules import ChaosRules, StepNames
from pytest_commandbus.strategies import (
    FAILURES,
    behaviors,
    chaos_rules,
    command_batches,
    payloads,
    process_batches,
)


class Step(StrEnum):
    RESERVE = "ReserveStock"
    PAY = "TakePayment"
    SHIP = "ShipParcel"


class OrderProcess:
    step_class = Step


def smallest(strategy: st.SearchStrategy, such_that=lambda _: True):
    quick = settings(database=None, derandomize=True, max_examples=200, phases=[Phase.generate, Phase.shrink])
    return find(strategy, such_that, settings=quick)


@given(behaviors(max_duration_ms=50))
def test_behaviors_are_valid_and_do_something(drawn: dict):
    behavior = behavior_of(drawn, "drawn")
    assert behavior.model_dump(exclude_unset=True) == drawn
    assert any(getattr(behavior, name) for name in FAILURES)
    assert behavior.max_duration_ms <= 50


@given(behaviors(failures=(), max_duration_ms=9))
def test_behaviors_that_only_take_time(drawn: dict):
    assert [*drawn] == ["min_duration_ms", "max_duration_ms"]


@given(chaos_rules(OrderProcess, min_rules=1, max_rules=2))
def test_chaos_rules_are_those_of_the_marker(drawn: dict):
    rules = ChaosRules.from_marker(drawn, StepNames([Step]))
    assert rules.names == set(drawn)
    assert 1 <= len(drawn) <= 2


@given(process_batches(OrderProcess, min_count=2, max_count=4, initial_data=payloads()))
def test_batches_have_data_for_each_member(drawn: dict):
    assert drawn["manager"] is OrderProcess
    assert drawn["count"] == len(drawn["initial_data"])
    assert 2 <= drawn["count"] <= 4


@given(payloads())
def test_payloads_come_back_unchanged(drawn: dict):
    assert load_payload(dump_payload(drawn)) == drawn


def test_what_is_drawn_shrinks_towards_less():
    assert smallest(chaos_rules(Step), lambda rules: rules.get("TakePayment", {}).get("timeout_pct", 0) > 30) == {
        "TakePayment": {"timeout_pct": 100}
    }
    assert smallest(process_batches(OrderProcess, max_count=500, initial_data={"order": 1})) == {
        "manager": OrderProcess,
        "count": 1,
        "initial_data": {"order": 1},
    }


@given(command_batches("mail", ["SendMail", "Bounce"], min_count=0, max_count=2))
def test_batches_of_commands_are_of_one_type(drawn: dict):
    assert drawn["command_type"] in ("SendMail", "Bounce")
    assert (drawn["domain"], drawn["count"] in range(3), "data" in drawn) == ("mail", True, False)


@pytest.mark.parametrize(
    ("strategy", "arguments", "message"),
    [
        (behaviors, {"failures": ["fail_pct"]}, r"'fail_pct' is none of fail_permanent_pct"),
        (behaviors, {"failures": ()}, "give max_duration_ms"),
        (chaos_rules, {"steps": "ship"}, "give the class of a process manager"),
        (chaos_rules, {"steps": []}, "there is no step in it"),
        (chaos_rules, {"steps": Step, "min_rules": 4}, "there are 3 steps"),
    ],
)
def test_misuse_is_told(strategy: Callable[..., object], arguments: dict, message: str):
    with pytest.raises(InvalidArgument, match=message):
        strategy(**arguments)


def test_without_hypothesis_the_extra_is_named():
    code = "import sys; sys.modules['hypothesis'] = None; import pytest_commandbus.strategies"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "pip install 'pytest-commandbus[hypothesis]'" in run.stderr
