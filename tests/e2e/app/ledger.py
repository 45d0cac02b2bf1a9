"""What the handlers read from the ledger (schema `ledger`, seeded by the migrations of this application)."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import date
from typing import Any, NamedTuple

from psycopg import AsyncConnection
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool

ACCOUNTS = 200
FIRST_DAY = date(2025, 1, 1)
LAST_DAY = date(2026, 12, 31)

# The transactions of some accounts in a span of days, the last one included, in the order of a statement.
SELECT_TRANSACTIONS = """
SELECT a.account_number, t.posted_on, t.category, t.amount_cents
  FROM ledger.accounts a
  JOIN ledger.transactions t USING (account_id)
 WHERE a.account_number = ANY (%s) AND t.posted_on BETWEEN %s AND %s
 ORDER BY a.account_number, t.posted_on, t.entry
"""

# Which of some account numbers the ledger does not have.
SELECT_UNKNOWN = """
SELECT wanted FROM unnest(%s::text[]) AS wanted
 WHERE NOT EXISTS (SELECT FROM ledger.accounts a WHERE a.account_number = wanted)
 ORDER BY wanted
"""


class Transaction(NamedTuple):
    """One entry of an account; the amount in cents, negative for what left it."""

    account: str
    posted_on: date
    category: str
    amount_cents: int


def account_number(index: int) -> str:
    """Return the number of the index-th account, from 0; beyond the last it starts again."""
    return f"ACC-{index % ACCOUNTS + 1:04}"


@asynccontextmanager
async def reader(pool: AsyncConnectionPool[Any]) -> AsyncIterator[AsyncConnection[Any]]:
    """Give a connection for single reads: without a transaction around each, which would cost two more round trips."""
    async with pool.connection() as conn:
        before = conn.autocommit
        await conn.set_autocommit(True)
        try:
            yield conn
        finally:
            await conn.set_autocommit(before)


async def read_transactions(
    conn: AsyncConnection[Any], accounts: Sequence[str], from_date: date, to_date: date
) -> list[Transaction]:
    """Return the transactions of `accounts` from `from_date` to `to_date`, both included, ordered."""
    cursor = conn.cursor(row_factory=tuple_row)
    await cursor.execute(SELECT_TRANSACTIONS, (list(accounts), from_date, to_date))
    return [Transaction._make(row) for row in await cursor.fetchall()]


async def unknown_accounts(conn: AsyncConnection[Any], accounts: Sequence[str]) -> list[str]:
    """Return those of `accounts` that the ledger does not have."""
    cursor = conn.cursor(row_factory=tuple_row)
    await cursor.execute(SELECT_UNKNOWN, (list(accounts),))
    return [number for (number,) in await cursor.fetchall()]
