"""Statements on commandbus.command and what belongs to it."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from orjson import Fragment
from psycopg.sql import SQL

from commandbus._core.arrays import integers, jsons, texts, uuids
from commandbus.models import AuditEvent, CommandMetadata, CommandStatus, SendRequest
from commandbus.payload import load_payload
from commandbus.process.decide import PlannedCommand, Process


class CommandSQL:
    """Each statement with its name; commandbus.enqueue is the only way in."""

    # One round trip for any number of new commands, each with its queue row and its SENT event.
    ENQUEUE = """
        SELECT commandbus.enqueue(NULL, %(command_ids)s::uuid[], %(domains)s::text[], %(command_types)s::text[],
                                  %(payloads)s::json[], %(max_attempts)s::integer[], %(correlation_ids)s::uuid[],
                                  %(reply_tos)s::text[], %(batch_id)s::uuid, %(first_ordinal)s::bigint,
                                  p_headers => %(headers)s::json[])"""

    # The same for the next commands of processes that were settled, as JSON.
    ENQUEUE_PLANNED = "SELECT commandbus.enqueue(%(commands)s::json)"

    NOW = "SELECT commandbus.now()"

    # Which of these ids are stored, and with what data: tells a duplicate's story.
    STORED = "SELECT command_id, payload::text FROM commandbus.command WHERE command_id = ANY(%(command_ids)s)"

    COLUMNS = """command_id, domain, command_type, status, payload::text, attempts, max_attempts, lost_leases,
               correlation_id, reply_to, batch_id, process_id, step, result::text, error_code, error_message,
               worker_id, lease_until, due_at, created_at, updated_at, completed_at"""

    GET = SQL("SELECT {columns} FROM commandbus.command_state WHERE command_id = %(command_id)s").format(
        columns=SQL(COLUMNS)
    )

    # A page of commands, before each what the next page begins after; one row of NULLs when it has none.
    FIND = SQL(
        """
        SELECT f.next_created_at, f.next_command_id, f.next_seq, {columns}
          FROM commandbus.find_commands(
                   %(domain)s, %(command_type)s, %(status)s, %(created_after)s, %(created_before)s,
                   %(created_at)s, %(command_id)s, %(seq)s, %(limit)s) f
          LEFT JOIN LATERAL commandbus.read_commands(f.command_ids) WITH ORDINALITY AS s ON true
         ORDER BY ordinality"""
    ).format(columns=SQL(COLUMNS))

    # The same for a batch's commands.
    OF_BATCH = SQL(
        """
        SELECT f.next_ordinal, {columns}
          FROM commandbus.find_batch_commands(%(batch_id)s, %(status)s, %(ordinal)s, %(limit)s) f
          LEFT JOIN LATERAL commandbus.read_commands(f.command_ids) WITH ORDINALITY AS s ON true
         ORDER BY ordinality"""
    ).format(columns=SQL(COLUMNS))

    _EVENTS = SQL("""
        SELECT event_id, command_id, type, ts, epoch, worker_id, attempt, max_attempts, lease_until, details::text
          FROM commandbus.event WHERE {condition} ORDER BY command_id, event_id""")
    AUDIT_TRAIL = _EVENTS.format(condition=SQL("command_id = %(command_id)s"))
    AUDIT_TRAILS = _EVENTS.format(condition=SQL("command_id = ANY(%(command_ids)s)"))

    # How many commands of a batch there are, and how many have each status that is stored but PENDING, which one in
    # flight is too. Not by GROUP BY: without statistics it would sort all of them.
    COUNT_OF_BATCH = """
        SELECT count(*), count(*) FILTER (WHERE status = 'COMPLETED'), count(*) FILTER (WHERE status = 'FAILED'),
               count(*) FILTER (WHERE status = 'CANCELED'), count(*) FILTER (WHERE status = 'IN_TROUBLESHOOTING_QUEUE')
          FROM commandbus.command WHERE batch_id = %(batch_id)s"""


class CommandParsers:
    """Rows of the statements above as values."""

    @staticmethod
    def metadata(row: tuple[Any, ...]) -> CommandMetadata:
        """Parse a row of COLUMNS."""
        values = list(row)
        values[3], values[4], values[13] = CommandStatus(row[3]), load_payload(row[4]), load_json(row[13])
        return CommandMetadata(*values)

    @staticmethod
    def event(row: tuple[Any, ...]) -> AuditEvent:
        """Parse a row of AUDIT_TRAIL."""
        values = list(row)
        values[9] = load_json(row[9]) or {}
        return AuditEvent(*values)


def load_json(text: str | None) -> Any:
    """Parse a nullable json column that was read as text."""
    return None if text is None else load_payload(text)


class CommandParams:
    """What commandbus.enqueue takes."""

    @staticmethod
    def new(
        requests: Sequence[SendRequest],
        payloads: Sequence[str],
        batch_id: UUID | None = None,
        first_ordinal: int | None = None,
        headers: Sequence[str | None] | None = None,
    ) -> dict[str, Any]:
        """Commands as they are sent, in columns; `payloads` and `headers` are JSON text, checked."""
        return {
            "command_ids": uuids([r.command_id for r in requests]),
            "domains": texts([r.domain for r in requests]),
            "command_types": texts([r.command_type for r in requests]),
            "payloads": jsons(payloads),
            "max_attempts": integers([r.max_attempts for r in requests]),
            "correlation_ids": uuids([r.correlation_id for r in requests]),
            "reply_tos": texts([r.reply_to for r in requests]),
            "batch_id": batch_id,
            "first_ordinal": first_ordinal,
            "headers": None if headers is None else jsons(headers),
        }

    @staticmethod
    def planned(process: Process, command: PlannedCommand) -> dict[str, Any]:
        """A process's next command, as a row of JSON."""
        row: dict[str, Any] = {
            "command_id": command.command_id,
            "domain": command.domain,
            "command_type": command.command_type,
            "payload": Fragment(command.payload),
            "process_id": process.process_id,
            "step": command.step,
            "visit": command.visit,
            "after": process.command_id,
        }
        if process.headers is not None:
            row["headers"] = Fragment(process.headers)
        if command.max_attempts is not None:
            row["max_attempts"] = command.max_attempts
        if command.compensates is not None:
            row["compensates"] = command.compensates
        return row
