-- Load runs: one row a `cb_load` of the load test that has this database, and one row a shard of it. All times are
-- wall time. A shard is taken by one process of the test run, first of all by its own, else by one that has nothing
-- left to do, so that a run never waits for a shard that has not begun.

CREATE TABLE e2e.load_run (
    run            integer     PRIMARY KEY,         -- from 1, in the order in which the test calls
    batch_number   integer     NOT NULL,            -- of the batches of all its shards, see test_batch
    processes      integer     NOT NULL,
    shards         integer     NOT NULL,
    started_at     timestamptz NOT NULL,
    skipped_before interval    NOT NULL,            -- what the clock had skipped when the run began
    result         json                             -- the merged result, once the last shard has finished
);

CREATE TABLE e2e.load_shard (
    run           integer     NOT NULL REFERENCES e2e.load_run,
    shard         integer     NOT NULL,             -- from 0
    first_ordinal integer     NOT NULL,
    processes     integer     NOT NULL,
    taken_at      timestamptz,
    beat_at       timestamptz,                      -- the process that took it lived then
    created_at    timestamptz,                      -- its processes are stored
    finished_at   timestamptz,                      -- its processes are terminal or parked
    error         text,
    PRIMARY KEY (run, shard)
);
