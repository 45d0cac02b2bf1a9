"""How much of a command type that a worker never ran it keeps: a trial shows how long the first take."""

from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

from commandbus._core.queue_sql import Claimed
from commandbus.executor import Run
from commandbus.worker.lanes import Lane, Pending

SIZE, BATCH, LEASE = 5, 100, 30.0
CLAIMED_AT, SOON, LATE = 1_000.0, 1_000.1, 1_000.3  # on the loop's clock: within the trial, and after it


def claimed(seq: int, command_type: str) -> Claimed:
    attempt = {"epoch": 1, "failures": 0, "past_failures": 0, "lost_leases": 0, "max_attempts": 3, "waited": 0.0}
    now = datetime(2026, 1, 1, tzinfo=UTC)
    names = ("correlation_id", "reply_to", "batch_id", "ordinal", "process_id", "step", "visit", "compensates",
             "process_type", "process_status", "state", "process_batch_id", "process_ordinal", "visits", "undo",
             "undone_status")  # fmt: skip
    fields: dict[str, Any] = {**attempt, **dict.fromkeys(names)}
    return Claimed(
        seq=seq, command_id=UUID(int=seq), command_type=command_type, payload="{}", lease_until=now, created_at=now,
        **fields,
    )  # fmt: skip


def lane_with(**counts: int) -> Lane:
    """A lane that has run commands of the type Known in a millisecond each, and has claimed these, by type."""
    lane = Lane(SIZE)
    lane.ended("Known", 0.001)
    types = [command_type for command_type, count in counts.items() for _ in range(count)]
    lane.add([Pending(claimed(n, name), cast("Run", None), CLAIMED_AT, lane) for n, name in enumerate(types)])
    return lane


def run_one(lane: Lane, seconds: float | None) -> None:
    """The oldest begins, and has ended after so many seconds; None: it goes on."""
    pending = lane.pending.popleft()
    lane.running += 1
    if seconds is not None:
        lane.running -= 1
        lane.ended(pending.claimed.command_type, seconds)


def surplus(lane: Lane, now: float) -> list[int]:
    return [claim.seq for claim in lane.take_surplus(now, BATCH, LEASE)]


def test_of_a_quick_new_type_nothing_is_given_back() -> None:
    lane = lane_with(New=50)
    assert surplus(lane, SOON) == []
    run_one(lane, 0.001)
    assert surplus(lane, SOON) == []
    assert surplus(lane, LATE) == []
    assert lane.in_hand == 49


def test_of_a_slow_new_type_all_that_cannot_start_is_given_back_when_its_trial_ends() -> None:
    lane = lane_with(New=8)
    for _ in range(SIZE):
        run_one(lane, None)
    assert surplus(lane, SOON) == []
    assert lane.trial_ends is not None
    assert SOON < lane.trial_ends < LATE
    assert surplus(lane, LATE) == [7, 6, 5]
    assert lane.trial_ends is None
    assert (lane.in_hand, lane.room(BATCH, LEASE, 0)) == (SIZE, 0)


def test_what_the_first_of_a_new_type_shows_to_be_more_than_a_second_of_work_is_given_back_at_once() -> None:
    lane = lane_with(New=50)
    run_one(lane, 0.2)
    assert surplus(lane, SOON) == list(range(49, 25, -1))  # 25 take 5 slots a second
    assert lane.in_hand == 25


def test_what_waits_behind_a_slow_new_type_is_given_back_with_it() -> None:
    lane = lane_with(New=SIZE, Known=20)
    for _ in range(SIZE):
        run_one(lane, None)
    assert len(surplus(lane, LATE)) == 20


def test_as_many_of_a_new_type_as_can_start_need_no_trial() -> None:
    assert lane_with(New=SIZE).trial_ends is None
    assert lane_with(Known=50).trial_ends is None
    assert lane_with().trial_ends is None


def test_a_lane_that_was_emptied_meanwhile_has_no_trial() -> None:
    lane = lane_with(New=50)
    lane.take_pending()
    assert lane.trial_ends is None
    assert surplus(lane, LATE) == []
