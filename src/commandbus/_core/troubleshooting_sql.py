"""Statements on commandbus.troubleshooting."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

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

    # Columns are named, here as everywhere: a later version of a function may return more of them.
    TAKE = """
        SELECT command_id, domain, command_type, epoch, failures, past_failures, lost_leases, max_attempts,
               correlation_id, reply_to, process_id, step, compensates, process_type, process_domain, state,
               process_batch_id, process_ordinal, visits, undo, undone_status
          FROM commandbus.take_parked(%(command_ids)s, %(until)s)"""

    # What commands are that were not there to be taken.
    STATUSES = "SELECT command_id, status FROM commandbus.command_state WHERE command_id = ANY(%(command_ids)s)"

    REQUEUE = "SELECT commandbus.requeue(%(commands)s::json)"

    RECORD = "SELECT commandbus.record_outcomes(NULL, %(outcomes)s::json)"

    # Which commands a filter finds beyond a place, oldest first.
    FIND = """
        SELECT moved_at, command_id
          FROM commandbus.find_parked(%(domain)s, %(command_type)s, %(error_code)s, %(batch_id)s, %(moved_after)s,
                                      %(moved_before)s, %(until)s, %(after)s, %(after_id)s, %(limit)s)"""

    COUNT = """
        SELECT commandbus.count_parked(%(domain)s, %(command_type)s, %(error_code)s, %(batch_id)s, %(moved_after)s,
                                       %(moved_before)s)"""

    # Parked commands as their operators see them, oldest first.
    SHOW = """
        SELECT command_id, domain, command_type, payload, error_code, error_message, attempts, total_attempts,
               max_attempts, lost_leases, correlation_id, process_id, step, batch_id, created_at, moved_at
          FROM commandbus.show_parked(%(command_ids)s)"""


class TroubleshootingParams:
    """Parameters of the statements above."""

    @staticmethod
    def find(
        where: TroubleshootingFilter, after: tuple[datetime, UUID] | None, until: datetime | None, limit: int
    ) -> dict[str, Any]:
        """Give what FIND compares: the filter, the place to go on after, the last time that counts."""
        moved_at, command_id = after or (None, None)
        return {**asdict(where), "after": moved_at, "after_id": command_id, "until": until, "limit": limit}


class TroubleshootingParsers:
    """Rows as values."""

    @staticmethod
    def item(row: tuple[Any, ...]) -> TroubleshootingItem:
        """Parse a row of SHOW."""
        values = list(row)
        values[3] = load_payload(row[3])
        return TroubleshootingItem(*values)
