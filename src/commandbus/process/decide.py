"""What a process does next: pure, process and reply in, decision out.

A decision never raises for what the manager's own code raises: that one process becomes FAILED with the error kept,
and its state is what it was before the method that raised, whatever that did to its own copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any, Protocol
from uuid import UUID

from psycopg import AsyncConnection

from commandbus.models import ReplyOutcome
from commandbus.payload import check_name, dump_payload, load_payload, sanitise_text
from commandbus.process.models import (
    CancelRequest,
    ProcessCommand,
    ProcessMetadata,
    ProcessResponse,
    ProcessStatus,
)
from commandbus.process.state import dump_state, keep_unknown, load_state

DECISION_FAILED = "PROCESS_DECISION_FAILED"
_LONGEST_STEP = 200
_MOST_ATTEMPTS = 2**31 - 1  # what the column holds
_SUCCESS = ReplyOutcome.SUCCESS  # before Python 3.12 a member is found slowly
_WAITING = ProcessStatus.WAITING_FOR_REPLY
_RAISED = (Exception, SystemExit)  # a manager that calls sys.exit() must not end its worker, time and again


class Manager(Protocol):
    """What a decision needs of a process manager.

    Steps and states are Any where a manager takes them: each has its own StrEnum and its own class of state.
    """

    @property
    def process_type(self) -> str: ...
    @property
    def domain(self) -> str: ...
    @property
    def state_class(self) -> type[Any]: ...
    @property
    def step_class(self) -> type[StrEnum]: ...
    def get_first_step(self, state: Any) -> str: ...
    def build_command(self, step: Any, state: Any) -> ProcessCommand: ...
    def update_state(self, state: Any, step: Any, response: ProcessResponse) -> Any: ...
    def get_next_step(self, current_step: Any, response: ProcessResponse, state: Any) -> str | None: ...
    def get_compensation_step(self, step: Any) -> str | None: ...
    @property
    def is_hooked(self) -> bool: ...
    async def before_send_commands(self, items: Sequence["BeforeSend"], conn: AsyncConnection[Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class BeforeSend:
    """A command that is about to be stored, as the hook before it sees it: `process` is as it will be stored."""

    process: ProcessMetadata
    step: str
    command_id: UUID
    payload: dict[str, Any]


@dataclass(slots=True)
class Undo:
    """A step that is still to be undone: the step to run, and the command whose effect it undoes."""

    step: str
    compensates: UUID


@dataclass(slots=True)
class Process:
    """A process and the command that it waits for, as a decision sees them; `state` is JSON text, as stored."""

    process_id: UUID
    process_type: str
    domain: str
    state: str
    command_id: UUID
    step: str
    compensates: UUID | None = None
    batch_id: UUID | None = None
    ordinal: int | None = None
    visits: dict[str, int] = field(default_factory=dict)
    undo: Sequence[Undo] = ()
    undone_status: str | None = None
    cancel: CancelRequest | None = None  # since the command was in flight
    headers: str | None = None  # JSON text that the command's handler left for the next one; None: as the command's own


@dataclass(slots=True)
class PlannedCommand:
    """The command to send next; `payload` is `data` as JSON text."""

    command_id: UUID
    domain: str
    command_type: str
    data: dict[str, Any]
    payload: str
    step: str
    visit: int
    compensates: UUID | None = None
    max_attempts: int | None = None
    headers: str | None = None  # as JSON text


@dataclass(slots=True)
class Decision:
    """The process's row after the reply, and the command to send, if any."""

    status: ProcessStatus
    current_step: str | None
    state: str
    visits: dict[str, int]
    send: PlannedCommand | None = None
    undo: Sequence[Undo] = ()
    undone_status: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    error: BaseException | None = field(default=None, compare=False, repr=False)  # what the manager's code raised


def decide_start(manager: Manager, state: Any, command_id: UUID) -> Decision:
    """Decide the first command of a new process. Raises what describes bad initial data (InvalidPayloadError)."""
    text = dump_payload(dump_state(state), what="state")
    doing = "get_first_step"
    try:
        step = manager.get_first_step(state)
        doing = "build_command"
        send = _plan(manager, step, state, command_id, {}, None)
    except _RAISED as error:
        return _failed(None, text, {}, f"{doing} raised {_spell(error)}", error=error)
    return Decision(_WAITING, send.step, text, {send.step: 1}, send)


def decide(
    manager: Manager, process: Process, response: ProcessResponse, command_id: UUID, completed: Sequence[Undo] = ()
) -> Decision:
    """Decide what `process` does after `response`. `command_id` is the next command's, if there is one.

    `completed` are the completed forward steps in the order in which they ended; needed where needs_history says so.
    """
    if process.compensates is not None:
        return _after_undo(manager, process, response, command_id)
    if response.outcome is _SUCCESS:
        return _after_success(manager, process, response, command_id, completed)
    return _begin_undo(manager, process, response, command_id, completed)


def needs_history(process: Process, response: ProcessResponse) -> bool:
    """Whether decide needs the completed steps: when it is to undo them."""
    return process.compensates is None and (response.outcome is not _SUCCESS or process.cancel is not None)


def may_decide(manager: Manager, process: Process, response: ProcessResponse) -> bool:
    """Whether the manager declares every step that the decision is about.

    Where it does not, the process is at a step of another version of its manager, and the decision is left to that.
    """
    step_class = getattr(manager, "step_class", None)
    if step_class is None:
        return True
    members = _members(step_class)
    if process.step in members and not process.undo and not needs_history(process, response):
        return True
    steps = {process.step, *(undo.step for undo in process.undo)} - {""}
    if needs_history(process, response):
        steps |= process.visits.keys()
    return steps <= members.keys()


def _after_success(
    manager: Manager, process: Process, response: ProcessResponse, command_id: UUID, completed: Sequence[Undo]
) -> Decision:
    text = process.state
    doing = "state_class"
    try:
        stored = load_payload(text)
        state = load_state(manager.state_class, stored)
        doing = "update_state"
        done = _member(manager, process.step)
        updated = manager.update_state(state, done, response)
        state = state if updated is None else updated
        text = dump_payload(keep_unknown(manager.state_class, stored, dump_state(state)), what="state")
        if process.cancel is not None:
            return _undo_with_this(manager, replace(process, state=text), process.cancel, command_id, completed)
        doing = "get_next_step"
        step = manager.get_next_step(done, response, state)
        if step is None:
            return Decision(ProcessStatus.COMPLETED, process.step, text, process.visits)
        doing = "build_command"
        send = _plan(manager, step, state, command_id, process.visits, None)
    except _RAISED as error:
        return _failed(process.step, text, process.visits, f"{doing} raised {_spell(error)}", error=error)
    return Decision(_WAITING, send.step, text, {**process.visits, send.step: send.visit}, send)


def _undo_with_this(
    manager: Manager, process: Process, cancel: CancelRequest, command_id: UUID, completed: Sequence[Undo]
) -> Decision:
    """Undo the step that has just succeeded, first of all: its process was cancelled while it was in flight."""
    this = Undo(process.step, process.command_id)
    before = [done for done in completed if done.compensates != process.command_id]  # stored already, perhaps
    return _begin_undo(manager, process, cancel.response(process.command_id), command_id, [*before, this])


def _begin_undo(
    manager: Manager, process: Process, response: ProcessResponse, command_id: UUID, completed: Sequence[Undo]
) -> Decision:
    """Line up the undo steps, newest completed step first, and start the first of them."""
    failed = response.outcome is ReplyOutcome.FAILED
    try:
        ended = [(_member(manager, done.step), done.compensates) for done in reversed(completed)]
        steps = [(manager.get_compensation_step(step), command) for step, command in ended]
        undo = [Undo(_name(manager, step), command) for step, command in steps if step is not None]
    except _RAISED as error:
        why = f"get_compensation_step raised {_spell(error)}"
        return _failed(process.step, process.state, process.visits, why, error=error)
    end = ProcessStatus.CANCELED if failed or not undo else ProcessStatus.COMPENSATED
    decision = _next_undo(manager, process, undo, end, command_id)
    if decision.error_code is None:
        decision.error_code, decision.error_message = response.error_code, response.error_message
    return decision


def _after_undo(manager: Manager, process: Process, response: ProcessResponse, command_id: UUID) -> Decision:
    if response.outcome is not _SUCCESS:
        why = response.error_message or response.error_code or str(response.outcome)
        why = f"{process.step} was not undone: {why}"
        return _failed(process.step, process.state, process.visits, why, "UNDO_FAILED")
    end = ProcessStatus(process.undone_status or ProcessStatus.COMPENSATED)
    return _next_undo(manager, process, process.undo, end, command_id)


def _next_undo(
    manager: Manager, process: Process, undo: Sequence[Undo], end: ProcessStatus, command_id: UUID
) -> Decision:
    if not undo:
        return Decision(end, process.step or None, process.state, process.visits)
    doing = "state_class"
    try:
        state = _load(manager, process)
        doing = "build_command"
        step = _member(manager, undo[0].step)
        send = _plan(manager, step, state, command_id, process.visits, undo[0].compensates)
    except _RAISED as error:
        why = f"{doing} raised {_spell(error)}"
        return _failed(process.step, process.state, process.visits, why, error=error)
    visits = {**process.visits, send.step: send.visit}
    return Decision(ProcessStatus.COMPENSATING, send.step, process.state, visits, send, undo[1:], end)


def _load(manager: Manager, process: Process) -> Any:
    return load_state(manager.state_class, load_payload(process.state))


def _plan(
    manager: Manager, step: str, state: Any, command_id: UUID, visits: dict[str, int], compensates: UUID | None
) -> PlannedCommand:
    name = _name(manager, step)
    command = manager.build_command(step, state)
    if command.max_attempts is not None and not 1 <= command.max_attempts <= _MOST_ATTEMPTS:
        raise ValueError(
            f"max_attempts of step {step} must be from 1 to {_MOST_ATTEMPTS:,}, not {command.max_attempts}"
        )
    data = command.data if isinstance(command.data, dict) else dump_state(command.data)
    return PlannedCommand(
        command_id,
        manager.domain if command.domain is None else check_name(command.domain, "domain"),
        check_name(command.command_type, "command type"),
        data,
        dump_payload(data),
        name,
        visits.get(name, 0) + 1,
        compensates,
        command.max_attempts,
    )


def _member(manager: Manager, step: str) -> str:
    """Return a stored step as the manager declared it, so that `step is Step.SHIP` holds; an undeclared one as text."""
    step_class = getattr(manager, "step_class", None)
    return step if step_class is None else _members(step_class).get(step, step)


@lru_cache(maxsize=1_024)
def _members(step_class: type[StrEnum]) -> dict[str, str]:
    return {member.value: member for member in step_class}


def _name(manager: Manager, step: str) -> str:
    if not isinstance(step, str):
        raise TypeError(f"a step is a member of {type(manager).__name__}.step_class, not {type(step).__name__}")
    step_class = getattr(manager, "step_class", None)
    if step_class is not None and step not in _members(step_class):  # nobody would go on with it: see may_decide
        raise ValueError(
            f"{sanitise_text(step, limit=_LONGEST_STEP)!r} is no step of {step_class.__name__}: declare it there"
        )
    return _storable(step)


@lru_cache(maxsize=1_024)
def _storable(step: str) -> str:
    if sanitise_text(step, limit=_LONGEST_STEP) != step:
        raise ValueError(f"a step is text of at most {_LONGEST_STEP} characters that PostgreSQL can store")
    return str(step)


def hook_failed(decision: Decision, error: BaseException) -> Decision:
    """The decision instead of one whose before_send hook raised: nothing is sent, and no visit counted."""
    visits = decision.visits
    if (send := decision.send) is not None:
        visits = {step: times for step, times in visits.items() if step != send.step}
        visits |= {send.step: send.visit - 1} if send.visit > 1 else {}
    why = f"before_send_commands raised {_spell(error)}"
    return _failed(decision.current_step, decision.state, visits, why, error=error)


def _failed(
    step: str | None,
    state: str,
    visits: dict[str, int],
    why: str,
    code: str = DECISION_FAILED,
    error: BaseException | None = None,
) -> Decision:
    message = sanitise_text(why, limit=2_000)
    return Decision(ProcessStatus.FAILED, step, state, visits, error_code=code, error_message=message, error=error)


def _spell(error: BaseException) -> str:
    return f"{type(error).__name__}: {sanitise_text(error)}"
