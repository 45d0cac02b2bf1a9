"""The troubleshooting queue: what an operator may do with a parked command."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
from orjson import Fragment
from psycopg.rows import class_row

from commandbus._core.connection import Connection, Pool, transaction
from commandbus._core.process_sql import ProcessParsers, ProcessSQL
from commandbus._core.troubleshooting_sql import Parked, TroubleshootingSQL
from commandbus.errors import CommandNotFoundError, InvalidOperationError
from commandbus.models import CommandStatus, ReplyOutcome
from commandbus.payload import dump_payload, load_payload, sanitise_text
from commandbus.process import advance
from commandbus.process.base import BaseProcessManager
from commandbus.process.decide import Process
from commandbus.process.models import ProcessResponse
from commandbus.repositories import commands
from commandbus.settlement import process_address


class TroubleshootingQueue:
    """Operator actions on parked commands, each one transaction, audited with operator and reason.

    `processes` are the managers at hand: their processes go on in that transaction. Other processes go on as soon as
    a worker of their own application reads the reply.
    """

    def __init__(self, pool: Pool, *, processes: Sequence[BaseProcessManager] = ()) -> None:
        self._pool = pool
        self._managers = {manager.process_type: manager for manager in processes}

    async def operator_retry(
        self, command_id: UUID, *, operator: str = "unknown", reason: str = "", conn: Connection | None = None
    ) -> None:
        """Begin a new life for a parked command: due at once, its attempts from 0.

        Raises CommandNotFoundError, or InvalidOperationError for a command that is not parked (any more).
        """
        async with transaction(self._pool, conn) as own:
            parked = await self._take(own, command_id, "retried")
            row = {
                "command_id": command_id,
                "domain": parked.domain,
                "command_type": parked.command_type,
                "epoch": parked.epoch,
                "past_failures": parked.past_failures + parked.failures,
                "max_attempts": parked.max_attempts,
                "details": _who(operator, reason),
            }
            await own.execute(TroubleshootingSQL.REQUEUE, {"commands": orjson.dumps([row]).decode()})

    async def operator_cancel(
        self, command_id: UUID, *, operator: str = "unknown", reason: str = "", conn: Connection | None = None
    ) -> None:
        """Cancel a parked command; its process undoes the steps that were completed. Raises as operator_retry."""
        message = f"cancelled by {operator}" + (f": {reason}" if reason else "")
        async with transaction(self._pool, conn) as own:
            parked = await self._take(own, command_id, "cancelled")
            response = ProcessResponse(
                command_id, ReplyOutcome.CANCELED, None, "CANCELED", sanitise_text(message, limit=2_000)
            )
            await self._end(own, parked, "OPERATOR_CANCEL", CommandStatus.CANCELED, response, operator, reason)

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
        if result is not None:
            dump_payload(result, what="result")
        async with transaction(self._pool, conn) as own:
            parked = await self._take(own, command_id, "completed")
            response = ProcessResponse(command_id, ReplyOutcome.SUCCESS, result)
            await self._end(own, parked, "OPERATOR_COMPLETE", CommandStatus.COMPLETED, response, operator, reason)

    async def _take(self, conn: Connection, command_id: UUID, what: str) -> Parked:
        async with conn.cursor(row_factory=class_row(Parked)) as cursor:
            await cursor.execute(TroubleshootingSQL.TAKE, {"command_id": command_id})
            parked = await cursor.fetchone()
        if parked is not None:
            return parked
        status = await (await conn.execute(TroubleshootingSQL.STATUS, {"command_id": command_id})).fetchone()
        if status is None:
            raise CommandNotFoundError(command_id)
        raise InvalidOperationError(
            f"command {command_id} is {status[0]}; only one in the troubleshooting queue can be {what}"
        )

    async def _end(
        self,
        conn: Connection,
        parked: Parked,
        event: str,
        status: CommandStatus,
        response: ProcessResponse,
        operator: str,
        reason: str,
    ) -> None:
        row: dict[str, Any] = {
            "command_id": parked.command_id,
            "event": event,
            "status": status,
            "attempts": parked.failures,
            "epoch": parked.epoch,
            "max_attempts": parked.max_attempts,
            "details": _who(operator, reason),
            "error_code": response.error_code,
            "error_message": response.error_message,
        }
        if response.result is not None:
            row["result"] = Fragment(dump_payload(response.result, what="result"))
        manager = self._managers.get(parked.process_type or "")
        address = process_address(parked.process_type) if parked.process_type else parked.reply_to
        if manager is None and address is not None:
            row |= {
                "reply_to": address,
                "reply_outcome": response.outcome,
                "correlation_id": parked.correlation_id,
                "process_id": parked.process_id,
            }
        await conn.execute(TroubleshootingSQL.RECORD, {"outcomes": orjson.dumps([row]).decode()})
        if manager is not None:
            await self._advance(conn, manager, parked, response)

    @staticmethod
    async def _advance(
        conn: Connection, manager: BaseProcessManager, parked: Parked, response: ProcessResponse
    ) -> None:
        if parked.process_id is None or parked.process_type is None:
            return
        process = Process(
            process_id=parked.process_id,
            process_type=parked.process_type,
            domain=parked.process_domain or manager.domain,
            state=parked.state or "{}",
            command_id=parked.command_id,
            step=parked.step or "",
            compensates=parked.compensates,
            batch_id=parked.process_batch_id,
            ordinal=parked.process_ordinal,
            visits=load_payload(parked.visits or "{}"),
            undo=ProcessParsers.undo(parked.undo),
            undone_status=parked.undone_status,
        )
        advances = await advance.plan(conn, [(manager, process, response)])
        await advance.run_hooks(conn, advances)
        advanced, sends = advance.rows(advances)
        await conn.execute(ProcessSQL.ADVANCE, {"advances": orjson.dumps(advanced).decode()})
        if sends:
            await commands.enqueue(conn, sends)


def _who(operator: str, reason: str) -> dict[str, str]:
    return {"operator": sanitise_text(operator, limit=200), "reason": sanitise_text(reason, limit=2_000)}
