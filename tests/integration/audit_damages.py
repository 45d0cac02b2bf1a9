"""Defects done by SQL to the sound history of bus_history, each with the rule that must name it."""

from dataclasses import dataclass

EVENT = "INSERT INTO commandbus.event (command_id, type, ts, epoch, worker_id, attempt, max_attempts, lease_until) "


@dataclass(frozen=True)
class Damage:
    """A defect made by SQL; `%(id)s` is the id of what `subject` names in the history."""

    rule: str
    name: str
    subject: str
    statement: str


DAMAGES = [
    # one row for each command, leases
    Damage("S2", "two rows for one command", "done",
           "ALTER TABLE commandbus.command DROP CONSTRAINT command_pkey;"
           " INSERT INTO commandbus.command SELECT * FROM commandbus.command WHERE command_id = %(id)s"),
    Damage("S2", "two rows in the queue", "waiting",
           "DROP INDEX commandbus.ix_queue_command_id; INSERT INTO commandbus.queue (domain, command_id,"
           " command_type, queued_at)"
           " SELECT domain, command_id, command_type, queued_at FROM commandbus.queue WHERE command_id = %(id)s"),
    Damage("S2", "leased without a claim", "waiting",
           "UPDATE commandbus.queue SET worker_id = 1, lease_until = commandbus.now() + '1 hour' WHERE command_id ="
           " %(id)s"),
    Damage("S2", "half a lease", "leased",
           "ALTER TABLE commandbus.queue DROP CONSTRAINT queue_lease_whole;"
           " UPDATE commandbus.queue SET lease_until = NULL WHERE command_id = %(id)s"),
    Damage("S2", "the lease vanished", "leased",
           "UPDATE commandbus.queue SET worker_id = NULL, lease_until = NULL WHERE command_id = %(id)s"),
    Damage("S2", "the lease is another worker's", "leased",
          "UPDATE commandbus.queue SET worker_id = 9 WHERE command_id = %(id)s"),
    # the path of states
    Damage("S3", "no SENT", "done", "DELETE FROM commandbus.event WHERE command_id = %(id)s AND type = 'SENT'"),
    Damage("S3", "settled without a claim", "done", "DELETE FROM commandbus.event WHERE command_id = %(id)s AND type"
          " = 'RECEIVED'"),
    Damage("S3", "no event at all", "waiting", "DELETE FROM commandbus.event WHERE command_id = %(id)s"),
    Damage("S3", "an event of no known type", "waiting", EVENT + "VALUES (%(id)s, 'PONDERED', commandbus.now(), 0,"
          " 1, 1, 3, NULL)"),
    Damage("S3", "state without its event", "waiting",
           "UPDATE commandbus.command SET status = 'IN_TROUBLESHOOTING_QUEUE' WHERE command_id = %(id)s"),
    Damage("S3", "another state than the event's", "done", "UPDATE commandbus.command SET status = 'FAILED' WHERE"
          " command_id = %(id)s"),
    Damage("S3", "canceled while in progress", "leased",
           EVENT + "VALUES (%(id)s, 'CANCELED', commandbus.now(), 1, NULL, 0, NULL, NULL)"),
    Damage("S3", "an operator's retry of what is not parked", "waiting",
           EVENT + "VALUES (%(id)s, 'OPERATOR_RETRY', commandbus.now(), NULL, NULL, NULL, NULL, NULL)"),
    Damage("S3", "claimed while parked", "parked",
           EVENT + "VALUES (%(id)s, 'RECEIVED', commandbus.now(), 2, 1, 1, 3, commandbus.now())"),
    # terminal is terminal
    Damage("S4", "completed twice", "done", EVENT + "VALUES (%(id)s, 'COMPLETED', commandbus.now(), 1, 1, 1, NULL,"
          " NULL)"),
    Damage("S4", "claimed after the end", "done",
           EVENT + "VALUES (%(id)s, 'RECEIVED', commandbus.now(), 2, 1, 1, 3, commandbus.now())"),
    Damage("S4", "canceled after an operator's cancel", "given up",
           EVENT + "VALUES (%(id)s, 'OPERATOR_CANCEL', commandbus.now(), 1, NULL, 1, NULL, NULL)"),
    Damage("S4", "extended after the end", "extended",
           EVENT + "VALUES (%(id)s, 'LEASE_EXTENDED', commandbus.now(), 1, 1, NULL, NULL, commandbus.now())"),
    Damage("S3", "canceled by a worker that never claimed it", "canceled",
           "UPDATE commandbus.event SET worker_id = 1 WHERE command_id = %(id)s AND type = 'CANCELED'"),
    Damage("S3", "canceled in flight by nobody", "cancelled.one",
           "UPDATE commandbus.event SET worker_id = NULL WHERE command_id = %(id)s AND type = 'CANCELED'"),
    # the newest claim settles
    Damage("S5", "canceled in flight by another worker", "cancelled.one",
           "UPDATE commandbus.event SET worker_id = 7 WHERE command_id = %(id)s AND type = 'CANCELED'"),
    Damage("S5", "settled under an old epoch", "taken over",
           "UPDATE commandbus.event SET epoch = 1 WHERE command_id = %(id)s AND type = 'COMPLETED'"),
    Damage("S5", "settled by another worker", "done",
           "UPDATE commandbus.event SET worker_id = 7 WHERE command_id = %(id)s AND type = 'COMPLETED'"),
    Damage("S5", "settled by nobody", "done",
           "UPDATE commandbus.event SET worker_id = NULL WHERE command_id = %(id)s AND type = 'COMPLETED'"),
    Damage("S5", "swept while the lease ran", "swept",
           "UPDATE commandbus.event SET lease_until = ts + '1 day' WHERE command_id = %(id)s AND type = 'RECEIVED'"),
    Damage("S5", "extended by another worker", "extended",
           "UPDATE commandbus.event SET worker_id = 7 WHERE command_id = %(id)s AND type = 'LEASE_EXTENDED'"),
    Damage("S5", "a claim without a worker", "leased", "UPDATE commandbus.event SET worker_id = NULL WHERE"
          " command_id = %(id)s"),
    Damage("S5", "an operator names another epoch", "helped",
           "UPDATE commandbus.event SET epoch = 5 WHERE command_id = %(id)s AND type = 'OPERATOR_COMPLETE'"),
    Damage("S5", "a late outcome of no claim", "done",
           EVENT + "VALUES (%(id)s, 'LATE_OUTCOME_DROPPED', commandbus.now(), 1, 5, NULL, NULL, NULL)"),
    # counting
    Damage("S6", "an epoch left out", "taken over",
           "UPDATE commandbus.event SET epoch = 3 WHERE command_id = %(id)s AND worker_id = 2"),
    Damage("S6", "an epoch used twice", "retried",
           "UPDATE commandbus.event SET epoch = 1 WHERE command_id = %(id)s AND worker_id = 2"),
    Damage("S6", "a failure too many", "failing", "UPDATE commandbus.event SET max_attempts = 2 WHERE command_id ="
          " %(id)s"),
    Damage("S6", "given up before its last attempt", "exhausted",
           "UPDATE commandbus.event SET max_attempts = 3 WHERE command_id = %(id)s"),
    Damage("S6", "a failure too many before it was given up", "exhausted",
           "UPDATE commandbus.event SET max_attempts = 1 WHERE command_id = %(id)s"),
    Damage("S4", "claimed after it was given up", "exhausted",
           EVENT + "VALUES (%(id)s, 'RECEIVED', commandbus.now(), 3, 1, 1, 3, commandbus.now())"),
    Damage("S6", "an attempt too many", "leased", "UPDATE commandbus.event SET attempt = 4 WHERE command_id = %(id)s"),
    Damage("S6", "failures not counted", "scheduled", "UPDATE commandbus.scheduled SET failures = 0 WHERE command_id"
          " = %(id)s"),
    Damage("S6", "earlier failures invented", "waiting", "UPDATE commandbus.queue SET past_failures = 1 WHERE"
          " command_id = %(id)s"),
    Damage("S6", "a lost lease not counted", "swept",
           "UPDATE commandbus.troubleshooting SET lost_leases = 0 WHERE command_id = %(id)s"),
    Damage("S6", "the epoch went back", "parked", "UPDATE commandbus.troubleshooting SET epoch = 0 WHERE command_id"
          " = %(id)s"),
    Damage("S6", "a second life that goes on counting", "second life",
           "UPDATE commandbus.event SET attempt = attempt + 1 WHERE command_id = %(id)s AND type = 'RECEIVED' AND"
           " epoch > 1"),
    # claims do not overlap
    Damage("S7", "taken over while the lease ran", "taken over",
           "UPDATE commandbus.event SET lease_until = ts + '1 day' WHERE command_id = %(id)s AND worker_id = 1 AND"
           " type = 'RECEIVED'"),
    Damage("S7", "claimed before it was given back", "retried",
           "UPDATE commandbus.event SET ts = ts + '1 day' WHERE command_id = %(id)s AND type = 'RETRY_SCHEDULED'"),
    # replies
    Damage("S9", "two replies", "done",
           "ALTER TABLE commandbus.reply DROP CONSTRAINT reply_command_id_key; INSERT INTO commandbus.reply"
           " (reply_to, command_id, outcome, created_at) SELECT reply_to, command_id, outcome, created_at"
           " FROM commandbus.reply WHERE command_id = %(id)s"),
    Damage("S9", "a reply to a live command", "waiting",
           "INSERT INTO commandbus.reply (reply_to, command_id, outcome, created_at)"
           " VALUES ('shop', %(id)s, 'SUCCESS', commandbus.now())"),
    Damage("S9", "a reply with another outcome", "refused",
           "UPDATE commandbus.reply SET outcome = 'SUCCESS' WHERE command_id = %(id)s"),
    Damage("S9", "a reply that nobody asked for", "retried",
           "INSERT INTO commandbus.reply (reply_to, command_id, outcome, created_at)"
           " VALUES ('shop', %(id)s, 'SUCCESS', commandbus.now())"),
    Damage("S9", "a reply at another address", "done",
           "UPDATE commandbus.reply SET reply_to = 'elsewhere' WHERE command_id = %(id)s"),
    Damage("S9", "a process's reply where a consumer takes it", "answered.one",
           "UPDATE commandbus.reply SET reply_to = 'shop' WHERE command_id = %(id)s"),
    Damage("S9", "a reply leased to nobody", "done",
           "UPDATE commandbus.reply SET lease_until = created_at + interval '1 hour' WHERE command_id = %(id)s"),
    Damage("S9", "a reply beside the advance", "whole.one",
           "INSERT INTO commandbus.reply (reply_to, command_id, process_id, outcome, created_at) SELECT"
           " 'process:Order',"
           " command_id, process_id, 'SUCCESS', completed_at FROM commandbus.command WHERE command_id = %(id)s"),
    Damage("S9", "a reply to another process", "answered.one",
           "UPDATE commandbus.reply SET process_id = gen_random_uuid() WHERE command_id = %(id)s"),
    Damage("S9", "a reply lost on its way to its process", "answered.one",
          "DELETE FROM commandbus.reply WHERE command_id = %(id)s"),
    # batches
    Damage("S10", "a count that is off", "ended batch", "UPDATE commandbus.batch SET completed_count = 2 WHERE"
          " batch_id = %(id)s"),
    Damage("S10", "failures kept quiet", "ended batch", "UPDATE commandbus.batch SET status = 'COMPLETED' WHERE"
          " batch_id = %(id)s"),
    Damage("S10", "ended before its last member", "ended batch",
           "UPDATE commandbus.batch SET completed_at = completed_at - interval '1 ms' WHERE batch_id = %(id)s"),
    Damage("S10", "final too early", "open batch",
           "UPDATE commandbus.batch SET status = 'COMPLETED', completed_at = (SELECT max(completed_at) FROM"
           " commandbus.command"
           " WHERE batch_id = %(id)s) WHERE batch_id = %(id)s"),
    Damage("S10", "ended but not final", "open batch", "UPDATE commandbus.batch SET completed_at = commandbus.now()"
          " WHERE batch_id = %(id)s"),
    Damage("S10", "more members than its total", "process batch",
          "UPDATE commandbus.batch SET total_count = 1 WHERE batch_id = %(id)s"),
    Damage("S10", "a member that went on after the end", "process batch",
           "UPDATE commandbus.process SET status = 'CANCELED' WHERE process_id = (SELECT process_id FROM"
           " commandbus.process"
           " WHERE batch_id = %(id)s LIMIT 1)"),
    Damage("S10", "a cancelled batch that waits for what was never started", "cancelled batch",
           "UPDATE commandbus.batch SET total_count = 3 WHERE batch_id = %(id)s"),
    Damage("S10", "members deleted before the end", "open batch",
           "UPDATE commandbus.batch SET pruning = true WHERE batch_id = %(id)s"),
    # processes
    Damage("S11", "a step sent twice", "under way",
           "INSERT INTO commandbus.command (command_id, domain, command_type, payload, process_id, step, visit,"
           " created_at, updated_at)"
           " SELECT gen_random_uuid(), domain, command_type, payload, process_id, step, visit, created_at, updated_at"
           " FROM commandbus.command WHERE process_id = %(id)s AND step = 'two'"),
    Damage("S11", "ended with a live command", "under way",
           "UPDATE commandbus.process SET status = 'COMPLETED', command_id = NULL, completed_at = updated_at WHERE"
           " process_id = %(id)s"),
    Damage("S11", "waits for nothing", "under way", "UPDATE commandbus.process SET command_id = NULL WHERE"
          " process_id = %(id)s"),
    Damage("S11", "waits for another process's command", "under way",
           "UPDATE commandbus.process SET command_id = (SELECT command_id FROM commandbus.process p WHERE p.status ="
           " 'WAITING_FOR_TSQ')"
           " WHERE process_id = %(id)s"),
    Damage("S11", "parked without a parked command", "under way",
           "UPDATE commandbus.process SET status = 'WAITING_FOR_TSQ' WHERE process_id = %(id)s"),
    Damage("S11", "not parked with a parked command", "stuck",
           "UPDATE commandbus.process SET status = 'WAITING_FOR_REPLY' WHERE process_id = %(id)s"),
    Damage("S11", "at another step", "under way", "UPDATE commandbus.process SET current_step = 'one' WHERE"
          " process_id = %(id)s"),
    Damage("S11", "goes forward by an undo", "undoing",
           "UPDATE commandbus.process SET status = 'WAITING_FOR_REPLY' WHERE process_id = %(id)s"),
    Damage("S11", "still something to undo", "undone",
           "UPDATE commandbus.process SET undone_status = 'CANCELED' WHERE process_id = %(id)s"),
    Damage("S11", "completed over a failed step", "undone",
          "UPDATE commandbus.process SET status = 'COMPLETED' WHERE process_id = %(id)s"),
    Damage("S11", "compensated without an undo", "broken",
           "UPDATE commandbus.process SET status = 'COMPENSATED' WHERE process_id = %(id)s"),
    Damage("S11", "compensated though an undo failed", "undone",
           "UPDATE commandbus.command SET status = 'FAILED' WHERE process_id = %(id)s AND step = 'undo one'"),
    Damage("S11", "undone in the order of completion", "undone",
           "UPDATE commandbus.command u SET compensates = (SELECT f.command_id FROM commandbus.command f"
           " WHERE f.process_id = u.process_id AND f.step = CASE u.step WHEN 'undo one' THEN 'two' ELSE 'one' END)"
           " WHERE process_id = %(id)s AND compensates IS NOT NULL"),
    Damage("S11", "one step undone twice", "undone",
           "UPDATE commandbus.command u SET compensates = (SELECT f.command_id FROM commandbus.command f"
           " WHERE f.process_id = u.process_id AND f.step = 'two') WHERE process_id = %(id)s AND compensates IS NOT"
           " NULL"),
    Damage("S11", "a failed step undone", "undone",
           "UPDATE commandbus.command u SET compensates = (SELECT f.command_id FROM commandbus.command f"
           " WHERE f.process_id = u.process_id AND f.step = 'three') WHERE process_id = %(id)s AND step = 'undo two'"),
    Damage("S11", "two undo steps at once", "undone",
           "UPDATE commandbus.command SET created_at = created_at - interval '1 ms' WHERE process_id = %(id)s AND"
           " step = 'undo one'"),
    Damage("S11", "forward after an undo", "undone",
           "UPDATE commandbus.command SET compensates = NULL WHERE process_id = %(id)s AND step = 'undo one'"),
    Damage("S11", "cancelled by nobody", "to cancel", "UPDATE commandbus.process SET cancel_request = NULL WHERE"
          " process_id = %(id)s"),
    Damage("S11", "a cancel of which its worker will not hear", "to cancel",
           "UPDATE commandbus.queue SET canceling = false WHERE canceling"),
    Damage("S11", "an undo that is to be cancelled", "undoing",
           "UPDATE commandbus.queue SET canceling = true WHERE command_id = (SELECT command_id FROM"
           " commandbus.process WHERE process_id = %(id)s)"),
    Damage("S11", "retried after a cancel", "to cancel",
           "WITH q AS (DELETE FROM commandbus.queue WHERE canceling RETURNING *)"
           " INSERT INTO commandbus.scheduled SELECT command_id, domain, command_type, epoch, failures, past_failures,"
           " lost_leases, max_attempts, lease_until FROM q"),
    Damage("S11", "completed after a cancel", "whole",
           "UPDATE commandbus.process SET cancel_request = '{}' WHERE process_id = %(id)s"),
    # no orphans, one place
    Damage("S12", "a live command in no place", "waiting", "DELETE FROM commandbus.queue WHERE command_id = %(id)s"),
    Damage("S12", "a terminal command still parked", "helped",
           "INSERT INTO commandbus.troubleshooting SELECT command_id, domain, command_type, 1, 1, 0, 0, 3, completed_at"
           " FROM commandbus.command WHERE command_id = %(id)s"),
    Damage("S12", "a canceled command that is still due", "canceled",
           "INSERT INTO commandbus.queue (domain, command_id, command_type, queued_at)"
           " SELECT domain, command_id, command_type, completed_at FROM commandbus.command WHERE command_id = %(id)s"),
    Damage("S12", "in two places", "waiting",
           "INSERT INTO commandbus.scheduled SELECT command_id, domain, command_type, 0, 0, 0, 0, NULL, queued_at"
           " FROM commandbus.queue WHERE command_id = %(id)s"),
    Damage("S12", "parked in the wrong place", "parked",
           "WITH t AS (DELETE FROM commandbus.troubleshooting WHERE command_id = %(id)s RETURNING *)"
           " INSERT INTO commandbus.scheduled SELECT command_id, domain, command_type, epoch, failures, past_failures,"
           " lost_leases, max_attempts, moved_at FROM t"),
    Damage("S12", "a queue row without its command", "waiting",
          "DELETE FROM commandbus.command WHERE command_id = %(id)s"),
    Damage("S12", "events without their command", "retried",
          "DELETE FROM commandbus.command WHERE command_id = %(id)s"),
    Damage("S12", "a command without its process", "whole", "DELETE FROM commandbus.process WHERE process_id = %(id)s"),
    Damage("S12", "members without their batch", "ended batch", "DELETE FROM commandbus.batch WHERE batch_id = %(id)s"),
    Damage("S12", "a failed command that no listing finds", "refused",
           "DELETE FROM commandbus.uncompleted WHERE command_id = %(id)s"),
    Damage("S12", "listed as canceled, but it failed", "refused",
           "UPDATE commandbus.uncompleted SET status = 'CANCELED' WHERE command_id = %(id)s"),
    Damage("S12", "listed at another time", "given up",
           "UPDATE commandbus.uncompleted SET created_at = created_at - interval '1 ms' WHERE command_id = %(id)s"),
    Damage("S12", "listed as failed, but it completed", "done",
           "INSERT INTO commandbus.uncompleted SELECT domain, command_type, 'FAILED', created_at, command_id"
           " FROM commandbus.command WHERE command_id = %(id)s"),
    Damage("S12", "a failed one listed twice", "refused",
           "INSERT INTO commandbus.uncompleted SELECT domain, command_type, 'CANCELED', created_at, command_id"
           " FROM commandbus.command WHERE command_id = %(id)s"),
    Damage("S12", "statistics without their worker", "waiting", "INSERT INTO commandbus.worker_statistic VALUES"
          " (date_trunc('second', now()), 99, 'A', 1, 1, 0, 0, 0, 0.1, '{5}', '{1}', 0.1, '{5}', '{1}')"),
    Damage("S12", "queued in another domain", "waiting", "UPDATE commandbus.queue SET domain = 'other' WHERE"
          " command_id = %(id)s"),
    # time
    Damage("S13", "claimed before it was sent", "done",
           "UPDATE commandbus.event SET ts = ts + '1 hour' WHERE command_id = %(id)s AND type = 'SENT'"),
    Damage("S13", "settled before it was claimed", "done",
           "UPDATE commandbus.event SET ts = ts - interval '1 hour' WHERE command_id = %(id)s AND type = 'COMPLETED'"),
    Damage("S13", "created at another time than sent", "done",
           "UPDATE commandbus.command SET created_at = created_at - interval '1 ms' WHERE command_id = %(id)s"),
    Damage("S13", "completed by another clock", "done",
           "UPDATE commandbus.command SET completed_at = completed_at + '1 hour' WHERE command_id = %(id)s"),
    Damage("S13", "terminal without an end", "done", "UPDATE commandbus.command SET completed_at = NULL WHERE"
          " command_id = %(id)s"),
    Damage("S13", "a process ended before its last command", "whole",
           "UPDATE commandbus.process SET completed_at = created_at WHERE process_id = %(id)s"),
    Damage("S13", "an ended process without an end", "whole",
          "UPDATE commandbus.process SET completed_at = NULL WHERE process_id = %(id)s"),
    Damage("S13", "a batch started before it was created", "ended batch",
           "UPDATE commandbus.batch SET started_at = created_at - interval '1 s' WHERE batch_id = %(id)s"),
    Damage("S13", "a reply before the end", "done",
           "UPDATE commandbus.reply SET created_at = created_at - interval '1 s' WHERE command_id = %(id)s"),
]  # fmt: skip
