"""What holds for every process whatever its manager does: whole lives are played against a pure bus."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

import orjson
from hypothesis import given
from hypothesis import strategies as st

from commandbus import ReplyOutcome
from commandbus.process import BaseProcessManager, ProcessCommand, ProcessResponse, ProcessStatus
from commandbus.process.decide import Decision, PlannedCommand, Process, Undo, decide, decide_start, needs_history
from commandbus.process.models import CancelRequest

METHODS = ["get_first_step", "build_command", "update_state", "get_next_step", "get_compensation_step"]
OUTCOMES = [
    ReplyOutcome.SUCCESS,
    ReplyOutcome.SUCCESS,
    ReplyOutcome.SUCCESS,
    ReplyOutcome.FAILED,
    ReplyOutcome.CANCELED,
]


class Step(StrEnum):
    A = "A"
    B = "B"
    C = "C"
    UNDO_A = "UndoA"
    UNDO_B = "UndoB"


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text to be had")


@dataclass
class Walk(BaseProcessManager):
    """Walks the steps of a path, which may visit one again; call number `breaks_at` of any method breaks as told."""

    path: Sequence[str]
    breaks_at: int = -1
    breaks_how: Callable[[], Any] = Unspeakable
    calls: int = 0
    walked: int = 0

    process_type = "Walk"
    domain = "laws"
    state_class = dict
    step_class = Step

    def _call(self, answer: Any) -> Any:
        self.calls += 1
        if self.calls - 1 == self.breaks_at:
            broken = self.breaks_how()
            if isinstance(broken, BaseException):
                raise broken
            return broken
        return answer

    def get_first_step(self, state: Any) -> Any:
        return self._call(self.path[0])

    def build_command(self, step: str, state: Any) -> Any:
        return self._call(ProcessCommand(step, {"at": step}))

    def update_state(self, state: Any, step: str, response: ProcessResponse) -> Any:
        return self._call({"walked": state["walked"] + 1})

    def get_next_step(self, current_step: str, response: ProcessResponse, state: Any) -> Any:
        return self._call(self.path[state["walked"]] if state["walked"] < len(self.path) else None)

    def get_compensation_step(self, step: str) -> Any:
        return self._call({"A": "UndoA", "B": "UndoB"}.get(step))


@dataclass
class Life:
    """Everything that one process sent and decided."""

    sent: list[PlannedCommand] = field(default_factory=list)
    completed: list[Undo] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)

    @property
    def end(self) -> Decision:
        return self.decisions[-1]


def live(walk: Walk, outcomes: Sequence[ReplyOutcome], cancelled_at: int = -1, *, is_stored: bool = True) -> Life:
    """Play a process to its end: each command ends as `outcomes` say, in turn, later ones succeed.

    It is cancelled while command number `cancelled_at` is in flight; `is_stored` says whether that command's
    completion is part of the history already when the process is told of it.
    """
    life = Life()
    decision = decide_start(walk, {"walked": 0}, uuid4())
    life.decisions.append(decision)
    while (send := decision.send) is not None:
        outcome = outcomes[len(life.sent)] if len(life.sent) < len(outcomes) else ReplyOutcome.SUCCESS
        life.sent.append(send)
        if outcome is ReplyOutcome.SUCCESS and send.compensates is None:
            life.completed.append(Undo(send.step, send.command_id))
        process = Process(
            uuid4(), "Walk", "laws", decision.state, send.command_id, send.step, send.compensates,
            visits=decision.visits, undo=decision.undo, undone_status=decision.undone_status,
        )  # fmt: skip
        if len(life.sent) - 1 == cancelled_at:
            process.cancel = REQUEST
        response = ProcessResponse(send.command_id, outcome, {}, *((None,) * 2 if outcome == "SUCCESS" else ("X", "y")))
        history = life.completed if needs_history(process, response) else ()
        if history and not is_stored and history[-1].compensates == send.command_id:
            history = history[:-1]
        decision = decide(walk, process, response, uuid4(), history)
        life.decisions.append(decision)
    return life


REQUEST = CancelRequest("ann", "no need")
paths = st.lists(st.sampled_from(["A", "B", "C"]), min_size=1, max_size=7)
outcome_lists = st.lists(st.sampled_from(OUTCOMES), max_size=10)
breakages = st.sampled_from(
    [Unspeakable, lambda: ValueError("\0 \ud800"), lambda: SystemExit(1), RecursionError, object, lambda: {1},
     lambda: "\0", lambda: 10**5000]
)  # fmt: skip


@given(paths, outcome_lists)
def test_undo_runs_in_the_reverse_order_of_completion(path: list[str], outcomes: list[ReplyOutcome]) -> None:
    life = live(Walk(path), outcomes)
    undone = [send.compensates for send in life.sent if send.compensates is not None]
    to_undo = [done.compensates for done in reversed(life.completed) if done.step != "C"]
    assert undone == to_undo[: len(undone)]
    assert life.end.status is not ProcessStatus.COMPENSATED or undone == to_undo != []
    assert life.end.status is not ProcessStatus.CANCELED or undone == to_undo
    assert life.end.status is not ProcessStatus.COMPLETED or undone == []


@given(paths, outcome_lists)
def test_a_process_ends_as_its_replies_say(path: list[str], outcomes: list[ReplyOutcome]) -> None:
    life = live(Walk(path), outcomes)
    replies = [*outcomes, *[ReplyOutcome.SUCCESS] * len(life.sent)][: len(life.sent)]
    bad = [(send, outcome) for send, outcome in zip(life.sent, replies, strict=True) if outcome != "SUCCESS"]
    if not bad:
        expected = ProcessStatus.COMPLETED
    elif bad[-1][0].compensates is not None:
        expected = ProcessStatus.FAILED
    elif bad[0][1] is ReplyOutcome.CANCELED and len(life.sent) > life.sent.index(bad[0][0]) + 1:
        expected = ProcessStatus.COMPENSATED
    else:
        expected = ProcessStatus.CANCELED
    assert life.end.status is expected


@given(paths, outcome_lists, st.integers(0, 40), breakages)
def test_a_manager_that_breaks_anywhere_fails_its_process_and_never_raises(
    path: list[str], outcomes: list[ReplyOutcome], breaks_at: int, how: Callable[[], Any]
) -> None:
    walk = Walk(path, breaks_at, how)
    life = live(walk, outcomes)
    if walk.calls > breaks_at:
        assert life.end.status is ProcessStatus.FAILED
        assert life.end.error_code == "PROCESS_DECISION_FAILED"
        assert life.end.error_message
    for text in (life.end.state, life.end.error_message or ""):
        assert "\0" not in text
        text.encode()
    assert isinstance(orjson.loads(life.end.state), dict)


@given(paths, outcome_lists, st.integers(-1, 40))
def test_visits_count_what_was_sent(path: list[str], outcomes: list[ReplyOutcome], breaks_at: int) -> None:
    life = live(Walk(path, breaks_at), outcomes)
    assert life.end.visits == dict(Counter(send.step for send in life.sent))
    seen: Counter[str] = Counter()
    for send in life.sent:
        seen[send.step] += 1
        assert send.visit == seen[send.step]


@given(paths, outcome_lists, st.integers(-1, 40))
def test_a_decision_sends_just_while_the_process_goes_on(
    path: list[str], outcomes: list[ReplyOutcome], breaks_at: int
) -> None:
    for decision in live(Walk(path, breaks_at), outcomes).decisions:
        assert decision.status.is_terminal is (decision.send is None)
        assert (decision.undone_status is not None) is (decision.status is ProcessStatus.COMPENSATING)
        assert decision.send is None or decision.current_step == decision.send.step


@given(paths, outcome_lists)
def test_every_command_is_sent_under_an_id_of_its_own(path: list[str], outcomes: list[ReplyOutcome]) -> None:
    ids: list[UUID] = [send.command_id for send in live(Walk(path), outcomes).sent]
    assert len(ids) == len(set(ids))


@given(paths, outcome_lists, st.integers(0, 6), st.booleans())
def test_a_cancel_in_flight_lets_the_command_end_and_undoes_it_with_the_others(
    path: list[str], outcomes: list[ReplyOutcome], cancelled_at: int, is_stored: bool
) -> None:
    life = live(Walk(path), outcomes, cancelled_at, is_stored=is_stored)
    without = live(Walk(path), outcomes)
    assert [send.step for send in life.sent][: cancelled_at + 1] == [s.step for s in without.sent][: cancelled_at + 1]
    if len(life.sent) <= cancelled_at or life.sent[cancelled_at].compensates is not None:
        assert [send.step for send in life.sent] == [send.step for send in without.sent]
        return
    assert all(send.compensates is not None for send in life.sent[cancelled_at + 1 :])
    undone = [send.compensates for send in life.sent if send.compensates is not None]
    to_undo = [done.compensates for done in reversed(life.completed) if done.step != "C"]
    assert undone == to_undo[: len(undone)]
    ended = outcomes[cancelled_at] if cancelled_at < len(outcomes) else ReplyOutcome.SUCCESS
    if life.end.status is not ProcessStatus.FAILED:
        assert undone == to_undo
        is_refused = ended is ReplyOutcome.FAILED
        assert life.end.status is (ProcessStatus.CANCELED if is_refused or not undone else ProcessStatus.COMPENSATED)
        first = next(d for d in life.decisions if d.error_code is not None)
        if ended is ReplyOutcome.SUCCESS:
            assert (first.error_code, first.error_message) == ("CANCELED", "cancelled by ann: no need")
