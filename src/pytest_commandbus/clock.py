"""The bus's clock under test: time that nobody works in is skipped, or moved by hand."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .pools import LazyPool


class Clock:
    """The clock of one test database. All scheduling, leases and audit go by it; heartbeats and rates do not."""

    def __init__(self, pool: "LazyPool") -> None:
        self._pool = pool
        self.skipped = 0.0
        """Seconds that this test has skipped so far, by waiting and by hand."""
