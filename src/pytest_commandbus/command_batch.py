"""The handle of a batch of commands under test."""

from uuid import UUID

from commandbus import CommandMetadata, CommandStatus

from . import assertions, statements
from .batch_handle import BatchHandle


class CommandBatch(BatchHandle):
    """A batch of commands: what `cb_command_batch` returns."""

    _members = assertions.COMMANDS

    async def commands(self, status: CommandStatus | str | None = None) -> list[CommandMetadata]:
        """Return the commands of the batch in their order: all, or those of one status."""
        wanted = None if status is None else str(CommandStatus(status))
        rows = await self._rows(statements.COMMANDS_OF_BATCH, {"batch_id": self.batch_id, "status": wanted})
        return [await self._bus.get_command(command_id) for (command_id,) in rows]

    async def command_ids(self) -> list[UUID]:
        """Return the ids of the commands of the batch in their order."""
        return [
            command_id
            for (command_id,) in await self._rows(
                statements.COMMANDS_OF_BATCH, {"batch_id": self.batch_id, "status": None}
            )
        ]

    def _stuck_statement(self) -> str:
        return statements.STUCK_COMMANDS
