-- Workers register and tell that they live. These times are wall time (clock_timestamp), never the bus's
-- clock: a test that skips time must not make a live worker look dead.

CREATE TABLE commandbus.worker (
    worker_id     integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    domain        text        NOT NULL,
    host          text        NOT NULL,
    pid           integer     NOT NULL,
    command_types text[]      NOT NULL,
    process_types text[]      NOT NULL,
    concurrency   integer     NOT NULL,
    version       text        NOT NULL DEFAULT '',   -- of this library
    started_at    timestamptz NOT NULL,
    heartbeat_at  timestamptz NOT NULL,
    alive_until   timestamptz NOT NULL,      -- ten missed heartbeats from heartbeat_at
    stop_requested_at timestamptz,           -- it reads so with its next heartbeat, and stops gracefully
    stopped_at    timestamptz,
    claimed       bigint      NOT NULL DEFAULT 0,
    completed     bigint      NOT NULL DEFAULT 0,
    failed        bigint      NOT NULL DEFAULT 0,
    retried       bigint      NOT NULL DEFAULT 0,
    parked        bigint      NOT NULL DEFAULT 0,
    dropped       bigint      NOT NULL DEFAULT 0
);

-- What a worker did, by second and command type: percentiles over a window cost a few rows, not a scan of commands.
-- Written by the heartbeat, each second once, when it has ended; a worker that does nothing writes nothing. Workers
-- drop what is older than an hour, so that its size goes with the number of workers, not with that of commands.
--
-- The histograms are sparse: run_counts[i] handlers ran for a time of bucket run_buckets[i], wait_counts[i] commands
-- stood in the queue for one of wait_buckets[i] before they were claimed. Bucket n ends, inclusively, at
-- 1e-6 * (1.05 / 0.95) ^ n seconds, for every worker, so that counts of the same bucket add up.
CREATE TABLE commandbus.worker_statistic (
    second        timestamptz      NOT NULL,   -- wall time
    worker_id     integer          NOT NULL,
    command_type  text             NOT NULL,
    claimed       integer          NOT NULL,
    completed     integer          NOT NULL,
    failed        integer          NOT NULL,
    retried       integer          NOT NULL,
    parked        integer          NOT NULL,
    run_seconds   double precision NOT NULL,   -- the exact sum
    run_buckets   smallint[]       NOT NULL,
    run_counts    integer[]        NOT NULL,
    wait_seconds  double precision NOT NULL,
    wait_buckets  smallint[]       NOT NULL,
    wait_counts   integer[]        NOT NULL,
    PRIMARY KEY (second, worker_id, command_type),
    CONSTRAINT worker_statistic_histograms_whole CHECK
        (cardinality(run_buckets) = cardinality(run_counts) AND cardinality(wait_buckets) = cardinality(wait_counts))
);

-- What the bus is doing, for operators: cheap whatever has piled up.
--
-- Nothing here counts a whole backlog. Each count looks at 10,000 rows at most, found by their index, and says whether
-- it went on beyond them. The queue of a domain is then estimated: rows are counted in 500 short stretches of seq,
-- spread evenly and at random over what lies beyond the first 10,000 rows. That needs no statistics, and is off by a
-- few percent where this domain's commands alternate with those of others, by less where they do not. The stretches stay
-- for a minute, so that a dashboard which asks every second reads the same pages, and does not flicker.

-- The queue of one domain: what is due (retries that are due too), since when, what is leased, what lost its lease.
CREATE FUNCTION commandbus.queue_depth(
    p_domain text, OUT due bigint, OUT oldest timestamptz, OUT in_flight bigint, OUT expired bigint,
    OUT is_estimated boolean)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_sort = off SET enable_bitmapscan = off
AS $$
DECLARE
    v_now     timestamptz := commandbus.now();
    c_exact   CONSTANT bigint := 10000;
    c_places  CONSTANT bigint := 500;
    c_stretch CONSTANT bigint := 10;     -- seqs: half a page or less, so that most stretches read one
    v_minute  bigint := extract(epoch FROM clock_timestamp())::bigint / 60;
    v_seen    bigint;
    v_first   bigint;      -- the first seq beyond what was counted
    v_range   bigint;      -- how many seqs lie there
    v_factor  double precision;
    v_more    record;
BEGIN
    SELECT count(*) FILTER (WHERE q.worker_id IS NULL), min(q.queued_at) FILTER (WHERE q.worker_id IS NULL),
           count(*) FILTER (WHERE q.lease_until > v_now), count(*) FILTER (WHERE q.lease_until <= v_now),
           count(*), max(q.seq) + 1
      INTO due, oldest, in_flight, expired, v_seen, v_first
      FROM (SELECT q.seq, q.worker_id, q.queued_at, q.lease_until FROM commandbus.queue q
             WHERE q.domain = p_domain ORDER BY q.seq LIMIT c_exact) q;
    is_estimated := false;

    IF v_seen = c_exact THEN
        SELECT l.seq + 1 - v_first INTO v_range
          FROM (SELECT q.seq FROM commandbus.queue q
                 WHERE q.domain = p_domain ORDER BY q.seq DESC LIMIT 1) l;
        is_estimated := v_range > c_exact;
        v_factor := CASE WHEN is_estimated THEN v_range / (c_places * c_stretch)::float8 ELSE 1 END;
        SELECT count(*) FILTER (WHERE q.worker_id IS NULL) AS due,
               count(*) FILTER (WHERE q.lease_until > v_now) AS in_flight,
               count(*) FILTER (WHERE q.lease_until <= v_now) AS expired
          INTO v_more
          FROM (SELECT v_first + floor(n * (v_range / c_places::float8)
                           + (hashint8extended(n, v_minute) & 1048575) / 1048576.0::float8
                             * (v_range / c_places::float8 - c_stretch))::bigint AS low,
                       c_stretch AS wide
                  FROM generate_series(0, c_places - 1) n WHERE is_estimated
                UNION ALL SELECT v_first, c_exact WHERE NOT is_estimated) s
         CROSS JOIN LATERAL (         -- OFFSET keeps the planner from beginning with the whole domain
                SELECT q.worker_id, q.lease_until FROM commandbus.queue q
                 WHERE q.domain = p_domain AND q.seq >= s.low AND q.seq < s.low + s.wide OFFSET 0) q;
        due := due + round(v_more.due * v_factor);
        in_flight := in_flight + round(v_more.in_flight * v_factor);
        expired := expired + round(v_more.expired * v_factor);
    END IF;

    SELECT due + count(*), least(oldest, min(s.due_at)) INTO due, oldest
      FROM (SELECT s.due_at FROM commandbus.scheduled s
             WHERE s.domain = p_domain AND s.due_at <= v_now ORDER BY s.domain, s.due_at LIMIT c_exact) s;
END
$$;

-- One row for each domain that has a live command or a live worker, or for the one that is asked for. `oldest_due` is
-- in seconds; `parked` maps command types to counts. Counts of scheduled and parked stop at 10,000, for each type.
CREATE FUNCTION commandbus.bus_status(p_domain text)
RETURNS TABLE (domain text, backlog bigint, oldest_due double precision, in_flight bigint, expired_leases bigint,
               is_estimated boolean, scheduled bigint, parked json)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_bitmapscan = off
AS $$
DECLARE
    v_now timestamptz := commandbus.now();
BEGIN
    RETURN QUERY
    WITH RECURSIVE queued (name) AS (
        SELECT min(q.domain) FROM commandbus.queue q
        UNION ALL
        SELECT (SELECT min(q.domain) FROM commandbus.queue q WHERE q.domain > d.name)
          FROM queued d WHERE d.name IS NOT NULL
    ), waiting (name) AS (
        SELECT min(s.domain) FROM commandbus.scheduled s
        UNION ALL
        SELECT (SELECT min(s.domain) FROM commandbus.scheduled s WHERE s.domain > d.name)
          FROM waiting d WHERE d.name IS NOT NULL
    ), parking (name) AS (
        SELECT min(t.domain) FROM commandbus.troubleshooting t
        UNION ALL
        SELECT (SELECT min(t.domain) FROM commandbus.troubleshooting t WHERE t.domain > d.name)
          FROM parking d WHERE d.name IS NOT NULL
    ), domains (name) AS (
        SELECT p_domain WHERE p_domain IS NOT NULL
        UNION
        SELECT d.name
          FROM (SELECT q.name FROM queued q UNION ALL SELECT s.name FROM waiting s UNION ALL SELECT t.name FROM parking t
                UNION ALL SELECT w.domain FROM commandbus.worker w
                           WHERE w.stopped_at IS NULL AND w.alive_until > clock_timestamp()) d
         WHERE p_domain IS NULL AND d.name IS NOT NULL
    )
    SELECT d.name, q.due, extract(epoch FROM v_now - q.oldest)::float8, q.in_flight, q.expired, q.is_estimated,
           (SELECT count(*) FROM (SELECT FROM commandbus.scheduled s WHERE s.domain = d.name AND s.due_at > v_now
                                   ORDER BY s.domain, s.due_at LIMIT 10000) s),
           (WITH RECURSIVE types (name) AS (
                SELECT min(t.command_type) FROM commandbus.troubleshooting t WHERE t.domain = d.name
                UNION ALL
                SELECT (SELECT min(t.command_type) FROM commandbus.troubleshooting t
                         WHERE t.domain = d.name AND t.command_type > y.name)
                  FROM types y WHERE y.name IS NOT NULL)
            SELECT coalesce(json_object_agg(y.name, (
                       SELECT count(*) FROM (
                           SELECT FROM commandbus.troubleshooting t
                            WHERE t.domain = d.name AND t.command_type = y.name LIMIT 10000) t)
                       ORDER BY y.name), '{}')
              FROM types y WHERE y.name IS NOT NULL)
      FROM domains d CROSS JOIN LATERAL commandbus.queue_depth(d.name) q
     ORDER BY d.name;
END
$$;

-- What workers did, by domain and command type, within the last p_seconds that all of them have stored: those end
-- p_behind seconds ago. Histograms are added up.
CREATE FUNCTION commandbus.activity(p_domain text, p_seconds integer, p_behind integer)
RETURNS TABLE (domain text, command_type text, claimed bigint, completed bigint, failed bigint, retried bigint,
               parked bigint, run_seconds double precision, run_buckets smallint[], run_counts bigint[],
               wait_seconds double precision, wait_buckets smallint[], wait_counts bigint[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
AS $$
DECLARE
    v_until timestamptz := date_trunc('second', clock_timestamp()) - p_behind * interval '1 second';
BEGIN
    RETURN QUERY
    WITH recent AS MATERIALIZED (
        SELECT w.domain AS in_domain, s.*
          FROM commandbus.worker_statistic s JOIN commandbus.worker w ON w.worker_id = s.worker_id
         WHERE s.second < v_until AND s.second >= v_until - p_seconds * interval '1 second'
           AND (p_domain IS NULL OR w.domain = p_domain)
    ), ran AS (
        SELECT b.in_domain, b.command_type, array_agg(b.bucket ORDER BY b.bucket) AS buckets,
               array_agg(b.n ORDER BY b.bucket) AS counts
          FROM (SELECT r.in_domain, r.command_type, h.bucket, sum(h.n)::bigint AS n
                  FROM recent r CROSS JOIN LATERAL unnest(r.run_buckets, r.run_counts) AS h (bucket, n)
                 GROUP BY r.in_domain, r.command_type, h.bucket) b
         GROUP BY b.in_domain, b.command_type
    ), waited AS (
        SELECT b.in_domain, b.command_type, array_agg(b.bucket ORDER BY b.bucket) AS buckets,
               array_agg(b.n ORDER BY b.bucket) AS counts
          FROM (SELECT r.in_domain, r.command_type, h.bucket, sum(h.n)::bigint AS n
                  FROM recent r CROSS JOIN LATERAL unnest(r.wait_buckets, r.wait_counts) AS h (bucket, n)
                 GROUP BY r.in_domain, r.command_type, h.bucket) b
         GROUP BY b.in_domain, b.command_type
    ), counted AS (
        SELECT r.in_domain, r.command_type, sum(r.claimed) AS claimed, sum(r.completed) AS completed,
               sum(r.failed) AS failed, sum(r.retried) AS retried, sum(r.parked) AS parked,
               sum(r.run_seconds) AS run_seconds, sum(r.wait_seconds) AS wait_seconds
          FROM recent r GROUP BY r.in_domain, r.command_type
    )
    SELECT c.in_domain, c.command_type, c.claimed, c.completed, c.failed, c.retried, c.parked,
           c.run_seconds, coalesce(ran.buckets, '{}'), coalesce(ran.counts, '{}'),
           c.wait_seconds, coalesce(waited.buckets, '{}'), coalesce(waited.counts, '{}')
      FROM counted c
      LEFT JOIN ran ON (ran.in_domain, ran.command_type) = (c.in_domain, c.command_type)
      LEFT JOIN waited ON (waited.in_domain, waited.command_type) = (c.in_domain, c.command_type)
     ORDER BY c.in_domain, c.command_type;
END
$$;
