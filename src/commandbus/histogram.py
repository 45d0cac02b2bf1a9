"""A histogram of durations that adds up: the same buckets everywhere, each 10.5 % wider than the one before.

A percentile read from it is off by at most RELATIVE_ERROR (5 %) of the true one between SHORTEST (1 µs) and LONGEST
(about 27 hours); what is shorter or longer counts as just that. Histograms of other workers and other seconds are
added bucket by bucket, so that nothing is lost by storing them apart.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence

RELATIVE_ERROR = 0.05
SHORTEST = 1e-6  # seconds
_GROWTH = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
BUCKETS = 255
BOUNDS: tuple[float, ...] = tuple(SHORTEST * _GROWTH**n for n in range(BUCKETS))
"""The upper bounds of the buckets, in seconds, inclusive: bucket n holds what is above BOUNDS[n - 1], up to BOUNDS[n].

They are part of what is stored: never change them.
"""
LONGEST = BOUNDS[-1]


class Histogram:
    """Counts durations by bucket. Not for several threads at once."""

    __slots__ = ("_counts", "total")

    def __init__(self) -> None:
        self._counts = [0] * BUCKETS
        self.total = 0.0  # seconds, exact

    def record(self, seconds: float) -> None:
        """Count one duration. A clock that went backwards counts as no time; NaN and infinity as LONGEST."""
        if not 0 <= seconds <= LONGEST:
            seconds = 0.0 if seconds < 0 else LONGEST
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    def record_all(self, seconds: Sequence[float]) -> None:
        """Count many at once, each as `record` does; about 0.1 µs each."""
        total = sum(seconds)
        if not seconds or not (min(seconds) >= 0 and max(seconds) <= LONGEST and total == total):
            for one in seconds:
                self.record(one)
            return
        counts, bounds = self._counts, BOUNDS
        for one in seconds:
            counts[bisect_left(bounds, one)] += 1
        self.total += total

    def merge(self, other: "Histogram") -> None:
        """Add what the other one counted."""
        self._counts = [mine + theirs for mine, theirs in zip(self._counts, other._counts, strict=True)]
        self.total += other.total

    @property
    def count(self) -> int:
        """How many durations were counted."""
        return sum(self._counts)

    @property
    def mean(self) -> float | None:
        """The exact mean in seconds, None when nothing was counted."""
        count = self.count
        return self.total / count if count else None

    def percentile(self, q: float) -> float | None:
        """The duration, in seconds, that the part `q` (0 to 1) of all does not exceed; None when nothing was counted.

        That is the smallest one counted which at least q of them do not exceed, within RELATIVE_ERROR.
        """
        if not 0 <= q <= 1:
            raise ValueError(f"q must be a part from 0 to 1, like 0.95, not {q}")
        wanted = max(1, math.ceil(q * self.count - 1e-9))  # 0.07 * 100 is a little above 7
        seen = 0
        for bucket, number in enumerate(self._counts):
            seen += number
            if seen >= wanted:
                return _middle(bucket)
        return None

    def dump(self) -> tuple[list[int], list[int]]:
        """Give what is stored: the buckets that are not empty, in their order, and the count of each."""
        buckets = [bucket for bucket, number in enumerate(self._counts) if number]
        return buckets, [self._counts[bucket] for bucket in buckets]

    @classmethod
    def load(cls, buckets: Sequence[int], counts: Iterable[int], total: float = 0.0) -> "Histogram":
        """Make one of what `dump` gave and the total in seconds. Raises ValueError for buckets that do not exist."""
        loaded = cls()
        for bucket, number in zip(buckets, counts, strict=True):
            if not 0 <= bucket < BUCKETS or number < 0:
                raise ValueError(f"no bucket {bucket} with count {number}: there are {BUCKETS}, from 0")
            loaded._counts[bucket] += number
        loaded.total = total
        return loaded

    def __eq__(self, other: object) -> bool:
        """Whether both counted alike; totals may differ by what floating point loses when it adds in another order."""
        if not isinstance(other, Histogram):
            return NotImplemented
        return self._counts == other._counts and math.isclose(self.total, other.total, rel_tol=1e-9, abs_tol=1e-9)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"<Histogram of {self.count} durations, mean {self.mean}>"


def _middle(bucket: int) -> float:
    """The value that is off by the same part, at most, from both ends of the bucket."""
    upper = BOUNDS[bucket]
    return upper if bucket == 0 else upper * (1 - RELATIVE_ERROR)
