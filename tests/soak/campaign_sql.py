"""The campaign's own tables, and how it looks at the bus beside its public interface."""

from typing import LiteralString

SCHEMA: LiteralString = """
    CREATE TABLE public.effect (command_id uuid NOT NULL, epoch integer NOT NULL);
    CREATE TABLE public.prepared (command_id uuid NOT NULL);
    CREATE TABLE public.handled_reply (reply_id bigint NOT NULL, command_id uuid NOT NULL)"""

# All of one chapter; workers live on.
RESET: LiteralString = """
    TRUNCATE commandbus.command, commandbus.uncompleted, commandbus.queue, commandbus.scheduled,
             commandbus.troubleshooting, commandbus.event, commandbus.batch, commandbus.process, commandbus.reply,
             public.effect, public.prepared, public.handled_reply"""

BACKLOG: LiteralString = "SELECT count(*) FROM commandbus.queue"

# The claims that the newest worker of a process holds.
HELD_BY: LiteralString = """
    SELECT q.command_id, q.epoch FROM commandbus.queue q
     WHERE q.worker_id = (SELECT max(worker_id) FROM commandbus.worker WHERE pid = %s)"""

# The processes of workers that hold a claim.
HOLDERS: LiteralString = """
    SELECT w.pid FROM commandbus.worker w WHERE w.worker_id IN (SELECT q.worker_id FROM commandbus.queue q)"""

# How many of these claims nobody has taken over or settled; and how many of the commands others have claimed since.
STILL_HELD: LiteralString = """
    SELECT count(*) FILTER (WHERE EXISTS (
               SELECT FROM commandbus.queue q
                WHERE q.command_id = h.command_id AND q.epoch = h.epoch AND q.worker_id IS NOT NULL)),
           count(*) FILTER (WHERE EXISTS (
               SELECT FROM commandbus.event e
                WHERE e.command_id = h.command_id AND e.type = 'RECEIVED' AND e.epoch > h.epoch))
      FROM unnest(%s::uuid[], %s::integer[]) AS h (command_id, epoch)"""

# Ends some session of a worker or a sender; returns a row if there was one.
TERMINATE: LiteralString = """
    WITH victim AS (
        SELECT pid FROM pg_catalog.pg_stat_activity
         WHERE datname = pg_catalog.current_database() AND backend_type = 'client backend'
           AND application_name <> 'campaign' ORDER BY pg_catalog.random() LIMIT 1)
    SELECT pid FROM victim WHERE pg_catalog.pg_terminate_backend(pid)"""

PROCESSES_OF_BATCH: LiteralString = "SELECT count(*) FROM commandbus.process WHERE batch_id = %s"

# What is not yet at its end: queued or leased, a retry that waits, a reply, a process, or parked by a fault.
LEFT: LiteralString = """
    SELECT (SELECT count(*) FROM commandbus.queue) + (SELECT count(*) FROM commandbus.scheduled)
         + (SELECT count(*) FROM commandbus.reply),
           (SELECT count(*) FROM commandbus.command c JOIN commandbus.troubleshooting t USING (command_id)
             WHERE c.error_code = ANY (%s) AND c.command_type <> 'Odd')"""

VACUUM: LiteralString = """
    VACUUM commandbus.command, commandbus.uncompleted, commandbus.queue, commandbus.scheduled,
           commandbus.troubleshooting, commandbus.event, commandbus.batch, commandbus.process, commandbus.reply"""

DEAD_ROWS: LiteralString = """
    SELECT relname, n_dead_tup FROM pg_catalog.pg_stat_user_tables
     WHERE schemaname = 'commandbus' AND relname NOT LIKE 'worker%' AND n_dead_tup > 0"""

SESSIONS: LiteralString = """
    SELECT pid, state, query FROM pg_catalog.pg_stat_activity
     WHERE datname = pg_catalog.current_database() AND application_name = 'campaign-worker'"""

ENDED: LiteralString = """
    SELECT count(*) FROM commandbus.command
     WHERE status IN ('COMPLETED', 'FAILED', 'CANCELED', 'IN_TROUBLESHOOTING_QUEUE')"""

UNENDED: LiteralString = """
    SELECT l.command_id FROM unnest(%s::uuid[]) AS l (command_id)
      LEFT JOIN commandbus.command c USING (command_id)
     WHERE c.status IS NULL OR c.status = 'PENDING'"""

# Commands that ended otherwise than the campaign had them end, and processes.
UNEXPECTED: LiteralString = """
    SELECT 'END', c.command_id, format('%s (%s) instead of %s', c.status, c.error_code, c.payload ->> 'expect')
      FROM commandbus.command c WHERE c.process_id IS NULL AND c.status <> c.payload ->> 'expect'
    UNION ALL
    SELECT 'END', p.process_id, format('process %s instead of %s', p.status, p.state ->> 'expect')
      FROM commandbus.process p WHERE p.status <> p.state ->> 'expect'"""

SETTLED_TWICE: LiteralString = """
    SELECT command_id FROM public.effect GROUP BY command_id HAVING count(*) > 1
    UNION
    SELECT command_id FROM commandbus.event
     WHERE type IN ('COMPLETED', 'BUSINESS_RULE_FAILED', 'CANCELED', 'OPERATOR_COMPLETE', 'OPERATOR_CANCEL')
     GROUP BY command_id HAVING count(*) > 1"""

DOUBLE_REPLIES: LiteralString = """
    SELECT command_id FROM (SELECT command_id FROM public.handled_reply
                            UNION ALL SELECT command_id FROM commandbus.reply) r
     GROUP BY command_id HAVING count(*) > 1"""

# What must hold of the rows that handlers, hooks and consumers wrote in the bus's transactions.
EFFECTS: LiteralString = """
    SELECT 'S8', e.command_id, format('an effect under epoch %s, but no completion', e.epoch) FROM public.effect e
     WHERE NOT EXISTS (SELECT FROM commandbus.event v
                        WHERE v.command_id = e.command_id AND v.type = 'COMPLETED' AND v.epoch = e.epoch)
    UNION ALL
    SELECT 'S8', c.command_id, 'completed in its handler''s transaction, but without the effect'
      FROM commandbus.command c WHERE c.result ->> 'in' = 'transaction'
       AND NOT EXISTS (SELECT FROM public.effect e WHERE e.command_id = c.command_id)
    UNION ALL
    SELECT 'S8', coalesce(p.command_id, c.command_id), format('%s rows prepared for it', count(p.command_id))
      FROM public.prepared p
      FULL JOIN (SELECT c.command_id FROM commandbus.command c JOIN commandbus.process s USING (process_id)
                  WHERE s.process_type = 'HookedOrder') c ON c.command_id = p.command_id
     GROUP BY p.command_id, c.command_id HAVING count(p.command_id) <> 1 OR c.command_id IS NULL
    UNION ALL
    SELECT 'S9', c.command_id, 'its reply was never received' FROM commandbus.command c
     WHERE c.reply_to IS NOT NULL AND c.completed_at IS NOT NULL AND c.process_id IS NULL
       AND NOT EXISTS (SELECT FROM public.handled_reply h WHERE h.command_id = c.command_id)"""
