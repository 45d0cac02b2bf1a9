"""What the bus is doing: statements that look at a bounded number of rows, whatever has piled up."""


class StatusSQL:
    """The functions say how they count: see their comments. Rates and latencies go by wall time."""

    DOMAINS = """
        SELECT domain, backlog, oldest_due, in_flight, expired_leases, is_estimated, scheduled, parked
          FROM commandbus.bus_status(%(domain)s)"""

    ACTIVITY = """
        SELECT domain, command_type, claimed, completed, failed, retried, parked,
               run_seconds, run_buckets, run_counts, wait_seconds, wait_buckets, wait_counts
          FROM commandbus.activity(%(domain)s, %(seconds)s, %(behind)s)"""

    # Workers that run, and those that died within the last hour; not those that have stopped.
    WORKERS = """
        SELECT worker_id, domain, host, pid, version, alive_until > clock_timestamp() AS is_alive, concurrency,
               command_types, process_types, started_at, heartbeat_at, stop_requested_at,
               claimed, completed, failed, retried, parked, dropped
          FROM commandbus.worker
         WHERE stopped_at IS NULL AND alive_until > clock_timestamp() - interval '1 hour'
           AND (domain = %(domain)s OR %(domain)s::text IS NULL)
         ORDER BY domain, worker_id"""

    # Replies that nobody has taken yet, of all domains, counted up to a limit, and how long the oldest has waited.
    REPLIES = """
        SELECT clock_timestamp(),
               (SELECT count(*) FROM (SELECT FROM commandbus.reply LIMIT %(limit)s) r),
               (SELECT extract(epoch FROM commandbus.now() - r.created_at)::float8
                  FROM commandbus.reply r ORDER BY r.reply_id LIMIT 1)"""
