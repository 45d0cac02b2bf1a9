"""Replies for whoever sent commands with `reply_to`: received under a lease, acknowledged when done with."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable

import psycopg

from commandbus._core.connection import Connection, Pool, transaction
from commandbus._core.cursor import check_limit
from commandbus.errors import ReplyLostError
from commandbus.jitter import factor
from commandbus.models import ReceivedReply
from commandbus.notify import Alarm, reply_channel
from commandbus.payload import check_name
from commandbus.repositories import replies as stored

_log = logging.getLogger(__name__)

_PAUSE = 1.0  # seconds, jittered, after the database failed to answer


class ReplyQueue:
    """The replies at one address, for any number of consumers at once.

    A command that was sent with `reply_to` leaves exactly one reply once it is terminal. Delivery is at least once: a
    reply that is neither acknowledged nor released is received again when its lease ends. For exactly once,
    acknowledge it with `conn`, in the transaction of what it leads to.
    """

    def __init__(self, pool: Pool, reply_to: str) -> None:
        self.reply_to = check_name(reply_to, "reply_to")
        self._pool = pool

    async def receive(
        self, limit: int = 100, lease: float = 30.0, *, conn: Connection | None = None
    ) -> list[ReceivedReply]:
        """Lease up to `limit` (1 to 1,000) replies that nobody holds, oldest first, for `lease` seconds.

        Returns an empty list when there are none; does not wait.
        """
        check_limit(limit)
        if not 0 < lease <= 31_536_000:
            raise ValueError(f"lease must be above 0 seconds, and at most a year, not {lease}")
        async with transaction(self._pool, conn) as own:
            return await stored.receive(own, self.reply_to, limit=limit, lease=lease)

    async def acknowledge(
        self, replies: Iterable[ReceivedReply], *, conn: Connection | None = None
    ) -> list[ReceivedReply]:
        """Delete replies that were received; returns those that were lost, as a rule none.

        Lost are those that another consumer has received since, as their lease had ended, or that were acknowledged
        already: they are left alone. With `conn` this commits, or is rolled back, with the caller's own writes; then
        any lost one raises ReplyLostError, so that what it led to is rolled back too.
        """
        held = list(replies)
        if not held:
            return []
        async with transaction(self._pool, conn) as own:
            done = await stored.acknowledge(own, held)
            lost = [reply for reply in held if reply.reply_id not in done]
            if lost and conn is not None:
                raise ReplyLostError([reply.command_id for reply in lost])
        return lost

    async def release(self, replies: Iterable[ReceivedReply], *, conn: Connection | None = None) -> None:
        """Give replies that were received back: any consumer may receive them at once. Lost ones are left alone."""
        held = list(replies)
        if not held:
            return
        async with transaction(self._pool, conn) as own:
            await stored.release(own, self.reply_to, held)

    async def listen(
        self,
        limit: int = 100,
        lease: float = 30.0,
        *,
        poll_interval: float = 1.0,
        listen: bool = True,
        stop: asyncio.Event | None = None,
    ) -> AsyncIterator[list[ReceivedReply]]:
        """Receive for ever, as `async for replies in queue.listen():`, until `stop` is set; never an empty list.

        The loop acknowledges what it is done with. It sleeps while there are no replies, until a notification, for
        which it keeps a connection of its own, or for `poll_interval` seconds, which also finds leases that ended.
        With `listen` False it polls only, for connections through a transaction-pooling proxy; without, it raises
        ListenRefusedError there. It outlives a database that is away for a while.
        """
        channels = [reply_channel(self.reply_to)]
        async with Alarm(self._pool, channels, poll_interval=poll_interval, listen=listen, stop=stop) as alarm:
            while await alarm.wait():
                while found := await self._try_to_receive(limit, lease):
                    yield found
                    if stop is not None and stop.is_set():
                        return

    async def _try_to_receive(self, limit: int, lease: float) -> list[ReceivedReply]:
        try:
            return await self.receive(limit, lease)
        except psycopg.OperationalError as error:
            if self._pool.closed:
                raise
            _log.warning("replies at %s could not be received, trying again: %s", self.reply_to, error)
            await asyncio.sleep(_PAUSE * factor(0.5, 1.0))
            return []
