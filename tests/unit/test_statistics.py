"""What a worker counts between two heartbeats: each second is stored once, whatever happens to clocks and answers."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commandbus.statistics import BySecond, WorkerCounts

DATABASE = 1_800_000_000.25  # its wall clock when ours begins at 0


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counts(clock: Clock) -> WorkerCounts:
    """Of a worker whose first heartbeat has been answered."""
    made = WorkerCounts(by_second=BySecond(clock))
    made.by_second.stored([], DATABASE + clock.seconds)
    return made


def summary(rows: list[dict[str, Any]]) -> dict[tuple[int, str], int]:
    return {(row["second"] - int(DATABASE), row["command_type"]): row["completed"] for row in rows}


def test_only_seconds_that_ended_are_stored_and_none_twice(counts: WorkerCounts, clock: Clock) -> None:
    counts.add_outcomes([("A", "COMPLETED", 0.1), ("B", "COMPLETED", 0.2)])
    assert counts.by_second.rows() == []
    clock.seconds += 1
    counts.add_outcomes([("A", "COMPLETED", 0.1)])
    rows = counts.by_second.rows()
    assert summary(rows) == {(100, "A"): 1, (100, "B"): 1}
    assert counts.by_second.rows() == rows  # the answer may have been lost on the way
    counts.by_second.stored(rows, DATABASE + clock.seconds)
    assert counts.by_second.rows() == []
    assert summary(counts.by_second.rows(all_of_them=True)) == {(101, "A"): 1}


def test_nothing_is_stored_before_the_database_told_its_time(clock: Clock) -> None:
    counts = WorkerCounts(by_second=BySecond(clock))
    counts.add_outcomes([("A", "COMPLETED", 0.1)])
    clock.seconds += 5
    assert counts.by_second.rows(all_of_them=True) == []
    counts.by_second.stored([], DATABASE + clock.seconds)
    assert summary(counts.by_second.rows()) == {(100, "A"): 1}


def test_a_clock_that_stood_still_is_set_again(counts: WorkerCounts, clock: Clock) -> None:
    """A machine that was suspended: its steady clock did not go on, the database's did."""
    counts.by_second.stored([], DATABASE + clock.seconds + 3_600)
    counts.add_outcomes([("A", "COMPLETED", 0.1)])
    clock.seconds += 1
    assert summary(counts.by_second.rows()) == {(3_700, "A"): 1}


@given(st.lists(st.floats(0, 0.9), min_size=2, max_size=20))
def test_answers_that_took_their_time_name_no_second_twice(delays: list[float]) -> None:
    clock = Clock()
    counts = WorkerCounts(by_second=BySecond(clock))
    seen: list[int] = []
    for delay in delays:
        rows = counts.by_second.rows()
        seen += [row["second"] for row in rows]
        counts.by_second.stored(rows, DATABASE + clock.seconds - delay)
        counts.add_outcomes([("A", "COMPLETED", 0.1)])
        clock.seconds += 1
    assert len(seen) == len(set(seen)) == len(delays) - 1


def test_outcomes_are_counted_by_what_they_are(counts: WorkerCounts) -> None:
    events = ["COMPLETED", "COMPLETED", "RETRY_SCHEDULED", "MOVED_TO_TSQ", "BUSINESS_RULE_FAILED", "RELEASED"]
    counts.add_claims([("A", 0.5)] * 6)
    counts.add_outcomes([("A", event, None if event == "RELEASED" else 0.1) for event in events])
    (row,) = counts.by_second.rows(all_of_them=True)
    total = (counts.claimed, counts.completed, counts.failed, counts.retried, counts.parked)
    assert total == tuple(row[name] for name in ("claimed", "completed", "failed", "retried", "parked"))
    assert total == (6, 2, 1, 1, 1)
    assert sum(row["run_counts"]) == 5
    assert row["run_seconds"] == pytest.approx(0.5)
    assert (sum(row["wait_counts"]), row["wait_seconds"]) == (6, 3.0)
