"""What the auditor need not look at twice: commands and processes of which one pass shows that nothing is wrong.

Most went the plain way. A screen tells the others, in one pass over its tables, and the statements about trails and
paths read those alone. It may call a sound one odd; it never passes one that a statement would report.
"""

from dataclasses import dataclass
from typing import LiteralString


@dataclass(frozen=True)
class AuditScreen:
    """One screen: the parameter that has what it found, what it lets pass, and the SQL, which gives ids."""

    name: str
    description: str
    statement: LiteralString


COMMANDS = AuditScreen(
    name="odd_commands",
    description=(
        "COMPLETED, in no place of the live, by exactly SENT, RECEIVED and COMPLETED, in that order of number and "
        "time, at the times that the command says; claimed and settled by one worker under epoch 1, as attempt 1."
    ),
    # An event's number with its kind in the last two bits: the least and the largest tell which came first and last.
    statement="""
        SELECT coalesce(c.command_id, trail.command_id) AS id
          FROM commandbus.command c
          FULL JOIN (
               SELECT command_id, count(*) AS events, bit_or(1 << kind) AS kinds,
                      min(4 * event_id + kind) & 3 AS first_kind, max(4 * event_id + kind) & 3 AS last_kind,
                      sum(CASE WHEN kind = 1 THEN worker_id WHEN kind = 2 THEN - worker_id END) AS two_workers,
                      max(CASE WHEN kind = 0 THEN ts END) AS sent_ts, max(CASE WHEN kind = 1 THEN ts END) AS claimed_ts,
                      max(CASE WHEN kind = 2 THEN ts END) AS ended_ts
                 FROM (SELECT e.command_id, e.event_id, e.worker_id, e.ts,
                              CASE WHEN e.type = 'SENT' THEN 0
                                   WHEN e.worker_id IS NULL OR e.epoch IS DISTINCT FROM 1 THEN 3
                                   WHEN e.type = 'COMPLETED' THEN 2
                                   WHEN e.type = 'RECEIVED' AND e.attempt = 1 AND e.max_attempts >= 1
                                        AND e.lease_until IS NOT NULL THEN 1
                                   ELSE 3 END AS kind
                         FROM commandbus.event e OFFSET 0) e
                GROUP BY command_id
               ) trail ON trail.command_id = c.command_id
         WHERE NOT coalesce(
                   c.status = 'COMPLETED' AND c.updated_at >= c.created_at
                   AND trail.events = 3 AND trail.kinds = 7 AND trail.first_kind = 0 AND trail.last_kind = 2
                   AND trail.two_workers = 0 AND trail.sent_ts = c.created_at AND trail.ended_ts = c.completed_at
                   AND trail.claimed_ts BETWEEN c.created_at AND c.completed_at, false)
            OR c.command_id IN (SELECT command_id FROM commandbus.queue)
            OR c.command_id IN (SELECT command_id FROM commandbus.scheduled)
            OR c.command_id IN (SELECT command_id FROM commandbus.troubleshooting)
    """,
)

PROCESSES = AuditScreen(
    name="odd_processes",
    description=(
        "COMPLETED, waiting for nothing; its commands COMPLETED, each sent when the one before had ended, each of "
        "another step, none of which undoes anything, between its beginning and its end."
    ),
    statement="""
        SELECT coalesce(p.process_id, path.process_id) AS id
          FROM commandbus.process p
          FULL JOIN (
               SELECT s.process_id, count(*) AS commands, count(DISTINCT s.step) AS steps, bool_and(s.plain) AS plain,
                      min(s.created_at) AS first_sent, max(s.completed_at) AS last_ended
                 FROM (SELECT c.process_id, c.step, c.created_at, c.completed_at,
                              c.status = 'COMPLETED' AND c.compensates IS NULL
                              AND coalesce(c.completed_at >= c.created_at, false)
                              AND coalesce(c.created_at >= lag(c.completed_at) OVER path, true) AS plain
                         FROM commandbus.command c
                        WHERE c.process_id IS NOT NULL
                       WINDOW path AS (PARTITION BY c.process_id ORDER BY c.created_at, c.command_id)) s
                GROUP BY s.process_id
               ) path ON path.process_id = p.process_id
         WHERE NOT coalesce(
                   p.status = 'COMPLETED' AND p.command_id IS NULL AND p.undo IS NULL AND p.undone_status IS NULL
                   AND p.cancel_request IS NULL AND p.updated_at >= p.created_at
                   AND path.plain AND path.steps = path.commands AND path.first_sent >= p.created_at
                   AND p.completed_at >= path.last_ended, false)
    """,
)
