"""The laws of the latency histogram: what is added up later is what would have been counted at once."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from commandbus.histogram import BOUNDS, BUCKETS, LONGEST, RELATIVE_ERROR, SHORTEST, Histogram

durations = st.floats(min_value=0, max_value=LONGEST, allow_nan=False)
many = st.lists(durations, max_size=60)
parts = st.floats(min_value=0, max_value=1)


def histogram(seconds: Sequence[float]) -> Histogram:
    made = Histogram()
    for value in seconds:
        made.record(value)
    return made


def merged(*several: Histogram) -> Histogram:
    made = Histogram()
    for one in several:
        made.merge(one)
    return made


def exact(seconds: Sequence[float], q: float) -> float:
    """The smallest value that at least q of all do not exceed."""
    return sorted(seconds)[max(1, math.ceil(q * len(seconds) - 1e-9)) - 1]


@given(many, many, many)
def test_merging_knows_no_order_and_no_groups(a: list[float], b: list[float], c: list[float]) -> None:
    one, two, three = histogram(a), histogram(b), histogram(c)
    assert merged(one, two) == merged(two, one)
    assert merged(merged(one, two), three) == merged(one, merged(two, three)) == histogram([*a, *b, *c])
    assert merged(one, Histogram()) == one


@given(st.lists(durations, min_size=1, max_size=60), parts)
@example([0.0], 1.0)
@example([LONGEST, SHORTEST], 0.5)
@example([0.001 * n for n in range(1, 101)], 0.07)
def test_a_percentile_is_within_its_bound_of_the_exact_one(seconds: list[float], q: float) -> None:
    found = histogram(seconds).percentile(q)
    assert found is not None
    assert abs(found - exact(seconds, q)) <= max(exact(seconds, q) * (RELATIVE_ERROR + 1e-9), SHORTEST)


@given(many, st.lists(parts, min_size=2, max_size=5).map(sorted))
def test_percentiles_never_fall(seconds: list[float], qs: list[float]) -> None:
    found = [histogram(seconds).percentile(q) for q in qs]
    assert found == (sorted(found, key=float) if seconds else [None] * len(qs))  # type: ignore[arg-type]


@given(many)
def test_what_is_stored_is_read_back(seconds: list[float]) -> None:
    whole = histogram(seconds)
    buckets, counts = whole.dump()
    assert Histogram.load(buckets, counts, whole.total) == whole
    assert buckets == sorted(set(buckets))
    assert all(counts)
    assert sum(counts) == whole.count == len(seconds)


@given(many)
def test_the_mean_is_exact(seconds: list[float]) -> None:
    mean = histogram(seconds).mean
    assert mean is None if not seconds else mean == pytest.approx(math.fsum(seconds) / len(seconds))


@pytest.mark.parametrize("bucket", [0, 1, 100, BUCKETS - 1])
def test_the_bounds_are_inclusive(bucket: int) -> None:
    assert histogram([BOUNDS[bucket]]).dump() == ([bucket], [1])
    if bucket + 1 < BUCKETS:
        assert histogram([math.nextafter(BOUNDS[bucket], math.inf)]).dump() == ([bucket + 1], [1])


def test_the_bounds_are_those_that_are_stored() -> None:
    """Rows of older versions are read by them: these figures may never change."""
    assert (len(BOUNDS), BUCKETS) == (255, 255)
    assert BOUNDS[0] == 1e-6
    assert BOUNDS[100] == pytest.approx(0.02219, rel=1e-3)
    assert BOUNDS[254] == pytest.approx(109_000, rel=0.01)


@pytest.mark.parametrize(
    ("seconds", "bucket"), [(-1.0, 0), (math.nan, BUCKETS - 1), (math.inf, BUCKETS - 1), (1e9, BUCKETS - 1)]
)
def test_what_no_clock_should_say_is_counted_at_the_end_of_the_scale(seconds: float, bucket: int) -> None:
    counted = histogram([seconds])
    assert counted.dump() == ([bucket], [1])
    assert math.isfinite(counted.total)


def test_nothing_counted_has_no_percentile() -> None:
    assert Histogram().percentile(0.5) is None
    assert Histogram().mean is None
    assert Histogram().count == 0


@pytest.mark.parametrize("q", [-0.1, 1.1, 95, math.nan])
def test_a_part_beyond_the_whole_is_refused(q: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        histogram([1.0]).percentile(q)


@pytest.mark.parametrize(("buckets", "counts"), [([BUCKETS], [1]), ([-1], [1]), ([0], [-1]), ([0, 1], [1])])
def test_stored_buckets_that_are_not_ours_are_refused(buckets: list[int], counts: list[int]) -> None:
    with pytest.raises(ValueError, match=r"no bucket|shorter"):
        Histogram.load(buckets, counts)
