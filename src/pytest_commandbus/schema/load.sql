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

-- What tells the wall time of a run from its audit trail, as arguments of e2e.wall: in seconds since `began`, which is
-- the bus's time when the run did.
CREATE VIEW e2e.load_clock AS
SELECT r.run, r.started_at + r.skipped_before AS began,
       coalesce(array_agg(m.moved_at + m.skipped ORDER BY m.skipped) FILTER (WHERE m.skipped > 0), '{}') AS moves,
       array_agg(m.skipped ORDER BY m.skipped) AS skipped,
       coalesce(array_agg(m.moved_at ORDER BY m.skipped) FILTER (WHERE m.skipped > 0), '{}') AS until
  FROM e2e.load_run r
 CROSS JOIN LATERAL (
        SELECT 0::double precision AS skipped, NULL::double precision AS moved_at
         UNION ALL
        SELECT extract(epoch FROM c.skipped - r.skipped_before)::double precision,
               extract(epoch FROM c.moved_at - r.started_at)::double precision
          FROM e2e.clock_move c WHERE c.skipped > r.skipped_before) m
 GROUP BY r.run;
