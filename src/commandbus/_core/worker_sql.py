"""Statements on commandbus.worker and its statistics. Their times are wall time: see the tables' comments."""

from psycopg.sql import SQL


class WorkerSQL:
    """Registration and heartbeat."""

    REGISTER = """
        INSERT INTO commandbus.worker (domain, host, pid, command_types, process_types, concurrency, version,
                                       started_at, heartbeat_at, alive_until)
        VALUES (%(domain)s, %(host)s, %(pid)s, %(command_types)s, %(process_types)s, %(concurrency)s, %(version)s,
                clock_timestamp(), clock_timestamp(), clock_timestamp() + %(alive_for)s)
        RETURNING worker_id, extract(epoch FROM clock_timestamp())::float8"""

    # The command types that other live workers of the worker's domain handle, and it does not.
    OTHERS_TYPES = """
        SELECT DISTINCT t.command_type
          FROM commandbus.worker own
          JOIN commandbus.worker w
            ON w.domain = own.domain AND w.stopped_at IS NULL AND w.alive_until > clock_timestamp()
         CROSS JOIN LATERAL unnest(w.command_types) AS t (command_type)
         WHERE own.worker_id = %(worker_id)s AND NOT t.command_type = ANY (own.command_types)"""

    # Stores what was done, each second once, whatever number of times it is sent; tells the time, others' types, and
    # whether the worker is to stop.
    HEARTBEAT = SQL(
        """
        WITH beat AS (
            UPDATE commandbus.worker
               SET heartbeat_at = clock_timestamp(), alive_until = clock_timestamp() + %(alive_for)s,
                   claimed = %(claimed)s, completed = %(completed)s, failed = %(failed)s, retried = %(retried)s,
                   parked = %(parked)s, dropped = %(dropped)s,
                   stopped_at = CASE WHEN %(stopped)s THEN clock_timestamp() END
             WHERE worker_id = %(worker_id)s
            RETURNING worker_id, stop_requested_at IS NOT NULL AS is_to_stop
        ), stored AS (
            INSERT INTO commandbus.worker_statistic (
                   second, worker_id, command_type, claimed, completed, failed, retried, parked,
                   run_seconds, run_buckets, run_counts, wait_seconds, wait_buckets, wait_counts)
            SELECT to_timestamp(s.second), beat.worker_id, s.command_type, s.claimed, s.completed, s.failed,
                   s.retried, s.parked, s.run_seconds, s.run_buckets, s.run_counts,
                   s.wait_seconds, s.wait_buckets, s.wait_counts
              FROM beat CROSS JOIN json_to_recordset(%(statistics)s::json) AS s (
                   second bigint, command_type text, claimed integer, completed integer, failed integer,
                   retried integer, parked integer,
                   run_seconds double precision, run_buckets smallint[], run_counts integer[],
                   wait_seconds double precision, wait_buckets smallint[], wait_counts integer[])
            ON CONFLICT DO NOTHING
        )
        SELECT extract(epoch FROM clock_timestamp())::float8, ARRAY({others_types}),
               coalesce((SELECT is_to_stop FROM beat), false)"""
    ).format(others_types=SQL(OTHERS_TYPES))

    # Drops old statistics of all workers, dead ones too; skips what another worker is dropping.
    FORGET = """
        DELETE FROM commandbus.worker_statistic s
         USING (SELECT o.second, o.worker_id, o.command_type
                  FROM commandbus.worker_statistic o
                 WHERE o.second < clock_timestamp() - %(kept)s
                 ORDER BY o.second LIMIT 10000 FOR UPDATE SKIP LOCKED) old
         WHERE (s.second, s.worker_id, s.command_type) = (old.second, old.worker_id, old.command_type)"""

    # Asks live workers to stop: those of a domain, those with these ids, or all; one that was asked before stays so.
    REQUEST_STOP = """
        UPDATE commandbus.worker
           SET stop_requested_at = coalesce(stop_requested_at, clock_timestamp())
         WHERE stopped_at IS NULL AND alive_until > clock_timestamp()
           AND (domain = %(domain)s OR %(domain)s::text IS NULL)
           AND (worker_id = ANY (%(worker_ids)s) OR %(worker_ids)s::integer[] IS NULL)
        RETURNING worker_id"""

    # Whether some live worker handles a command type.
    HANDLES = """
        SELECT EXISTS (
            SELECT FROM commandbus.worker
             WHERE domain = %(domain)s AND command_types @> ARRAY[%(command_type)s]::text[]
               AND stopped_at IS NULL AND alive_until > clock_timestamp())"""
