"""The oracle against a plain simulation, and what it refuses to tell."""

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commandbus.process.models import ProcessCommand, ProcessStatus
from pytest_commandbus.chaos import ChaosUsageError, CommandBehavior, RollKey, roll
from pytest_commandbus.chaos_rules import ChaosRule, ChaosRules, StepNames
from pytest_commandbus.oracle import Prediction, predict
from pytest_commandbus.path_probe import command_types_of, declared_path

PERCENTAGES = st.floats(0, 100)
BEHAVIORS = st.builds(
    CommandBehavior,
    fail_permanent_pct=PERCENTAGES,
    fail_transient_pct=PERCENTAGES,
    fail_business_rule_pct=PERCENTAGES,
    timeout_pct=PERCENTAGES,
    fail_transient_times=st.integers(0, 5),
)


class Step(StrEnum):
    RESERVE = "reserve"
    PAY = "pay"
    SHIP = "ship"
    UNRESERVE = "unreserve"
    REFUND = "refund"


FORWARD = [Step.RESERVE, Step.PAY, Step.SHIP]


class Order:
    """A process manager with a fixed order of steps, of which two can be undone."""

    process_type = "Order"
    step_class = Step

    def get_first_step(self, state: Any) -> Step:
        return Step.RESERVE

    def get_next_step(self, current_step: Step, response: Any, state: Any) -> Step | None:
        following = {Step.RESERVE: Step.PAY, Step.PAY: Step.SHIP}
        return following.get(current_step)

    def get_compensation_step(self, step: Step) -> Step | None:
        return {Step.RESERVE: Step.UNRESERVE, Step.PAY: Step.REFUND}.get(step)

    def build_command(self, step: Step, state: dict[str, Any]) -> ProcessCommand:
        data = {"paid": state["paid"]} if step == Step.SHIP else {}
        return ProcessCommand({"reserve": "TakeGoods", "pay": "TakeMoney"}.get(step, "Other"), data)


class Choosy(Order):
    """Ships only what was paid."""

    def get_next_step(self, current_step: Step, response: Any, state: Any) -> Step | None:
        if current_step == Step.PAY and not response.result["paid"]:
            return None
        return super().get_next_step(current_step, response, state)


class Forgiving(Order):
    """Looks at the state, and hides that it could not."""

    def get_next_step(self, current_step: Step, response: Any, state: Any) -> Step | None:
        try:
            return Step.SHIP if state.express else Step.PAY
        except Exception:
            return super().get_next_step(current_step, response, state)


class Endless(Order):
    def get_next_step(self, current_step: Step, response: Any, state: Any) -> Step | None:
        return Step.RESERVE


def rules(**behaviors: CommandBehavior | Mapping[str, Any]) -> ChaosRules:
    return ChaosRules.from_marker(behaviors, StepNames([Step]))


def told(chaos: ChaosRules, count: int = 50, manager: Order | None = None, **more: Any) -> Prediction:
    given: dict[str, Any] = {"seed": 7, "batch": 1, "max_attempts": 3} | more
    return predict(manager or Order(), chaos, count=count, **given)


def simulated(
    behaviors: Mapping[Step, CommandBehavior], ordinal: int, seed: int, max_attempts: int, fails: bool
) -> dict[str, Any]:
    """Walk one process attempt by attempt, in the plainest way."""
    plan: list[Step] = list(FORWARD)
    done: list[Step] = []
    undoing, blamed = False, None
    failures: Counter[str] = Counter()
    retries = 0
    while plan:
        step, attempt = plan.pop(0), 0
        while True:
            key = RollKey(1, ordinal, step.value, 1, attempt)
            outcome = roll(seed, key, behaviors.get(step, CommandBehavior())).outcome
            attempt += 1
            if outcome == "success":
                done.append(step)
                break
            failures[step.value] += 1
            is_failed = outcome == "business_rule" or (fails and outcome != "permanent" and attempt == max_attempts)
            if is_failed and undoing:
                return {"outcome": "FAILED", "step": step, "failures": failures, "retries": retries}
            if is_failed:
                undoing, blamed = True, step
                undo = [Order().get_compensation_step(s) for s in reversed(done)]
                plan = [s for s in undo if s is not None]
                break
            if outcome == "permanent" or attempt == max_attempts:
                return {"outcome": "WAITING_FOR_TSQ", "step": step, "failures": failures, "retries": retries}
            retries += 1
    return {"outcome": "CANCELED" if undoing else "COMPLETED", "step": blamed, "failures": failures, "retries": retries}


@given(
    behaviors=st.dictionaries(st.sampled_from(list(Step)), BEHAVIORS),
    seed=st.integers(),
    first=st.integers(0, 1_000),
    max_attempts=st.integers(1, 5),
    fails=st.booleans(),
)
def test_the_oracle_equals_a_plain_simulation(
    behaviors: dict[Step, CommandBehavior], seed: int, first: int, max_attempts: int, fails: bool
) -> None:
    chaos = ChaosRules(ChaosRule((step.value,), behavior, step.name) for step, behavior in behaviors.items())
    options = {"seed": seed, "first_ordinal": first, "max_attempts": max_attempts, "fails_when_exhausted": fails}
    prediction = told(chaos, 8, **options)
    expected = [simulated(behaviors, n, seed, max_attempts, fails) for n in range(first, first + 8)]
    assert [p.ordinal for p in prediction.processes] == list(range(first, first + 8))
    assert [
        {"outcome": p.outcome, "step": p.failing_step, "failures": p.failures, "retries": p.retries}
        for p in prediction.processes
    ] == expected
    assert prediction.retries == sum(e["retries"] for e in expected)
    assert prediction.canceled_count == sum(e["outcome"] in ("CANCELED", "FAILED") for e in expected)
    assert prediction.in_troubleshooting_count + prediction.completed_count + prediction.canceled_count == 8


@given(st.integers(1, 60), st.integers(1, 60))
def test_shards_predict_what_one_run_predicts(count: int, split: int) -> None:
    chaos = rules(pay={"fail_transient_pct": 40, "fail_permanent_pct": 10}, ship={"fail_business_rule_pct": 20})
    split = min(split, count)
    parts = told(chaos, split).processes + told(chaos, count - split, first_ordinal=split).processes
    assert parts == told(chaos, count).processes


def test_no_rule_no_failure() -> None:
    prediction = told(ChaosRules())
    assert prediction.outcomes == {ProcessStatus.COMPLETED: 50}
    assert prediction.retries == 0


def test_a_permanent_failure_parks_at_its_first_attempt() -> None:
    prediction = told(rules(pay={"fail_permanent_pct": 100}))
    assert prediction.in_troubleshooting_count == 50
    assert {(p.failing_step, p.recorded_failures, p.retries) for p in prediction.processes} == {("pay", 1, 0)}


@pytest.mark.parametrize("pct", ["fail_transient_pct", "timeout_pct"])
def test_what_always_fails_is_parked_after_all_attempts(pct: str) -> None:
    prediction = told(rules(pay={pct: 100}))
    assert {(p.outcome, dict(p.failures)["pay"], p.retries) for p in prediction.processes} == {
        ("WAITING_FOR_TSQ", 3, 2)
    }


@pytest.mark.parametrize(("times", "completed"), [(2, 50), (3, 0)])
def test_failing_n_times_leaves_the_rest_of_the_attempts(times: int, completed: int) -> None:
    assert told(rules(ship={"fail_transient_times": times})).completed_count == completed


def test_a_business_rule_failure_undoes_and_cancels() -> None:
    prediction = told(rules(ship={"fail_business_rule_pct": 100}))
    assert {(p.outcome, p.failing_step) for p in prediction.processes} == {("CANCELED", "ship")}


def test_an_undo_step_rolls_with_its_own_rule() -> None:
    chaos = rules(ship={"fail_business_rule_pct": 100}, unreserve={"fail_permanent_pct": 100})
    prediction = told(chaos)
    assert {(p.outcome, p.failing_step) for p in prediction.processes} == {("WAITING_FOR_TSQ", "unreserve")}
    chaos = rules(ship={"fail_business_rule_pct": 100}, refund={"fail_business_rule_pct": 100})
    prediction = told(chaos)
    assert {(p.outcome, p.failing_step) for p in prediction.processes} == {("FAILED", "refund")}
    assert prediction.canceled_count == 50


def test_steps_are_undone_newest_first() -> None:
    broken = {"fail_permanent_pct": 100}
    prediction = told(rules(ship={"fail_business_rule_pct": 100}, refund=broken, unreserve=broken))
    assert {(p.failing_step, p.recorded_failures) for p in prediction.processes} == {("refund", 2)}


def test_a_repeated_step_rolls_anew_at_each_visit() -> None:
    chaos = rules(pay={"fail_permanent_pct": 50})
    twice = told(chaos, 400, path=[Step.PAY, Step.PAY]).completed_count
    assert twice / 400 == pytest.approx(0.25, abs=0.08)


def test_behavior_may_differ_by_ordinal() -> None:
    calm, wild = ChaosRules(), rules(pay={"fail_permanent_pct": 100})
    prediction = predict(
        Order(), lambda ordinal: wild if ordinal % 5 == 0 else calm, count=50, seed=1, batch=1, max_attempts=3
    )
    assert [p.ordinal for p in prediction.processes if p.outcome != "COMPLETED"] == list(range(0, 50, 5))


def test_the_declared_path_is_what_the_manager_says() -> None:
    assert declared_path(Order()) == ["reserve", "pay", "ship"]


@pytest.mark.parametrize(
    ("manager", "message"),
    [
        (Choosy(), "the path of Order depends on results: its get_next_step looks at the response"),
        (Forgiving(), "the path of Order depends on results: its get_next_step looks at the state"),
        (Endless(), "the path of Order never ends: reserve -> reserve"),
    ],
)
def test_a_path_that_is_not_sure_must_be_given(manager: Order, message: str) -> None:
    with pytest.raises(ChaosUsageError, match=message) as caught:
        told(ChaosRules(), manager=manager)
    assert "path=[steps…]" in str(caught.value)
    assert told(ChaosRules(), manager=manager, path=FORWARD).completed_count == 50


@pytest.mark.parametrize("behavior", [{"send_response": False}, {"response_data": {"paid": False}}])
def test_a_rule_that_changes_results_needs_a_path(behavior: dict[str, Any]) -> None:
    with pytest.raises(ChaosUsageError, match="behavior of pay changes what the manager's update_state is given"):
        told(rules(pay=behavior))
    assert told(rules(pay=behavior), path=FORWARD).completed_count == 50


def test_a_rule_for_a_command_type_needs_the_types_of_the_steps() -> None:
    chaos = ChaosRules.from_marker({"take_money": {"fail_permanent_pct": 100}}, StepNames([Step], ["TakeMoney"]))
    with pytest.raises(ChaosUsageError, match="take_money is for none of its steps, and may be for the command type"):
        told(chaos)
    types = command_types_of(Order(), list(Step), {"paid": True})
    assert types["pay"] == "TakeMoney"
    assert told(chaos, command_types=types).in_troubleshooting_count == 50
    assert "ship" not in command_types_of(Order(), list(Step), {})
