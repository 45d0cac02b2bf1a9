"""Statements on commandbus.worker. Its times are wall time: see the table's comment."""


class WorkerSQL:
    """Registration and heartbeat."""

    REGISTER = """
        INSERT INTO commandbus.worker (domain, host, pid, command_types, process_types, concurrency,
                                       started_at, heartbeat_at, alive_until)
        VALUES (%(domain)s, %(host)s, %(pid)s, %(command_types)s, %(process_types)s, %(concurrency)s,
                clock_timestamp(), clock_timestamp(), clock_timestamp() + %(alive_for)s)
        RETURNING worker_id"""

    HEARTBEAT = """
        UPDATE commandbus.worker
           SET heartbeat_at = clock_timestamp(), alive_until = clock_timestamp() + %(alive_for)s,
               claimed = %(claimed)s, completed = %(completed)s, failed = %(failed)s, retried = %(retried)s,
               parked = %(parked)s, dropped = %(dropped)s,
               stopped_at = CASE WHEN %(stopped)s THEN clock_timestamp() END
         WHERE worker_id = %(worker_id)s"""

    # Whether some live worker handles a command type.
    HANDLES = """
        SELECT EXISTS (
            SELECT FROM commandbus.worker
             WHERE domain = %(domain)s AND command_types @> ARRAY[%(command_type)s]::text[]
               AND stopped_at IS NULL AND alive_until > clock_timestamp())"""

    # The command types that other live workers of the worker's domain handle, and it does not.
    OTHERS_TYPES = """
        SELECT DISTINCT t.command_type
          FROM commandbus.worker own
          JOIN commandbus.worker w
            ON w.domain = own.domain AND w.stopped_at IS NULL AND w.alive_until > clock_timestamp()
         CROSS JOIN LATERAL unnest(w.command_types) AS t (command_type)
         WHERE own.worker_id = %(worker_id)s AND NOT t.command_type = ANY (own.command_types)"""
