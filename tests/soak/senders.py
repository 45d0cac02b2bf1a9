"""Who sends in the campaign, insists until the bus has said yes, and keeps account of it outside of the database."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from commandbus import BatchCommand, CommandBus, SendRequest
from commandbus.auditor import Violation
from commandbus.errors import DuplicateCommandError, ReplyLostError
from commandbus.models import TroubleshootingFilter
from commandbus.replies import ReplyQueue
from commandbus.troubleshooting import TroubleshootingQueue
from pytest_commandbus.ledger import Ledger
from tests.soak import campaign_sql as sql
from tests.soak.shop import ANSWERS, DOMAIN, ODD, PATH, PLAIN, HookedOrderProcess, OrderProcess, Step

AWAY = (psycopg.OperationalError, PoolTimeout)
PAUSE = 0.05  # seconds after the database was away
MOST_WAITING = 2_500  # commands in the queue, above which nobody sends
# Why a command may be parked that would have ended well without faults: an operator gives it another life.
FAULTY = ("LEASE_LOST", "TIMEOUT", "UNHANDLED_EXCEPTION")

ENDS = {"ok": 60, "slow": 10, "effect": 10, "busy": 6, "refused": 4, "broken": 2, "never": 1, "odd": 2}
EXPECTED = {"refused": "FAILED", "broken": "IN_TROUBLESHOOTING_QUEUE", "never": "IN_TROUBLESHOOTING_QUEUE"}


class Senders:
    """All that goes into the bus, and what comes out of it for others."""

    def __init__(self, pool: AsyncConnectionPool[Any], rng: random.Random, ledger: Ledger) -> None:
        self.sent = 0  # commands, as far as the bus has said so
        self.wrong: list[Violation] = []
        self._pool = pool
        self._bus = CommandBus(pool)
        self._rng = rng
        self._ledger = ledger
        self._managers = (OrderProcess(pool), HookedOrderProcess(pool))
        self._kinds = (
            self._send_one,
            self._send_many,
            self._send_many,
            self._send_many,
            self._create_batch,
            self._start_processes,
        )

    async def send(self) -> None:
        """Send until cancelled, as long as not too much waits."""
        while True:
            if await self._backlog() > MOST_WAITING:
                await asyncio.sleep(PAUSE)
                continue
            await self._rng.choice(self._kinds)()

    async def consume(self) -> None:
        """Take replies, each in the transaction of what it leads to, until cancelled."""
        replies = ReplyQueue(self._pool, ANSWERS)
        while True:
            try:
                async for received in replies.listen(limit=500, lease=10.0, poll_interval=0.25):
                    async with self._pool.connection() as conn, conn.transaction():
                        async with conn.cursor() as cursor:
                            await cursor.executemany(
                                "INSERT INTO public.handled_reply (reply_id, command_id) VALUES (%s, %s)",
                                [(reply.reply_id, reply.command_id) for reply in received],
                            )
                        await replies.acknowledge(received, conn=conn)
            except (*AWAY, ReplyLostError):
                await asyncio.sleep(PAUSE)

    async def operate(self) -> None:
        """Give what only faults have parked another life, until cancelled."""
        operators = TroubleshootingQueue(self._pool, processes=self._managers)
        while True:
            for code in FAULTY:
                for command_type in (PLAIN, *Step):
                    where = TroubleshootingFilter(DOMAIN, str(command_type), code)
                    await self._insist(lambda where=where: operators.operator_retry_where(where, operator="campaign"))
            await asyncio.sleep(0.5)

    async def _send_one(self) -> None:
        request = self._request(reply_to=self._rng.choice((None, ANSWERS)))

        async def send() -> None:
            await self._bus.send(
                domain=DOMAIN,
                command_type=request.command_type,
                command_id=request.command_id,
                data=request.data,
                reply_to=request.reply_to,
            )

        await self._send([request.command_id], send)

    async def _send_many(self) -> None:
        requests = [self._request(self._rng.choice((None, None, ANSWERS))) for _ in range(self._rng.randint(50, 400))]
        size = len(requests)  # one chunk: all or nothing
        await self._send([r.command_id for r in requests], lambda: self._bus.send_batch(requests, chunk_size=size))

    async def _create_batch(self) -> None:
        requests = [self._request() for _ in range(self._rng.randint(50, 400))]
        commands = [BatchCommand(r.command_type, r.command_id, r.data) for r in requests]
        await self._send([r.command_id for r in requests], lambda: self._bus.create_batch(DOMAIN, commands))

    async def _send(self, ids: list[UUID], send: Callable[[], Awaitable[Any]]) -> None:
        """Send these, again after each lost answer: that they are stored then is told by the bus itself."""
        self._ledger.attempt(ids)
        is_first = True
        while True:
            try:
                await send()
                break
            except AWAY:
                is_first = False
                await asyncio.sleep(PAUSE)
            except DuplicateCommandError as error:
                if is_first or error.same_payload is False:
                    self.wrong.append(Violation("S1", str(error.command_id), f"sent once, and yet: {error}"))
                break
        self._ledger.acknowledge(ids)
        self.sent += len(ids)

    async def _start_processes(self) -> None:
        """Start a batch of processes; after a lost answer it is resumed behind those that are stored."""
        rng, manager = self._rng, self._rng.choice(self._managers)
        orders = [self._order() for _ in range(rng.randint(5, 60))]
        batch_id = await self._insist(lambda: self._bus.create_process_batch(DOMAIN, len(orders)))
        while True:
            stored = await self._insist(lambda: self._stored(batch_id))
            if stored == len(orders):
                break
            try:
                await manager.start_many(orders[stored:], batch_id, stored, chunk_size=20)
                break
            except AWAY:
                await asyncio.sleep(PAUSE)
        self._ledger.fill(batch_id, len(orders))
        self.sent += 2 * len(orders)  # or more: as far as their paths are known now

    async def _stored(self, batch_id: UUID) -> int:
        async with self._pool.connection() as conn:
            row = await (await conn.execute(sql.PROCESSES_OF_BATCH, (batch_id,))).fetchone()
        return 0 if row is None else int(row[0])

    async def _backlog(self) -> int:
        async def ask() -> int:
            async with self._pool.connection() as conn:
                row = await (await conn.execute(sql.BACKLOG)).fetchone()
            return 0 if row is None else int(row[0])

        return int(await self._insist(ask))

    async def _insist(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Do what may be done twice, until the database has answered."""
        while True:
            try:
                return await work()
            except AWAY:
                await asyncio.sleep(PAUSE)

    def _request(self, reply_to: str | None = None) -> SendRequest:
        rng = self._rng
        end = rng.choices(list(ENDS), list(ENDS.values()))[0]
        data: dict[str, Any] = {"end": end}
        if end == "odd":
            return SendRequest(DOMAIN, ODD, uuid4(), data | {"seed": rng.getrandbits(32)}, None, reply_to)
        data["expect"] = EXPECTED.get(end, "COMPLETED")
        if end == "slow":
            data["seconds"] = rng.choice((0.002, 0.01, 0.05, 0.2))
        if end == "busy":
            data["times"] = rng.randint(1, 2)
        return SendRequest(DOMAIN, PLAIN, uuid4(), data, None, reply_to)

    def _order(self) -> dict[str, Any]:
        rng = self._rng
        step = rng.choice(PATH)
        end = rng.choices(("ok", "effect", "refused", "broken"), (6, 4, 2, 1))[0]
        expect = {"refused": "CANCELED", "broken": "WAITING_FOR_TSQ"}.get(end, "COMPLETED")
        return {"ends": {str(step): end}, "expect": expect}
