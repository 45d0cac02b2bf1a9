"""Statements on commandbus.process."""

from collections.abc import Sequence
from typing import Any, ClassVar, LiteralString
from uuid import UUID

import orjson
from orjson import Fragment
from psycopg.sql import SQL

from commandbus._core.arrays import integers, jsons, texts, uuids
from commandbus.models import CommandStatus
from commandbus.payload import dump_payload, load_payload
from commandbus.process.decide import Decision, Undo
from commandbus.process.models import ProcessAuditEntry, ProcessMetadata, ProcessStatus


class ProcessSQL:
    """Every statement on processes; a settle advances them by its own, a reply by commandbus.advance_processes."""

    SELECT_COLUMNS = """process_id, domain, process_type, status, current_step, state::text, batch_id, ordinal,
           error_code, error_message, created_at, updated_at, completed_at"""

    # New processes with their first commands, in one round trip.
    START = """
        SELECT commandbus.start_processes(
            %(domain)s, %(process_type)s, %(batch_id)s::uuid, %(first_ordinal)s::bigint, %(process_ids)s::uuid[],
            %(statuses)s::text[], %(steps)s::text[], %(states)s::json[], %(visits)s::json[], %(error_codes)s::text[],
            %(error_messages)s::text[], %(command_ids)s::uuid[], %(command_domains)s::text[],
            %(command_types)s::text[], %(payloads)s::json[], %(max_attempts)s::integer[],
            %(headers)s::json[])"""

    # How the database says that this batch takes no more.
    BATCH_CANCELED: LiteralString = "CB001"

    # One process as it is, without a command: for a process that is kept by other means than start.
    SAVE = """
        INSERT INTO commandbus.process (process_id, domain, process_type, status, current_step, state, batch_id,
                                        ordinal, error_code, error_message, created_at, updated_at, completed_at)
        VALUES (%(process_id)s, %(domain)s, %(process_type)s, %(status)s, %(current_step)s, %(state)s::json,
                %(batch_id)s, %(ordinal)s, %(error_code)s, %(error_message)s,
                coalesce(%(created_at)s, commandbus.now()), coalesce(%(updated_at)s, commandbus.now()),
                %(completed_at)s)"""

    GET = SQL("SELECT {columns} FROM commandbus.process WHERE process_id = %(process_id)s").format(
        columns=SQL(SELECT_COLUMNS)
    )

    OF_BATCH = SQL(
        """
        SELECT {columns} FROM commandbus.process
         WHERE batch_id = %(batch_id)s AND (%(status)s::text IS NULL OR status = %(status)s)
         ORDER BY ordinal, process_id LIMIT %(limit)s OFFSET %(offset)s"""
    ).format(columns=SQL(SELECT_COLUMNS))

    ADVANCE = "SELECT commandbus.advance_processes(%(advances)s::json)"

    # The completed forward steps of processes that begin to compensate, in the order in which they ended.
    COMPLETED_STEPS = """
        SELECT process_id, command_id, step FROM commandbus.command
         WHERE process_id = ANY(%(process_ids)s) AND status = 'COMPLETED' AND compensates IS NULL
         ORDER BY process_id, completed_at, created_at"""

    # Which of these were cancelled while a command of theirs was in flight.
    CANCEL_REQUESTS = """
        SELECT process_id, cancel_request ->> 'operator', cancel_request ->> 'reason' FROM commandbus.process
         WHERE process_id = ANY(%(process_ids)s) AND cancel_request IS NOT NULL"""

    # The next replies for these managers, locked until they are applied, each with its process and its command.
    TAKE_REPLIES = """
        SELECT reply_id, command_id, outcome, result, error_code, error_message, process_id, process_type, status,
               state, is_awaited, batch_id, ordinal, visits, undo, undone_status, step, compensates, domain,
               headers
          FROM commandbus.take_replies(%(addresses)s, %(declaring)s, %(declared)s, %(limit)s)"""

    DELETE_REPLIES = "DELETE FROM commandbus.reply WHERE reply_id = ANY(%(reply_ids)s)"

    # A process's trail: its commands in order, each with the facts of its audit events.
    AUDIT_TRAIL = """
        SELECT c.process_id, c.step, c.command_id, c.command_type, c.visit, c.compensates, s.status, s.attempts,
               c.payload::text, s.result::text, s.error_code, s.error_message,
               c.created_at, f.first_received_at, c.completed_at
          FROM commandbus.command c
          JOIN commandbus.command_state s ON s.command_id = c.command_id
          LEFT JOIN LATERAL (SELECT min(e.ts) AS first_received_at FROM commandbus.event e
                              WHERE e.command_id = c.command_id AND e.type = 'RECEIVED') f ON true
         WHERE c.process_id = %(process_id)s
         ORDER BY c.created_at, c.command_id"""


Started = tuple[UUID, Decision]  # a new process, and what was decided for it


class ProcessParams:
    """Parameters of the statements above."""

    @staticmethod
    def save(process: ProcessMetadata) -> dict[str, Any]:
        """Give what SAVE stores."""
        return {
            "process_id": process.process_id,
            "domain": process.domain,
            "process_type": process.process_type,
            "status": str(process.status),
            "current_step": process.current_step,
            "state": dump_payload(process.state, what="state"),
            "batch_id": process.batch_id,
            "ordinal": process.ordinal,
            "error_code": process.error_code,
            "error_message": process.error_message,
            "created_at": process.created_at,
            "updated_at": process.updated_at,
            "completed_at": process.completed_at,
        }

    @staticmethod
    def start(
        domain: str, process_type: str, batch_id: UUID | None, first_ordinal: int | None, started: Sequence[Started]
    ) -> dict[str, Any]:
        """Give what START takes: new processes with their first commands, in columns."""
        decisions = [decision for _, decision in started]
        sends = [decision.send for decision in decisions]
        headers = [None if send is None else send.headers for send in sends]
        return {
            "domain": domain,
            "process_type": process_type,
            "batch_id": batch_id,
            "first_ordinal": first_ordinal,
            "process_ids": uuids([process_id for process_id, _ in started]),
            "statuses": texts([str(decision.status) for decision in decisions]),
            "steps": texts([decision.current_step for decision in decisions]),
            "states": jsons([decision.state for decision in decisions]),
            "visits": jsons([orjson.dumps(decision.visits).decode() for decision in decisions]),
            "error_codes": texts([decision.error_code for decision in decisions]),
            "error_messages": texts([decision.error_message for decision in decisions]),
            "command_ids": uuids([None if send is None else send.command_id for send in sends]),
            "command_domains": texts([None if send is None else send.domain for send in sends]),
            "command_types": texts([None if send is None else send.command_type for send in sends]),
            "payloads": jsons(["null" if send is None else send.payload for send in sends]),
            "max_attempts": integers([None if send is None else send.max_attempts for send in sends]),
            "headers": jsons(headers) if any(headers) else None,
        }

    @staticmethod
    def advance(process_id: UUID, decision: Decision) -> dict[str, Any]:
        """Give the row that ADVANCE takes."""
        row: dict[str, Any] = {
            "process_id": process_id,
            "status": decision.status,
            "current_step": decision.current_step,
            "state": Fragment(decision.state),
            "visits": decision.visits,
        }
        if decision.send is not None:
            row["command_id"] = decision.send.command_id
        if decision.status.is_terminal:
            row["ended"] = True
        if decision.undone_status is not None:
            row["undone_status"] = decision.undone_status
            row["undo"] = [{"step": u.step, "compensates": u.compensates} for u in decision.undo]
        if decision.error_code is not None:
            row["error_code"] = decision.error_code
            row["error_message"] = decision.error_message
        return row


class ProcessParsers:
    """Rows as values."""

    STATE: ClassVar[int] = 5

    @staticmethod
    def from_row(row: tuple[Any, ...]) -> ProcessMetadata:
        """Parse a row of SELECT_COLUMNS."""
        state = row[ProcessParsers.STATE]
        return ProcessMetadata(
            process_id=row[0],
            domain=row[1],
            process_type=row[2],
            status=ProcessStatus(row[3]),
            current_step=row[4],
            state=state if isinstance(state, dict) else load_payload(state),
            batch_id=row[6],
            ordinal=row[7],
            error_code=row[8],
            error_message=row[9],
            created_at=row[10],
            updated_at=row[11],
            completed_at=row[12],
        )

    @staticmethod
    def undo(text: str | None) -> list[Undo]:
        """Parse what is still to be undone."""
        return [Undo(u["step"], UUID(u["compensates"])) for u in orjson.loads(text)] if text else []

    @staticmethod
    def audit_entry(row: tuple[Any, ...]) -> ProcessAuditEntry:
        """Parse a row of AUDIT_TRAIL."""
        values = list(row)
        values[6], values[8] = CommandStatus(row[6]), load_payload(row[8])
        values[9] = None if row[9] is None else load_payload(row[9])
        return ProcessAuditEntry(*values)
