"""The defects that are planted in a copy of the bus: each may well happen, and is named by the audit."""

from commandbus import executor
from commandbus._core.process_sql import ProcessSQL
from commandbus.executor import Executor
from commandbus.process import ProcessReplyRouter, advance, cancelling, decide
from commandbus.settlement import Settlement
from commandbus.troubleshooting import actions
from commandbus.worker.leases import CommandLease
from tests.simulator.planting import NO_FENCE, Mutant

OURS = "q.command_id BETWEEN s.command_id AND s.command_id AND q.epoch = s.epoch AND q.worker_id = s.worker_id"
ANYBODYS = "q.command_id BETWEEN s.command_id AND s.command_id AND q.epoch >= s.epoch AND s.worker_id > 0"

CLAIMING = [
    Mutant("an epoch is used again", ("S6",), "claim", "SET epoch = q.epoch + 1", "SET epoch = q.epoch"),
    Mutant("an epoch is left out", ("S6",), "claim", "SET epoch = q.epoch + 1", "SET epoch = q.epoch + 2"),
    Mutant("a lease is no hindrance", ("S7",), "claim", "q.lease_until <= v_now AND", ""),
    Mutant("lost leases are not counted", ("S6",), "claim", "(q.worker_id IS NOT NULL)::integer", "0"),
    Mutant("leases are lost without end", ("S6",), "claim", "AND q.lost_leases + 1 < q.max_attempts", ""),
    Mutant("a retry forgets its failures", ("S6",), "claim", "t.epoch, t.failures,", "t.epoch, 0,"),
    Mutant("attempts are counted from 0", ("S6",), "claim", "l.failures + 1,", "l.failures,"),
    Mutant("a claim is not audited", ("S2", "S3"), "claim", "FROM leased l )", "FROM leased l WHERE false )"),
    Mutant("a claim by a clock that is behind", ("S13",), "claim", "greatest(v_now, l.queued_at), l.epoch",
           "v_now - interval '1 hour', l.epoch"),
    Mutant("a retry that is due stays scheduled", ("S12",), "claim",
           "DELETE FROM commandbus.scheduled s USING due WHERE s.ctid = due.ctid RETURNING s.*",
           "SELECT s.* FROM commandbus.scheduled s JOIN due ON s.ctid = due.ctid"),
    Mutant("no sweep", ("L1", "L2", "L3"), "sweep", "AND q.lost_leases + 1 >= q.max_attempts", "AND false"),
    Mutant("the sweep takes leases that hold", ("S5", "S6"), "sweep", "AND q.lease_until <= v_now", ""),
    Mutant("the sweep forgets the lease it took", ("S6",), "sweep", "'lost_leases', s.lost_leases + 1",
           "'lost_leases', s.lost_leases"),
    Mutant("the sweep forgets the process", ("S11",), "sweep", "'process_id', c.process_id", "'process_id', NULL"),
    Mutant("work is lost on shutdown", ("S12",), "release",
           "UPDATE commandbus.queue q SET lease_until = NULL, worker_id = NULL, queued_at = v_now"
           " -- no claim is stamped before FROM", "DELETE FROM commandbus.queue q USING"),
    Mutant("a release has no fence", ("S2", "S3", "S5"), "release", OURS, ANYBODYS),
    Mutant("a release is not audited", ("S2",), "release", "FROM released r )", "FROM released r WHERE false )"),
]  # fmt: skip

SETTLING = [
    NO_FENCE,
    Mutant("the fence is the worker alone", ("S5",), "settle",
           "AND q.epoch = s.epoch AND q.worker_id = s.worker_id AND (NOT",
           "AND q.epoch >= s.epoch AND q.worker_id = s.worker_id AND (NOT"),
    Mutant("a late outcome is accepted", ("S4", "S5", "S3"), "settle",
           "IF cardinality(v_ours) < cardinality(p_command_ids) THEN", "IF false THEN"),
    Mutant("what was settled stays in the queue", ("S12",), "settle", "DELETE FROM commandbus.queue q USING",
           "UPDATE commandbus.queue q SET worker_id = NULL, lease_until = NULL FROM"),
    Mutant("a process is not advanced", ("S9", "L3"), "settle", "FROM ours o WHERE p.process_id",
           "FROM ours o WHERE false AND p.process_id"),
    Mutant("the next command is not sent", ("S12",), "settle",
           "domain, next_id, command_type, max_attempts, v_now FROM ours WHERE next_id IS NOT NULL",
           "domain, next_id, command_type, max_attempts, v_now FROM ours WHERE false"),
    Mutant("a settle overlooks a cancel", ("S11",), "settle",
           "AND (NOT q.canceling OR q.command_id = ANY (p_canceling))", ""),
    Mutant("an outcome is not stored", ("S3",), "settle", "FROM ours o WHERE o.event IS NULL AND",
           "FROM ours o WHERE false AND"),
    Mutant("an outcome is not audited", ("S3",), "settle", "FROM ours WHERE event IS NULL",
           "FROM ours WHERE false"),
    Mutant("an end without its time", ("S13",), "settle", "completed_at = v_now", "completed_at = NULL"),
    Mutant("a retry is not scheduled", ("S12",), "record_outcomes", "FROM o WHERE delay IS NOT NULL",
           "FROM o WHERE false"),
    Mutant("a command is not parked", ("S12",), "record_outcomes", "FROM o WHERE event = 'MOVED_TO_TSQ' )",
           "FROM o WHERE false )"),
    Mutant("a failed command is not listed", ("S12",), "record_outcomes", "WHERE o.status IN ('FAILED', 'CANCELED')",
           "WHERE o.status IN ('CANCELED')"),
    Mutant("a parked command leaves its process waiting", ("S11",), "record_outcomes",
           "WHERE (o.event = 'MOVED_TO_TSQ' OR", "WHERE (false OR"),
    Mutant("attempts over the limit", ("S6",), (executor, "failed"),
           "policy.is_exhausted(failures + 1, max_attempts)", "failures >= max_attempts"),
    Mutant("a handler runs twice in one attempt", ("S8",), (Executor, "execute"), "outcome = completed(",
           "await self._call(run); outcome = completed("),
    Mutant("a lost completion commits its effect", ("S8",), (CommandLease, "complete"),
           "settle(self._conn, self._recorded):", "settle(self._conn, self._recorded) and False:"),
    Mutant("a hook is called for what is lost", ("S8",), (Settlement, "_settle"),
           "for f, a in advanced if f.claimed.seq in ours]", "for f, a in advanced]"),
]  # fmt: skip

REPLIES = [
    Mutant("double reply", ("S9",), (Settlement, "_store"), "[self._outcome_row(f, {})",
           "[self._outcome_row(f, self._reply_row(f))"),
    Mutant("no reply", ("S9",), "record_outcomes", "FROM o WHERE reply_outcome IS NOT NULL ), audited",
           "FROM o WHERE false ), audited"),
    Mutant("every reply is a success", ("S9",), "record_outcomes", "reply_outcome, result,", "'SUCCESS', result,"),
    Mutant("a reply stays when it was applied", ("S9",), (ProcessSQL, "DELETE_REPLIES"), "WHERE reply_id",
           "WHERE epoch < 0 AND reply_id"),
    Mutant("a reply is applied twice", ("S11",), (ProcessReplyRouter, "_route_chunk"),
           "for row in rows if self._is_expected(row)]", "for row in rows for _ in 'ab' if self._is_expected(row)]"),
    Mutant("a reply comes again when it was acknowledged", ("S9",), "acknowledge_replies",
           "DELETE FROM commandbus.reply r USING", "UPDATE commandbus.reply r SET lease_until = NULL FROM"),
    Mutant("an operator's decision leaves no reply", ("S9",), (actions, "_outcome"),
           "if address is not None and leaves_reply:", "if False:"),
]  # fmt: skip

PROCESSES = [
    Mutant("undo out of order", ("S11",), (decide, "_begin_undo"), "in reversed(completed)", "in completed"),
    Mutant("undo before its time", ("S9", "S11"), (Settlement, "_reply"),
           "outcome.reply is None or claimed.process_id is None", "claimed.process_id is None"),
    Mutant("a step is not undone", ("S11",), (decide, "_next_undo"), "undo[1:], end)", "undo[2:], end)"),
    Mutant("a step is undone twice", ("S11",), (decide, "_next_undo"), "undo[1:], end)",
           "undo[0 if len(undo) > 1 else 1:], end)"),
    Mutant("a failed undo is good enough", ("S11",), (decide, "_after_undo"),
           "if response.outcome is not _SUCCESS:", "if False:"),
    Mutant("a failed step is good enough", ("S11",), (advance, "decide"),
           "if response.outcome is _SUCCESS:", "if True:"),
    Mutant("an undone process says COMPLETED", ("S11",), (decide, "_after_undo"),
           "process.undone_status or ProcessStatus.COMPENSATED", "ProcessStatus.COMPLETED"),
    Mutant("a process stays at its old step", ("S11",), "settle", "current_step = o.step",
           "current_step = p.current_step"),
    Mutant("a process ends without its time", ("S13",), "settle", "CASE WHEN o.next_id IS NULL THEN v_now END",
           "NULL"),
    Mutant("a cancel does not mark the command", ("S11",), "cancel_processes", "SET canceling = true",
           "SET canceling = false"),
    Mutant("a cancel is not kept", ("S11",), "cancel_processes", "SET cancel_request = p_request,",
           "SET cancel_request = NULL,"),
    Mutant("a cancelled command is not recorded", ("S3", "S12"), (cancelling, "_undo"), "if outcomes:", "if False:"),
]  # fmt: skip

OPERATORS = [
    Mutant("two operators decide", ("S4", "S12", "S3"), "take_parked",
           "DELETE FROM commandbus.troubleshooting t USING held h"
           " WHERE t.command_id BETWEEN h.command_id AND h.command_id RETURNING t.*",
           "SELECT t.* FROM commandbus.troubleshooting t JOIN held h ON t.command_id = h.command_id"),
    Mutant("a second life forgets the first", ("S6",), "requeue", "a.past_failures, a.max_attempts, v_now",
           "0, a.max_attempts, v_now"),
    Mutant("a second life begins at epoch 0", ("S6",), "requeue", "a.epoch, a.past_failures, a.max_attempts, v_now",
           "0, a.past_failures, a.max_attempts, v_now"),
    Mutant("a retried command leaves its process parked", ("S11",), "requeue", "FROM again a WHERE",
           "FROM again a WHERE false AND"),
    Mutant("a retried command stays parked in name", ("S3", "S12"), "requeue", "SET status = 'PENDING',",
           "SET status = c.status,"),
    Mutant("the trail is rewritten", ("S14", "S3"), "requeue",
           "INSERT INTO commandbus.event (command_id, type, ts, epoch, details)"
           " SELECT command_id, 'OPERATOR_RETRY', v_now, epoch, details FROM r",
           "UPDATE commandbus.event e SET type = 'OPERATOR_RETRY', worker_id = NULL, ts = v_now, details = r.details"
           " FROM r WHERE e.command_id = r.command_id AND e.type = 'MOVED_TO_TSQ'"),
]  # fmt: skip

SENDING = [
    Mutant("a send is not stored", ("S1", "S12"), "enqueue", "v_now, v_now FROM new ), queued",
           "v_now, v_now FROM new WHERE process_id IS NOT NULL ), queued"),
    Mutant("a send is not queued", ("S12",), "enqueue", "max_attempts, v_now FROM new ), sent",
           "max_attempts, v_now FROM new WHERE process_id IS NOT NULL ), sent"),
    Mutant("a send is not audited", ("S3",), "enqueue", "'SENT', v_now FROM new", "'SENT', v_now FROM new WHERE false"),
    Mutant("a batch keeps failures quiet", ("S10",), "sp_refresh_batch_stats", "AND v_failed + v_canceled > 0",
           "AND false"),
    Mutant("a batch miscounts", ("S10",), "sp_refresh_batch_stats",
           "count(*) FILTER (WHERE c.status = 'COMPLETED')", "count(*)"),
    Mutant("a batch ends before its last member", ("S10",), "sp_refresh_batch_stats",
           "v_canceled >= v_batch.total_count THEN 'COMPLETED'", "v_canceled > 0 THEN 'COMPLETED'"),
    Mutant("a batch ends later than its last member", ("S10",), "sp_refresh_batch_stats", "completed_at = v_ended",
           "completed_at = v_ended + interval '1 s'"),
]  # fmt: skip

MUTANTS = [*CLAIMING, *SETTLING, *REPLIES, *PROCESSES, *OPERATORS, *SENDING]
