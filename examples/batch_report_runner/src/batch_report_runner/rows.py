"""Statements to rows."""

import select
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

Row = dict[str, Any]
Connection = AsyncConnection[Any]
Pool = AsyncConnectionPool[Any]


async def fetch(conn: Connection, statement: LiteralString, **values: Any) -> list[Row]:
    """Run a statement and return its rows, each a dict."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, values)
        return await cursor.fetchall() if cursor.description else []


async def first(conn: Connection, statement: LiteralString, **values: Any) -> Row | None:
    """Run a statement and return its first row."""
    found = await fetch(conn, statement, **values)
    return found[0] if found else None


@asynccontextmanager
async def single(pool: Pool) -> AsyncIterator[Connection]:
    """Lend a connection on which each statement is a transaction of its own, without a BEGIN and a COMMIT around it."""
    async with pool.connection() as conn:
        await conn.set_autocommit(True)
        yield conn


async def back_to_transactions(conn: Connection) -> None:
    """What the pool does with a connection that comes back: the next borrower begins a transaction as ever."""
    await conn.set_autocommit(False)


async def check_quickly(conn: Connection) -> None:
    """What the pool does before it lends a connection: only one on which the server has said something is asked.

    A server that ended a session has said so. Raises psycopg.OperationalError for such a connection.
    """
    waiting = select.poll()
    waiting.register(conn.fileno(), select.POLLIN)
    if waiting.poll(0):
        await AsyncConnectionPool.check_connection(conn)


def array(numbers: Sequence[int]) -> str:
    """Write numbers as PostgreSQL writes an array of them: 20 times faster than the driver for a thousand."""
    return f"{{{','.join(map(str, numbers))}}}"
