"""Defects in the functions of the schema, each with the verbs that show it and the rule that must name it."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.integration.bus_history import Bus


def _zombie(bus: Bus) -> None:
    late = bus.claim("a", lease="0")
    bus.claim("a", worker=2)
    bus.settle(late)


def _zombie_after_the_end(bus: Bus) -> None:
    bus.send("b")
    late = bus.claim("b", lease="0")
    bus.settle(bus.claim("b", worker=2))
    bus.settle(late, "RETRY_SCHEDULED", delay=60)


def _zombie_of_the_same_worker(bus: Bus) -> None:
    late = bus.claim("a", lease="0")
    bus.claim("a")
    bus.settle(late)


def _release_late(bus: Bus) -> None:
    late = bus.claim("a", lease="0")
    bus.claim("a", worker=2)
    bus.release(late)


def _take_over(bus: Bus) -> None:
    bus.claim("a", lease="0")
    bus.claim("a", worker=2)


def _claim_twice(bus: Bus) -> None:
    bus.claim("a")
    bus.claim("a", worker=2)


def _lose_every_lease(bus: Bus) -> None:
    for _ in range(4):
        bus.claim("a", lease="0", max_attempts=2)


def _sweep(bus: Bus) -> None:
    bus.claim("a", max_attempts=1)
    bus.sweep()


def _lose_the_last_lease(bus: Bus) -> None:
    bus.claim("a", lease="0", max_attempts=1)
    bus.sweep()


def _retry(bus: Bus) -> None:
    bus.fail("a")
    bus.claim("a")


def _second_life(bus: Bus) -> None:
    bus.park("a")
    bus.operate("a", "OPERATOR_RETRY")


def _complete(bus: Bus) -> None:
    bus.settle(bus.claim("a"))


def _complete_for_nobody(bus: Bus) -> None:
    bus.send("b")
    bus.settle(bus.claim("b"))


def _batch_of_failures(bus: Bus) -> None:
    bus.send("b", batch_id=str(bus.batch("batch", 1)))
    bus.settle(bus.claim("b"), "BUSINESS_RULE_FAILED")
    bus.refresh("batch")


def _batch_half_done(bus: Bus) -> None:
    bus.send("b", "c", batch_id=str(bus.batch("batch", 2)))
    bus.settle(bus.claim("b"))
    bus.refresh("batch")


def _process(bus: Bus) -> None:
    bus.start("p")
    bus.advance("p", "one", "two")


def _process_ends(bus: Bus) -> None:
    bus.start("p")
    bus.advance("p", "one", status="COMPLETED")


def _process_parked(bus: Bus) -> None:
    bus.start("p")
    bus.park("p.one")


def _process_brought_back(bus: Bus) -> None:
    _process_parked(bus)
    bus.operate("p.one", "OPERATOR_RETRY")


def _process_cancelled(bus: Bus) -> None:
    """Its worker does not know yet, and asks to go on; then it does."""
    bus.start("p")
    unknowing = bus.claim("p.one")
    bus.cancel("p")
    going_on = {"statuses": "WAITING_FOR_REPLY", "steps": "two"}
    bus.settle(unknowing, advance=going_on, sends=(bus.step("p", "two"),))


def _process_cancelled_and_parked(bus: Bus) -> None:
    bus.start("p")
    bus.claim("p.one", lease="0", max_attempts=1)
    bus.cancel("p")
    bus.sweep()
    bus.operate("p.one", "OPERATOR_RETRY")


@dataclass(frozen=True)
class Patch:
    """A defect in a function of the schema: `old` becomes `new` in its text, then `play` uses the bus."""

    rule: str
    name: str
    function: str
    old: str
    new: str
    play: Callable[[Bus], object]


FENCE = "q.epoch = s.epoch AND q.worker_id ="
OPEN, WORKER_ALONE = "q.epoch >= s.epoch AND 0 <", "q.epoch >= s.epoch AND q.worker_id ="
PATCHES = [
    Patch("S5", "settle without a fence", "settle", FENCE, OPEN, _zombie),
    Patch("S4", "settle again after the end", "settle",
          "IF cardinality(v_ours) < cardinality(p_command_ids) THEN", "IF false THEN", _zombie_after_the_end),
    Patch("S5", "settle fenced by the worker alone", "settle", FENCE, WORKER_ALONE, _zombie_of_the_same_worker),
    Patch("S12", "settle leaves the queue row", "settle", "DELETE FROM commandbus.queue q USING",
          "UPDATE commandbus.queue q SET worker_id = NULL, lease_until = NULL FROM", _complete),
    Patch("S5", "release without a fence", "release", FENCE, OPEN, _release_late),
    Patch("S2", "release is not audited", "release", "FROM released r )", "FROM released r WHERE false )",
          lambda bus: bus.release(bus.claim("a"))),
    Patch("S6", "claim keeps the epoch", "claim", "SET epoch = q.epoch + 1", "SET epoch = q.epoch", _take_over),
    Patch("S6", "claim skips an epoch", "claim", "SET epoch = q.epoch + 1", "SET epoch = q.epoch + 2", _take_over),
    Patch("S6", "claim does not count lost leases", "claim", "(q.worker_id IS NOT NULL)::integer", "0", _take_over),
    Patch("S6", "claim takes over without end", "claim", "AND q.lost_leases + 1 < q.max_attempts", "",
          _lose_every_lease),
    Patch("S6", "claim counts attempts from 0", "claim", "l.failures + 1,", "l.failures,", lambda bus: bus.claim("a")),
    Patch("S6", "claim forgets failures of retries", "claim", "t.epoch, t.failures,", "t.epoch, 0,", _retry),
    Patch("S7", "claim ignores leases", "claim", "q.lease_until <= v_now AND", "", _claim_twice),
    Patch("S2", "claim is not audited", "claim", "FROM leased l )", "FROM leased l WHERE false )",
          lambda bus: bus.claim("a")),
    Patch("S13", "claim by a clock that is behind", "claim", "greatest(v_now, l.queued_at), l.epoch",
          "v_now - interval '1 hour', l.epoch", lambda bus: bus.claim("a")),
    Patch("S5", "sweep ignores leases", "sweep", "AND q.lease_until <= v_now", "", _sweep),
    Patch("S6", "sweep does not count the last lost lease", "sweep", "'lost_leases', s.lost_leases + 1",
          "'lost_leases', s.lost_leases",
          _lose_the_last_lease),
    Patch("S3", "enqueue without SENT", "enqueue", "'SENT', v_now FROM new", "'SENT', v_now FROM new WHERE false",
          lambda bus: None),
    Patch("S12", "outcomes are not parked", "record_outcomes", "FROM o WHERE event = 'MOVED_TO_TSQ' )",
          "FROM o WHERE false )",
          lambda bus: bus.park("a")),
    Patch("S12", "retries are not scheduled", "record_outcomes", "FROM o WHERE delay IS NOT NULL", "FROM o WHERE false",
          lambda bus: bus.fail("a", delay=60)),
    Patch("S12", "failed commands are not listed", "record_outcomes", "WHERE o.status IN ('FAILED', 'CANCELED')",
          "WHERE o.status IN ('CANCELED')", lambda bus: bus.settle(bus.claim("a"), "BUSINESS_RULE_FAILED")),
    Patch("S3", "outcomes are not stored", "record_outcomes", "FROM o WHERE o.status IS NOT NULL AND",
          "FROM o WHERE false AND", _complete),
    Patch("S3", "outcomes are not audited", "record_outcomes", "attempts, details FROM o )",
          "attempts, details FROM o WHERE false )",
          _complete),
    Patch("S13", "no end is stored", "record_outcomes", "<> 'IN_TROUBLESHOOTING_QUEUE' THEN v_now",
          "<> 'COMPLETED' THEN v_now", _complete),
    Patch("S9", "every reply is a success", "record_outcomes", "reply_outcome, result,", "'SUCCESS', result,",
          lambda bus: bus.settle(bus.claim("a"), "BUSINESS_RULE_FAILED")),
    Patch("S11", "a parked command leaves its process waiting", "record_outcomes",
          "WHERE (o.event = 'MOVED_TO_TSQ' OR",
          "WHERE (false OR", _process_parked),
    Patch("S11", "a retried command leaves its process parked", "requeue", "FROM again a WHERE",
          "FROM again a WHERE false AND",
          _process_brought_back),
    Patch("S6", "a second life keeps no count of the first", "requeue",
          "a.past_failures, a.max_attempts, v_now", "0, a.max_attempts, v_now", _second_life),
    Patch("S6", "a second life begins at epoch 0", "requeue",
          "a.epoch, a.past_failures, a.max_attempts, v_now", "0, a.past_failures, a.max_attempts, v_now", _second_life),
    Patch("S3", "a second life stays parked in name", "requeue", "SET status = 'PENDING',", "SET status = c.status,",
          _second_life),
    Patch("S3", "completions are not stored", "settle", "FROM ours o WHERE o.event IS NULL AND",
          "FROM ours o WHERE false AND", _complete_for_nobody),
    Patch("S3", "completions are not audited", "settle", "FROM ours WHERE event IS NULL",
          "FROM ours WHERE false", _complete_for_nobody),
    Patch("S13", "no end of a completion is stored", "settle", "completed_at = v_now", "completed_at = NULL",
          _complete_for_nobody),
    Patch("S9", "a process does not advance", "settle", "FROM ours o WHERE p.process_id",
          "FROM ours o WHERE false AND p.process_id", _process_ends),
    Patch("S12", "a process's next command is not sent", "settle", "FROM ours WHERE next_id IS NOT NULL",
          "FROM ours WHERE false", _process),
    Patch("S3", "a process's next command is not audited", "settle", "FROM ours WHERE next_id IS NOT NULL ), woken",
          "FROM ours WHERE false ), woken", _process),
    Patch("S11", "settle does not look for a cancel", "settle",
          "AND (NOT q.canceling OR q.command_id = ANY (p_canceling))", "", _process_cancelled),
    Patch("S11", "a cancel does not mark the command", "cancel_processes", "SET canceling = true",
          "SET canceling = false", _process_cancelled),
    Patch("S11", "a cancel is not kept with the process", "cancel_processes", "SET cancel_request = p_request,",
          "SET cancel_request = NULL,", _process_cancelled),
    Patch("S11", "a retried command forgets the cancel", "requeue", "p.cancel_request IS NOT NULL", "false",
          _process_cancelled_and_parked),
    Patch("S13", "a process ends without an end", "settle", "CASE WHEN o.next_id IS NULL THEN v_now END", "NULL",
          _process_ends),
    Patch("S10", "a batch keeps failures quiet", "sp_refresh_batch_stats", "AND v_failed + v_canceled > 0",
          "AND false", _batch_of_failures),
    Patch("S10", "a batch ends before its members", "sp_refresh_batch_stats",
          "v_canceled >= v_batch.total_count THEN 'COMPLETED'",
          "v_canceled > 0 THEN 'COMPLETED'", _batch_half_done),
    Patch("S10", "a batch ends when it is read", "sp_refresh_batch_stats", "completed_at = v_ended",
          "completed_at = v_ended + interval '1 s'", _batch_of_failures),
]  # fmt: skip
