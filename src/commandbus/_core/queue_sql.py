"""The worker's statements: claim, renew, release, sweep. How it settles is in settle_sql."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID


@dataclass(slots=True)
class Claimed:
    """A claimed command with its process, as commandbus.claim returns it; JSON is still text."""

    seq: int
    epoch: int
    failures: int
    past_failures: int
    lost_leases: int
    max_attempts: int
    lease_until: datetime
    waited: float  # seconds in the queue until this claim
    command_id: UUID
    command_type: str
    payload: str
    correlation_id: UUID | None
    reply_to: str | None
    batch_id: UUID | None
    ordinal: int | None
    created_at: datetime
    process_id: UUID | None
    step: str | None
    visit: int | None
    compensates: UUID | None
    process_type: str | None
    process_status: str | None
    state: str | None
    process_batch_id: UUID | None
    process_ordinal: int | None
    visits: str | None
    undo: str | None
    undone_status: str | None
    canceling: bool = False  # its process was cancelled while a worker had it
    headers: str | None = None


class QueueSQL:
    """Each is one function of the schema: see its comment there."""

    # The fields of Claimed by name: so a worker outlives a migration whose claim returns more.
    CLAIM = """
        SELECT seq, epoch, failures, past_failures, lost_leases, max_attempts, lease_until, waited, command_id,
               command_type, payload, correlation_id, reply_to, batch_id, ordinal, created_at, process_id, step, visit,
               compensates, process_type, process_status, state, process_batch_id, process_ordinal, visits, undo,
               undone_status, canceling, headers
          FROM commandbus.claim(%(domain)s, %(worker)s, %(limit)s, %(lease)s, %(max_attempts)s, %(after)s,
                                %(only)s::text, %(except)s::text[])"""
    RENEW = """
        SELECT seq, lease_until
          FROM commandbus.renew(%(worker)s, %(command_ids)s, %(epochs)s, %(lease)s, %(audited)s)"""
    RELEASE = "SELECT commandbus.release(%(domain)s, %(worker)s, %(command_ids)s, %(epochs)s)"
    # Gives back what a worker leased by a claim whose answer it never got: what it holds but for `known`.
    RELEASE_UNKNOWN = """
        SELECT commandbus.release(%(domain)s, %(worker)s, array_agg(q.command_id), array_agg(q.epoch))
          FROM commandbus.queue q
         WHERE q.domain = %(domain)s AND q.worker_id = %(worker)s AND q.seq <> ALL (%(known)s::bigint[])
        HAVING count(*) > 0"""
    LOCK_CLAIMS = """
        SELECT seq, canceling FROM commandbus.lock_claims(%(worker)s, %(command_ids)s, %(epochs)s)"""
    SWEEP = "SELECT commandbus.sweep(%(domain)s, %(upto)s)"

    # When the next retry of a domain is due, as seconds from now on the bus's clock.
    NEXT_DUE = """
        SELECT extract(epoch FROM min(due_at) - commandbus.now())::float8
          FROM commandbus.scheduled WHERE domain = %(domain)s"""


class QueueParams:
    """Parameters of the statements above."""

    @staticmethod
    def claims(worker_id: int, claims: Sequence[Claimed]) -> dict[str, Any]:
        """Name claims by the command and the epoch that fences them."""
        return {
            "worker": worker_id,
            "command_ids": [c.command_id for c in claims],
            "epochs": [c.epoch for c in claims],
        }

    @staticmethod
    def lease(seconds: float) -> timedelta:
        """Give a lease's length in the type of the parameter."""
        return timedelta(seconds=seconds)
