"""What a worker has done: totals, and counts and histograms by second and command type until a heartbeat stores them.

Kept by the worker's own steady clock and moved to the database's wall clock when they are stored, so that a host whose
clock is wrong changes nothing. No SQL here.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from commandbus.histogram import Histogram

_SLACK = 1.5  # seconds by which the two clocks may drift apart before a new second is begun anew


class TypeCounts:
    """What happened to one command type within one second. Durations are in seconds.

    `ran` are the handlers whose outcome was settled then, `waited` the times in the queue of what was claimed then;
    they become histograms when they are stored.
    """

    __slots__ = ("completed", "failed", "parked", "ran", "retried", "waited")

    def __init__(self) -> None:
        self.completed = self.failed = self.retried = self.parked = 0
        self.ran: list[float] = []
        self.waited: list[float] = []

    def row(self) -> dict[str, Any]:
        """Give the columns of commandbus.worker_statistic."""
        ran, waited = Histogram(), Histogram()
        ran.record_all(self.ran)
        waited.record_all(self.waited)
        (run_buckets, run_counts), (wait_buckets, wait_counts) = ran.dump(), waited.dump()
        return {
            "claimed": len(self.waited),
            "completed": self.completed,
            "failed": self.failed,
            "retried": self.retried,
            "parked": self.parked,
            "run_seconds": ran.total,
            "run_buckets": run_buckets,
            "run_counts": run_counts,
            "wait_seconds": waited.total,
            "wait_buckets": wait_buckets,
            "wait_counts": wait_counts,
        }


class BySecond:
    """The seconds that are not stored yet, each by command type."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._seconds: dict[int, defaultdict[str, TypeCounts]] = {}
        self._offset: int | None = None  # from our clock's seconds to the database's

    def now(self) -> defaultdict[str, TypeCounts]:
        """Give the counts of the second that it is, by command type."""
        second = int(self._clock())
        found = self._seconds.get(second)
        if found is None:
            found = self._seconds[second] = defaultdict(TypeCounts)
        return found

    def rows(self, *, all_of_them: bool = False) -> list[dict[str, Any]]:
        """Give what is to be stored: the seconds that have ended, or all when nothing more will come.

        Each second is given until `stored` says that the database has it: asked again after an answer that was lost,
        it gives the same. Nothing before the first answer of the database has told its time.
        """
        if self._offset is None:
            return []
        current = int(self._clock())
        return [
            {"second": second + self._offset, "command_type": command_type, **counts.row()}
            for second, by_type in self._seconds.items()
            if all_of_them or second < current
            for command_type, counts in by_type.items()
        ]

    def stored(self, rows: Iterable[dict[str, Any]], database_time: float) -> None:
        """Forget rows that the database has now; its wall clock (seconds since 1970) says how to name later ones."""
        offset = self._offset
        if offset is not None:
            for second in {row["second"] - offset for row in rows}:
                self._seconds.pop(second, None)
        difference = database_time - self._clock()
        if offset is None or abs(difference - offset) > _SLACK:
            self._offset = round(difference)


@dataclass(slots=True)
class WorkerCounts:
    """What a worker has done since it started."""

    claimed: int = 0
    completed: int = 0
    failed: int = 0
    retried: int = 0
    parked: int = 0
    dropped: int = 0
    by_second: BySecond = field(default_factory=BySecond, repr=False, compare=False)

    def add_claims(self, claims: Iterable[tuple[str, float]]) -> None:
        """Count claimed commands: the type of each, and how many seconds it stood in the queue."""
        now = self.by_second.now()
        for command_type, waited in claims:
            self.claimed += 1
            now[command_type].waited.append(waited)

    def add_outcomes(self, outcomes: Iterable[tuple[str, str, float | None]]) -> None:
        """Count settled commands: the type of each, its event, and how many seconds its handler ran (None: it did not).

        Other events than the five that end an attempt count for nothing.
        """
        now = self.by_second.now()
        for command_type, event, seconds in outcomes:
            counts = now[command_type]
            if event == "COMPLETED":
                self.completed += 1
                counts.completed += 1
            elif event == "RETRY_SCHEDULED":
                self.retried += 1
                counts.retried += 1
            elif event == "MOVED_TO_TSQ":
                self.parked += 1
                counts.parked += 1
            elif event in ("BUSINESS_RULE_FAILED", "ATTEMPTS_EXHAUSTED"):
                self.failed += 1
                counts.failed += 1
            if seconds is not None:
                counts.ran.append(seconds)
