"""Statements on commandbus.troubleshooting."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from psycopg.sql import SQL, Composed

from commandbus.models import TroubleshootingFilter, TroubleshootingItem
from commandbus.payload import load_payload


@dataclass(slots=True)
class Parked:
    """A parked command that an operator has just taken, with its process; JSON is still text."""

    command_id: UUID
    domain: str
    command_type: str
    epoch: int
    failures: int
    past_failures: int
    lost_leases: int
    max_attempts: int | None
    correlation_id: UUID | None
    reply_to: str | None
    process_id: UUID | None
    step: str | None
    compensates: UUID | None
    process_type: str | None
    process_domain: str | None
    state: str | None
    process_batch_id: UUID | None
    process_ordinal: int | None
    visits: str | None
    undo: str | None
    undone_status: str | None


class TroubleshootingSQL:
    """Whoever deletes the row decides; the loser finds none."""

    TAKE = "SELECT * FROM commandbus.take_parked(%(command_ids)s, %(until)s)"

    # What commands are that were not there to be taken.
    STATUSES = "SELECT command_id, status FROM commandbus.command_state WHERE command_id = ANY(%(command_ids)s)"

    REQUEUE = "SELECT commandbus.requeue(%(commands)s::json)"

    RECORD = "SELECT commandbus.record_outcomes(NULL, %(outcomes)s::json)"

    NOW = "SELECT commandbus.now()"

    # The three that follow read what `matching` finds, by the index that fits: see the conditions below.

    # A page of parked commands, oldest first.
    LIST = SQL(
        """
        SELECT t.command_id, t.domain, t.command_type, c.payload::text, t.error_code, t.error_message, t.failures,
               t.failures + t.past_failures, t.max_attempts, t.lost_leases, c.correlation_id, c.process_id, c.step,
               coalesce(c.batch_id, p.batch_id), c.created_at, t.moved_at
          FROM (SELECT * FROM commandbus.troubleshooting t WHERE {conditions}
                 ORDER BY t.moved_at, t.command_id LIMIT %(limit)s) t
          JOIN commandbus.command c ON c.command_id = t.command_id
          LEFT JOIN commandbus.process p ON p.process_id = c.process_id
         ORDER BY t.moved_at, t.command_id"""
    )

    # Which ones an action by filter takes next, oldest first.
    FIND = SQL(
        """
        SELECT t.moved_at, t.command_id FROM commandbus.troubleshooting t WHERE {conditions}
         ORDER BY t.moved_at, t.command_id LIMIT %(limit)s"""
    )

    COUNT = SQL("SELECT count(*) FROM commandbus.troubleshooting t WHERE {conditions}")

    CONDITIONS: ClassVar[dict[str, SQL]] = {
        "command_id": SQL("t.command_id = %(command_id)s"),
        "domain": SQL("t.domain = %(domain)s"),
        "command_type": SQL("t.command_type = %(command_type)s"),
        "error_code": SQL("t.error_code = %(error_code)s"),
        "moved_after": SQL("t.moved_at >= %(moved_after)s"),
        "moved_before": SQL("t.moved_at < %(moved_before)s"),
        "until": SQL("t.moved_at <= %(until)s"),
        "after_id": SQL("(t.moved_at, t.command_id) > (%(after)s, %(after_id)s)"),
        # Of its own batch, or its process's. A scalar, so that it is looked up for one row at a time.
        "batch_id": SQL(
            """%(batch_id)s = (SELECT coalesce(c.batch_id, p.batch_id) FROM commandbus.command c
                                 LEFT JOIN commandbus.process p ON p.process_id = c.process_id
                                WHERE c.command_id = t.command_id)"""
        ),
    }

    @staticmethod
    def matching(statement: SQL, params: dict[str, Any]) -> Composed:
        """Give LIST, FIND or COUNT with the conditions whose parameters are not None."""
        chosen = [c for name, c in TroubleshootingSQL.CONDITIONS.items() if params.get(name) is not None]
        return statement.format(conditions=SQL(" AND ").join(chosen) if chosen else SQL("true"))


class TroubleshootingParams:
    """Parameters of the statements above."""

    @staticmethod
    def matching(where: TroubleshootingFilter, after: tuple[datetime, UUID] | None = None) -> dict[str, Any]:
        """Give the parameters of a filter, with the place that a listing goes on after."""
        moved_at, command_id = after or (None, None)
        return {**asdict(where), "after": moved_at, "after_id": command_id}


class TroubleshootingParsers:
    """Rows as values."""

    @staticmethod
    def item(row: tuple[Any, ...]) -> TroubleshootingItem:
        """Parse a row of LIST."""
        values = list(row)
        values[3] = load_payload(row[3])
        return TroubleshootingItem(*values)
