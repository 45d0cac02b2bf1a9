"""Replies that other applications left for the processes of this one.

A handler's application that lacks the manager leaves a reply row; the router takes rows in bulk, decides, and applies
each advance in the transaction that deletes its row. A worker that is given process managers runs one by itself.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from commandbus._core.connection import Connection, Pool, transaction
from commandbus._core.process_sql import ProcessParsers, ProcessSQL
from commandbus.models import ReplyOutcome
from commandbus.payload import load_payload
from commandbus.process import advance
from commandbus.process.decide import Manager, Process
from commandbus.process.models import ProcessResponse, ProcessStatus
from commandbus.settlement import process_address

_log = logging.getLogger(__name__)
_CHUNK = 500


class ProcessReplyRouter:
    """Applies waiting replies to the processes of the given managers."""

    def __init__(self, managers: Sequence[Manager], pool: Pool | None = None) -> None:
        self._managers: Mapping[str, Manager] = {m.process_type: m for m in managers}
        self._pool = pool
        self._addresses = [process_address(process_type) for process_type in self._managers]

    async def route(self, conn: Connection | None = None) -> int:
        """Apply the replies that wait now, in chunks of one transaction each; returns how many rows were taken."""
        taken = 0
        while self._addresses:
            async with transaction(self._pool, conn) as own:
                count = await self._route_chunk(own)
            taken += count
            if count < _CHUNK:
                break
        return taken

    async def _route_chunk(self, conn: Connection) -> int:
        params = {"addresses": self._addresses, "limit": _CHUNK}
        rows = await (await conn.execute(ProcessSQL.TAKE_REPLIES, params)).fetchall()
        if not rows:
            return 0
        await advance.apply(conn, [self._reply(row) for row in rows if self._is_expected(row)])
        await conn.execute(ProcessSQL.DELETE_REPLIES, {"reply_ids": [row[0] for row in rows]})
        return len(rows)

    @staticmethod
    def _is_expected(row: tuple[Any, ...]) -> bool:
        """Whether the process waits for just this reply; any other changes nothing."""
        command_id, status, is_awaited = row[1], ProcessStatus(row[8]), row[10]
        if is_awaited and not status.is_terminal:
            return True
        _log.warning("reply of command %s ignored: process %s does not wait for it (%s)", command_id, row[6], status)
        return False

    def _reply(self, row: tuple[Any, ...]) -> tuple[Manager, Process, ProcessResponse]:
        _, command_id, outcome, result, error_code, error_message, process_id, process_type = row[:8]
        _, state, _, batch_id, ordinal, visits, undo, undone_status, step, compensates, domain = row[8:]
        process = Process(
            process_id=process_id,
            process_type=process_type,
            domain=domain,
            state=state,
            command_id=command_id,
            step=step,
            compensates=compensates,
            batch_id=batch_id,
            ordinal=ordinal,
            visits=load_payload(visits or "{}"),
            undo=ProcessParsers.undo(undo),
            undone_status=undone_status,
        )
        response = ProcessResponse(
            command_id,
            ReplyOutcome(outcome),
            None if result is None else load_payload(result),
            error_code,
            error_message,
        )
        return self._managers[process_type], process, response
