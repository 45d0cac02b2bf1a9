"""How a load run went over time: buckets of a fit length, and what stands in each."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_commandbus.load_series import (
    MOST_BUCKETS,
    SHORTEST_BUCKET,
    AttemptFigures,
    BacklogBucket,
    bucket_seconds,
    series,
)


@given(st.floats(0.001, 1e6))
def test_buckets_are_few_and_round(total: float) -> None:
    width = bucket_seconds(total)
    assert math.ceil(total / width - 1e-6) <= MOST_BUCKETS
    assert width >= SHORTEST_BUCKET
    assert float(f"{width:.0e}") == pytest.approx(width)
    assert f"{width:.0e}"[0] in "125"
    assert width <= max(2.5 * total / MOST_BUCKETS, SHORTEST_BUCKET) * 1.001


def attempts(bucket: int | None, commands: int, waiting: tuple[float, float, float] | None) -> AttemptFigures:
    return AttemptFigures(None, None, bucket, commands, commands, 1.0, 1, waiting, (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))


def test_every_bucket_has_a_value_and_an_empty_one_no_latency() -> None:
    told = series(
        total_seconds=2.3,
        width=0.5,
        processes={1: 4},
        attempts=[attempts(None, 9, None), attempts(1, 6, (0.1, 0.2, 0.3)), attempts(4, 3, None)],
        backlog=[BacklogBucket(0, 10, 8), BacklogBucket(2, 5, -3), BacklogBucket(4, 0, -5)],
    )
    assert told["processes_per_second"] == [0, 8, 0, 0, 0]
    assert told["commands_per_second"] == [0, 12, 0, 0, 6]
    assert told["backlog"] == [10, 8, 8, 5, 5]  # what lived when a bucket began counts in it
    assert told["waiting_ms"]["p99"] == [None, 0.3, None, None, None]
    assert told["handling_ms"]["p50"] == [None, 1.0, None, None, 1.0]
    assert told["latency_ms"]["p95"] == [None, 5.0, None, None, 5.0]
