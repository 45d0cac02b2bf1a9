"""Replies that other applications left for the processes of this one.

A handler's application that lacks the manager leaves a reply row; the router takes rows in bulk, decides, and applies
each advance in the transaction that deletes its row. A worker that is given process managers runs one by itself; an
application that handles no commands runs it alone.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from commandbus._core.connection import Connection, Pool, transaction
from commandbus._core.process_sql import ProcessParsers, ProcessSQL
from commandbus.jitter import factor
from commandbus.logging import about
from commandbus.migrate import check_schema
from commandbus.models import ReplyOutcome
from commandbus.notify import Alarm, channel
from commandbus.payload import load_payload
from commandbus.process import advance
from commandbus.process.decide import Manager, Process
from commandbus.process.models import ProcessResponse, ProcessStatus
from commandbus.settlement import process_address

_log = logging.getLogger(__name__)
_CHUNK = 500
_PAUSE = 1.0  # seconds, jittered, after the database failed to answer


class ProcessReplyRouter:
    """Applies waiting replies to the processes of the given managers. Any number may run at once, on any machine."""

    def __init__(self, managers: Sequence[Manager], pool: Pool | None = None) -> None:
        self._managers: Mapping[str, Manager] = {m.process_type: m for m in managers}
        self._pool = pool
        self._addresses = [process_address(process_type) for process_type in self._managers]
        steps = {m.process_type: getattr(m, "step_class", None) for m in managers}
        declaring = {process_address(t): [str(step) for step in s] for t, s in steps.items() if s is not None}
        self._declared = {
            "declaring": list(declaring),
            "declared": [f"{address} {step}" for address, members in declaring.items() for step in members],
        }

    async def run(self, stop: asyncio.Event | None = None, *, poll_interval: float = 1.0, listen: bool = True) -> None:
        """Route replies until `stop` is set or the task is cancelled: all that an application without handlers needs.

        It sleeps until a notification, for which it keeps a connection of its own, or for `poll_interval` seconds. With
        `listen` False it polls only, for connections through a transaction-pooling proxy; without, it raises
        ListenRefusedError there. It outlives a database that is away for a while.
        Raises SchemaError for a database that is not migrated to this version, and psycopg's errors for one that cannot
        be reached at the start.
        """
        if self._pool is None:
            raise TypeError("run() needs the pool: make the router as ProcessReplyRouter(managers, pool)")
        async with self._pool.connection() as conn:
            await check_schema(conn)
        channels = sorted({channel(manager.domain) for manager in self._managers.values()})
        async with Alarm(self._pool, channels, poll_interval=poll_interval, listen=listen, stop=stop) as alarm:
            while await alarm.wait():
                await self._try_to_route(self._pool)

    async def _try_to_route(self, pool: Pool) -> None:
        try:
            await self.route()
        except psycopg.OperationalError as error:
            if pool.closed:
                raise
            _log.warning("replies could not be routed, trying again; they stay where they are: %s", error)
            await asyncio.sleep(_PAUSE * factor(0.5, 1.0))

    async def route(self, conn: Connection | None = None) -> int:
        """Apply the replies that wait now, in chunks of one transaction each; returns how many rows were taken."""
        taken = 0
        if conn is not None and conn.autocommit and self._addresses and not await self._take(conn, 1):
            return 0  # as nearly always: one round trip, where a transaction would take three
        while self._addresses:
            async with transaction(self._pool, conn) as own:
                count = await self._route_chunk(own)
            taken += count
            if count < _CHUNK:
                break
        return taken

    async def _route_chunk(self, conn: Connection) -> int:
        rows = await self._take(conn, _CHUNK)
        if not rows:
            return 0
        await advance.apply(conn, [self._reply(row) for row in rows if self._is_expected(row)])
        await conn.execute(ProcessSQL.DELETE_REPLIES, {"reply_ids": [row[0] for row in rows]})
        return len(rows)

    async def _take(self, conn: Connection, limit: int) -> list[tuple[Any, ...]]:
        params = {"addresses": self._addresses, "limit": limit, **self._declared}
        return await (await conn.execute(ProcessSQL.TAKE_REPLIES, params)).fetchall()

    @staticmethod
    def _is_expected(row: tuple[Any, ...]) -> bool:
        """Whether the process waits for just this reply; any other changes nothing."""
        command_id, status, is_awaited = row[1], ProcessStatus(row[8]), row[10]
        if is_awaited and not status.is_terminal:
            return True
        _log.warning(
            "reply of command %s ignored: process %s does not wait for it (%s)",
            command_id,
            row[6],
            status,
            extra=about(command_id=command_id, process_id=row[6], process_type=row[7]),
        )
        return False

    def _reply(self, row: tuple[Any, ...]) -> tuple[Manager, Process, ProcessResponse]:
        _, command_id, outcome, result, error_code, error_message, process_id, process_type = row[:8]
        _, state, _, batch_id, ordinal, visits, undo, undone_status, step, compensates, domain, headers = row[8:]
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
            headers=headers,
        )
        response = ProcessResponse(
            command_id,
            ReplyOutcome(outcome),
            None if result is None else load_payload(result),
            error_code,
            error_message,
        )
        return self._managers[process_type], process, response
