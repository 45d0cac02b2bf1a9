"""The timeline of commands: which spans events make, and where their bars lie on the scale."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commandbus import AuditEvent
from commandbus.web.timeline import draw, spans

START = datetime(2026, 5, 1, 12, tzinfo=UTC)
COMMAND = UUID(int=7)
TYPES = ["SENT", "RECEIVED", "RETRY_SCHEDULED", "MOVED_TO_TSQ", "OPERATOR_RETRY", "RELEASED", "LEASE_EXTENDED"]


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def trail(*events: tuple[float, str], **details: Any) -> list[AuditEvent]:
    return [
        AuditEvent(n, COMMAND, kind, at(seconds), attempt=1, details=details)
        for n, (seconds, kind) in enumerate(events)
    ]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([(0, "SENT")], [("waited", 10.0)]),
        ([(0, "SENT"), (1, "RECEIVED")], [("waited", 1.0), ("running", 9.0)]),
        ([(0, "SENT"), (1, "RECEIVED"), (3, "COMPLETED")], [("waited", 1.0), ("ran", 2.0)]),
        (
            [(0, "SENT"), (1, "RECEIVED"), (2, "RETRY_SCHEDULED"), (4, "RECEIVED"), (5, "BUSINESS_RULE_FAILED")],
            [("waited", 1.0), ("failed", 1.0), ("retry", 2.0), ("failed", 1.0)],
        ),
        (
            [(0, "SENT"), (1, "RECEIVED"), (4, "RECEIVED"), (5, "RELEASED")],
            [("waited", 1.0), ("lost", 3.0), ("waited", 1.0), ("waited", 5.0)],
        ),
        (
            [(0, "SENT"), (1, "RECEIVED"), (2, "LEASE_EXTENDED"), (3, "MOVED_TO_TSQ"), (7, "OPERATOR_CANCEL")],
            [("waited", 1.0), ("failed", 2.0), ("parked", 4.0)],
        ),
        (
            [(0, "SENT"), (1, "RECEIVED"), (2, "MOVED_TO_TSQ"), (5, "OPERATOR_RETRY"), (6, "LATE_OUTCOME_DROPPED")],
            [("waited", 1.0), ("failed", 1.0), ("parked", 3.0), ("waited", 5.0)],
        ),
    ],
)
def test_what_happened_between_events(events: list[tuple[float, str]], expected: list[tuple[str, float]]) -> None:
    assert [(span.kind, span.seconds) for span in spans(trail(*events), at(10))] == expected


def test_a_lost_lease_is_told_from_a_failure() -> None:
    events = trail((0, "SENT"), (1, "RECEIVED"), (2, "MOVED_TO_TSQ"), code="LEASE_LOST")
    assert [span.kind for span in spans(events, at(3))] == ["waited", "lost", "parked"]


def test_bars_lie_where_their_times_say() -> None:
    first = trail((0, "SENT"), (2, "RECEIVED"), (5, "COMPLETED"))
    second = trail((5, "SENT"), (6, "RECEIVED"), (10, "MOVED_TO_TSQ"))
    timeline = draw([(uuid4(), "Reserve", first), (uuid4(), "Pay", second)], at(20))
    assert timeline is not None
    assert timeline.seconds == 20
    assert [[(bar.left, bar.width) for bar in row.bars] for row in timeline.rows] == [
        [(0, 10), (10, 15)],
        [(25, 5), (30, 20), (50, 50)],
    ]
    assert timeline.ticks == ((0, 0), (25, 5), (50, 10), (75, 15), (100, 20))
    assert list(timeline.kinds) == ["waited", "ran", "failed", "parked"]


def test_the_wait_for_an_operator_can_be_left_out() -> None:
    events = trail((0, "SENT"), (1, "RECEIVED"), (2, "MOVED_TO_TSQ"))
    whole = draw([(COMMAND, "Pay", events)], at(1_000))
    assert whole is not None
    assert (whole.can_be_cut, whole.is_cut) == (True, False)
    work = draw([(COMMAND, "Pay", events)], at(1_000), cut=True)
    assert work is not None
    assert (work.seconds, work.is_cut) == (2, True)
    assert [bar.span.kind for bar in work.rows[0].bars] == ["waited", "failed"]


def test_nothing_is_drawn_of_nothing() -> None:
    assert draw([], at(0)) is None
    assert draw([(COMMAND, "Pay", [])], at(0)) is None


@given(
    steps=st.lists(st.tuples(st.floats(0, 1e6), st.sampled_from(TYPES)), min_size=1, max_size=12),
    wait=st.floats(-10, 1e8),
    cut=st.booleans(),
)
def test_every_bar_lies_on_the_scale(steps: list[tuple[float, str]], wait: float, cut: bool) -> None:
    seconds, events = 0.0, list[tuple[float, str]]()
    for length, kind in steps:
        events.append((seconds, kind))
        seconds += length
    timeline = draw([(COMMAND, "Pay", trail(*events))], at(seconds + wait), cut=cut)
    if timeline is None:
        assert {kind for _, kind in steps} == {"LEASE_EXTENDED"}
        return
    assert 1 <= len(timeline.ticks) <= 6
    for bar in timeline.rows[0].bars:
        assert bar.left >= 0
        assert bar.width >= 0
        assert bar.left + bar.width <= 100.01
