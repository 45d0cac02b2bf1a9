"""What becomes of parked commands once an operator has decided: the same for one command and for many."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from orjson import Fragment
from psycopg.rows import class_row

from commandbus._core.connection import Connection
from commandbus._core.process_sql import ProcessParsers
from commandbus._core.troubleshooting_sql import Parked, TroubleshootingSQL
from commandbus.models import CommandStatus, ReplyOutcome
from commandbus.payload import dump_payload, load_payload, sanitise_text
from commandbus.process import advance
from commandbus.process.decide import Manager, Process, may_decide
from commandbus.process.models import ProcessResponse
from commandbus.settlement import process_address

_LONGEST_OPERATOR, _LONGEST_REASON = 200, 2_000


@dataclass(frozen=True, slots=True)
class End:
    """How a parked command ends; `result` is JSON text."""

    event: str
    status: CommandStatus
    outcome: ReplyOutcome
    result: str | None = None
    error_code: str | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an operator decided about parked commands, who, and why; without an end they begin a new life."""

    done: str  # in "only a parked command can be ..."
    details: dict[str, str]
    end: End | None = None


def retry(operator: str, reason: str) -> Verdict:
    """A new life: due at once, attempts from 0."""
    return Verdict("retried", _who(operator, reason))


def cancel(operator: str, reason: str) -> Verdict:
    """No more of it: a process undoes the steps that were completed."""
    message = sanitise_text(f"cancelled by {operator}" + (f": {reason}" if reason else ""), limit=_LONGEST_REASON)
    end = End("OPERATOR_CANCEL", CommandStatus.CANCELED, ReplyOutcome.CANCELED, None, "CANCELED", message)
    return Verdict("cancelled", _who(operator, reason), end)


def complete(result: dict[str, Any] | None, operator: str, reason: str) -> Verdict:
    """As if it had been done, with this result. Raises InvalidPayloadError for one that is no JSON object."""
    text = None if result is None else dump_payload(result, what="result")
    end = End("OPERATOR_COMPLETE", CommandStatus.COMPLETED, ReplyOutcome.SUCCESS, text)
    return Verdict("completed", _who(operator, reason), end)


async def take(conn: Connection, command_ids: Sequence[UUID], until: datetime | None = None) -> list[Parked]:
    """Take those of the commands that are parked, since `until` at the latest, out of the troubleshooting queue."""
    async with conn.cursor(row_factory=class_row(Parked)) as cursor:
        await cursor.execute(TroubleshootingSQL.TAKE, {"command_ids": list(command_ids), "until": until})
        return await cursor.fetchall()


async def carry_out(
    conn: Connection, verdict: Verdict, parked: Sequence[Parked], managers: Mapping[str, Manager]
) -> None:
    """Do with taken commands what was decided, in the transaction in which they were taken.

    The processes of the `managers`, by process type, are advanced; for others, and for those that have been at steps
    which these managers do not declare, a reply is left.
    """
    if not parked:
        return
    if verdict.end is None:
        rows = [_new_life(each, verdict) for each in parked]
        await conn.execute(TroubleshootingSQL.REQUEUE, {"commands": orjson.dumps(rows).decode()})
        return
    replies = [_reply(each, verdict.end, managers) for each in parked]
    rows = [_outcome(each, verdict, verdict.end, reply is None) for each, reply in zip(parked, replies, strict=True)]
    await conn.execute(TroubleshootingSQL.RECORD, {"outcomes": orjson.dumps(rows).decode()})
    if advanced := [reply for reply in replies if reply is not None]:
        await advance.apply(conn, advanced)


def _new_life(parked: Parked, verdict: Verdict) -> dict[str, Any]:
    return {
        "command_id": parked.command_id,
        "domain": parked.domain,
        "command_type": parked.command_type,
        "epoch": parked.epoch,
        "past_failures": parked.past_failures + parked.failures,
        "max_attempts": parked.max_attempts,
        "details": verdict.details,
    }


def _outcome(parked: Parked, verdict: Verdict, end: End, leaves_reply: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "command_id": parked.command_id,
        "event": end.event,
        "status": end.status,
        "attempts": parked.failures,
        "epoch": parked.epoch,
        "max_attempts": parked.max_attempts,
        "details": verdict.details,
        "error_code": end.error_code,
        "error_message": end.error_message,
    }
    if end.result is not None:
        row["result"] = Fragment(end.result)
    address = process_address(parked.process_type) if parked.process_type else parked.reply_to
    if address is not None and leaves_reply:
        row |= {
            "reply_to": address,
            "reply_outcome": end.outcome,
            "correlation_id": parked.correlation_id,
            "process_id": parked.process_id,
        }
    return row


def _reply(
    parked: Parked, end: End, managers: Mapping[str, Manager]
) -> tuple[Manager, Process, ProcessResponse] | None:
    """The reply that advances a process here; each has a result of its own, which its manager may change."""
    manager = managers.get(parked.process_type or "")
    if manager is None or parked.process_id is None or parked.process_type is None:
        return None
    process = Process(
        process_id=parked.process_id,
        process_type=parked.process_type,
        domain=parked.process_domain or manager.domain,
        state=parked.state or "{}",
        command_id=parked.command_id,
        step=parked.step or "",
        compensates=parked.compensates,
        batch_id=parked.process_batch_id,
        ordinal=parked.process_ordinal,
        visits=load_payload(parked.visits or "{}"),
        undo=ProcessParsers.undo(parked.undo),
        undone_status=parked.undone_status,
    )
    result = None if end.result is None else load_payload(end.result)
    response = ProcessResponse(parked.command_id, end.outcome, result, end.error_code, end.error_message)
    return (manager, process, response) if may_decide(manager, process, response) else None


def _who(operator: str, reason: str) -> dict[str, str]:
    return {
        "operator": sanitise_text(operator, limit=_LONGEST_OPERATOR),
        "reason": sanitise_text(reason, limit=_LONGEST_REASON),
    }
