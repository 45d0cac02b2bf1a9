"""The ledger of a load run in its database: which shard is whose, how far it is, and the figures at its end."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString, NamedTuple

from psycopg import AsyncConnection
from psycopg.rows import dict_row, tuple_row
from psycopg_pool import AsyncConnectionPool

from . import load_sql
from .load_result import Measured
from .load_series import AttemptFigures, BacklogBucket, bucket_seconds


@dataclass(frozen=True)
class Shard:
    """A part of a load run: its place among the shards, from 0, and the ordinals of its processes."""

    index: int
    ordinals: range


class ShardState(NamedTuple):
    """How a shard stands. silent_seconds: since its process last told that it lives."""

    shard: int
    taken: bool
    finished: bool
    error: str | None
    silent_seconds: float | None


class LoadLedger:
    """The rows of one load run, shared by all processes of the test run that work on it."""

    def __init__(self, pool: AsyncConnectionPool[Any], run: int, batch_number: int) -> None:
        self._pool = pool
        self._run = run
        self._batch_number = batch_number

    async def open(self, shards: Sequence[range]) -> None:
        """Write the run and its shards, unless another process has."""
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(
                load_sql.OPEN_RUN,
                {
                    "run": self._run,
                    "batch_number": self._batch_number,
                    "processes": shards[-1].stop,
                    "shards": len(shards),
                },
            )
            await connection.execute(
                load_sql.OPEN_SHARDS,
                {
                    "run": self._run,
                    "shards": list(range(len(shards))),
                    "first_ordinals": [ordinals.start for ordinals in shards],
                    "counts": [len(ordinals) for ordinals in shards],
                },
            )

    async def take(self, own: int) -> Shard | None:
        """Take a shard that nobody has begun, `own` before any other; None when all are taken."""
        rows = await self._rows(load_sql.TAKE_SHARD, own=own)
        return Shard(rows[0][0], range(rows[0][1], rows[0][1] + rows[0][2])) if rows else None

    async def beat(self, shards: Sequence[int]) -> None:
        """Tell that the process that took these shards lives."""
        await self._do(load_sql.BEAT, shards=list(shards))

    async def created(self, shard: Shard) -> None:
        """Tell that all processes of the shard are stored."""
        await self._do(load_sql.SHARD_CREATED, shard=shard.index)

    async def finished(self, shard: Shard) -> None:
        """Tell that all processes of the shard are terminal or parked."""
        await self._do(load_sql.SHARD_FINISHED, shard=shard.index)

    async def failed(self, shards: Sequence[int], error: str) -> None:
        """Tell the others that these shards will not finish."""
        await self._do(load_sql.SHARDS_FAILED, shards=list(shards), error=error)

    async def states(self) -> list[ShardState]:
        """How all shards stand, those with an error first."""
        return [ShardState(*row) for row in await self._rows(load_sql.SHARDS)]

    async def result(
        self, make: Callable[[AsyncConnection[Any]], Awaitable[dict[str, Any]]]
    ) -> tuple[dict[str, Any], bool]:
        """Return the run's result and whether this call made it: the first makes it, the others wait and read it."""
        async with self._pool.connection() as connection, connection.transaction():
            cursor = connection.cursor(row_factory=tuple_row)
            await cursor.execute(load_sql.LOCK_RESULT, {"run": self._run})
            (stored,) = await cursor.fetchone() or (None,)
            if stored is not None:
                return dict(stored), False
            made = await make(connection)
            await cursor.execute(load_sql.STORE_RESULT, {"run": self._run, "result": json.dumps(made)})
            return made, True

    async def measure(self, connection: AsyncConnection[Any]) -> Measured:
        """Read the figures of the finished run."""
        await connection.execute(load_sql.ANALYZE)
        cursor = connection.cursor(row_factory=dict_row)
        (run,) = await self._all(cursor, load_sql.RUN)
        width = bucket_seconds(run["total_seconds"])
        await self._execute(cursor, load_sql.ATTEMPTS, width=width)
        processes = await self._all(cursor, load_sql.PROCESSES, width=width)
        return Measured(
            **run,
            bucket_seconds=width,
            outcomes={row["status"]: row["processes"] for row in await self._all(cursor, load_sql.OUTCOMES)},
            attempts=[AttemptFigures(**row) for row in await self._all(cursor, load_sql.FIGURES)],
            process_latency_ms=next(row["latency_ms"] for row in processes if row["bucket"] is None),
            processes_ended={row["bucket"]: row["processes"] for row in processes if row["bucket"] is not None},
            hosts={row["host"]: row["workers"] for row in await self._all(cursor, load_sql.HOSTS)},
            backlog=[BacklogBucket(**row) for row in await self._all(cursor, load_sql.BACKLOG, width=width)],
        )

    async def _all(self, cursor: Any, statement: LiteralString, **values: Any) -> list[dict[str, Any]]:
        await self._execute(cursor, statement, **values)
        return list(await cursor.fetchall())

    async def _execute(self, cursor: Any, statement: LiteralString, **values: Any) -> None:
        await cursor.execute(statement, {"run": self._run, "batch_number": self._batch_number, **values})

    async def _do(self, statement: LiteralString, **values: Any) -> None:
        async with self._pool.connection() as connection:
            await connection.execute(statement, {"run": self._run, **values})

    async def _rows(self, statement: LiteralString, **values: Any) -> list[tuple[Any, ...]]:
        async with self._pool.connection() as connection:
            cursor = connection.cursor(row_factory=tuple_row)
            await cursor.execute(statement, {"run": self._run, "batch_number": self._batch_number, **values})
            return list(await cursor.fetchall())
