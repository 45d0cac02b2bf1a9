"""What the auditor asks of the audit trail alone: are the events of each command a legal path?

The events of one command are in order of event_id: every state event is written under the lock of the command's live
row. LATE_OUTCOME_DROPPED is not, and may stand anywhere; LEASE_EXTENDED changes no state and stands for the claim.
"""

from .audit_sql import AuditStatement

TRAIL = AuditStatement(
    name="trail",
    rules=("S3", "S4", "S5", "S6", "S7", "S13"),
    description=(
        "Each event may follow the one before it, under the newest claim's epoch and worker; claims count up from 1 "
        "without gaps, do not overlap, and no event is earlier than the one before it."
    ),
    statement="""
        WITH steps AS (
            SELECT e.command_id, e.event_id, e.type, e.ts, e.epoch, e.worker_id, e.attempt, e.max_attempts,
                e.lease_until,
                   lag(e.type) OVER trail AS before, lag(e.ts) OVER trail AS before_ts,
                   lag(e.epoch) OVER trail AS before_epoch, lag(e.worker_id) OVER trail AS before_worker,
                   lag(e.lease_until) OVER trail AS before_lease,
                   lag(e.max_attempts) OVER trail AS before_allowed
              FROM commandbus.event e
             WHERE e.type <> 'LATE_OUTCOME_DROPPED'
               AND (%(odd_commands)s::uuid[] IS NULL OR e.command_id = ANY (%(odd_commands)s::uuid[]))
            WINDOW trail AS (PARTITION BY e.command_id ORDER BY e.event_id)
        ), judged AS (
            SELECT steps.*,
                   NOT coalesce(CASE
                       WHEN type = 'SENT' THEN before IS NULL
                       WHEN type = 'RECEIVED' THEN before IN
                           ('SENT', 'RELEASED', 'RETRY_SCHEDULED', 'OPERATOR_RETRY', 'RECEIVED', 'LEASE_EXTENDED')
                       WHEN type IN ('COMPLETED', 'RETRY_SCHEDULED', 'MOVED_TO_TSQ', 'BUSINESS_RULE_FAILED',
                                     'ATTEMPTS_EXHAUSTED', 'RELEASED', 'LEASE_EXTENDED')
                           THEN before IN ('RECEIVED', 'LEASE_EXTENDED')
                       WHEN type = 'CANCELED' AND worker_id IS NULL THEN before IN
                           ('SENT', 'RELEASED', 'RETRY_SCHEDULED', 'OPERATOR_RETRY')
                       WHEN type = 'CANCELED' THEN before IN ('RECEIVED', 'LEASE_EXTENDED')
                       WHEN type IN ('OPERATOR_RETRY', 'OPERATOR_CANCEL', 'OPERATOR_COMPLETE')
                           THEN before = 'MOVED_TO_TSQ'
                       END, false) AS illegal,
                   coalesce(before IN ('COMPLETED', 'BUSINESS_RULE_FAILED', 'ATTEMPTS_EXHAUSTED', 'CANCELED',
                                       'OPERATOR_CANCEL', 'OPERATOR_COMPLETE'), false) AS ended,
                   coalesce(before IN ('RECEIVED', 'LEASE_EXTENDED'), false) AS claimed,
                   type IN ('COMPLETED', 'RETRY_SCHEDULED', 'MOVED_TO_TSQ', 'BUSINESS_RULE_FAILED',
                            'ATTEMPTS_EXHAUSTED', 'RELEASED', 'LEASE_EXTENDED', 'CANCELED') AS by_claim,
                   coalesce(type = 'MOVED_TO_TSQ' AND worker_id IS NULL AND ts >= before_lease, false) AS swept
              FROM steps
        ), named AS (
            SELECT judged.*,
                   claimed AND by_claim AND (epoch IS DISTINCT FROM before_epoch
                       OR (worker_id IS DISTINCT FROM before_worker AND NOT swept)) AS unfenced,
                   before = 'MOVED_TO_TSQ' AND epoch IS DISTINCT FROM before_epoch AS misnamed,
                   type IN ('RECEIVED', 'LEASE_EXTENDED')
                       AND (epoch IS NULL OR worker_id IS NULL OR lease_until IS NULL) AS bare,
                   type = 'RECEIVED' AND epoch IS DISTINCT FROM coalesce(before_epoch, 0) + 1 AS gap,
                   type = 'RECEIVED' AND (attempt IS NULL OR max_attempts IS NULL OR attempt > max_attempts
                       OR (attempt <> 1 AND before IN ('SENT', 'OPERATOR_RETRY'))) AS miscounted,
                   coalesce(type = 'ATTEMPTS_EXHAUSTED' AND attempt < before_allowed, false) AS hasty,
                   type = 'RECEIVED' AND claimed AND ts < before_lease AS stolen,
                   ts < before_ts AND before <> 'LEASE_EXTENDED' AS early
              FROM judged
        )
        SELECT v.rule, (SELECT min(c.domain) FROM commandbus.command c WHERE c.command_id = named.command_id) AS domain,
               named.command_id AS subject,
               format('event %%s: %%s', event_id, v.message) AS message
          FROM named
         CROSS JOIN LATERAL (VALUES
             ('S3', illegal AND NOT ended,
              format('%%s cannot follow %%s', type, coalesce(before, 'nothing'))),
             ('S4', ended, format('%%s after the terminal %%s', type, before)),
             ('S5', unfenced,
              format('%%s under epoch %%s by worker %%s, but the newest claim is epoch %%s by worker %%s until %%s',
                     type, coalesce(epoch::text, 'none'), coalesce(worker_id::text, 'none'), before_epoch,
                         before_worker,
                     before_lease)),
             ('S5', misnamed, format('%%s names epoch %%s, but it was parked under epoch %%s',
                                     type, coalesce(epoch::text, 'none'), coalesce(before_epoch::text, 'none'))),
             ('S5', bare, format('%%s carries no epoch, worker or lease', type)),
             ('S6', gap, format('RECEIVED under epoch %%s after epoch %%s', coalesce(epoch::text, 'none'),
                                coalesce(before_epoch, 0))),
             ('S6', miscounted, format('RECEIVED as attempt %%s of %%s after %%s', coalesce(attempt::text, 'none'),
                                       coalesce(max_attempts::text, 'none'), before)),
             ('S6', hasty, format('ATTEMPTS_EXHAUSTED after attempt %%s of %%s', attempt, before_allowed)),
             ('S7', stolen, format('RECEIVED at %%s while the claim before it holds until %%s', ts, before_lease)),
             ('S7', early AND type = 'RECEIVED' AND before <> 'SENT',
              format('RECEIVED at %%s before the earlier claim ended with %%s at %%s', ts, before, before_ts)),
             ('S13', early, format('%%s at %%s is earlier than %%s at %%s', type, ts, before, before_ts))
         ) AS v (rule, broken, message)
         WHERE (illegal OR ended OR unfenced OR misnamed OR bare OR gap OR miscounted OR hasty OR stolen
                OR early) AND v.broken
    """,
)

LATE_OUTCOMES = AuditStatement(
    name="late_outcomes",
    rules=("S5",),
    description="A late outcome was dropped from a claim that there was.",
    statement="""
        SELECT 'S5' AS rule,
               (SELECT min(c.domain) FROM commandbus.command c WHERE c.command_id = late.command_id) AS domain,
               late.command_id AS subject,
               format('event %%s: LATE_OUTCOME_DROPPED of epoch %%s by worker %%s, which never claimed it',
                      late.event_id, late.epoch, late.worker_id) AS message
          FROM commandbus.event late
         WHERE late.type = 'LATE_OUTCOME_DROPPED'
           AND NOT EXISTS (
                SELECT FROM commandbus.event e
                 WHERE e.command_id = late.command_id AND e.type = 'RECEIVED'
                   AND e.epoch = late.epoch AND e.worker_id = late.worker_id AND e.event_id < late.event_id)
    """,
)

LIVES = AuditStatement(
    name="lives",
    rules=("S6",),
    description=(
        "In one life (until an operator retries it) a command fails at most max_attempts times and loses at most "
        "max_attempts leases; its live row and its attempt numbers count the same as its events."
    ),
    statement="""
        WITH troubled AS (
            SELECT DISTINCT command_id FROM commandbus.event
             WHERE (epoch > 1 OR type IN ('RETRY_SCHEDULED', 'MOVED_TO_TSQ', 'ATTEMPTS_EXHAUSTED'))
               AND (%(odd_commands)s::uuid[] IS NULL OR command_id = ANY (%(odd_commands)s::uuid[]))
        ), steps AS (
            SELECT e.command_id, e.type, e.worker_id, e.attempt, e.max_attempts, e.details ->> 'code' AS code,
                   lag(e.type) OVER trail AS before,
                   count(*) FILTER (WHERE e.type = 'OPERATOR_RETRY') OVER trail AS life
              FROM commandbus.event e
              JOIN troubled USING (command_id)
             WHERE e.type <> 'LATE_OUTCOME_DROPPED'
               AND (%(odd_commands)s::uuid[] IS NULL OR e.command_id = ANY (%(odd_commands)s::uuid[]))
            WINDOW trail AS (PARTITION BY e.command_id ORDER BY e.event_id)
        ), lives AS (
            SELECT command_id, life, max(max_attempts) AS allowed,
                   count(*) FILTER (WHERE type = 'RETRY_SCHEDULED') AS retries,
                   count(*) FILTER (WHERE type IN ('RETRY_SCHEDULED', 'ATTEMPTS_EXHAUSTED')
                       OR (type = 'MOVED_TO_TSQ' AND worker_id IS NOT NULL
                           AND code IS DISTINCT FROM 'HANDLER_NOT_FOUND')) AS failures,
                   count(*) FILTER (WHERE (type = 'RECEIVED' AND before IN ('RECEIVED', 'LEASE_EXTENDED'))
                                       OR (type = 'MOVED_TO_TSQ' AND worker_id IS NULL)) AS lost,
                   coalesce(max(attempt) FILTER (WHERE type = 'RECEIVED'), 1) AS attempt
              FROM steps GROUP BY command_id, life
        ), counted AS (
            SELECT command_id, life, failures, lost,
                   sum(failures) OVER earlier - failures AS past,
                   lead(life) OVER earlier IS NULL AS newest
              FROM lives WINDOW earlier AS (PARTITION BY command_id ORDER BY life)
        ), live AS (
            SELECT command_id, domain, failures, lost_leases, past_failures FROM commandbus.queue
            UNION ALL
            SELECT command_id, domain, failures, lost_leases, past_failures FROM commandbus.scheduled
            UNION ALL
            SELECT command_id, domain, failures, lost_leases, past_failures FROM commandbus.troubleshooting
        )
        SELECT 'S6' AS rule,
               (SELECT min(c.domain) FROM commandbus.command c WHERE c.command_id = lives.command_id) AS domain,
               lives.command_id AS subject, v.message
          FROM lives
         CROSS JOIN LATERAL (VALUES
             (failures > allowed, format('life %%s: %%s failures recorded of %%s allowed', life, failures, allowed)),
             (retries >= allowed, format('life %%s: retried after %%s failures of %%s allowed', life, retries,
                 allowed)),
             (lost > allowed, format('life %%s: %%s leases lost of %%s allowed', life, lost, allowed)),
             (attempt NOT IN (retries, retries + 1),
              format('life %%s: claimed as attempt %%s after %%s retries', life, attempt, retries))
         ) AS v (broken, message)
         WHERE v.broken
        UNION ALL
        SELECT 'S6', live.domain, live.command_id,
               format(
                   'counted %%s failures, %%s lost leases and %%s earlier failures, its events say %%s, %%s and %%s',
                      live.failures, live.lost_leases, live.past_failures,
                      coalesce(counted.failures, 0), coalesce(counted.lost, 0), coalesce(counted.past, 0))
          FROM live
          LEFT JOIN counted ON counted.command_id = live.command_id AND counted.newest
         WHERE (live.failures, live.lost_leases, live.past_failures) IS DISTINCT FROM
               (coalesce(counted.failures, 0), coalesce(counted.lost, 0), coalesce(counted.past, 0))
    """,
)
