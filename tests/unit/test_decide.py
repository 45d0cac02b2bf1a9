"""What a process does next: each branch of the decision."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from commandbus import ReplyOutcome
from commandbus.errors import InvalidPayloadError
from commandbus.process import BaseProcessManager, ProcessCommand, ProcessResponse, ProcessStatus
from commandbus.process.decide import Decision, Process, Undo, decide, decide_start, hook_failed, needs_history

NEXT = uuid4()


class Step(StrEnum):
    ONE = "One"
    TWO = "Two"
    UNDO = "UndoOne"


@dataclass
class State:
    count: int = 0
    notes: list[str] = field(default_factory=list)


class Journey(BaseProcessManager):
    """One, then Two; UndoOne undoes One."""

    process_type = "Journey"
    domain = "travel"
    state_class = State
    step_class = Step

    def get_first_step(self, state: State) -> Any:
        return Step.ONE

    def build_command(self, step: str, state: State) -> ProcessCommand:
        return ProcessCommand(f"Do{step}", {"count": state.count})

    def update_state(self, state: State, step: str, response: ProcessResponse) -> Any:
        state.count += 1
        state.notes.append(step)

    def get_next_step(self, current_step: str, response: ProcessResponse, state: State) -> Any:
        return Step.TWO if current_step == Step.ONE else None

    def get_compensation_step(self, step: str) -> Any:
        return Step.UNDO if step == Step.ONE else None


def process(step: str = "One", **fields: Any) -> Process:
    text = '{"count": 5,  "notes": []}'  # the blanks tell whether a text was kept or written anew
    return Process(uuid4(), "Journey", "travel", text, uuid4(), step, **({"visits": {"One": 1}} | fields))


def reply(outcome: ReplyOutcome = ReplyOutcome.SUCCESS, **fields: Any) -> ProcessResponse:
    return ProcessResponse(uuid4(), outcome, **fields)


def manager(**methods: Callable[..., Any]) -> BaseProcessManager:
    """Make a Journey with other methods; a function for `state_class` stands for the class."""
    attributes = {k: v if k == "state_class" else staticmethod(v) for k, v in methods.items()}
    kind: type[BaseProcessManager] = type("Changed", (Journey,), attributes)
    return kind()


def crash(*_: Any) -> Any:
    raise ZeroDivisionError("by the manager")


FAILED = reply(ReplyOutcome.FAILED, error_code="NO", error_message="no seat")
CANCELED = reply(ReplyOutcome.CANCELED, error_code="CANCELED", error_message="cancelled by ann")


def test_a_start_sends_the_first_step() -> None:
    decision = decide_start(Journey(), State(count=3), NEXT)
    assert (decision.status, decision.current_step) == (ProcessStatus.WAITING_FOR_REPLY, "One")
    assert orjson.loads(decision.state) == {"count": 3, "notes": []}
    assert decision.visits == {"One": 1}
    send = decision.send
    assert send is not None
    assert (send.command_id, send.domain, send.command_type) == (NEXT, "travel", "DoOne")
    assert (send.step, send.visit, send.compensates, send.data) == ("One", 1, None, {"count": 3})
    assert orjson.loads(send.payload) == send.data


def test_a_start_raises_for_a_state_that_cannot_be_stored() -> None:
    with pytest.raises(InvalidPayloadError, match=r"state\.count: NaN"):
        decide_start(Journey(), State(count=float("nan")), NEXT)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["get_first_step", "build_command"])
def test_a_start_whose_decision_raises_is_failed(method: str) -> None:
    decision = decide_start(manager(**{method: crash}), State(count=3), NEXT)
    assert_failed(decision, f"{method} raised ZeroDivisionError: by the manager")
    assert decision.current_step is None
    assert orjson.loads(decision.state)["count"] == 3


def test_a_success_takes_the_result_into_the_state_and_sends_the_next_step() -> None:
    decision = decide(Journey(), process(), reply(), NEXT)
    assert (decision.status, decision.current_step) == (ProcessStatus.WAITING_FOR_REPLY, "Two")
    assert orjson.loads(decision.state) == {"count": 6, "notes": ["One"]}
    assert decision.visits == {"One": 1, "Two": 1}
    assert decision.send is not None
    assert (decision.send.step, decision.send.data) == ("Two", {"count": 6})


def test_a_state_that_update_state_returns_takes_the_place_of_the_old_one() -> None:
    replaced = manager(update_state=lambda state, step, response: State(count=state.count * 100))
    assert orjson.loads(decide(replaced, process(), reply(), NEXT).state) == {"count": 500, "notes": []}


def test_the_last_success_completes() -> None:
    decision = decide(Journey(), process("Two"), reply(), NEXT)
    assert (decision.status, decision.current_step, decision.send) == (ProcessStatus.COMPLETED, "Two", None)
    assert orjson.loads(decision.state) == {"count": 6, "notes": ["Two"]}
    assert (decision.error_code, decision.undo, decision.undone_status) == (None, (), None)


def test_a_command_may_go_to_another_domain_with_attempts_of_its_own() -> None:
    elsewhere = manager(build_command=lambda step, state: ProcessCommand("Bill", {}, "finance", 7))
    send = decide(elsewhere, process(), reply(), NEXT).send
    assert send is not None
    assert (send.domain, send.command_type, send.max_attempts) == ("finance", "Bill", 7)


@pytest.mark.parametrize("method", ["update_state", "get_next_step", "build_command", "state_class"])
def test_a_success_whose_decision_raises_is_failed_with_the_error(method: str) -> None:
    decision = decide(manager(**{method: crash}), process(), reply(), NEXT)
    assert_failed(decision, f"{method} raised ZeroDivisionError: by the manager")
    assert (decision.current_step, decision.visits) == ("One", {"One": 1})


def test_what_update_state_did_before_it_raised_is_not_kept() -> None:
    def half(state: dict[str, Any], step: str, response: ProcessResponse) -> None:
        state["notes"].append({1, 2})  # cannot be stored either
        crash()

    before = process()
    decision = decide(manager(update_state=half, state_class=dict), before, reply(), NEXT)
    assert_failed(decision, "update_state raised ZeroDivisionError: by the manager")
    assert decision.state == before.state


def test_a_state_that_cannot_be_stored_any_more_fails_and_the_old_one_is_kept() -> None:
    decision = decide(manager(update_state=lambda *_: State(float("inf"))), process(), reply(), NEXT)  # type: ignore[arg-type]
    assert_failed(decision, "update_state raised InvalidPayloadError: state.count: Infinity")
    assert decision.state == process().state


@pytest.mark.parametrize("step", [7, b"Two", "T\0wo", "\ud800", "x" * 201, None])
def test_a_step_that_is_no_name_is_failed(step: Any) -> None:
    if step is not None:
        decision = decide(manager(get_next_step=lambda *_: step), process(), reply(), NEXT)
        assert_failed(decision, "build_command raised")
        assert_failed(decide(manager(get_compensation_step=lambda _: step), process(), FAILED, NEXT, done("One")))
    assert_failed(decide_start(manager(get_first_step=lambda _: step), State(), NEXT))


@pytest.mark.parametrize(
    "command",
    [
        ProcessCommand("bad type!", {}),
        ProcessCommand("T", {"x": float("nan")}),
        ProcessCommand("T", {}, domain="a b"),
        ProcessCommand("T", {}, max_attempts=0),
        ProcessCommand("T", {}, max_attempts=2**31),
        ProcessCommand("T", [1]),  # type: ignore[arg-type]
        "T",
        None,
    ],
)
def test_a_command_that_could_not_be_sent_is_failed(command: Any) -> None:
    decision = decide(manager(build_command=lambda *_: command), process(), reply(), NEXT)
    assert_failed(decision, "build_command raised")


@pytest.mark.parametrize(
    ("answer", "end"), [(FAILED, ProcessStatus.CANCELED), (CANCELED, ProcessStatus.CANCELED)], ids=["failed", "cancel"]
)
def test_with_nothing_to_undo_it_ends_at_once(answer: ProcessResponse, end: ProcessStatus) -> None:
    for completed in ((), done("Two")):
        decision = decide(Journey(), process(), answer, NEXT, completed)
        assert (decision.status, decision.send, decision.undone_status) == (end, None, None)
        assert (decision.error_code, decision.error_message) == (answer.error_code, answer.error_message)
        assert (decision.state, decision.current_step) == (process().state, "One")


@pytest.mark.parametrize(
    ("answer", "end"),
    [(FAILED, ProcessStatus.CANCELED), (CANCELED, ProcessStatus.COMPENSATED)],
    ids=["failed", "cancel"],
)
def test_completed_steps_are_undone_and_what_comes_then_is_kept(answer: ProcessResponse, end: ProcessStatus) -> None:
    completed = done("One", "Two")
    decision = decide(Journey(), process("Two"), answer, NEXT, completed)
    assert (decision.status, decision.current_step, decision.undone_status) == (
        ProcessStatus.COMPENSATING,
        "UndoOne",
        end,
    )
    assert decision.undo == []
    assert decision.send is not None
    assert (decision.send.step, decision.send.compensates) == ("UndoOne", completed[0].compensates)
    assert (decision.error_code, decision.error_message) == (answer.error_code, answer.error_message)
    undoing = process("UndoOne", compensates=completed[0].compensates, undone_status=end, visits=decision.visits)
    last = decide(Journey(), undoing, reply(), uuid4())
    assert (last.status, last.send, last.undone_status) == (end, None, None)
    assert (last.state, last.error_code) == (process().state, None)  # no error of its own: the stored one stays


def test_the_next_undo_follows_when_one_is_done() -> None:
    rest = [Undo("UndoOne", uuid4()), Undo("UndoOne", uuid4())]
    undoing = process("UndoOne", compensates=uuid4(), undo=rest, undone_status="CANCELED", visits={"UndoOne": 1})
    decision = decide(Journey(), undoing, reply(), NEXT)
    assert (decision.status, decision.undone_status) == (ProcessStatus.COMPENSATING, ProcessStatus.CANCELED)
    assert decision.send is not None
    assert (decision.send.compensates, decision.send.visit) == (rest[0].compensates, 2)
    assert decision.undo == rest[1:]


@pytest.mark.parametrize("answer", [FAILED, CANCELED], ids=["failed", "cancel"])
def test_an_undo_that_does_not_succeed_is_failed(answer: ProcessResponse) -> None:
    undoing = process("UndoOne", compensates=uuid4(), undo=[Undo("UndoOne", uuid4())], undone_status="CANCELED")
    decision = decide(Journey(), undoing, answer, NEXT)
    assert_failed(decision, f"UndoOne was not undone: {answer.error_message}", code="UNDO_FAILED")


@pytest.mark.parametrize("method", ["get_compensation_step", "build_command", "state_class"])
def test_a_compensation_whose_decision_raises_is_failed_with_that_error(method: str) -> None:
    decision = decide(manager(**{method: crash}), process("Two"), FAILED, NEXT, done("One"))
    assert_failed(decision, f"{method} raised ZeroDivisionError: by the manager")
    assert decision.state == process().state


def test_history_is_needed_to_begin_to_undo_and_never_else() -> None:
    forward, undoing = process(), process(compensates=uuid4())
    assert [needs_history(forward, r) for r in (reply(), FAILED, CANCELED)] == [False, True, True]
    assert [needs_history(undoing, r) for r in (reply(), FAILED, CANCELED)] == [False, False, False]


def test_a_hook_that_raises_fails_the_process_and_takes_the_visit_back() -> None:
    sent = decide(Journey(), process("One", visits={"One": 1, "Two": 3}), reply(), NEXT)
    assert sent.visits == {"One": 1, "Two": 4}
    decision = hook_failed(sent, ZeroDivisionError("in the hook"))
    assert_failed(decision, "before_send_commands raised ZeroDivisionError: in the hook")
    assert decision.visits == {"One": 1, "Two": 3}
    assert decision.state == sent.state
    assert hook_failed(decide_start(Journey(), State(), NEXT), ValueError()).visits == {}


def done(*steps: str) -> list[Undo]:
    """Completed steps in the order in which they ended."""
    return [Undo(step, UUID(int=place)) for place, step in enumerate(steps, 1)]


def assert_failed(decision: Decision, message: str = "", code: str = "PROCESS_DECISION_FAILED") -> None:
    assert (decision.status, decision.send, decision.undone_status) == (ProcessStatus.FAILED, None, None)
    assert decision.error_code == code
    assert message in (decision.error_message or "")
