"""Looking at parked commands, and acting on one, on many, or on all that a filter finds."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

from commandbus._core.connection import Connection, Pool, transaction
from commandbus._core.cursor import check_limit, load_cursor, make_page
from commandbus._core.troubleshooting_sql import TroubleshootingParams, TroubleshootingParsers, TroubleshootingSQL
from commandbus.errors import CommandBusError, CommandNotFoundError, InvalidOperationError
from commandbus.models import BulkResult, CommandStatus, Page, TroubleshootingFilter, TroubleshootingItem
from commandbus.payload import check_id, check_name, check_text, check_time
from commandbus.process.base import BaseProcessManager
from commandbus.repositories import commands
from commandbus.troubleshooting import actions
from commandbus.troubleshooting.actions import Verdict

CHUNK = 500
_PARKED = CommandStatus.IN_TROUBLESHOOTING_QUEUE


class TroubleshootingQueue:
    """The parked commands and what an operator may do with them, audited with operator and reason.

    `processes` are the managers at hand: their processes go on in the transaction of the action. Other processes go on
    as soon as a worker of their own application reads the reply.

    The bulk actions work in chunks of 500 commands, each a transaction of its own: one that is broken off has done
    whole chunks, and may be asked for again.
    """

    def __init__(self, pool: Pool, *, processes: Sequence[BaseProcessManager] = ()) -> None:
        self._pool = pool
        self._managers = {manager.process_type: manager for manager in processes}

    async def list_troubleshooting(
        self,
        domain: str | None = None,
        command_type: str | None = None,
        *,
        where: TroubleshootingFilter | None = None,
        limit: int = 100,
        cursor: str | None = None,
        conn: Connection | None = None,
    ) -> Page[TroubleshootingItem]:
        """Return parked commands, the one that has waited longest first; `limit` is 1 to 1,000.

        Of a domain, of a command type, or as a whole filter says: domain, type and times are found by an index, for an
        error code or a batch each one that these leave is looked at.
        `cursor` is the next_cursor of the page before. What is parked meanwhile comes at the end.
        """
        chosen, after = _filter(domain, command_type, where), _place(cursor)
        most = check_limit(limit) + 1
        async with transaction(self._pool, conn) as own:
            page = make_page(await self._find(own, chosen, after, None, most), limit, lambda place: place)
            items = await self._items(own, [command_id for _, command_id in page.items])
        return Page(items, page.next_cursor)

    async def get_troubleshooting(self, command_id: UUID, *, conn: Connection | None = None) -> TroubleshootingItem:
        """Return one parked command. Raises CommandNotFoundError, or InvalidOperationError when it is not parked."""
        async with transaction(self._pool, conn) as own:
            found = await self._items(own, [check_id(command_id)])
            if not found:
                raise await self._refusal(own, command_id, "shown here")
        return found[0]

    async def count_troubleshooting(
        self,
        domain: str | None = None,
        command_type: str | None = None,
        *,
        where: TroubleshootingFilter | None = None,
        conn: Connection | None = None,
    ) -> int:
        """Return how many commands are parked: of a domain, of a command type, or as a whole filter says."""
        chosen = _filter(domain, command_type, where)
        async with transaction(self._pool, conn) as own:
            row = await (await own.execute(TroubleshootingSQL.COUNT, asdict(chosen))).fetchone()
        return 0 if row is None else int(row[0])

    async def operator_retry(
        self, command_id: UUID, *, operator: str = "unknown", reason: str = "", conn: Connection | None = None
    ) -> None:
        """Begin a new life for a parked command: due at once, its attempts from 0.

        Raises CommandNotFoundError, or InvalidOperationError for a command that is not parked (any more).
        """
        await self._one(actions.retry(operator, reason), command_id, conn)

    async def operator_cancel(
        self, command_id: UUID, *, operator: str = "unknown", reason: str = "", conn: Connection | None = None
    ) -> None:
        """Cancel a parked command; its process undoes the steps that were completed. Raises as operator_retry."""
        await self._one(actions.cancel(operator, reason), command_id, conn)

    async def operator_complete(
        self,
        command_id: UUID,
        result: dict[str, Any] | None = None,
        *,
        operator: str = "unknown",
        reason: str = "",
        conn: Connection | None = None,
    ) -> None:
        """Complete a parked command with the operator's result; its process goes on. Raises as operator_retry."""
        await self._one(actions.complete(result, operator, reason), command_id, conn)

    async def operator_retry_many(
        self,
        command_ids: Iterable[UUID],
        *,
        operator: str = "unknown",
        reason: str = "",
        conn: Connection | None = None,
    ) -> BulkResult:
        """operator_retry for each that is parked; the result tells those that are not. With `conn` one transaction."""
        return await self._many(actions.retry(operator, reason), command_ids, conn)

    async def operator_cancel_many(
        self,
        command_ids: Iterable[UUID],
        *,
        operator: str = "unknown",
        reason: str = "",
        conn: Connection | None = None,
    ) -> BulkResult:
        """operator_cancel for each that is parked; as operator_retry_many."""
        return await self._many(actions.cancel(operator, reason), command_ids, conn)

    async def operator_complete_many(
        self,
        command_ids: Iterable[UUID],
        result: dict[str, Any] | None = None,
        *,
        operator: str = "unknown",
        reason: str = "",
        conn: Connection | None = None,
    ) -> BulkResult:
        """operator_complete for each that is parked, all with the same result; as operator_retry_many."""
        return await self._many(actions.complete(result, operator, reason), command_ids, conn)

    async def operator_retry_where(
        self,
        where: TroubleshootingFilter,
        *,
        operator: str = "unknown",
        reason: str = "",
        on_progress: Callable[[int], object] | None = None,
    ) -> BulkResult:
        """operator_retry for every command that the filter finds and that was parked when this began.

        Those that are parked again meanwhile are left. After each chunk `on_progress(commands done so far)` is called.
        """
        return await self._where(actions.retry(operator, reason), where, on_progress)

    async def operator_cancel_where(
        self,
        where: TroubleshootingFilter,
        *,
        operator: str = "unknown",
        reason: str = "",
        on_progress: Callable[[int], object] | None = None,
    ) -> BulkResult:
        """operator_cancel for every command that the filter finds; as operator_retry_where."""
        return await self._where(actions.cancel(operator, reason), where, on_progress)

    async def operator_complete_where(
        self,
        where: TroubleshootingFilter,
        result: dict[str, Any] | None = None,
        *,
        operator: str = "unknown",
        reason: str = "",
        on_progress: Callable[[int], object] | None = None,
    ) -> BulkResult:
        """operator_complete for every command that the filter finds, with one result; as operator_retry_where."""
        return await self._where(actions.complete(result, operator, reason), where, on_progress)

    async def _one(self, verdict: Verdict, command_id: UUID, conn: Connection | None) -> None:
        async with transaction(self._pool, conn) as own:
            if not await self._act(own, verdict, [check_id(command_id)]):
                raise await self._refusal(own, command_id, verdict.done)

    async def _many(self, verdict: Verdict, command_ids: Iterable[UUID], conn: Connection | None) -> BulkResult:
        # In the order in which they are locked, for the sake of a caller who has all chunks in one transaction.
        wanted = sorted({check_id(command_id) for command_id in command_ids})
        result = BulkResult(0)
        for start in range(0, len(wanted), CHUNK):
            chunk = wanted[start : start + CHUNK]
            async with transaction(self._pool, conn) as own:
                taken = await self._act(own, verdict, chunk)
                others = [command_id for command_id in chunk if command_id not in taken]
                statuses = await self._statuses(own, others) if others else {}
            not_found = [command_id for command_id in others if command_id not in statuses]
            result = BulkResult(result.done + len(taken), result.not_found + not_found, result.wrong_state | statuses)
        return result

    async def _where(
        self, verdict: Verdict, where: TroubleshootingFilter, on_progress: Callable[[int], object] | None
    ) -> BulkResult:
        """Go through the queue once, oldest first, up to where its end is now."""
        done = 0
        after: tuple[datetime, UUID] | None = None
        until: datetime | None = None
        chosen = _checked(where)
        while True:
            async with transaction(self._pool, None) as own:
                until = until or await commands.now(own)
                found = await self._find(own, chosen, after, until, CHUNK)
                taken = await self._act(own, verdict, [command_id for _, command_id in found], until) if found else ()
            done += len(taken)
            if on_progress is not None and found:
                on_progress(done)
            if len(found) < CHUNK:
                return BulkResult(done)
            after = found[-1]

    async def _act(
        self, conn: Connection, verdict: Verdict, command_ids: Sequence[UUID], until: datetime | None = None
    ) -> set[UUID]:
        """Take the commands and do what was decided, in the connection's transaction; returns whose turn it was."""
        parked = await actions.take(conn, command_ids, until)
        await actions.carry_out(conn, verdict, parked, self._managers)
        return {each.command_id for each in parked}

    @staticmethod
    async def _find(
        conn: Connection,
        where: TroubleshootingFilter,
        after: tuple[datetime, UUID] | None,
        until: datetime | None,
        limit: int,
    ) -> list[tuple[datetime, UUID]]:
        params = TroubleshootingParams.find(where, after, until, limit)
        return await (await conn.execute(TroubleshootingSQL.FIND, params)).fetchall()

    @staticmethod
    async def _items(conn: Connection, command_ids: Sequence[UUID]) -> list[TroubleshootingItem]:
        """Read the items; one that an operator has taken since it was found is not among them."""
        cursor = await conn.execute(TroubleshootingSQL.SHOW, {"command_ids": list(command_ids)})
        return [TroubleshootingParsers.item(row) for row in await cursor.fetchall()]

    @staticmethod
    async def _statuses(conn: Connection, command_ids: Sequence[UUID]) -> dict[UUID, CommandStatus]:
        cursor = await conn.execute(TroubleshootingSQL.STATUSES, {"command_ids": list(command_ids)})
        return {command_id: CommandStatus(status) for command_id, status in await cursor.fetchall()}

    async def _refusal(self, conn: Connection, command_id: UUID, done: str) -> CommandBusError:
        """The error for a command that could not be taken."""
        status = (await self._statuses(conn, [command_id])).get(command_id)
        if status is None:
            return CommandNotFoundError(command_id)
        if status is _PARKED:  # its next life was parked as well, while we waited for the one before
            return InvalidOperationError(f"command {command_id} was parked only now; look at it, and ask again")
        return InvalidOperationError(
            f"command {command_id} is {status}; only one in the troubleshooting queue can be {done}"
        )


def _filter(domain: str | None, command_type: str | None, where: TroubleshootingFilter | None) -> TroubleshootingFilter:
    if where is None:
        return _checked(TroubleshootingFilter(domain, command_type))
    if (domain, command_type) != (None, None):
        raise ValueError("give domain and command type inside of where=TroubleshootingFilter(…), not beside it")
    return _checked(where)


def _checked(where: TroubleshootingFilter) -> TroubleshootingFilter:
    """Return the filter. Raises InvalidNameError, and ValueError for a time without its zone."""
    for name, what in (("domain", "domain"), ("command_type", "command type")):
        if (value := getattr(where, name)) is not None:
            check_name(value, what)
    if where.batch_id is not None:
        check_id(where.batch_id, "batch_id")
    if where.error_code is not None:
        check_text(where.error_code, "error_code")
    for name in ("moved_after", "moved_before"):
        if (value := getattr(where, name)) is not None:
            check_time(value, name)
    return where


def _place(cursor: str | None) -> tuple[datetime, UUID] | None:
    values = load_cursor(cursor, (datetime, UUID))
    return None if values is None else (values[0], values[1])
