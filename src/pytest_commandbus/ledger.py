"""What a test saw of the bus from outside its database: sends, handlers that ran, the audit trail as it was.

The database alone cannot tell that something is missing from it; held against this it can.
"""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING
from uuid import UUID

from .ledger_sql import LedgerSQL

if TYPE_CHECKING:
    from commandbus._core.connection import Connection
    from commandbus.auditor import Violation


class Ledger:
    """The account of one test. `attempted`: sends that may have been stored; `acknowledged`: those that must be.

    `filled` has how many members of a batch were stored. Of the handlers that ran it remembers MOST_RUNS.
    """

    MOST_RUNS = 20_000

    def __init__(self) -> None:
        self.attempted: set[UUID] = set()
        self.acknowledged: set[UUID] = set()
        self.filled: dict[UUID, int] = {}
        self.runs: Counter[tuple[UUID, int]] = Counter()

    def clear(self) -> None:
        """Forget everything."""
        self.attempted.clear()
        self.acknowledged.clear()
        self.filled.clear()
        self.runs.clear()

    def attempt(self, command_ids: Iterable[UUID]) -> None:
        """Somebody is about to send these."""
        self.attempted.update(command_ids)

    def acknowledge(self, command_ids: Iterable[UUID]) -> None:
        """The bus has said that these are sent."""
        self.acknowledged.update(command_ids)

    def ran(self, command_id: UUID, epoch: int) -> None:
        """A handler has begun with the command under this epoch."""
        key = (command_id, epoch)
        if key in self.runs or len(self.runs) < self.MOST_RUNS:
            self.runs[key] += 1

    def fill(self, batch_id: UUID, members: int) -> None:
        """The bus has said that a batch has that many members."""
        self.filled[batch_id] = members

    async def violations(self, conn: "Connection", *, knows_all_sends: bool = False) -> "list[Violation]":
        """Hold the account against the database: S1 (sends) and S8 (attempts).

        knows_all_sends: whether every send of a command that no process sent was announced by `attempt`.
        """
        return [*await self._sends(conn, knows_all_sends), *await self._runs(conn)]

    async def _sends(self, conn: "Connection", knows_all: bool) -> "list[Violation]":
        from commandbus.auditor import Violation

        found: list[Violation] = []
        if self.acknowledged:
            rows = await (await conn.execute(LedgerSQL.MISSING, {"command_ids": list(self.acknowledged)})).fetchall()
            found += [Violation("S1", str(row[0]), "its send was acknowledged, but it is not stored") for row in rows]
        if self.filled:
            params = {"batch_ids": list(self.filled), "members": list(self.filled.values())}
            rows = await (await conn.execute(LedgerSQL.UNFILLED, params)).fetchall()
            found += [
                Violation("S1", str(row[0]), f"batch of {row[1]} members, of which {row[2]} are stored") for row in rows
            ]
        if knows_all:
            rows = await (await conn.execute(LedgerSQL.UNSENT, {"command_ids": list(self.attempted)})).fetchall()
            found += [Violation("S1", str(row[0]), "stored, but nobody tried to send it") for row in rows]
        return found

    async def _runs(self, conn: "Connection") -> "list[Violation]":
        from commandbus.auditor import Violation

        twice = [key for key, times in self.runs.items() if times > 1]
        found = [
            Violation("S8", str(command_id), f"handled {self.runs[command_id, epoch]} times under epoch {epoch}")
            for command_id, epoch in twice
        ]
        if self.runs:
            ids, epochs = zip(*self.runs, strict=True)
            params = {"command_ids": list(ids), "epochs": list(epochs)}
            rows = await (await conn.execute(LedgerSQL.UNCLAIMED_RUNS, params)).fetchall()
            found += [
                Violation("S8", str(row[0]), f"handled under epoch {row[1]}, but never so claimed") for row in rows
            ]
        return found


class Trail:
    """The audit trail as it was at one moment: S14 says that from then on it only grows."""

    MOST = 2_000
    """How many events are remembered, the oldest first."""

    def __init__(self, rows: "Iterable[tuple[int, UUID, int]]" = ()) -> None:
        self._rows = list(rows)

    @classmethod
    async def read(cls, conn: "Connection") -> "Trail":
        """Remember what is in it now."""
        cursor = await conn.execute(LedgerSQL.TRAIL, {"most": cls.MOST})
        return cls(await cursor.fetchall())

    async def violations(self, conn: "Connection") -> "list[Violation]":
        """Return which of these events are gone, or were changed."""
        from commandbus.auditor import Violation

        if not self._rows:
            return []
        event_ids, command_ids, digests = map(list, zip(*self._rows, strict=True))
        params = {"event_ids": event_ids, "command_ids": command_ids, "digests": digests}
        rows = await (await conn.execute(LedgerSQL.CHANGED, params)).fetchall()
        return [
            Violation("S14", str(command_id), f"event {event_id} {'is gone' if is_gone else 'was changed'}")
            for command_id, event_id, is_gone in rows
        ]
