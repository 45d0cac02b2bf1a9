"""The statements by which what was seen from outside is held against the database."""

from typing import LiteralString


class LedgerSQL:
    """Each returns what is wrong, no rows in a sound database."""

    MISSING: LiteralString = """
        SELECT l.command_id FROM unnest(%(command_ids)s::uuid[]) AS l (command_id)
         WHERE NOT EXISTS (SELECT FROM commandbus.command c WHERE c.command_id = l.command_id)"""

    UNFILLED: LiteralString = """
        SELECT l.batch_id, l.members, m.members
          FROM unnest(%(batch_ids)s::uuid[], %(members)s::integer[]) AS l (batch_id, members)
         CROSS JOIN LATERAL (
                SELECT (SELECT count(*) FROM commandbus.command c WHERE c.batch_id = l.batch_id)
                     + (SELECT count(*) FROM commandbus.process p WHERE p.batch_id = l.batch_id)) AS m (members)
         WHERE m.members < l.members"""

    # Of the commands of no process: those are sent by their managers.
    UNSENT: LiteralString = """
        SELECT c.command_id FROM commandbus.command c
         WHERE c.process_id IS NULL AND NOT c.command_id = ANY (%(command_ids)s::uuid[])"""

    UNCLAIMED_RUNS: LiteralString = """
        SELECT l.command_id, l.epoch
          FROM unnest(%(command_ids)s::uuid[], %(epochs)s::integer[]) AS l (command_id, epoch)
         WHERE NOT EXISTS (SELECT FROM commandbus.event e
                            WHERE e.command_id = l.command_id AND e.type = 'RECEIVED' AND e.epoch = l.epoch)"""

    # Every event with a digest of all that it says; at most so many, so that a large trail costs no more.
    TRAIL: LiteralString = """
        SELECT e.event_id, e.command_id, hashtextextended(e::text, 0) FROM commandbus.event e
         ORDER BY e.event_id LIMIT %(most)s"""

    # Which of the given events are no longer there, or say something else.
    CHANGED: LiteralString = """
        SELECT t.command_id, t.event_id, e.event_id IS NULL
          FROM unnest(%(event_ids)s::bigint[], %(command_ids)s::uuid[], %(digests)s::bigint[])
               AS t (event_id, command_id, digest)
          LEFT JOIN commandbus.event e ON e.command_id = t.command_id AND e.event_id = t.event_id
         WHERE e.event_id IS NULL OR hashtextextended(e::text, 0) <> t.digest"""

    # Sessions of workers that have stopped, with the locks that they hold.
    SESSIONS: LiteralString = """
        SELECT a.pid, a.state, (SELECT count(*) FROM pg_catalog.pg_locks l WHERE l.pid = a.pid), left(a.query, 200)
          FROM pg_catalog.pg_stat_activity a WHERE a.application_name = %(name)s AND a.pid <> pg_backend_pid()"""
