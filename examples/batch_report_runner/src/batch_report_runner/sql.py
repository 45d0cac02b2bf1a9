"""The statements of this application; every time is on the bus's clock."""

from typing import LiteralString

# A seeded set: the same leads on every machine.
SEED_LEADS: LiteralString = """
INSERT INTO report.lead (name, company, email, status, score, provider, created_at)
SELECT format('%%s %%s', (ARRAY['Ada','Ben','Cleo','Dan','Eva','Finn','Gus','Hana','Ivo','Jana'])[1 + i %% 10],
              (ARRAY['Adler','Berg','Celik','Dorn','Ebner','Fuchs','Gruber','Huber','Ivanov'])[1 + i / 10 %% 9]),
       format('%%s %%s', (ARRAY['Alpine','Baltic','Carinthian','Danube','Eastern'])[1 + i %% 5],
              (ARRAY['Foods','Freight','Glass','Motors','Paper','Steel','Textiles'])[1 + i / 5 %% 7]),
       format('lead%%s@example.org', i),
       (ARRAY['new','contacted','qualified','lost'])[1 + (i * 7) %% 4],
       (i * 37) %% 101,
       (ARRAY['acme','clearview','northstar',NULL])[1 + (i * 11) %% 4],
       timestamptz '2026-01-01 00:00+00' + i * interval '90 minutes'
  FROM generate_series(0, %(count)s - 1) AS i
 WHERE NOT EXISTS (SELECT FROM report.lead)
"""

# A filter that is NULL lets everything through.
LEADS: LiteralString = """
SELECT lead_id, name, company, email, status, score, tier, provider, created_at
  FROM report.lead
 WHERE lead_id > %(after)s
   AND (%(status)s::text IS NULL OR status = %(status)s)
   AND (%(tier)s::text IS NULL OR tier = %(tier)s)
   AND (%(from)s::date IS NULL OR created_at >= %(from)s::date::timestamp AT TIME ZONE 'UTC')
   AND (%(to)s::date IS NULL OR created_at < (%(to)s::date + 1)::timestamp AT TIME ZONE 'UTC')
 ORDER BY lead_id
 LIMIT %(limit)s
"""
COUNT_LEADS: LiteralString = """
SELECT count(*) AS total
  FROM report.lead
 WHERE (%(status)s::text IS NULL OR status = %(status)s)
   AND (%(tier)s::text IS NULL OR tier = %(tier)s)
   AND (%(from)s::date IS NULL OR created_at >= %(from)s::date::timestamp AT TIME ZONE 'UTC')
   AND (%(to)s::date IS NULL OR created_at < (%(to)s::date + 1)::timestamp AT TIME ZONE 'UTC')
"""
LEAD: LiteralString = (
    "SELECT lead_id, name, company, email, status, score, tier, provider FROM report.lead WHERE lead_id = %(lead_id)s"
)

# All that a quote needs, for any number of leads: how many each provider has, and what today has cost so far. A lead
# that is not there is in no count; where none is there, there is no row.
PREVIEW: LiteralString = """
WITH spent AS (
    SELECT coalesce(sum(coalesce(actual_cost, quoted_cost)), 0) AS amount
      FROM report.batch
     WHERE created_at >= date_trunc('day', commandbus.now(), 'UTC')
)
SELECT provider, count(*) AS leads, (SELECT amount FROM spent) AS spent,
       (SELECT is_on FROM report.switch WHERE name = 'starting') AS is_on
  FROM report.lead
 WHERE lead_id = ANY (%(lead_ids)s::bigint[])
 GROUP BY provider
"""
SPENT: LiteralString = """
SELECT coalesce(sum(coalesce(actual_cost, quoted_cost)), 0) AS spent
  FROM report.batch
 WHERE created_at >= date_trunc('day', commandbus.now(), 'UTC')
"""
ADD_QUOTE: LiteralString = """
INSERT INTO report.quote (owner, template_version, lead_count, total, batch_id, quoted_at)
VALUES (%(owner)s, %(template_version)s, %(lead_count)s, %(total)s, %(batch_id)s, commandbus.now())
"""
# Starts wait for each other, so that two cannot both fit into what is left of the budget.
LOCK_BUDGET: LiteralString = "SELECT pg_advisory_xact_lock(hashtext('batch_report_runner.budget'))"
ADD_ALERTS: LiteralString = """
INSERT INTO report.budget_alert (day, level, spent, budget, raised_at)
SELECT (commandbus.now() AT TIME ZONE 'UTC')::date, level, %(spent)s, %(budget)s, commandbus.now()
  FROM unnest(%(levels)s::integer[]) AS level
ON CONFLICT DO NOTHING
RETURNING day, level
"""

ADD_BATCH: LiteralString = """
INSERT INTO report.batch (batch_id, owner, template_version, lead_count, quoted_cost, unit_costs, created_at)
VALUES (%(batch_id)s, %(owner)s, %(template_version)s, %(lead_count)s, %(quoted_cost)s, %(unit_costs)s,
        commandbus.now())
"""
ADD_BATCH_LEADS: LiteralString = """
INSERT INTO report.batch_lead (batch_id, lead_id, ordinal)
SELECT %(batch_id)s, lead_id, place - 1 FROM unnest(%(lead_ids)s::bigint[]) WITH ORDINALITY AS asked (lead_id, place)
"""
# Whoever starts it holds the row; another skips it.
LOCK_PENDING: LiteralString = """
SELECT template_version, unit_costs FROM report.batch
 WHERE batch_id = %(batch_id)s AND status = 'PENDING' FOR UPDATE SKIP LOCKED
"""
BATCH_LEAD_IDS: LiteralString = "SELECT lead_id FROM report.batch_lead WHERE batch_id = %(batch_id)s ORDER BY ordinal"
SET_PROCESSING: LiteralString = """
UPDATE report.batch SET status = 'PROCESSING', started_at = commandbus.now() WHERE batch_id = %(batch_id)s
"""

BATCH: LiteralString = """
SELECT b.*, extract(epoch FROM coalesce(b.ended_at, commandbus.now()) - coalesce(b.started_at, b.created_at))
            ::double precision AS elapsed
  FROM report.batch b WHERE b.batch_id = %(batch_id)s
"""
COUNTS: LiteralString = """
SELECT count(*) FILTER (WHERE status = 'DONE') AS succeeded, count(*) FILTER (WHERE status = 'FAILED') AS failed,
       count(*) FILTER (WHERE status = 'CANCELLED') AS cancelled, count(*) AS total
  FROM report.batch_lead WHERE batch_id = %(batch_id)s
"""
LATEST_ERRORS: LiteralString = """
SELECT lead_id, error_code, error_message, attempts
  FROM report.batch_lead WHERE batch_id = %(batch_id)s AND status = 'FAILED'
 ORDER BY ended_at DESC, ordinal DESC LIMIT %(limit)s
"""
LEAD_NAME: LiteralString = "SELECT name FROM report.lead WHERE lead_id = %(lead_id)s"
ALL_ERRORS: LiteralString = """
SELECT l.lead_id, coalesce(lead.name, '') AS name, l.status, l.attempts, l.error_code, l.error_message
  FROM report.batch_lead l LEFT JOIN report.lead ON lead.lead_id = l.lead_id
 WHERE l.batch_id = %(batch_id)s AND l.status IN ('FAILED', 'CANCELLED')
 ORDER BY l.ordinal
"""
BATCH_LEADS: LiteralString = """
SELECT l.ordinal, l.lead_id, coalesce(lead.name, '') AS name, l.status, l.attempts, l.error_code, d.bytes
  FROM report.batch_lead l
  LEFT JOIN report.lead ON lead.lead_id = l.lead_id
  LEFT JOIN report.document d ON d.batch_id = l.batch_id AND d.lead_id = l.lead_id
 WHERE l.batch_id = %(batch_id)s AND l.ordinal > %(after)s
   AND (%(status)s::text IS NULL OR l.status = %(status)s)
 ORDER BY l.ordinal LIMIT %(limit)s
"""
DOCUMENT: LiteralString = "SELECT path FROM report.document WHERE batch_id = %(batch_id)s AND lead_id = %(lead_id)s"
BATCHES: LiteralString = """
SELECT batch_id, status, template_version, lead_count, quoted_cost, actual_cost, created_at, ended_at
  FROM report.batch WHERE owner = %(owner)s ORDER BY created_at DESC LIMIT 50
"""
ASK_ENDING: LiteralString = """
UPDATE report.batch SET ending = %(ending)s
 WHERE batch_id = %(batch_id)s AND status IN ('PENDING', 'PROCESSING') AND ending IS NULL
"""

# What the handlers write, in the transaction that completes their command.
ADD_CHARGE: LiteralString = """
INSERT INTO report.charge (batch_id, lead_id, provider, amount, charged_at)
VALUES (%(batch_id)s, %(lead_id)s, %(provider)s, %(amount)s, commandbus.now())
"""
ADD_DOCUMENT: LiteralString = """
INSERT INTO report.document (batch_id, lead_id, path, bytes, made_at)
VALUES (%(batch_id)s, %(lead_id)s, %(path)s, %(bytes)s, commandbus.now())
"""
# The last word on a lead; a later one changes nothing.
END_LEADS: LiteralString = """
UPDATE report.batch_lead l
   SET status = said.status, attempts = said.attempts, error_code = said.code, error_message = said.message,
       ended_at = commandbus.now()
  FROM unnest(%(lead_ids)s::bigint[], %(statuses)s::text[], %(attempts)s::integer[], %(codes)s::text[],
              %(messages)s::text[]) AS said (lead_id, status, attempts, code, message)
 WHERE l.batch_id = %(batch_id)s AND l.lead_id = said.lead_id AND l.status = 'PENDING'
"""

# Upkeep.
LEAD_UPKEEP: LiteralString = "SELECT pg_try_advisory_lock(hashtext('batch_report_runner.upkeep')) AS leads"
OPEN_BATCHES: LiteralString = """
SELECT batch_id, status, ending, created_at,
       created_at + %(limit)s * interval '1 second' <= commandbus.now() AS is_overdue,
       created_at + interval '5 seconds' <= commandbus.now() AS is_orphaned
  FROM report.batch WHERE status IN ('PENDING', 'PROCESSING') ORDER BY created_at
"""
# A point of the course of a batch, unless there is one not further back than `apart` seconds.
SAMPLE: LiteralString = """
INSERT INTO report.progress (batch_id, taken_at, succeeded, failed)
SELECT %(batch_id)s, commandbus.now(), count(*) FILTER (WHERE status = 'DONE'),
       count(*) FILTER (WHERE status = 'FAILED')
  FROM report.batch_lead WHERE batch_id = %(batch_id)s
HAVING NOT EXISTS (SELECT FROM report.progress p
                    WHERE p.batch_id = %(batch_id)s
                      AND p.taken_at >= commandbus.now() - %(apart)s * interval '1 second')
"""
PROGRESS: LiteralString = """
SELECT extract(epoch FROM p.taken_at - b.started_at)::double precision AS seconds, p.succeeded, p.failed
  FROM report.progress p JOIN report.batch b USING (batch_id)
 WHERE p.batch_id = %(batch_id)s ORDER BY p.taken_at
"""
LOCK_OPEN: LiteralString = """
SELECT * FROM report.batch WHERE batch_id = %(batch_id)s AND status IN ('PENDING', 'PROCESSING') FOR UPDATE
"""
END_BATCH: LiteralString = """
UPDATE report.batch
   SET status = %(status)s, error = %(error)s, ended_at = commandbus.now(),
       actual_cost = (SELECT coalesce(sum(amount), 0) FROM report.charge WHERE batch_id = %(batch_id)s)
 WHERE batch_id = %(batch_id)s
RETURNING actual_cost
"""
END_REST: LiteralString = """
UPDATE report.batch_lead
   SET status = %(status)s, error_code = %(code)s, error_message = %(message)s, ended_at = commandbus.now()
 WHERE batch_id = %(batch_id)s AND status = 'PENDING'
"""
PRUNE: LiteralString = """
DELETE FROM report.batch WHERE ended_at < commandbus.now() - %(days)s * interval '1 day' RETURNING batch_id
"""
SWITCH: LiteralString = """
INSERT INTO report.switch (name, is_on) VALUES ('starting', %(is_on)s)
ON CONFLICT (name) DO UPDATE SET is_on = excluded.is_on
"""
OPEN_COUNT: LiteralString = """
SELECT count(*) AS open FROM report.batch WHERE status IN ('PENDING', 'PROCESSING')
"""
ASK_ALL_ENDING: LiteralString = """
UPDATE report.batch SET ending = 'rollback' WHERE status IN ('PENDING', 'PROCESSING') AND ending IS NULL
"""
