"""What a version of a process manager does about steps and fields of state that only another version knows."""

import json
from dataclasses import dataclass
from enum import StrEnum
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pydantic
import pytest

from commandbus.models import ReplyOutcome
from commandbus.process import ProcessCommand, ProcessResponse, ProcessStatus
from commandbus.process.decide import Process, Undo, decide, decide_start, may_decide
from commandbus.process.models import CancelRequest
from commandbus.process.state import keep_unknown


class Step(StrEnum):
    RESERVE = "Reserve"
    PAY = "Pay"
    RETURN = "Return"


@dataclass
class State:
    order: int
    paid: bool = False


class Model(pydantic.BaseModel):
    order: int
    paid: bool = False


class Own:
    """Decides by itself what it keeps."""

    def __init__(self, order: int) -> None:
        self.order = order

    def to_dict(self) -> dict[str, Any]:
        return {"order": self.order}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Own":
        return cls(data["order"])


def make_manager(**changes: Any) -> Any:
    def update_state(state: Any, step: str, response: ProcessResponse) -> None:
        if isinstance(state, dict):
            state["paid"] = True
        else:
            state.paid = True

    parts: dict[str, Any] = {
        "process_type": "Order",
        "domain": "orders",
        "state_class": State,
        "step_class": Step,
        "get_first_step": lambda state: Step.RESERVE,
        "build_command": lambda step, state: ProcessCommand(step, {}),
        "update_state": update_state,
        "get_next_step": lambda step, response, state: Step.PAY if step == Step.RESERVE else None,
        "get_compensation_step": lambda step: Step.RETURN if step == Step.RESERVE else None,
        "is_hooked": False,
    }
    return SimpleNamespace(**(parts | changes))


def process(step: str = "Pay", **changes: Any) -> Process:
    parts: dict[str, Any] = {"state": '{"order": 1, "coupon": "X7"}', "visits": {"Reserve": 1, step: 1}, "step": step}
    return Process(uuid4(), "Order", "orders", command_id=uuid4(), **(parts | changes))


def response(outcome: ReplyOutcome = ReplyOutcome.SUCCESS) -> ProcessResponse:
    return ProcessResponse(uuid4(), outcome)


NEW = {"Reserve": 1, "Wrap": 1, "Pay": 1}  # visits of a process that another version led through Wrap
FAILED, CANCELED = ReplyOutcome.FAILED, ReplyOutcome.CANCELED


@pytest.mark.parametrize(
    ("at", "reply", "may"),
    [
        (process("Pay"), response(), True),
        (process("Wrap"), response(), False),
        (process("Wrap"), response(FAILED), False),
        (process("Pay", visits=NEW), response(), True),  # what came before does not matter for what comes next
        (process("Pay", visits=NEW), response(FAILED), False),  # but Wrap is to be undone
        (process("Pay", visits=NEW), response(CANCELED), False),
        (process("Pay", visits=NEW, cancel=CancelRequest("ann", "")), response(), False),
        (process("Return", compensates=uuid4(), visits=NEW), response(), True),
        (process("Return", compensates=uuid4(), undo=[Undo("Unwrap", uuid4())]), response(), False),
        (process("", visits={}), response(CANCELED), True),  # kept without a command, then cancelled
    ],
)
def test_a_manager_decides_only_about_steps_that_it_declares(at: Process, reply: ProcessResponse, may: bool) -> None:
    assert may_decide(make_manager(), at, reply) is may


def test_a_manager_that_declares_no_steps_decides_about_all() -> None:
    assert may_decide(make_manager(step_class=None), process("Wrap"), response(FAILED))


@pytest.mark.parametrize("doing", ["get_first_step", "get_next_step", "get_compensation_step"])
def test_a_manager_that_goes_to_a_step_that_it_does_not_declare_fails_the_process(doing: str) -> None:
    """Nobody would go on with it."""
    manager = make_manager(**{doing: lambda *given: "Wrap"})
    if doing == "get_first_step":
        decision = decide_start(manager, State(1), uuid4())
    elif doing == "get_next_step":
        decision = decide(manager, process("Reserve"), response(), uuid4())
    else:
        decision = decide(manager, process(), response(FAILED), uuid4(), [Undo("Reserve", uuid4())])
    assert decision.status is ProcessStatus.FAILED
    assert "'Wrap' is no step of Step" in (decision.error_message or "")


@pytest.mark.parametrize("state_class", [State, Model, dict])
def test_fields_of_another_version_s_state_are_kept(state_class: type[Any]) -> None:
    decision = decide(make_manager(state_class=state_class), process("Reserve"), response(), uuid4())
    assert decision.status is ProcessStatus.WAITING_FOR_REPLY, decision.error_message
    assert json.loads(decision.state) == {"order": 1, "paid": True, "coupon": "X7"}


def test_a_state_that_converts_itself_keeps_what_it_keeps() -> None:
    assert keep_unknown(Own, {"order": 1, "coupon": "X7"}, Own(1).to_dict()) == {"order": 1}


def test_known_fields_are_never_brought_back() -> None:
    assert keep_unknown(State, {"order": 1, "paid": True, "coupon": "X7"}, {"order": 2}) == {"order": 2, "coupon": "X7"}


def test_a_state_of_the_version_before_gets_the_defaults_of_new_fields() -> None:
    decision = decide(make_manager(), process("Reserve", state='{"order": 1}'), response(), UUID(int=1))
    assert json.loads(decision.state) == {"order": 1, "paid": True}
