"""The statements by which tests look at their batches."""

from typing import LiteralString

# Why a command s (of commandbus.command_state; NULL for none) does not go on: what `<WHY>` stands for below.
_WHY = """
      LEFT JOIN commandbus.worker o ON o.worker_id = s.worker_id
     CROSS JOIN LATERAL (
           SELECT count(*) AS known, count(*) FILTER (WHERE s.command_type = ANY (l.command_types)) AS able
             FROM commandbus.worker l
            WHERE l.domain = s.domain AND l.stopped_at IS NULL AND l.alive_until >= clock_timestamp()) live
     CROSS JOIN LATERAL (SELECT ceil(extract(epoch FROM s.lease_until - commandbus.now()))) lease (seconds)
     CROSS JOIN LATERAL (SELECT CASE
           WHEN live.known = 0 THEN format('no worker works for domain %%L', s.domain)
           WHEN live.able = 0 THEN format('no worker of domain %%L has a handler for it', s.domain)
           ELSE 'no worker took it' END) taker (missing)
     CROSS JOIN LATERAL (SELECT CASE
           WHEN s.command_id IS NULL THEN 'it waits for no command'
           WHEN s.status = 'IN_TROUBLESHOOTING_QUEUE' THEN format('parked: %%s: %%s', s.error_code, s.error_message)
           WHEN s.due_at > commandbus.now() THEN format('retry due in %%s s after attempt %%s of %%s failed: %%s: %%s',
                ceil(extract(epoch FROM s.due_at - commandbus.now())), s.attempts, s.max_attempts,
                s.error_code, s.error_message)
           WHEN s.due_at IS NOT NULL THEN 'retry is due, ' || taker.missing
           WHEN s.worker_id IS NULL AND s.status = 'PENDING' THEN 'queued, ' || taker.missing
           WHEN s.worker_id IS NULL THEN format('its command is %%s, no reply reached it', s.status)
           WHEN s.lease_until <= commandbus.now() THEN 'its lease ran out'
           WHEN o.stopped_at IS NOT NULL OR o.alive_until < clock_timestamp()
                THEN format('leased for %%s s to a worker that is gone', lease.seconds)
           ELSE format('being handled, leased for another %%s s', lease.seconds) END) w (why)"""


def _explained(statement: LiteralString) -> LiteralString:
    return statement.replace("<WHY>", _WHY)


# Where the unfinished processes of a batch (of all, when it is null) stand, and why, in groups.
STUCK_PROCESSES = _explained("""
    SELECT p.process_type, p.status, p.current_step, w.why, count(*), min(p.process_id::text)::uuid
      FROM commandbus.process p
      LEFT JOIN commandbus.command_state s ON s.command_id = p.command_id<WHY>
     WHERE (%(batch_id)s::uuid IS NULL OR p.batch_id = %(batch_id)s) AND p.completed_at IS NULL
     GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC, 3, 4 LIMIT 10""")

# The same for commands that are of no process.
STUCK_COMMANDS = _explained("""
    SELECT s.command_type, s.status, s.step, w.why, count(*), min(s.command_id::text)::uuid
      FROM commandbus.command_state s<WHY>
     WHERE (%(batch_id)s::uuid IS NULL OR s.batch_id = %(batch_id)s)
       AND s.process_id IS NULL AND s.completed_at IS NULL
     GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC, 1, 4 LIMIT 10""")

LIVE_WORKERS = """
    SELECT count(*) FILTER (WHERE stopped_at IS NULL AND alive_until >= clock_timestamp()), count(*)
      FROM commandbus.worker"""

# Of all commands of a process, or of one command.
TIMELINE = """
    SELECT coalesce(c.step, c.command_type), c.command_type, c.command_id, coalesce(c.visit, 1),
           c.compensates IS NOT NULL, e.type, e.ts, e.attempt, e.epoch, e.worker_id, e.details
      FROM commandbus.command c JOIN commandbus.event e ON e.command_id = c.command_id
     WHERE c.process_id = %(id)s OR c.command_id = %(id)s
     ORDER BY e.ts, c.created_at, e.event_id"""

# Processes that failed, are parked or did not end, the worst first, with why they do not go on.
TROUBLED_PROCESSES = _explained("""
    SELECT p.process_id, p.process_type, p.ordinal, p.status, p.current_step, p.error_code, p.error_message,
           CASE WHEN p.completed_at IS NULL AND p.status <> 'WAITING_FOR_TSQ' THEN w.why END
      FROM commandbus.process p
      LEFT JOIN commandbus.command_state s ON s.command_id = p.command_id<WHY>
     WHERE p.batch_id = ANY (%(batch_ids)s) AND p.status NOT IN ('COMPLETED', 'COMPENSATED')
     ORDER BY CASE p.status WHEN 'FAILED' THEN 0 WHEN 'WAITING_FOR_TSQ' THEN 2 WHEN 'CANCELED' THEN 3 ELSE 1 END,
              p.ordinal, p.process_id
     LIMIT %(limit)s""")

# The same for the commands of batches of commands.
TROUBLED_COMMANDS = _explained("""
    SELECT s.command_id, s.command_type, s.ordinal, s.status, NULL, s.error_code, s.error_message,
           CASE WHEN s.completed_at IS NULL AND s.status <> 'IN_TROUBLESHOOTING_QUEUE' THEN w.why END
      FROM commandbus.command_state s<WHY>
     WHERE s.batch_id = ANY (%(batch_ids)s) AND s.status <> 'COMPLETED'
     ORDER BY CASE s.status WHEN 'FAILED' THEN 0 WHEN 'IN_TROUBLESHOOTING_QUEUE' THEN 2 WHEN 'CANCELED' THEN 3
              ELSE 1 END,
              s.ordinal, s.command_id
     LIMIT %(limit)s""")

# How every process of a batch (of this number in its test) ended, with the failed attempts of each of its steps.
OBSERVED = """
    WITH batch AS (
        SELECT array_agg(b.batch_id) AS ids FROM e2e.test_batch b WHERE b.number = %(number)s
    ), failed AS (
        SELECT c.process_id, c.step, count(*) AS failures, count(*) FILTER (WHERE e.type = 'RETRY_SCHEDULED') AS retries
          FROM commandbus.process p
          JOIN commandbus.command c ON c.process_id = p.process_id
          JOIN commandbus.event e ON e.command_id = c.command_id
         WHERE p.batch_id = ANY ((SELECT ids FROM batch)::uuid[])
           AND e.type IN ('RETRY_SCHEDULED', 'MOVED_TO_TSQ', 'BUSINESS_RULE_FAILED', 'ATTEMPTS_EXHAUSTED')
           AND e.worker_id IS NOT NULL
         GROUP BY c.process_id, c.step
    ), failures AS (
        SELECT process_id, json_object_agg(step, failures) AS by_step, sum(retries)::integer AS retries
          FROM failed GROUP BY process_id
    )
    SELECT p.ordinal, p.status,
           CASE WHEN p.status = 'CANCELED' THEN (
                    SELECT c.step FROM commandbus.command c
                     WHERE c.process_id = p.process_id AND c.compensates IS NULL AND c.status <> 'COMPLETED' LIMIT 1)
                WHEN p.status <> 'COMPLETED' THEN p.current_step END,
           coalesce(f.by_step, '{}'), coalesce(f.retries, 0)
      FROM commandbus.process p LEFT JOIN failures f ON f.process_id = p.process_id
     WHERE p.batch_id = ANY ((SELECT ids FROM batch)::uuid[]) ORDER BY p.ordinal"""

# The shards of a load test share a database: the first one to come stores the run, the others wait and see it.
LOCK_CHAOS_RUN = "LOCK TABLE e2e.chaos_run IN SHARE ROW EXCLUSIVE MODE"
HAS_CHAOS_RUN = "SELECT EXISTS (SELECT FROM e2e.chaos_run)"

# All connections of the server, those that only a superuser may have, and those of others than the run of this prefix.
CONNECTIONS = """
    SELECT current_setting('max_connections')::integer,
           current_setting('superuser_reserved_connections')::integer
               + coalesce(current_setting('reserved_connections', true), '0')::integer,
           (SELECT count(*) FROM pg_stat_activity
             WHERE datname IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend'
               AND NOT starts_with(datname, %(prefix)s) AND application_name <> %(admin)s)"""

CLAIMS = "SELECT count(*) FROM commandbus.event WHERE type = 'RECEIVED'"

# A worker process that was killed cannot tell; its leases need not be waited for.
WORKER_IS_GONE = """
    UPDATE commandbus.worker SET stopped_at = clock_timestamp()
     WHERE pid = %(pid)s AND host = %(host)s AND stopped_at IS NULL"""

COMMANDS_OF_BATCH = """
    SELECT command_id FROM commandbus.command_state
     WHERE batch_id = %(batch_id)s AND (%(status)s::text IS NULL OR status = %(status)s)
     ORDER BY ordinal"""
