"""Lanes: what a worker claims, keeps and starts apart. Each capped command type has one, all the others share one."""

from collections import Counter, deque
from collections.abc import Mapping

from commandbus._core.queue_sql import Claimed
from commandbus.executor import Run

_WEIGHT = 0.2  # of the newest duration in the running mean of its command type
_AHEAD = 1.0  # seconds of work that a worker may keep from idle ones
_TRIAL = 0.25  # seconds that a worker keeps more of a new type than it can start, to see how long the first take


class Lane:
    """One lane: what is in hand of it, and how long its handlers take."""

    def __init__(self, size: int, only: str | None = None) -> None:
        self.size = size  # handlers at a time
        self.only = only  # its command type; None: every type that has no lane of its own
        self.pending: deque[Pending] = deque()
        self.running = 0  # handlers, and threads that outlive their attempt
        self.by_type: Counter[str] = Counter()  # of what is in hand
        self.durations: dict[str, float] = {}  # seconds by command type, running mean
        self.trial_ends: float | None = None  # the end of the trial of a new type, on the loop's clock

    @property
    def in_hand(self) -> int:
        """How many commands are running, or waiting to, or still have a thread."""
        return len(self.pending) + self.running

    @property
    def can_start(self) -> bool:
        """Whether a command waits and may be started now."""
        return bool(self.pending) and self.running < self.size

    @property
    def has_unmeasured(self) -> bool:
        """Whether a command in hand is of a type whose duration is not known yet."""
        return any(count > 0 and name not in self.durations for name, count in self.by_type.items())

    def target(self, batch_size: int, lease: float) -> int:
        """How many commands to have in hand at most.

        No more than can be started within half a lease, and within a second, by the slowest type's mean duration; no
        more than the lane's size while a type in hand, or any type, was not measured yet.
        """
        if not self.durations or self.has_unmeasured:
            return self.size
        by_time = self.size * min(lease / 2, _AHEAD) / max(*self.durations.values(), 1e-6)
        return max(self.size, min(self.size + 2 * batch_size, int(by_time)))

    def room(self, batch_size: int, lease: float, unsettled: int) -> int:
        """How many commands to claim now: 0 while enough are in hand, with those that are not settled yet."""
        target = self.target(batch_size, lease)
        in_hand = self.in_hand + unsettled
        # Half of what waits is left when the next is claimed, so that slots do not stand idle meanwhile.
        if in_hand >= target or in_hand > (self.size + target) // 2:
            return 0
        return min(batch_size, target - in_hand)

    def add(self, batch: "list[Pending]") -> None:
        """Keep claimed commands until a slot is free."""
        self.pending.extend(batch)
        self.by_type.update(pending.claimed.command_type for pending in batch)
        if batch and self.in_hand > self.size and self.has_unmeasured:
            self.trial_ends = batch[0].claimed_at + _TRIAL

    def take_surplus(self, now: float, batch_size: int, lease: float) -> list[Claimed]:
        """Give up the newest of what a claim of a new type brought beyond the target, for workers that are free.

        Once, when the first of the type has ended, so that the target is known, or takes longer than its trial.
        """
        if self.trial_ends is None or (self.has_unmeasured and now < self.trial_ends):
            return []
        self.trial_ends = None
        surplus = min(len(self.pending), self.in_hand - self.target(batch_size, lease))
        claims = [self.pending.pop().claimed for _ in range(surplus)]
        self.by_type.subtract(claimed.command_type for claimed in claims)
        return claims

    def take_pending(self) -> list[Claimed]:
        """Give up what was not started."""
        claims = [pending.claimed for pending in self.pending]
        self.pending.clear()
        self.trial_ends = None
        self.by_type.subtract(claimed.command_type for claimed in claims)
        return claims

    def ended(self, command_type: str, seconds: float) -> None:
        """Take the duration of an attempt that ended."""
        self.by_type[command_type] -= 1
        mean = self.durations.get(command_type)
        self.durations[command_type] = seconds if mean is None else mean + _WEIGHT * (seconds - mean)


class Pending:
    """A claimed command. Times are the loop's; `seconds` is how long its handler ran, None before its end."""

    __slots__ = ("claimed", "claimed_at", "lane", "leased_at", "run", "seconds")

    def __init__(self, claimed: Claimed, run: Run, claimed_at: float, lane: Lane) -> None:
        self.claimed = claimed
        self.run = run
        self.claimed_at = claimed_at
        self.leased_at = claimed_at
        self.lane = lane
        self.seconds: float | None = None


def lanes(concurrency: int, caps: Mapping[str, int]) -> tuple[Lane, ...]:
    """Make the lanes of a worker: the shared one first."""
    return (Lane(concurrency), *(Lane(min(cap, concurrency), name) for name, cap in sorted(caps.items())))
