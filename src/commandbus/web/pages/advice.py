"""What an operator is told about something: how it stands, why, and what to do next. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from commandbus.models import AuditEvent, CommandMetadata, CommandStatus
from commandbus.outcome import HANDLER_NOT_FOUND, UNHANDLED_EXCEPTION
from commandbus.process.models import CANCELED, ProcessAuditEntry, ProcessMetadata, ProcessStatus
from commandbus.web.shown import duration


@dataclass(frozen=True, slots=True)
class Advice:
    """A sentence that says how it stands, and sentences about what to do. `tone`: good, bad, wait or plain."""

    tone: str
    text: str
    next: list[str] = field(default_factory=list)


def for_command(command: CommandMetadata, events: Sequence[AuditEvent], now: datetime, *, is_handled: bool) -> Advice:
    """Say how a command stands; `is_handled` tells whether a live worker handles its type."""
    last = events[-1] if events else None
    match command.status:
        case CommandStatus.IN_TROUBLESHOOTING_QUEUE:
            return _parked(command, last, now)
        case CommandStatus.IN_PROGRESS:
            return _running(command, now)
        case CommandStatus.PENDING:
            return _waiting(command, now, is_handled=is_handled)
        case CommandStatus.COMPLETED:
            by = _operator(last)
            text = f"Completed by the operator {by}" if by else "Completed"
            return Advice("good", f"{text} {_after(command)}.")
        case CommandStatus.FAILED:
            return Advice(
                "bad",
                "A business rule refused it, which is final.",
                ["It cannot be retried. Mend what the rule asks for, and send a new command."],
            )
        case _:
            by = _operator(last)
            return Advice("wait", "Cancelled" + (f" by {by}" if by else "") + ". It did not run to its end.")


def _parked(command: CommandMetadata, last: AuditEvent | None, now: datetime) -> Advice:
    since = f" {duration((now - last.timestamp).total_seconds())} ago" if last else ""
    if command.error_code == "LEASE_LOST":
        return Advice(
            "bad",
            f"Parked{since}: its workers were lost {command.lost_leases} times while they ran it, or took too long.",
            [
                "Find out whether it kills its worker (memory, a crash), or runs for longer than its lease.",
                "Its effect may have happened: look before you retry, and complete it by hand if it has.",
            ],
        )
    if command.error_code == HANDLER_NOT_FOUND:
        return Advice(
            "bad",
            f"Parked{since}: no live worker had a handler for {command.command_type}.",
            ["Deploy a worker that has one, then retry."],
        )
    tried = f"after {_times(command.attempts, 'failed attempt')}"
    todo = [
        "Retry it once its cause is mended: it gets all its attempts again.",
        "Complete it when its work was done by other means; cancel it when it must not be done.",
    ]
    if command.error_code == UNHANDLED_EXCEPTION and last is not None:
        todo.insert(0, f"The log of worker {last.worker_id} has the traceback, under the id of the command.")
    return Advice("bad", f"Parked{since} {tried}. It waits for you.", todo)


def _running(command: CommandMetadata, now: datetime) -> Advice:
    if command.lease_until is not None and command.lease_until <= now:
        late = duration((now - command.lease_until).total_seconds())
        return Advice(
            "bad",
            f"Worker {command.worker_id} has it, but its lease ran out {late} ago: that worker has died or hangs.",
            ["Another worker takes it over by itself. If none does, see on the dashboard that one is alive."],
        )
    return Advice("run", f"Worker {command.worker_id} runs it now, attempt {command.attempts}.")


def _waiting(command: CommandMetadata, now: datetime, *, is_handled: bool) -> Advice:
    if not is_handled:
        return Advice(
            "bad",
            f"It waits, and no live worker handles {command.command_type} in {command.domain}.",
            [f"Start one: commandbus worker MODULE:APP --domain {command.domain}"],
        )
    if command.due_at is not None:
        wait = (command.due_at - now).total_seconds()
        due = f"in {duration(wait)}" if wait > 0 else "now"
        return Advice("wait", f"{_times(command.attempts, 'attempt')} failed; the next one is due {due}.")
    waited = duration((now - command.updated_at).total_seconds())
    return Advice("wait", f"Due, and in the queue for {waited}: a worker takes it as soon as one is free.")


def for_process(process: ProcessMetadata, trail: Sequence[ProcessAuditEntry]) -> Advice:
    """Say how a process stands."""
    step = process.current_step or "its step"
    match process.status:
        case ProcessStatus.COMPLETED:
            return Advice("good", "Every step succeeded.")
        case ProcessStatus.WAITING_FOR_TSQ:
            return Advice(
                "bad",
                f"It waits for an operator: the command of step {step} is parked.",
                ["Retry that command once its cause is mended, complete it by hand, or cancel it to undo the others."],
            )
        case ProcessStatus.FAILED:
            return Advice(
                "bad",
                "It failed: its manager could not decide, or a step could not be undone.",
                [
                    "Nothing goes on by itself. See below which steps have completed, and undo them by hand.",
                    "The log of the worker has the traceback, under the id of the process.",
                ],
            )
        case ProcessStatus.CANCELED:
            done = sum(1 for entry in trail if entry.compensates is not None)
            why = "It was cancelled" if process.error_code == CANCELED else "A business rule refused it"
            return Advice("wait", why + (f", and {_times(done, 'step')} undone." if done else "."))
        case ProcessStatus.COMPENSATED:
            return Advice("wait", "An operator cancelled it, and all its completed steps were undone.")
        case ProcessStatus.COMPENSATING:
            return Advice("run", f"It undoes the steps that it had completed, {step} now.")
        case _:
            return Advice("run", f"Step {step} is under way.")


def _operator(event: AuditEvent | None) -> str | None:
    operator = event.details.get("operator") if event is not None else None
    return operator if isinstance(operator, str) else None


def _after(command: CommandMetadata) -> str:
    if command.completed_at is None:
        return ""
    return f"{duration((command.completed_at - command.created_at).total_seconds())} after it was sent"


def _times(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")
