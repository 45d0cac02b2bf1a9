"""Statements on commandbus.troubleshooting."""

from dataclasses import dataclass
from uuid import UUID


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

    TAKE = """
        WITH taken AS (DELETE FROM commandbus.troubleshooting WHERE command_id = %(command_id)s RETURNING *)
        SELECT t.command_id, t.domain, t.command_type, t.epoch, t.failures, t.past_failures, t.lost_leases,
               t.max_attempts, c.correlation_id, c.reply_to, c.process_id, c.step, c.compensates,
               p.process_type, p.domain AS process_domain, p.state::text AS state, p.batch_id AS process_batch_id,
               p.ordinal AS process_ordinal, p.visits::text AS visits, p.undo::text AS undo, p.undone_status
          FROM taken t
          JOIN commandbus.command c ON c.command_id = t.command_id
          LEFT JOIN commandbus.process p ON p.process_id = c.process_id"""

    STATUS = "SELECT status FROM commandbus.command_state WHERE command_id = %(command_id)s"

    REQUEUE = "SELECT commandbus.requeue(%(commands)s::json)"

    RECORD = "SELECT commandbus.record_outcomes(NULL, %(outcomes)s::json)"
