"""How often a user may do something: a sliding minute, in the memory of one process."""

import time
from collections import defaultdict, deque
from collections.abc import Callable

from .errors import Refused

WINDOW = 60.0  # seconds


class RateLimit:
    """So many calls by user in any minute."""

    def __init__(self, what: str, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._most = per_minute
        self._clock = clock
        self._calls: defaultdict[str, deque[float]] = defaultdict(deque)

    def take(self, user: str) -> None:
        """Count one call. Raises Refused, 429, with the seconds after which one is free again."""
        now, calls = self._clock(), self._calls[user]
        while calls and calls[0] <= now - WINDOW:
            calls.popleft()
        if len(calls) >= self._most:
            wait = WINDOW if not calls else calls[0] + WINDOW - now
            raise Refused(429, "TOO_MANY", f"more than {self._most} {self._what} in a minute", retry_after=wait)
        calls.append(now)


class SocketLimit:
    """So many open sockets by user."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: defaultdict[str, int] = defaultdict(int)

    @property
    def count(self) -> int:
        """All that are open."""
        return sum(self._open.values())

    def open(self, user: str) -> bool:
        """Count one more; False when that is too many, and then it is not counted."""
        if self._open[user] >= self._most:
            return False
        self._open[user] += 1
        return True

    def close(self, user: str) -> None:
        """Count one less."""
        self._open[user] -= 1
        if not self._open[user]:
            del self._open[user]
