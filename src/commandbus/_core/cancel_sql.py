"""Statements that cancel processes and batches."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from commandbus.process.models import CANCELED, CancelRequest


@dataclass(slots=True)
class Taken:
    """A process whose command was taken back or marked, as commandbus.cancel_processes returns it; JSON is still text.

    `place` says where the command was. Only process_id is set for one that ends first (claimed, answered).
    """

    place: str
    process_id: UUID
    process_type: str | None
    process_domain: str | None
    state: str | None
    batch_id: UUID | None
    ordinal: int | None
    visits: str | None
    current_step: str | None
    command_id: UUID | None
    epoch: int | None
    failures: int | None
    max_attempts: int | None

    @property
    def is_ended_first(self) -> bool:
        """Whether its command is in flight, or its reply under way."""
        return self.place in ("claimed", "answered")


class CancelSQL:
    """Whoever holds the live row decides; see the comments of the functions."""

    PROCESSES = """
        SELECT place, process_id, process_type, process_domain, state, batch_id, ordinal, visits, current_step,
               command_id, epoch, failures, max_attempts
          FROM commandbus.cancel_processes(%(process_ids)s::uuid[], %(request)s::json, %(wait)s)"""

    # What a process is that was not there to be taken.
    STATE = """
        SELECT process_type, status, current_step, undone_status IS NOT NULL, cancel_request ->> 'operator'
          FROM commandbus.process WHERE process_id = %(process_id)s"""

    TAKE_UNCLAIMED = """
        SELECT command_id, epoch, failures, max_attempts, reply_to, correlation_id
          FROM commandbus.take_unclaimed(%(command_ids)s::uuid[], %(wait)s)"""

    RECORD = "SELECT commandbus.record_outcomes(NULL, %(outcomes)s::json)"

    # Those that stand unclaimed all the same, since somebody held them just then.
    MISSED = """
        SELECT i.id FROM unnest(%(command_ids)s::uuid[]) AS i (id)
         WHERE EXISTS (SELECT FROM commandbus.queue q WHERE q.command_id = i.id AND q.worker_id IS NULL)
            OR EXISTS (SELECT FROM commandbus.scheduled s WHERE s.command_id = i.id)"""

    # Shuts a batch of processes: those who start some in it have ended, later ones will be refused.
    LOCK_BATCH = "SELECT FROM commandbus.batch WHERE batch_id = %(batch_id)s FOR UPDATE"

    # What was never started is no longer waited for. An empty batch has ended.
    CLOSE_BATCH = """
        UPDATE commandbus.batch b
           SET canceled_at = coalesce(b.canceled_at, commandbus.now()), total_count = least(b.total_count, m.n),
               status = CASE WHEN m.n = 0 THEN 'COMPLETED' ELSE b.status END,
               completed_at = CASE WHEN m.n = 0 THEN commandbus.now() END
          FROM (SELECT count(*) AS n FROM commandbus.process WHERE batch_id = %(batch_id)s) m
         WHERE b.batch_id = %(batch_id)s"""

    # The types of the processes that are to be cancelled.
    OPEN_TYPES = """
        SELECT DISTINCT process_type FROM commandbus.process
         WHERE batch_id = %(batch_id)s
           AND status IN ('PENDING', 'IN_PROGRESS', 'WAITING_FOR_REPLY', 'WAITING_FOR_TSQ') AND undone_status IS NULL"""

    # The next processes to cancel; one that was is found no more.
    OPEN_PROCESSES = """
        SELECT process_id FROM commandbus.process
         WHERE batch_id = %(batch_id)s
           AND status IN ('PENDING', 'IN_PROGRESS', 'WAITING_FOR_REPLY', 'WAITING_FOR_TSQ') AND undone_status IS NULL
           AND (cancel_request IS NULL OR status = 'WAITING_FOR_TSQ')
         LIMIT %(limit)s"""

    # Processes whose command has still to end.
    PROCESSES_IN_FLIGHT = """
        SELECT count(*) FROM commandbus.process
         WHERE batch_id = %(batch_id)s AND status = 'WAITING_FOR_REPLY' AND cancel_request IS NOT NULL"""

    # The next commands of a batch that have not ended, in their order.
    LIVE_COMMANDS = """
        SELECT ordinal, command_id FROM commandbus.command
         WHERE batch_id = %(batch_id)s AND ordinal > %(after)s AND status = 'PENDING'
         ORDER BY ordinal LIMIT %(limit)s"""

    COMMANDS_IN_FLIGHT = """
        SELECT count(*) FROM commandbus.command c JOIN commandbus.queue q ON q.command_id = c.command_id
         WHERE c.batch_id = %(batch_id)s AND c.status = 'PENDING' AND q.worker_id IS NOT NULL"""


class CancelParams:
    """Parameters of the statements above."""

    @staticmethod
    def details(request: CancelRequest) -> str:
        """Give who cancels as JSON text."""
        return orjson.dumps({"operator": request.operator, "reason": request.reason}).decode()

    @staticmethod
    def of_process(taken: Taken, request: CancelRequest) -> dict[str, Any]:
        """Give the row that RECORD takes for a process's command that was taken back."""
        row = CancelParams._outcome(taken.command_id, taken.epoch, taken.failures, taken.max_attempts, request)
        return row | {"event": "OPERATOR_CANCEL"} if taken.place == "troubleshooting" else row

    @staticmethod
    def of_batch(row: tuple[Any, ...], request: CancelRequest) -> dict[str, Any]:
        """Give the row that RECORD takes for one of TAKE_UNCLAIMED."""
        command_id, epoch, failures, max_attempts, reply_to, correlation_id = row
        outcome = CancelParams._outcome(command_id, epoch, failures, max_attempts, request)
        if reply_to is not None:
            outcome |= {"reply_to": reply_to, "reply_outcome": "CANCELED", "correlation_id": correlation_id}
        return outcome

    @staticmethod
    def _outcome(
        command_id: UUID | None,
        epoch: int | None,
        failures: int | None,
        max_attempts: int | None,
        request: CancelRequest,
    ) -> dict[str, Any]:
        return {
            "command_id": command_id,
            "event": "CANCELED",
            "status": "CANCELED",
            "error_code": CANCELED,
            "error_message": request.message,
            "attempts": failures,
            "epoch": epoch,
            "max_attempts": max_attempts,
            "details": {"operator": request.operator, "reason": request.reason},
        }
