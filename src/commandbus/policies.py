"""When a failed command is tried again."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from commandbus.jitter import factor


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a command is tried, and how long each retry waits.

    `max_attempts` counts the first attempt too. `backoff_schedule` is in seconds: the n-th failure waits for its
    n-th entry, later ones for the last. `jitter` (0 to 1) shortens or lengthens each wait by up to that share.
    `on_exhausted` says what becomes of a command whose last attempt failed: "park" puts it into the troubleshooting
    queue, "fail" makes it FAILED. Permanent errors and lost leases park it in either case.
    Raises ValueError for what makes no sense.
    """

    max_attempts: int = 3
    backoff_schedule: Sequence[float] = field(default=(10, 60, 300))
    jitter: float = 0.0
    on_exhausted: Literal["park", "fail"] = "park"

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, not {self.max_attempts}")
        if any(not 0 <= seconds < float("inf") for seconds in self.backoff_schedule):
            raise ValueError(f"backoff_schedule must hold finite seconds of at least 0: {list(self.backoff_schedule)}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter must be from 0 to 1, not {self.jitter}")
        if self.on_exhausted not in ("park", "fail"):
            raise ValueError(f'on_exhausted must be "park" or "fail", not {self.on_exhausted!r}')
        object.__setattr__(self, "backoff_schedule", tuple(self.backoff_schedule))

    def delay(self, failures: int) -> float:
        """Seconds to wait after the `failures`-th recorded failure (1 for the first)."""
        if not self.backoff_schedule:
            return 0.0
        seconds = float(self.backoff_schedule[min(max(failures, 1), len(self.backoff_schedule)) - 1])
        if self.jitter:
            seconds *= 1 + factor(-self.jitter, self.jitter)
        return seconds

    def is_exhausted(self, failures: int, max_attempts: int | None = None) -> bool:
        """Whether `failures` recorded failures are all that a command gets; its own max_attempts comes first."""
        return failures >= (self.max_attempts if max_attempts is None else max_attempts)
