"""What happened to one process or command under test, event by event."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from . import statements

if TYPE_CHECKING:
    from .pools import LazyPool


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One audit event of one command of a process. `injected`: chaos made this failure, or held this success up."""

    step: str
    command_type: str
    command_id: UUID
    visit: int
    compensates: bool
    event: str
    at: datetime
    attempt: int | None
    epoch: int | None
    worker_id: int | None
    details: Mapping[str, Any]

    @property
    def code(self) -> str | None:
        """The error code of a failure."""
        return self.details.get("code")

    @property
    def message(self) -> str | None:
        """The error message of a failure."""
        return self.details.get("message")

    @property
    def injected(self) -> bool:
        """Tell whether chaos injected the failure that this event records."""
        chaos = self.details.get("chaos")
        return self.code is not None and isinstance(chaos, Mapping) and chaos.get("outcome") not in (None, "success")


async def read_timeline(pool: "LazyPool", member_id: UUID) -> list[TimelineEntry]:
    """Return the audit events of all commands of a process, or of one command, oldest first."""
    async with pool.connection() as connection:
        cursor = await connection.execute(statements.TIMELINE, {"id": member_id})
        return [TimelineEntry(*(*row[:-1], row[-1] or {})) for row in await cursor.fetchall()]
