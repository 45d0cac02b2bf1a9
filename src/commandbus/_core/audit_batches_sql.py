"""What the auditor asks of batches: their counters are computed on read, so only a final batch's must be right."""

from .audit_sql import AuditStatement

BATCHES = AuditStatement(
    name="batches",
    rules=("S10", "S13"),
    description=(
        "A batch has no more members than its total, and just as many once it was cancelled; once it is final its "
        "counters equal a recount, its status says whether some did not succeed, and completed_at is when its last "
        "member ended. Only a final one may be pruned; then there is nothing left to recount."
    ),
    statement="""
        WITH members AS (
            SELECT 'COMMAND' AS batch_type, batch_id, count(*) AS members, max(completed_at) AS last_ended,
                   min(created_at) AS first_created,
                   count(*) FILTER (WHERE status = 'COMPLETED') AS completed,
                       count(*) FILTER (WHERE status = 'FAILED') AS failed,
                   count(*) FILTER (WHERE status = 'CANCELED') AS canceled,
                   count(*) FILTER (WHERE status = 'IN_TROUBLESHOOTING_QUEUE') AS parked
              FROM commandbus.command WHERE batch_id IS NOT NULL GROUP BY batch_id
            UNION ALL
            SELECT 'PROCESS', batch_id, count(*), max(completed_at), min(created_at),
                   count(*) FILTER (WHERE status IN ('COMPLETED', 'COMPENSATED')), 0,
                   count(*) FILTER (WHERE status IN ('FAILED', 'CANCELED')),
                   count(*) FILTER (WHERE status = 'WAITING_FOR_TSQ')
              FROM commandbus.process WHERE batch_id IS NOT NULL GROUP BY batch_id
        ), joined AS (
            SELECT b.*, coalesce(m.members, 0) AS members, coalesce(m.completed, 0) AS completed, m.last_ended,
                   coalesce(m.failed, 0) AS failed, coalesce(m.canceled, 0) AS canceled, coalesce(m.parked,
                       0) AS parked,
                   m.first_created, b.status IN ('COMPLETED', 'COMPLETED_WITH_FAILURES') AS final,
                   b.status IN ('COMPLETED', 'COMPLETED_WITH_FAILURES') AND NOT b.pruning AS countable
              FROM commandbus.batch b
              LEFT JOIN members m ON m.batch_id = b.batch_id AND m.batch_type = b.batch_type
        ), judged AS (
            SELECT joined.*,
                   members > total_count AS overfull,
                   NOT pruning AND canceled_at IS NOT NULL AND members < total_count AS unfilled,
                   pruning AND NOT final AS thinned,
                   countable AND completed + failed + canceled < total_count AS premature,
                   countable AND (completed_count, failed_count, canceled_count, in_troubleshooting_count)
                       IS DISTINCT FROM (completed, failed, canceled, parked) AS miscounted,
                   countable AND (status = 'COMPLETED_WITH_FAILURES') <> (failed + canceled > 0) AS misjudged,
                   countable AND last_ended IS NOT NULL AND completed_at IS DISTINCT FROM last_ended AS mistimed,
                   final <> (completed_at IS NOT NULL) AS end_off,
                   started_at < created_at OR completed_at < created_at OR first_created < created_at AS early
              FROM joined
        )
        SELECT v.rule, judged.domain, judged.batch_id AS subject, v.message
          FROM judged
         CROSS JOIN LATERAL (VALUES
             ('S10', overfull, format('%%s members of %%s', members, total_count)),
             ('S10', unfilled, format('cancelled at %%s with %%s of %%s members started, but waits for the others',
                 canceled_at, members, total_count)),
             ('S10', thinned, format('its members are being deleted, but it is %%s', status)),
             ('S10', premature, format('%%s with %%s of %%s members ended', status, completed + failed + canceled,
                 total_count)),
             ('S10', miscounted, format(
                 'counts %%s completed, %%s failed, %%s canceled, %%s parked; a recount gives %%s, %%s, %%s, %%s',
                 completed_count, failed_count, canceled_count, in_troubleshooting_count, completed, failed,
                     canceled, parked)),
             ('S10', misjudged, format('%%s with %%s failed or canceled members', status, failed + canceled)),
             ('S10', mistimed, format('completed at %%s, but its last member ended at %%s',
                                      coalesce(completed_at::text, 'no time'), last_ended)),
             ('S10', end_off AND total_count > 0, format('%%s with completed_at %%s', status,
                 coalesce(completed_at::text, 'not set'))),
             ('S13', early, format(
                 'created at %%s, started at %%s, completed at %%s, its first member created at %%s', created_at,
                 coalesce(started_at::text, 'no time'), coalesce(completed_at::text, 'no time'), first_created))
         ) AS v (rule, broken, message)
         WHERE (overfull OR unfilled OR thinned OR premature OR miscounted OR misjudged OR mistimed OR end_off OR early)
           AND v.broken
    """,
)
