"""What the auditor asks of processes and replies."""

from .audit_sql import AuditStatement

REPLIES = AuditStatement(
    name="replies",
    rules=("S9", "S13"),
    description=(
        "A reply row belongs to a terminal command that someone waits for, and says how it ended; a process's reply is "
        "either such a row or has advanced the process, never both, never neither."
    ),
    statement="""
        SELECT v.rule, c.domain, r.command_id AS subject, v.message
          FROM commandbus.reply r
          JOIN commandbus.command c ON c.command_id = r.command_id
          LEFT JOIN commandbus.process p ON p.process_id = c.process_id
         CROSS JOIN LATERAL (VALUES
             ('S9', r.outcome IS DISTINCT FROM CASE c.status WHEN 'COMPLETED' THEN 'SUCCESS' WHEN 'FAILED' THEN 'FAILED'
                                                             WHEN 'CANCELED' THEN 'CANCELED' END,
              format('reply %%s says %%s, but the command is %%s', r.reply_id, r.outcome, c.status)),
             ('S9', c.reply_to IS NULL AND c.process_id IS NULL, format('reply %%s, which nobody asked for',
                 r.reply_id)),
             ('S9', coalesce('process:' || p.process_type, c.reply_to) <> r.reply_to,
              format('reply %%s waits at %%s, but belongs at %%s', r.reply_id, r.reply_to,
                     coalesce('process:' || p.process_type, c.reply_to))),
             ('S9', r.epoch < (r.lease_until IS NOT NULL)::integer,
              format('reply %%s is leased, but was never received', r.reply_id)),
             ('S9', r.process_id IS DISTINCT FROM c.process_id,
              format('reply %%s goes to process %%s, but the command is of process %%s', r.reply_id,
                     coalesce(r.process_id::text, 'none'), coalesce(c.process_id::text, 'none'))),
             ('S9', p.process_id IS NOT NULL AND p.command_id IS DISTINCT FROM c.command_id,
              format('reply %%s waits, but process %%s has advanced without it (%%s)', r.reply_id, p.process_id,
                  p.status)),
             ('S13', r.created_at < c.completed_at,
              format('reply %%s of %%s is earlier than the end at %%s', r.reply_id, r.created_at, c.completed_at))
         ) AS v (rule, broken, message)
         WHERE v.broken
        UNION ALL
        SELECT 'S9', c.domain, c.command_id,
               format('%%s, but process %%s still waits for it and no reply row is there', c.status, p.process_id)
          FROM commandbus.process p
          JOIN commandbus.command c ON c.command_id = p.command_id
         WHERE p.status NOT IN ('COMPLETED', 'COMPENSATED', 'FAILED', 'CANCELED')
           AND c.status IN ('COMPLETED', 'FAILED', 'CANCELED')
           AND NOT EXISTS (SELECT FROM commandbus.reply r WHERE r.command_id = c.command_id)
    """,
)

PROCESSES = AuditStatement(
    name="processes",
    rules=("S11", "S13"),
    description=(
        "A process's status fits its commands: at most one is live, the one that it waits for; a terminal process has "
        "none, COMPLETED means that every step completed, COMPENSATED and CANCELED that every undo did."
    ),
    statement="""
        WITH sent AS (
            SELECT process_id, count(*) FILTER (WHERE status IN ('PENDING', 'IN_TROUBLESHOOTING_QUEUE')) AS live,
                   count(*) FILTER (WHERE status <> 'COMPLETED') AS not_completed,
                   count(*) FILTER (WHERE compensates IS NOT NULL) AS undos,
                   count(*) FILTER (WHERE compensates IS NOT NULL AND status <> 'COMPLETED') AS not_undone,
                   min(created_at) AS first_sent, max(completed_at) AS last_ended
              FROM commandbus.command
             WHERE process_id IS NOT NULL
               AND (%(odd_processes)s::uuid[] IS NULL OR process_id = ANY (%(odd_processes)s::uuid[]))
             GROUP BY process_id
        ), joined AS (
            SELECT p.process_id, p.domain, p.status, p.current_step, p.command_id, p.created_at, p.updated_at,
                   p.completed_at, p.undo IS NOT NULL OR p.undone_status IS NOT NULL AS undoing,
                   coalesce(s.live, 0) AS live, coalesce(s.not_completed, 0) AS not_completed,
                   coalesce(s.undos, 0) AS undos, coalesce(s.not_undone, 0) AS not_undone, s.first_sent, s.last_ended,
                   c.process_id AS its_process, c.status AS waits_for, c.step, c.compensates,
                   p.status IN ('COMPLETED', 'COMPENSATED', 'FAILED', 'CANCELED') AS terminal,
                   p.status IN ('WAITING_FOR_REPLY', 'COMPENSATING', 'WAITING_FOR_TSQ') AS waiting
              FROM commandbus.process p
              LEFT JOIN sent s ON s.process_id = p.process_id
              LEFT JOIN commandbus.command c ON c.command_id = p.command_id
             WHERE (%(odd_processes)s::uuid[] IS NULL OR p.process_id = ANY (%(odd_processes)s::uuid[]))
        ), judged AS (
            SELECT joined.*,
                   live > (NOT terminal)::integer AS crowded,
                   waiting AND (command_id IS NULL OR its_process IS DISTINCT FROM process_id) AS adrift,
                   waiting AND waits_for IS NOT NULL
                       AND (status = 'WAITING_FOR_TSQ') <> (waits_for = 'IN_TROUBLESHOOTING_QUEUE') AS misparked,
                   waiting AND live = 1 AND waits_for IN ('COMPLETED', 'FAILED', 'CANCELED') AS elsewhere,
                   waiting AND step IS NOT NULL AND current_step IS DISTINCT FROM step AS off_step,
                   status = 'WAITING_FOR_REPLY' AND compensates IS NOT NULL AS forward_undo,
                   terminal AND (command_id IS NOT NULL OR undoing) AS unfinished,
                   status = 'COMPLETED' AND (not_completed > 0 OR undos > 0) AS incomplete,
                   status IN ('COMPENSATED', 'CANCELED') AND not_undone > 0 AS not_all_undone,
                   status = 'COMPENSATED' AND undos = 0 AS nothing_undone,
                   terminal <> (completed_at IS NOT NULL) AS end_off,
                   updated_at < created_at OR first_sent < created_at
                       OR completed_at < greatest(created_at, last_ended) AS early
              FROM joined
        )
        SELECT v.rule, judged.domain, judged.process_id AS subject, v.message
          FROM judged
         CROSS JOIN LATERAL (VALUES
             ('S11', crowded, format('%%s with %%s live commands', status, live)),
             ('S11', adrift, format('%%s, but waits for no command of its own (command_id %%s)', status,
                                    coalesce(command_id::text, 'not set'))),
             ('S11', misparked, format('%%s, but its command %%s is %%s', status, command_id, waits_for)),
             ('S11', elsewhere, format('waits for the ended command %%s while another one of it is live', command_id)),
             ('S11', off_step, format('at step %%s, but waits for step %%s', coalesce(current_step, 'none'), step)),
             ('S11', forward_undo, format('%%s, but command %%s undoes a step', status, command_id)),
             ('S11', unfinished, format('%%s, but still waits for a command or has steps to undo', status)),
             ('S11', incomplete, format('COMPLETED with %%s commands that are not, and %%s undo steps',
                 not_completed, undos)),
             ('S11', not_all_undone, format('%%s with %%s undo steps that are not COMPLETED', status, not_undone)),
             ('S11', nothing_undone, 'COMPENSATED, but nothing was undone'),
             ('S13', end_off, format('%%s with completed_at %%s', status, coalesce(completed_at::text, 'not set'))),
             ('S13', early, format('created at %%s, updated at %%s, completed at %%s, its commands from %%s to %%s',
                 created_at,
                 updated_at, coalesce(completed_at::text, 'no time'), first_sent, coalesce(last_ended::text,
                     'no time')))
         ) AS v (rule, broken, message)
         WHERE (crowded OR adrift OR misparked OR elsewhere OR off_step OR forward_undo OR unfinished OR incomplete
                OR not_all_undone OR nothing_undone OR end_off OR early) AND v.broken
    """,
)

PATHS = AuditStatement(
    name="paths",
    rules=("S11",),
    description=(
        "A process's commands are sent one after another, each visit of a step once; no step follows one that did not "
        "complete, none an undo; undo steps run in reverse order of completion, "
        "each completed step undone at most once."
    ),
    statement="""
        WITH steps AS (
            SELECT c.process_id, c.domain, c.command_id, c.step, c.status, c.compensates, c.created_at, c.completed_at,
                   t.command_id IS NOT NULL AS target, t.process_id AS target_process, t.status AS target_status,
                   t.compensates AS target_compensates, t.completed_at AS target_ended
              FROM commandbus.command c
              LEFT JOIN commandbus.command t ON t.command_id = c.compensates
             WHERE c.process_id IS NOT NULL
               AND (%(odd_processes)s::uuid[] IS NULL OR c.process_id = ANY (%(odd_processes)s::uuid[]))
        ), ordered AS (
            SELECT steps.*, lag(status) OVER path AS before, lag(step) OVER path AS before_step,
                   lag(completed_at) OVER path AS before_ended, lag(compensates) OVER path AS before_undid,
                   lag(target_ended) OVER path AS before_target_ended, lag(command_id) OVER path IS NOT NULL AS follows
              FROM steps WINDOW path AS (PARTITION BY process_id ORDER BY created_at, command_id)
        ), judged AS (
            SELECT ordered.*,
                   follows AND (before_ended IS NULL OR before_ended > created_at) AS too_soon,
                   follows AND compensates IS NULL AND before_undid IS NOT NULL AS forward_again,
                   follows AND before <> 'COMPLETED'
                       AND (compensates IS NULL OR before_undid IS NOT NULL) AS over_failure,
                   target AND (target_process IS DISTINCT FROM process_id OR target_status <> 'COMPLETED'
                               OR target_compensates IS NOT NULL) AS wrong_target,
                   before_target_ended < target_ended AS wrong_order
              FROM ordered
        )
        SELECT 'S11' AS rule, judged.domain, process_id AS subject, format('command %%s, step %%s: %%s', command_id,
            step, v.message)
               AS message
          FROM judged
         CROSS JOIN LATERAL (VALUES
             (too_soon, format('sent at %%s, but step %%s before it ended at %%s', created_at, before_step,
                               coalesce(before_ended::text, 'no time yet'))),
             (forward_again, format('sent after the undo step %%s', before_step)),
             (over_failure, format('sent after step %%s, which is %%s', before_step, before)),
             (wrong_target, format('undoes command %%s, which is no completed step of this process', compensates)),
             (wrong_order, format('undoes a step that ended at %%s, after one that ended at %%s', target_ended,
                                  before_target_ended))
         ) AS v (broken, message)
         WHERE (too_soon OR forward_again OR over_failure OR wrong_target OR wrong_order) AND v.broken
        UNION ALL
        SELECT 'S11', min(domain), process_id, format('visit %%s of step %%s was sent %%s times', visit, step, count(*))
          FROM commandbus.command
         WHERE process_id IS NOT NULL
           AND (%(odd_processes)s::uuid[] IS NULL OR process_id = ANY (%(odd_processes)s::uuid[]))
         GROUP BY process_id, step, visit HAVING count(*) > 1
        UNION ALL
        SELECT 'S11', min(domain), process_id, format('command %%s was undone %%s times', compensates, count(*))
          FROM commandbus.command WHERE compensates IS NOT NULL GROUP BY process_id, compensates HAVING count(*) > 1
    """,
)

CANCELS = AuditStatement(
    name="cancels",
    rules=("S11",),
    description=(
        "A process that was cancelled with a command in flight goes no step further: while that command is due or "
        "leased it is marked, it waits for no retry, and the process does not end COMPLETED; nothing else is marked."
    ),
    statement="""
        SELECT 'S11' AS rule, q.domain, coalesce(c.process_id, q.command_id) AS subject,
               format('its command %%s is marked as canceling, but nobody has cancelled the process', q.command_id)
                   AS message
          FROM commandbus.queue q
          LEFT JOIN commandbus.command c ON c.command_id = q.command_id
          LEFT JOIN commandbus.process p ON p.process_id = c.process_id
         WHERE q.canceling AND (p.cancel_request IS NULL OR c.compensates IS NOT NULL)
        UNION ALL
        SELECT 'S11', p.domain, p.process_id,
               CASE WHEN p.status = 'COMPLETED' THEN 'COMPLETED, though it was cancelled with a command in flight'
                    ELSE format('cancelled with a command in flight, but step %%s goes on %%s', p.current_step,
                                CASE WHEN s.command_id IS NULL THEN 'unmarked' ELSE 'to a retry' END) END
          FROM commandbus.process p
          LEFT JOIN commandbus.queue q ON q.command_id = p.command_id
          LEFT JOIN commandbus.scheduled s ON s.command_id = p.command_id
         WHERE p.cancel_request IS NOT NULL AND p.undone_status IS NULL
           AND (p.status = 'COMPLETED' OR NOT q.canceling OR s.command_id IS NOT NULL)
    """,
)

LIVENESS = AuditStatement(
    name="process_liveness",
    rules=("L3",),
    description="At rest every process is terminal or has exactly one live or parked command.",
    statement="""
        WITH live AS (
            SELECT process_id, count(*) AS live FROM commandbus.command
             WHERE process_id IS NOT NULL AND status IN ('PENDING', 'IN_TROUBLESHOOTING_QUEUE')
             GROUP BY process_id
        )
        SELECT 'L3' AS rule, p.domain, p.process_id AS subject,
               format('%%s with %%s live or parked commands%%s', p.status, coalesce(live.live, 0),
                      CASE WHEN r.command_id IS NOT NULL THEN ': its reply waits for a worker with its manager'
                           ELSE '' END)
               AS message
          FROM commandbus.process p
          LEFT JOIN live ON live.process_id = p.process_id
          LEFT JOIN commandbus.reply r ON r.command_id = p.command_id
         WHERE p.status NOT IN ('COMPLETED', 'COMPENSATED', 'FAILED', 'CANCELED') AND coalesce(live.live, 0) <> 1
    """,
)
