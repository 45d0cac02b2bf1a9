"""Every statement of load runs: the ledger of their shards, their progress, and the figures of a finished run.

A run's processes are those of the batches that carry its batch number. An attempt goes from RECEIVED to the outcome
recorded under the same epoch. The audit trail has the bus's times, of which a test may skip some; the figures are in
wall time, which is told from them by the moves of the clock.
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
       r.started_at, current_setting('server_version') AS postgresql
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

# Every attempt of the run with its times in seconds of wall time since the run began, and the bucket, `width` seconds
# long, in which it ended. due is NULL after a lost lease, of which nobody tells when it ran out.
ATTEMPTS: LiteralString = """
CREATE TEMPORARY TABLE load_attempt ON COMMIT DROP AS
WITH clock AS MATERIALIZED (
    SELECT * FROM e2e.load_clock WHERE run = %(run)s
), told AS (
    SELECT c.step, e.command_id, e.event_id, e.type, e.epoch, e.worker_id,
           extract(epoch FROM e.ts - clock.began)::double precision AS at,
           CASE WHEN e.type IN ('RETRY_SCHEDULED', 'RELEASED')
                THEN coalesce((e.details ->> 'delay')::double precision, 0) ELSE 0 END AS delay
      FROM clock
     CROSS JOIN e2e.test_batch b
      JOIN commandbus.process p ON p.batch_id = b.batch_id
      JOIN commandbus.command c ON c.process_id = p.process_id
      JOIN commandbus.event e ON e.command_id = c.command_id
     WHERE b.number = %(batch_number)s
       AND e.type NOT IN ('LEASE_EXTENDED', 'LATE_OUTCOME_DROPPED')
), trail AS (
    SELECT t.step, t.type, t.at AS began, t.epoch, t.worker_id,
           first_value(t.at) OVER by_time AS sent,
           lag(t.type) OVER by_time AS before, lag(t.at + t.delay) OVER by_time AS due,
           lead(t.type) OVER by_time AS outcome, lead(t.at) OVER by_time AS ended,
           lead(t.epoch) OVER by_time AS outcome_epoch, lead(t.worker_id) OVER by_time AS outcome_worker
      FROM told t
    WINDOW by_time AS (PARTITION BY t.command_id ORDER BY t.event_id)
), attempt AS (
    SELECT a.step, a.outcome, a.worker_id,
           e2e.wall(a.sent, k.moves, k.skipped, k.until) AS sent,
           CASE WHEN a.before <> 'RECEIVED' THEN e2e.wall(a.due, k.moves, k.skipped, k.until) END AS due,
           e2e.wall(a.began, k.moves, k.skipped, k.until) AS began,
           e2e.wall(a.ended, k.moves, k.skipped, k.until) AS ended
      FROM trail a CROSS JOIN clock k
     WHERE a.type = 'RECEIVED' AND a.outcome_epoch = a.epoch AND a.outcome_worker = a.worker_id
       AND a.outcome IN ('COMPLETED', 'RETRY_SCHEDULED', 'MOVED_TO_TSQ', 'BUSINESS_RULE_FAILED', 'ATTEMPTS_EXHAUSTED')
)
SELECT a.*, floor(a.ended / %(width)s)::integer AS bucket FROM attempt a
"""

# For each step and outcome of an attempt, for each step (outcome NULL), for each bucket, and for all (all NULL).
FIGURES: LiteralString = """
SELECT a.step, a.outcome, a.bucket, count(*) AS attempts,
       count(*) FILTER (WHERE a.outcome <> 'RETRY_SCHEDULED') AS commands,
       max(a.ended) - min(a.began) AS seconds, count(DISTINCT a.worker_id) AS workers,
       percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (
           ORDER BY greatest(a.began - a.due, 0) * 1000) FILTER (WHERE a.due IS NOT NULL) AS waiting_ms,
       percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY (a.ended - a.began) * 1000) AS handling_ms,
       percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (
           ORDER BY (a.ended - a.sent) * 1000) FILTER (WHERE a.outcome <> 'RETRY_SCHEDULED') AS latency_ms
  FROM pg_temp.load_attempt a
 GROUP BY GROUPING SETS ((a.step, a.outcome), (a.step), (a.bucket), ())
 ORDER BY min(a.began), a.step, count(*) DESC
"""

# The hosts whose workers made an attempt, with how many workers.
HOSTS: LiteralString = """
SELECT w.host, count(DISTINCT w.worker_id) AS workers
  FROM pg_temp.load_attempt a JOIN commandbus.worker w ON w.worker_id = a.worker_id
 GROUP BY w.host ORDER BY w.host
"""

# Processes by the bucket in which they ended or were parked, and all of them (bucket NULL).
PROCESSES: LiteralString = """
WITH clock AS MATERIALIZED (
    SELECT * FROM e2e.load_clock WHERE run = %(run)s
), member AS (
    SELECT e2e.wall(extract(epoch FROM p.created_at - k.began)::double precision,
                    k.moves, k.skipped, k.until) AS created,
           e2e.wall(extract(epoch FROM coalesce(p.completed_at, p.updated_at) - k.began)::double precision,
                    k.moves, k.skipped, k.until) AS ended
      FROM clock k CROSS JOIN e2e.test_batch b
      JOIN commandbus.process p ON p.batch_id = b.batch_id
     WHERE b.number = %(batch_number)s
), placed AS (
    SELECT m.*, floor(m.ended / %(width)s)::integer AS bucket FROM member m
)
SELECT m.bucket, count(*) AS processes,
       percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY (m.ended - m.created) * 1000) AS latency_ms
  FROM placed m
 GROUP BY GROUPING SETS ((m.bucket), ())
"""

# How many commands live at once: sent, and neither settled for good nor parked. The most in each bucket, and by how
# many they have changed at its end.
BACKLOG: LiteralString = """
WITH clock AS MATERIALIZED (
    SELECT * FROM e2e.load_clock WHERE run = %(run)s
), change AS (
    SELECT e.ts, sum(CASE WHEN e.type IN ('SENT', 'OPERATOR_RETRY') THEN 1 ELSE -1 END) AS change
      FROM e2e.test_batch b
      JOIN commandbus.process p ON p.batch_id = b.batch_id
      JOIN commandbus.command c ON c.process_id = p.process_id
      JOIN commandbus.event e ON e.command_id = c.command_id
     WHERE b.number = %(batch_number)s
       AND e.type IN ('SENT', 'OPERATOR_RETRY', 'COMPLETED', 'MOVED_TO_TSQ', 'BUSINESS_RULE_FAILED',
                      'ATTEMPTS_EXHAUSTED', 'CANCELED')
     GROUP BY e.ts
), level AS (
    SELECT e2e.wall(extract(epoch FROM c.ts - k.began)::double precision, k.moves, k.skipped, k.until) AS at,
           c.change, sum(c.change) OVER (ORDER BY c.ts) AS live
      FROM change c CROSS JOIN clock k
)
SELECT floor(l.at / %(width)s)::integer AS bucket, max(l.live)::bigint AS peak, sum(l.change)::bigint AS change
  FROM level l
 GROUP BY 1 ORDER BY 1
"""
