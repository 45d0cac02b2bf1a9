"""Every statement on what chaos is told (schema e2e), and on the clock that a test moves."""

from typing import LiteralString

# One installer at a time in a database.
LOCK_INSTALL: LiteralString = "SELECT pg_catalog.pg_advisory_xact_lock(7236182, 102)"
IS_MIGRATED: LiteralString = "SELECT pg_catalog.to_regproc('commandbus.settle') IS NOT NULL"
IS_INSTALLED: LiteralString = "SELECT pg_catalog.to_regclass('e2e.clock') IS NOT NULL"

# Seconds skipped, 0 for none; in a transaction of its own.
SKIP_CLOCK: LiteralString = "SELECT e2e.skip_clock()"
ADVANCE_CLOCK: LiteralString = "SELECT e2e.advance_clock(%(seconds)s)"

STORE_RUN: LiteralString = """
INSERT INTO e2e.chaos_run (seed, skips_time) VALUES (%(seed)s, %(skips_time)s)
    ON CONFLICT (one) DO UPDATE SET seed = excluded.seed, skips_time = excluded.skips_time
"""
CLEAR_RULES: LiteralString = "DELETE FROM e2e.chaos_rule"
STORE_RULES: LiteralString = """
INSERT INTO e2e.chaos_rule (name, names, written, behavior)
SELECT r.name, r.names, r.written, r.behavior
  FROM json_to_recordset(%(rules)s::json) AS r (name text, names text[], written text, behavior json)
"""

NUMBER_BATCH: LiteralString = "INSERT INTO e2e.test_batch (batch_id, number) VALUES (%(batch_id)s, %(number)s)"

STORE_COMMANDS: LiteralString = """
INSERT INTO e2e.test_command (command_id, behavior, payload, created_at)
SELECT c.command_id, c.behavior, c.payload, t.now
  FROM (SELECT commandbus.now()) AS t (now),
       json_to_recordset(%(commands)s::json) AS c (command_id uuid, behavior json, payload json)
"""
BEHAVIOR_OF: LiteralString = "SELECT behavior FROM e2e.test_command WHERE command_id = %(command_id)s"

# All that a claimed batch may need, in one row: the run with its rules where asked for, the numbers of the batches,
# the behaviors of single commands. NULL for what there is none of.
PREPARE: LiteralString = """
SELECT (SELECT json_build_object('seed', r.seed, 'skips_time', r.skips_time, 'rules', (
                   SELECT json_agg(json_build_object('names', c.names, 'written', c.written, 'behavior', c.behavior))
                     FROM e2e.chaos_rule c))
          FROM e2e.chaos_run r WHERE %(run)s),
       (SELECT json_object_agg(b.batch_id, b.number) FROM e2e.test_batch b WHERE b.batch_id = ANY (%(batch_ids)s)),
       (SELECT json_object_agg(t.command_id, t.behavior)
          FROM e2e.test_command t WHERE t.command_id = ANY (%(command_ids)s))
"""

MARK_MATCHED: LiteralString = """
UPDATE e2e.chaos_rule SET matched_at = clock_timestamp() WHERE name = ANY (%(names)s) AND matched_at IS NULL
"""
UNMATCHED: LiteralString = "SELECT written FROM e2e.chaos_rule WHERE matched_at IS NULL ORDER BY written"
