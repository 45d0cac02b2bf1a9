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

    # Whether anything was sent after an event, or sent again by an operator.
    MORE_SENT: LiteralString = """
        SELECT EXISTS (SELECT FROM commandbus.event e
                        WHERE e.event_id > %(since)s AND e.type IN ('SENT', 'OPERATOR_RETRY'))"""

    TABLES: LiteralString = """
        SELECT c.relname FROM pg_catalog.pg_class c
         WHERE c.relnamespace = 'commandbus'::regnamespace AND c.relkind = 'r' ORDER BY c.relname"""

    VACUUM: LiteralString = "VACUUM (SKIP_LOCKED) {tables}"

    DEAD_ROWS: LiteralString = """
        SELECT s.relname, s.n_dead_tup FROM pg_catalog.pg_stat_all_tables s
         WHERE s.schemaname = 'commandbus' AND s.n_dead_tup > 0 ORDER BY s.relname"""

    # What may keep VACUUM from rows: a transaction that is open, or prepared, or a standby behind a slot.
    HOLDERS: LiteralString = """
        SELECT format('session %%s (%%s)', a.pid, a.application_name), a.application_name = %(name)s
          FROM pg_catalog.pg_stat_activity a
         WHERE (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL) AND a.pid <> pg_catalog.pg_backend_pid()
        UNION ALL
        SELECT format('the prepared transaction %%s', p.gid), false FROM pg_catalog.pg_prepared_xacts p
        UNION ALL
        SELECT format('the replication slot %%s', r.slot_name), false FROM pg_catalog.pg_replication_slots r
         WHERE r.xmin IS NOT NULL"""
