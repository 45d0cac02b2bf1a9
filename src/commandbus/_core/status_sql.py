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

    # What was done in steps of p seconds, whole ones only, with the histograms of each added up. The primary key finds
    # the seconds; what workers have not stored yet lies behind.
    HISTORY = """
        WITH bounds AS (
            SELECT date_bin(%(step)s * interval '1 second',
                            clock_timestamp() - %(behind)s * interval '1 second', 'epoch') AS until
        ), recent AS MATERIALIZED (
            SELECT date_bin(%(step)s * interval '1 second', s.second, 'epoch') AS at, s.*
              FROM bounds b JOIN commandbus.worker_statistic s
                ON s.second < b.until AND s.second >= b.until - %(seconds)s * interval '1 second'
        ), ran AS (
            SELECT at, array_agg(bucket) AS buckets, array_agg(n) AS counts
              FROM (SELECT r.at, h.bucket, sum(h.n)::bigint AS n
                      FROM recent r CROSS JOIN LATERAL unnest(r.run_buckets, r.run_counts) AS h (bucket, n)
                     GROUP BY r.at, h.bucket) b
             GROUP BY at
        ), waited AS (
            SELECT at, array_agg(bucket) AS buckets, array_agg(n) AS counts
              FROM (SELECT r.at, h.bucket, sum(h.n)::bigint AS n
                      FROM recent r CROSS JOIN LATERAL unnest(r.wait_buckets, r.wait_counts) AS h (bucket, n)
                     GROUP BY r.at, h.bucket) b
             GROUP BY at
        ), counted AS (
            SELECT at, sum(claimed) AS claimed, sum(completed) AS completed, sum(failed) AS failed,
                   sum(retried) AS retried, sum(parked) AS parked,
                   sum(run_seconds) AS run_seconds, sum(wait_seconds) AS wait_seconds
              FROM recent GROUP BY at
        )
        SELECT g.at, coalesce(c.claimed, 0), coalesce(c.completed, 0), coalesce(c.failed, 0), coalesce(c.retried, 0),
               coalesce(c.parked, 0), coalesce(c.run_seconds, 0), ran.buckets, ran.counts,
               coalesce(c.wait_seconds, 0), waited.buckets, waited.counts
          FROM bounds b
         CROSS JOIN LATERAL generate_series(b.until - %(seconds)s * interval '1 second',
                                            b.until - %(step)s * interval '1 second',
                                            %(step)s * interval '1 second') AS g (at)
          LEFT JOIN counted c USING (at) LEFT JOIN ran USING (at) LEFT JOIN waited USING (at)
         ORDER BY g.at"""
