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
