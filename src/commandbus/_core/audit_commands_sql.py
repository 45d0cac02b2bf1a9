"""What the auditor asks of commands and the places in which a live one can be."""

from .audit_sql import AuditStatement

# A terminal event is the last one of its command, or the trail's own rule says so: of most commands no other is read.
STATE = AuditStatement(
    name="state",
    rules=("S2", "S3", "S6", "S12", "S13"),
    description=(
        "A command's state is what its last state event says; a live one has exactly one row in queue, scheduled or "
        "troubleshooting, under that event's epoch, leased exactly while IN_PROGRESS; a terminal one has none."
    ),
    statement="""
        WITH last AS (
            SELECT e.command_id, e.type, e.ts, e.epoch, e.worker_id
              FROM commandbus.event e
             WHERE e.type IN ('COMPLETED', 'BUSINESS_RULE_FAILED', 'ATTEMPTS_EXHAUSTED', 'CANCELED', 'OPERATOR_CANCEL',
                              'OPERATOR_COMPLETE')
               AND (%(odd_commands)s::uuid[] IS NULL OR e.command_id = ANY (%(odd_commands)s::uuid[]))
            UNION ALL
            (SELECT DISTINCT ON (e.command_id) e.command_id, e.type, e.ts, e.epoch, e.worker_id
               FROM commandbus.event e
               JOIN commandbus.command c ON c.command_id = e.command_id
              WHERE c.status NOT IN ('COMPLETED', 'FAILED', 'CANCELED')
                AND e.type NOT IN ('LATE_OUTCOME_DROPPED', 'LEASE_EXTENDED')
                AND (%(odd_commands)s::uuid[] IS NULL OR e.command_id = ANY (%(odd_commands)s::uuid[]))
              ORDER BY e.command_id, e.event_id DESC)
        ), joined AS (
            SELECT c.command_id, c.domain, c.status, c.created_at, c.updated_at, c.completed_at,
                   last.type, last.ts, last.epoch AS said_epoch, last.worker_id AS said_worker,
                   q.worker_id, q.lease_until, q.queued_at, q.command_id IS NOT NULL AS queued,
                   t.command_id IS NOT NULL AS parked, coalesce(q.epoch, s.epoch, t.epoch) AS epoch,
                   num_nonnulls(q.command_id, s.command_id, t.command_id) AS places,
                   c.status IN ('COMPLETED', 'FAILED', 'CANCELED') AS terminal,
                   CASE WHEN last.type IN ('COMPLETED', 'OPERATOR_COMPLETE') THEN 'COMPLETED'
                        WHEN last.type IN ('BUSINESS_RULE_FAILED', 'ATTEMPTS_EXHAUSTED') THEN 'FAILED'
                        WHEN last.type IN ('CANCELED', 'OPERATOR_CANCEL') THEN 'CANCELED'
                        WHEN last.type = 'MOVED_TO_TSQ' THEN 'IN_TROUBLESHOOTING_QUEUE'
                        WHEN last.type IS NOT NULL THEN 'PENDING' END AS said_status,
                   (coalesce(q.domain, s.domain, t.domain), coalesce(q.command_type, s.command_type, t.command_type))
                       <> (c.domain, c.command_type) AS misfiled
              FROM commandbus.command c
              LEFT JOIN last ON last.command_id = c.command_id
              LEFT JOIN commandbus.queue q ON q.command_id = c.command_id
              LEFT JOIN commandbus.scheduled s ON s.command_id = c.command_id
              LEFT JOIN commandbus.troubleshooting t ON t.command_id = c.command_id
             WHERE (%(odd_commands)s::uuid[] IS NULL OR c.command_id = ANY (%(odd_commands)s::uuid[]))
        ), judged AS (
            SELECT joined.*,
                   said_status IS DISTINCT FROM status AS untrue,
                   queued AND (worker_id IS NULL) <> (lease_until IS NULL) AS half_leased,
                   worker_id IS NOT NULL AND type <> 'RECEIVED' AS leased_idle,
                   type = 'RECEIVED' AND (worker_id, epoch) IS DISTINCT FROM (said_worker, said_epoch) AS leased_other,
                   epoch IS NOT NULL AND epoch <> coalesce(said_epoch, 0) AS epoch_off,
                   places <> (NOT terminal)::integer AS misplaced,
                   parked <> (status = 'IN_TROUBLESHOOTING_QUEUE') AS misparked,
                   terminal <> (completed_at IS NOT NULL) OR (terminal AND completed_at IS DISTINCT FROM ts) AS end_off,
                   updated_at < created_at OR completed_at < created_at OR queued_at < created_at AS early
              FROM joined
        )
        SELECT v.rule, judged.domain, judged.command_id AS subject, v.message
          FROM judged
         CROSS JOIN LATERAL (VALUES
             ('S3', untrue, CASE WHEN type IS NULL THEN format('%%s without an event that says so', status)
                                 ELSE format('%%s, but its last state event is %%s', status, type) END),
             ('S2', half_leased, 'its lease is only half set: worker_id and lease_until go together'),
             ('S2', leased_idle, format('leased to worker %%s, but its last state event is %%s', worker_id, type)),
             ('S2', leased_other, format(
                 'RECEIVED under epoch %%s by worker %%s, but its lease is of epoch %%s and worker %%s',
                 said_epoch, said_worker, coalesce(epoch::text, 'none'), coalesce(worker_id::text, 'none'))),
             ('S6', epoch_off, format('its live row has epoch %%s, its last state event %%s', epoch,
                 coalesce(said_epoch, 0))),
             ('S12', misplaced, format('%%s, with a row in %%s of queue, scheduled and troubleshooting', status,
                 places)),
             ('S12', misparked, format('%%s, %%s a row in troubleshooting', status,
                                       CASE WHEN parked THEN 'with' ELSE 'without' END)),
             ('S12', misfiled, 'its live row names another domain or command type'),
             ('S13', end_off, format('%%s with completed_at %%s, its last state event %%s at %%s',
                                     status, coalesce(completed_at::text, 'not set'), type, ts)),
             ('S13', early, format('updated at %%s, completed at %%s or queued at %%s before it was created at %%s',
                 updated_at, coalesce(completed_at::text, 'no time'), coalesce(queued_at::text, 'no time'), created_at))
         ) AS v (rule, broken, message)
         WHERE (untrue OR half_leased OR leased_idle OR leased_other OR epoch_off OR misplaced OR misparked OR misfiled
                OR end_off OR early) AND v.broken
    """,
)

SENT = AuditStatement(
    name="sent",
    rules=("S12", "S13"),
    description="Every SENT event has its command, created when the event says.",
    # Of the other events none comes before SENT: that would break the trail.
    statement="""
        SELECT CASE WHEN c.command_id IS NULL THEN 'S12' ELSE 'S13' END AS rule, c.domain, e.command_id AS subject,
               CASE WHEN c.command_id IS NULL THEN format('SENT at %%s, but no such command', e.ts)
                    ELSE format('created at %%s, but SENT at %%s', c.created_at, e.ts) END AS message
          FROM commandbus.event e
          LEFT JOIN commandbus.command c ON c.command_id = e.command_id
         WHERE e.type = 'SENT' AND e.ts IS DISTINCT FROM c.created_at
           AND (%(odd_commands)s::uuid[] IS NULL OR e.command_id = ANY (%(odd_commands)s::uuid[]))
    """,
)

DOUBLES = AuditStatement(
    name="doubles",
    rules=("S2", "S9"),
    description="One row for each command_id in command, queue, scheduled, troubleshooting and reply.",
    statement="""
        SELECT 'S2' AS rule, min(domain) AS domain, command_id AS subject,
               format('%%s rows in command', count(*)) AS message
          FROM commandbus.command GROUP BY command_id HAVING count(*) > 1
        UNION ALL
        SELECT 'S2', min(domain), command_id, format('%%s rows in queue', count(*))
          FROM commandbus.queue GROUP BY command_id HAVING count(*) > 1
        UNION ALL
        SELECT 'S2', min(domain), command_id, format('%%s rows in scheduled', count(*))
          FROM commandbus.scheduled GROUP BY command_id HAVING count(*) > 1
        UNION ALL
        SELECT 'S2', min(domain), command_id, format('%%s rows in troubleshooting', count(*))
          FROM commandbus.troubleshooting GROUP BY command_id HAVING count(*) > 1
        UNION ALL
        SELECT 'S9', (SELECT min(c.domain) FROM commandbus.command c WHERE c.command_id = reply.command_id), command_id,
               format('%%s reply rows', count(*))
          FROM commandbus.reply GROUP BY command_id HAVING count(*) > 1
    """,
)

ORPHANS = AuditStatement(
    name="orphans",
    rules=("S12",),
    description="Every row that names a command, a process, a batch of commands or a worker names one that exists.",
    statement="""
        WITH named AS (
            SELECT 'queue' AS place, domain, command_id FROM commandbus.queue
            UNION ALL SELECT 'scheduled', domain, command_id FROM commandbus.scheduled
            UNION ALL SELECT 'troubleshooting', domain, command_id FROM commandbus.troubleshooting
            UNION ALL SELECT 'reply', NULL, command_id FROM commandbus.reply
            UNION ALL SELECT 'process', domain, command_id FROM commandbus.process WHERE command_id IS NOT NULL
            UNION ALL SELECT 'compensates', domain, compensates FROM commandbus.command WHERE compensates IS NOT NULL
        )
        SELECT 'S12' AS rule, n.domain, n.command_id::text AS subject,
               format('named in %%s, but no such command', n.place) AS message
          FROM named n
         WHERE NOT EXISTS (SELECT FROM commandbus.command c WHERE c.command_id = n.command_id)
        UNION ALL
        SELECT 'S12', c.domain, c.command_id::text, format('of process %%s, which does not exist', c.process_id)
          FROM commandbus.command c
         WHERE c.process_id IS NOT NULL
           AND (%(odd_processes)s::uuid[] IS NULL OR c.process_id = ANY (%(odd_processes)s::uuid[]))
           AND NOT EXISTS (SELECT FROM commandbus.process p WHERE p.process_id = c.process_id)
        UNION ALL
        SELECT 'S12', c.domain, c.command_id::text, format('of batch %%s, which does not exist', c.batch_id)
          FROM commandbus.command c
         WHERE c.batch_id IS NOT NULL
           AND NOT EXISTS (SELECT FROM commandbus.batch b WHERE b.batch_id = c.batch_id)
        UNION ALL
        SELECT DISTINCT 'S12', NULL, format('worker %%s', s.worker_id), 'has statistics, but no such worker'
          FROM commandbus.worker_statistic s
         WHERE NOT EXISTS (SELECT FROM commandbus.worker w WHERE w.worker_id = s.worker_id)
    """,
)

UNCOMPLETED = AuditStatement(
    name="uncompleted",
    rules=("S12",),
    description="A FAILED or CANCELED command has one row in uncompleted, which says the same of it; no other has one.",
    statement="""
        SELECT 'S12' AS rule, coalesce(c.domain, u.domain) AS domain, coalesce(c.command_id, u.command_id) AS subject,
               CASE WHEN u.command_id IS NULL THEN format('%%s, but not in uncompleted', c.status)
                    WHEN c.command_id IS NULL
                    THEN format('in uncompleted as %%s, but no such command is FAILED or CANCELED', u.status)
                    ELSE format('%%s, created at %%s, but in uncompleted as %%s, created at %%s, or of another domain'
                                ' or command type', c.status, c.created_at, u.status, u.created_at) END AS message
          FROM (SELECT * FROM commandbus.command WHERE status IN ('FAILED', 'CANCELED')) c
          FULL JOIN commandbus.uncompleted u ON u.command_id = c.command_id
         WHERE (u.domain, u.command_type, u.status, u.created_at)
               IS DISTINCT FROM (c.domain, c.command_type, c.status, c.created_at)
    """,
)

LIVENESS = AuditStatement(
    name="liveness",
    rules=("L1", "L2"),
    description=(
        "At rest every command is terminal, parked or scheduled in the future; no lease has run out while a worker of "
        "the domain is alive."
    ),
    statement="""
        SELECT 'L1' AS rule, q.domain, q.command_id AS subject,
               CASE WHEN q.worker_id IS NULL THEN format('due since %%s, and nobody has claimed it', q.queued_at)
                    ELSE format('still IN_PROGRESS at worker %%s, until %%s', q.worker_id, q.lease_until) END AS message
          FROM commandbus.queue q
        UNION ALL
        SELECT 'L1', s.domain, s.command_id, format('its retry is due since %%s', s.due_at)
          FROM commandbus.scheduled s WHERE s.due_at <= commandbus.now()
        UNION ALL
        SELECT 'L2', q.domain, q.command_id,
               format('the lease of worker %%s ran out at %%s, and no live worker has taken it over', q.worker_id,
                   q.lease_until)
          FROM commandbus.queue q
         WHERE q.lease_until <= commandbus.now()
           AND EXISTS (SELECT FROM commandbus.worker w
                        WHERE w.domain = q.domain AND w.stopped_at IS NULL AND w.alive_until > clock_timestamp())
    """,
)
