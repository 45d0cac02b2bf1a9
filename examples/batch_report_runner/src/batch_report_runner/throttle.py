"""When to tell the clients: pure decisions, the time is given."""


class Throttle:
    """At most one message in `at_most` seconds, and at least one in `at_least` seconds while something runs."""

    def __init__(self, at_most: float = 1.0, at_least: float = 2.0) -> None:
        self._at_most = at_most
        self._at_least = at_least
        self._last: float | None = None

    def is_due(self, now: float, *, changed: bool, ended: bool = False) -> bool:
        """Whether to tell now; the caller then does, and it counts as told. An end never waits."""
        if self._last is None or ended:
            self._last = now
            return True
        silent = now - self._last
        if silent >= self._at_least or (changed and silent >= self._at_most):
            self._last = now
            return True
        return False
