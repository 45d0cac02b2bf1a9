"""Who owns a transaction: the caller who gave a connection, else this call."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import ReadOnlySqlTransaction
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool

Connection = AsyncConnection[Any]
Pool = AsyncConnectionPool[Any]

_BEGIN = "SELECT"  # says nothing: the driver begins a transaction before any statement


@asynccontextmanager
async def transaction(pool: Pool | None, conn: Connection | None) -> AsyncIterator[Connection]:
    """Give a connection inside a transaction: a savepoint in the caller's `conn`, else one of the pool's of its own.

    With the caller's connection an error undoes only what was done here, and the caller decides about the rest.
    """
    if conn is not None:
        if not conn.autocommit and conn.info.transaction_status is TransactionStatus.IDLE:
            await conn.execute(_BEGIN)  # else the block below would be the outermost one, and commit by itself
        async with conn.transaction():
            yield conn
        return
    async with _lent(pool) as own, own.transaction():
        yield own


@asynccontextmanager
async def _lent(pool: Pool | None) -> AsyncIterator[Connection]:
    """Give one of the pool's; one whose server takes no writes any more is closed, so that the next leads elsewhere."""
    if pool is None:
        raise TypeError("neither a pool nor a connection was given: pass conn=, or make the object with a pool")
    async with pool.connection() as own:
        try:
            yield own
        except ReadOnlySqlTransaction:
            await own.close()
            raise


@asynccontextmanager
async def one_statement(pool: Pool | None, conn: Connection | None) -> AsyncIterator[Connection]:
    """Give a connection for a single statement: as `transaction` does, but in one round trip instead of three.

    What the statement does is a transaction by itself, unless it is part of the caller's.
    """
    if conn is not None:
        async with transaction(pool, conn) as own:
            yield own
        return
    async with _lent(pool) as own:
        was_autocommit = own.autocommit
        await own.set_autocommit(True)
        try:
            yield own
        finally:
            if own.info.transaction_status is TransactionStatus.IDLE:  # else the pool does away with it
                await own.set_autocommit(was_autocommit)


def mask_password(conninfo: str) -> str:
    """Return the connection string without its password, for messages."""
    parts = conninfo_to_dict(conninfo)
    if "password" in parts:
        parts["password"] = "***"
    return make_conninfo("", **parts)
