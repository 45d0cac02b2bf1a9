"""Statements to rows."""

from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import dict_row

Row = dict[str, Any]
Connection = AsyncConnection[Any]


async def fetch(conn: Connection, statement: LiteralString, **values: Any) -> list[Row]:
    """Run a statement and return its rows, each a dict."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(statement, values)
        return await cursor.fetchall() if cursor.description else []


async def first(conn: Connection, statement: LiteralString, **values: Any) -> Row | None:
    """Run a statement and return its first row."""
    found = await fetch(conn, statement, **values)
    return found[0] if found else None
