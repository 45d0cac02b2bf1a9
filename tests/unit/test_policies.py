"""The arithmetic of retries."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commandbus import RetryPolicy

seconds = st.floats(0, 1e6)
schedules = st.lists(seconds, max_size=6)


def test_the_default_policy_tries_three_times_and_waits_longer_each_time() -> None:
    policy = RetryPolicy()
    assert policy.max_attempts == 3
    assert [policy.delay(failures) for failures in (1, 2, 3, 4, 99)] == [10, 60, 300, 300, 300]


def test_without_a_schedule_a_retry_is_due_at_once() -> None:
    assert RetryPolicy(backoff_schedule=[]).delay(1) == 0


@given(schedules.filter(bool), st.integers(1, 50))
def test_the_nth_failure_waits_for_the_nth_entry_and_later_ones_for_the_last(
    schedule: list[float], failures: int
) -> None:
    expected = schedule[failures - 1] if failures <= len(schedule) else schedule[-1]
    assert RetryPolicy(backoff_schedule=schedule).delay(failures) == expected


@given(schedules.filter(bool))
def test_no_failure_at_all_waits_like_the_first(schedule: list[float]) -> None:
    policy = RetryPolicy(backoff_schedule=schedule)
    assert policy.delay(0) == policy.delay(1)


@given(schedules, st.integers(1, 10), st.floats(0, 1))
def test_jitter_stays_within_its_share_and_is_never_negative(
    schedule: list[float], failures: int, jitter: float
) -> None:
    plain = RetryPolicy(backoff_schedule=schedule).delay(failures)
    delay = RetryPolicy(backoff_schedule=schedule, jitter=jitter).delay(failures)
    assert delay >= 0
    assert abs(delay - plain) <= plain * jitter + 1e-6


def test_jitter_spreads_the_delays() -> None:
    policy = RetryPolicy(backoff_schedule=[100], jitter=0.5)
    delays = {policy.delay(1) for _ in range(50)}
    assert len(delays) > 40
    assert 50 <= min(delays) < 90
    assert 110 < max(delays) <= 150


@given(st.integers(1, 20), st.integers(0, 40), st.none() | st.integers(1, 20))
def test_a_commands_own_max_attempts_comes_first(policys: int, failures: int, own: int | None) -> None:
    limit = policys if own is None else own
    assert RetryPolicy(max_attempts=policys).is_exhausted(failures, own) is (failures >= limit)


def test_the_schedule_cannot_be_changed_behind_the_policys_back() -> None:
    schedule = [1.0, 2.0]
    policy = RetryPolicy(backoff_schedule=schedule)
    schedule[0] = 500.0
    assert policy.delay(1) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_attempts": 0}, "max_attempts must be at least 1, not 0"),
        ({"backoff_schedule": [1, -1]}, r"finite seconds of at least 0: \[1, -1\]"),
        ({"backoff_schedule": [math.inf]}, "finite seconds"),
        ({"backoff_schedule": [math.nan]}, "finite seconds"),
        ({"jitter": 1.5}, "jitter must be from 0 to 1, not 1.5"),
        ({"jitter": math.nan}, "jitter must be from 0 to 1"),
        ({"on_exhausted": "drop"}, 'on_exhausted must be "park" or "fail", not \'drop\''),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RetryPolicy(**options)  # type: ignore[arg-type]
