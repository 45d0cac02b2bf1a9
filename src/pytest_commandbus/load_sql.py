"""Every statement of load runs: the ledger of their shards, their progress, and the figures of a finished run.

A run's processes are those of the batches that carry its batch number. Latency is the time from RECEIVED to the outcome
recorded under the same epoch. Both times are the bus's, of which a test may skip some; but time is never skipped while
a live worker holds a lease, so within one claim they differ by wall time alone.
"""

from typing import LiteralString

OPEN_RUN: LiteralString = """
INSERT INTO e2e.load_run (run, batch_number, processes, shards, started_at, skipped_before)
SELECT %(run)s, %(batch_number)s, %(processes)s, %(shards)s, clock_timestamp(), c.skipped FROM e2e.clock c
ON CONFLICT (run) DO NOTHING
"""

OPEN_SHARDS: LiteralString = """
INSERT INTO e2e.load_shard (run, shard, first_ordinal, processes)
SELECT %(run)s, s.shard, s.first_ordinal, s.processes
  FROM unnest(%(shards)s::integer[], %(first_ordinals)s::integer[], %(counts)s::integer[])
       AS s (shard, first_ordinal, processes)
ON CONFLICT (run, shard) DO NOTHING
"""

# The caller's own shard first, then whichever nobody has begun.
TAKE_SHARD: LiteralString = """
UPDATE e2e.load_shard s SET taken_at = clock_timestamp(), beat_at = clock_timestamp()
 WHERE (s.run, s.shard) = (
        SELECT f.run, f.shard FROM e2e.load_shard f
         WHERE f.run = %(run)s AND f.taken_at IS NULL
         ORDER BY (f.shard = %(own)s) DESC, f.shard LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING s.shard, s.first_ordinal, s.processes
"""

BEAT: LiteralString = """
UPDATE e2e.load_shard SET beat_at = clock_timestamp()
 WHERE run = %(run)s AND shard = ANY(%(shards)s) AND finished_at IS NULL
"""

SHARD_CREATED: LiteralString = """
UPDATE e2e.load_shard SET created_at = clock_timestamp(), beat_at = clock_timestamp()
 WHERE run = %(run)s AND shard = %(shard)s
"""

SHARD_FINISHED: LiteralString = """
UPDATE e2e.load_shard SET finished_at = clock_timestamp() WHERE run = %(run)s AND shard = %(shard)s
"""

SHARDS_FAILED: LiteralString = """
UPDATE e2e.load_shard SET error = %(error)s
 WHERE run = %(run)s AND shard = ANY(%(shards)s) AND finished_at IS NULL
"""

# How the shards of a run stand, those that have something to tell first.
SHARDS: LiteralString = """
SELECT shard, taken_at IS NOT NULL AS taken, finished_at IS NOT NULL AS finished, error,
       extract(epoch FROM clock_timestamp() - beat_at)::double precision AS silent_seconds
  FROM e2e.load_shard WHERE run = %(run)s
 ORDER BY error IS NULL, shard
"""

# Locks the run until the transaction ends: whoever comes second finds the result.
LOCK_RESULT: LiteralString = "SELECT result FROM e2e.load_run WHERE run = %(run)s FOR UPDATE"
STORE_RESULT: LiteralString = "UPDATE e2e.load_run SET result = %(result)s::json WHERE run = %(run)s"

# The newest run, while it goes. What its workers have settled they tell with their heartbeats.
PROGRESS: LiteralString = """
SELECT r.processes AS total, members.created, members.done, members.parked,
       (SELECT coalesce(sum(w.completed + w.failed + w.parked), 0)::bigint FROM commandbus.worker w) AS commands,
       extract(epoch FROM clock_timestamp() - r.started_at)::double precision AS seconds,
       extract(epoch FROM c.skipped - r.skipped_before)::double precision AS skipped
  FROM (SELECT * FROM e2e.load_run ORDER BY run DESC LIMIT 1) r
 CROSS JOIN e2e.clock c
 CROSS JOIN LATERAL (
        SELECT count(*) AS created,
               count(*) FILTER (WHERE p.status NOT IN
                   ('PENDING', 'IN_PROGRESS', 'WAITING_FOR_REPLY', 'COMPENSATING')) AS done,
               count(*) FILTER (WHERE p.status = 'WAITING_FOR_TSQ') AS parked
          FROM commandbus.process p
         WHERE p.batch_id IN (SELECT b.batch_id FROM e2e.test_batch b WHERE b.number = r.batch_number)) members
"""

# Without fresh statistics the figures below are planned for empty tables.
ANALYZE: LiteralString = "ANALYZE commandbus.process, commandbus.command, commandbus.event"

RUN: LiteralString = """
SELECT r.processes, r.shards,
       extract(epoch FROM c.skipped - r.skipped_before)::double precision AS skipped,
       extract(epoch FROM s.finished_at - r.started_at)::double precision AS total_seconds,
       extract(epoch FROM s.creating)::double precision AS created_seconds,
       current_setting('server_version') AS postgresql
  FROM e2e.load_run r
 CROSS JOIN e2e.clock c
 CROSS JOIN (
        SELECT max(finished_at) AS finished_at,
               (SELECT sum(upper(span) - lower(span))
                  FROM unnest(range_agg(tstzrange(taken_at, created_at))) span) AS creating
          FROM e2e.load_shard WHERE run = %(run)s) s
 WHERE r.run = %(run)s
"""

OUTCOMES: LiteralString = """
SELECT p.status, count(*) AS processes
  FROM commandbus.process p JOIN e2e.test_batch b ON b.batch_id = p.batch_id
 WHERE b.number = %(batch_number)s
 GROUP BY p.status ORDER BY count(*) DESC, p.status
"""

# For each step and outcome of an attempt, for each step (outcome NULL), and for all (step NULL too).
STEPS: LiteralString = """
WITH attempt AS (
    SELECT c.step,
           min(e.ts) FILTER (WHERE e.type = 'RECEIVED') AS began,
           max(e.ts) FILTER (WHERE e.type <> 'RECEIVED') AS ended,
           max(e.type) FILTER (WHERE e.type <> 'RECEIVED') AS outcome,
           max(e.worker_id) AS worker_id
      FROM e2e.test_batch b
      JOIN commandbus.process p ON p.batch_id = b.batch_id
      JOIN commandbus.command c ON c.process_id = p.process_id
      JOIN commandbus.event e ON e.command_id = c.command_id
     WHERE b.number = %(batch_number)s AND e.worker_id IS NOT NULL
       AND e.type IN ('RECEIVED', 'COMPLETED', 'RETRY_SCHEDULED', 'MOVED_TO_TSQ', 'BUSINESS_RULE_FAILED')
     GROUP BY c.step, c.command_id, e.epoch
)
SELECT a.step, a.outcome, count(*) AS attempts,
       percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (
           ORDER BY extract(epoch FROM a.ended - a.began)::double precision * 1000) AS latency_ms,
       extract(epoch FROM max(a.ended) - min(a.began))::double precision AS seconds,
       count(DISTINCT a.worker_id) AS workers
  FROM attempt a
 WHERE a.outcome IS NOT NULL
 GROUP BY GROUPING SETS ((a.step, a.outcome), (a.step), ())
 ORDER BY min(a.began), a.step, count(*) DESC
"""

# The most commands that lived at once: sent, and neither settled for good nor parked.
PEAK_BACKLOG: LiteralString = """
SELECT coalesce(max(at.live), 0)::bigint AS peak
  FROM (SELECT sum(sum(CASE WHEN e.type IN ('SENT', 'OPERATOR_RETRY') THEN 1 ELSE -1 END)) OVER (ORDER BY e.ts) AS live
          FROM e2e.test_batch b
          JOIN commandbus.process p ON p.batch_id = b.batch_id
          JOIN commandbus.command c ON c.process_id = p.process_id
          JOIN commandbus.event e ON e.command_id = c.command_id
         WHERE b.number = %(batch_number)s
           AND e.type IN ('SENT', 'OPERATOR_RETRY', 'COMPLETED', 'MOVED_TO_TSQ', 'BUSINESS_RULE_FAILED', 'CANCELED')
         GROUP BY e.ts) at
"""
