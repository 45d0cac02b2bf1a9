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
