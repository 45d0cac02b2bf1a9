"""A connection that a worker keeps for itself, and makes again when it is lost."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.errors import ReadOnlySqlTransaction
from psycopg_pool import PoolTimeout

from commandbus._core.connection import Connection, Pool
from commandbus.errors import PoolTooSmallError
from commandbus.jitter import factor

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")

_FIRST_DELAY = 0.05
_LONGEST_DELAY = 2.0
_POOL_TIMEOUT = 2.0  # seconds to wait for the pool's: asking again makes it try again, else it waits ever longer
# A worker that is stopped in mid-transaction must not hold its row locks for ever; given back with the connection.
_SET_IDLE_LIMIT = "SELECT pg_catalog.set_config('idle_in_transaction_session_timeout', %s, false)"


class ReservedConnection:
    """One connection of a pool, in autocommit mode, for one user at a time.

    `session` says whether session settings last, which a transaction-pooling proxy does not grant.
    """

    def __init__(self, pool: Pool, *, session: bool = True) -> None:
        self.about: Mapping[str, Any] = {}  # whose it is, for the log
        self._pool = pool
        self._session = session
        self._conn: Connection | None = None
        self._was_autocommit = False
        self._lock = asyncio.Lock()

    async def open(self) -> None:
        """Take the connection from the pool. Raises PoolTooSmallError when the pool has none to give."""
        try:
            self._conn = await self._take()
        except PoolTimeout:
            raise PoolTooSmallError(
                f"the pool {self._pool.name!r} (max_size={self._pool.max_size}) had no connection for a worker within "
                f"{self._pool.timeout:g} s: each worker keeps 2 and its handlers need at least 1 more; raise max_size"
            ) from None
        except psycopg.OperationalError as error:  # the server is just going; the first use takes another one
            _log.warning("a connection was lost at the start, connecting again: %s", error, extra=self.about)

    async def close(self) -> None:
        """Give the connection back as it was."""
        conn, self._conn = self._conn, None
        if conn is None:
            return
        try:
            if not conn.closed:
                if self._session:
                    await conn.execute("RESET idle_in_transaction_session_timeout")
                await conn.set_autocommit(self._was_autocommit)
        except psycopg.Error:
            await conn.close()
        await self._pool.putconn(conn)

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Connection]:
        """Give the connection to one user; a lost one is made again the next time."""
        async with self._lock:
            if self._conn is None:
                self._conn = await self._take(_POOL_TIMEOUT)
            conn = self._conn
            try:
                yield conn
            except ReadOnlySqlTransaction:  # a primary that was demoted: another connection may lead to the new one
                await conn.close()
                raise
            finally:
                if conn.closed or conn.broken:
                    self._conn = None
                    await self._pool.putconn(conn)

    async def retrying(self, operation: Callable[[Connection], Awaitable[_Answer]], what: str) -> _Answer:
        """Run `operation` until the server answers: infrastructure errors are waited out, with growing jittered delays.

        Only for operations that may be repeated after an answer that was lost.
        """
        delay = _FIRST_DELAY
        while True:
            try:
                async with self.use() as conn:
                    return await operation(conn)
            except (psycopg.OperationalError, ReadOnlySqlTransaction, PoolTimeout) as error:
                _log.warning("%s failed, again in %.2f s: %s", what, delay, error, extra=self.about)
                await asyncio.sleep(delay * factor(0.5, 1.5))
                delay = min(delay * 2, _LONGEST_DELAY)

    async def _take(self, timeout: float | None = None) -> Connection:
        conn: Connection = await self._pool.getconn(timeout)
        try:
            self._was_autocommit = conn.autocommit
            await conn.set_autocommit(True)
            if self._session:
                await conn.execute(_SET_IDLE_LIMIT, ("30s",))
        except BaseException:
            await self._pool.putconn(conn)
            raise
        return conn
