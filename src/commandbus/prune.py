"""Delete what ended long ago: commands, processes and batches with their events, in small transactions.

A unit goes whole or not at all: a command of no process and no batch; a process with its commands; a batch with its
members. So whatever is open keeps what it needs, and the auditor finds every story that it can see complete. A command
whose reply nobody has consumed stays, and with it its process. A large batch takes several transactions; from the first
one on it is marked as `pruning`.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, LiteralString
from uuid import UUID

from commandbus._core.batch_sql import BatchSQL
from commandbus._core.connection import Connection, Pool, transaction
from commandbus._core.prune_sql import PruneSQL
from commandbus._core.worker_sql import WorkerSQL
from commandbus.models import BatchType
from commandbus.payload import check_name

_PAGE = 20_000  # candidates in memory
_COMMANDS = 1_000  # in one transaction
_PROCESSES = 200  # in one transaction, each with its commands
_NO_ID = UUID(int=0)
_NO_TIME = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class Pruned:
    """How many rows were deleted, or would be; `events` are those of the commands' audit trails."""

    batches: int = 0
    processes: int = 0
    commands: int = 0
    events: int = 0
    workers: int = 0
    statistics: int = 0


async def prune(
    pool: Pool,
    older_than: timedelta,
    *,
    domains: Iterable[str] | None = None,
    dry_run: bool = False,
    on_progress: Callable[[Pruned], None] = lambda _: None,
) -> Pruned:
    """Delete what ended longer ago than `older_than`, by the bus's clock; return how much.

    domains: only what is of these (of processes and batches: their own domain), and no statistics.
    dry_run: delete nothing, only count.
    on_progress: called after each transaction with the counts so far.
    It may run beside workers and beside another one like it, and be ended at any moment. Deleted ids are free again: a
    command with the same id would be taken for a new one. Raises ValueError for a time below 0, InvalidNameError.
    """
    if older_than < timedelta(0):
        raise ValueError(f"older_than must be at least 0, not {older_than}")
    asked = None if domains is None else [check_name(domain, "domain") for domain in domains]
    async with pool.connection() as conn:
        ((before, wall_before),) = await _rows(conn, PruneSQL.CUTOFFS, {"age": older_than})
    pruning = _Pruning(pool, before, asked, dry_run, on_progress)
    await pruning.batches()
    await pruning.processes()
    await pruning.commands()
    gone = await pruning.workers(wall_before)
    if asked is None:
        await pruning.statistics(wall_before, older_than, gone)
    return pruning.counts


class _Pruning:
    """One run: what is old, and what is deleted so far."""

    def __init__(
        self,
        pool: Pool,
        before: datetime,
        domains: list[str] | None,
        dry_run: bool,
        on_progress: Callable[[Pruned], None],
    ) -> None:
        self.counts = Pruned()
        self._pool = pool
        self._dry_run = dry_run
        self._on_progress = on_progress
        self._params: dict[str, Any] = {"before": before, "domains": domains, "limit": _PAGE}

    async def batches(self) -> None:
        """Whole batches: first their members, then their row."""
        async for rows in self._pages(PruneSQL.BATCHES):
            for _, batch_id, domain in rows:
                async with self._pool.connection() as conn:
                    await conn.execute(BatchSQL.REFRESH, {"domain": domain, "batch_id": batch_id})
                    old = await _rows(conn, PruneSQL.BATCH_IS_OLD, self._params | {"batch_id": batch_id})
                for (batch_type,) in old:
                    await self._batch(batch_id, BatchType(batch_type))

    async def processes(self) -> None:
        """Processes of no batch."""
        async for rows in self._pages(PruneSQL.PROCESSES):
            for ids in _chunks([row[1] for row in rows], _PROCESSES):
                await self._delete_processes(ids, None)

    async def commands(self) -> None:
        """Commands of no process and no batch."""
        async with transaction(self._pool, None) as conn:
            await conn.execute(PruneSQL.WALKING)
            kinds = await _rows(conn, PruneSQL.KINDS, self._params)
        for domain, command_type in kinds:
            async for rows in self._pages(PruneSQL.COMMANDS, domain=domain, command_type=command_type):
                for ids in _chunks([row[1] for row in rows], _COMMANDS):
                    await self._delete_commands(ids, None)

    async def workers(self, before: datetime) -> list[int]:
        """Workers that are gone for long, with what they did; return the ids of those of a dry run."""
        limit = None if self._dry_run else _COMMANDS
        while True:
            async with transaction(self._pool, None) as conn:
                rows = await _rows(conn, PruneSQL.WORKERS, self._params | {"before": before, "limit": limit})
                ids = [row[0] for row in rows]
                if self._dry_run:
                    ((statistics,),) = await _rows(conn, PruneSQL.COUNT_STATISTICS_OF, {"ids": ids})
                else:
                    statistics = (await conn.execute(PruneSQL.DELETE_STATISTICS_OF, {"ids": ids})).rowcount
                    await conn.execute(PruneSQL.DELETE_WORKERS, {"ids": ids})
            self._add(workers=len(ids), statistics=statistics)
            if self._dry_run:
                return ids
            if not ids:
                return []

    async def statistics(self, before: datetime, older_than: timedelta, gone: Sequence[int]) -> None:
        """What other workers did, second by second."""
        if self._dry_run:
            async with self._pool.connection() as conn:
                ((count,),) = await _rows(conn, PruneSQL.COUNT_STATISTICS, {"before": before, "gone": list(gone)})
            self._add(statistics=count)
            return
        while True:
            async with transaction(self._pool, None) as conn:
                count = (await conn.execute(WorkerSQL.FORGET, {"kept": older_than})).rowcount
            self._add(statistics=count)
            if not count:
                return

    async def _batch(self, batch_id: UUID, batch_type: BatchType) -> None:
        seen = gone = 0
        of_processes = batch_type is BatchType.PROCESS
        statement = PruneSQL.BATCH_PROCESSES if of_processes else PruneSQL.BATCH_COMMANDS
        delete = self._delete_processes if of_processes else self._delete_commands
        async for rows in self._pages(statement, batch_id=batch_id):
            seen += len(rows)
            for ids in _chunks([row[0] for row in rows], _PROCESSES if of_processes else _COMMANDS):
                gone += await delete(ids, batch_id)
        if gone < seen:
            return  # a reply is not consumed yet, or another prune is at it
        if self._dry_run:
            self._add(batches=1)
            return
        async with transaction(self._pool, None) as conn:
            await conn.execute(PruneSQL.DELETING)
            gone = (await conn.execute(PruneSQL.DELETE_BATCH, {"batch_id": batch_id})).rowcount
        self._add(batches=gone)

    async def _delete_processes(self, ids: Sequence[UUID], batch_id: UUID | None) -> int:
        """Delete those of these that may go, with their commands; return how many processes that were."""
        async with transaction(self._pool, None) as conn:
            await conn.execute(PruneSQL.DELETING)
            old = await _ids(conn, PruneSQL.LOCK_PROCESSES, self._params | {"ids": ids})
            commands = await _ids(conn, PruneSQL.COMMANDS_OF_PROCESSES, {"ids": old}) if old else []
            events = await self._delete(conn, commands, batch_id) if old else 0
            if old and not self._dry_run:
                await conn.execute(PruneSQL.DELETE_PROCESSES, {"ids": old})
        self._add(processes=len(old), commands=len(commands), events=events)
        return len(old)

    async def _delete_commands(self, ids: Sequence[UUID], batch_id: UUID | None) -> int:
        """Delete those of these that may go; return how many."""
        async with transaction(self._pool, None) as conn:
            await conn.execute(PruneSQL.DELETING)
            old = await _ids(conn, PruneSQL.LOCK_COMMANDS, self._params | {"ids": ids})
            events = await self._delete(conn, old, batch_id) if old else 0
        self._add(commands=len(old), events=events)
        return len(old)

    async def _delete(self, conn: Connection, commands: Sequence[UUID], batch_id: UUID | None) -> int:
        """Delete these locked commands with what belongs to them; return how many events that were."""
        if self._dry_run:
            ((count,),) = await _rows(conn, PruneSQL.COUNT_EVENTS, {"ids": commands})
            return int(count)
        if batch_id is not None:
            await conn.execute(PruneSQL.MARK_BATCH, {"batch_id": batch_id})
        events = (await conn.execute(PruneSQL.DELETE_EVENTS, {"ids": commands})).rowcount
        await conn.execute(PruneSQL.DELETE_UNCOMPLETED, {"ids": commands})
        await conn.execute(PruneSQL.DELETE_COMMANDS, {"ids": commands})
        return events

    async def _pages(self, statement: LiteralString, **values: Any) -> AsyncIterator[list[Any]]:
        """Read what a statement finds, page by page, by the key in its first columns: an id, or a time and an id."""
        params = self._params | values | {"after_time": _NO_TIME, "after_id": _NO_ID}
        while True:
            async with transaction(self._pool, None) as conn:
                await conn.execute(PruneSQL.WALKING)
                rows = await _rows(conn, statement, params)
            if rows:
                yield rows
            if len(rows) < _PAGE:
                return
            params |= (
                {"after_id": rows[-1][0]}
                if len(rows[-1]) == 1
                else dict(zip(("after_time", "after_id"), rows[-1], strict=False))
            )

    def _add(self, **counts: int) -> None:
        for name, count in counts.items():
            setattr(self.counts, name, getattr(self.counts, name) + count)
        self._on_progress(self.counts)


async def _rows(conn: Connection, statement: LiteralString, params: dict[str, Any]) -> list[Any]:
    return await (await conn.execute(statement, params)).fetchall()


async def _ids(conn: Connection, statement: LiteralString, params: dict[str, Any]) -> list[UUID]:
    return [row[0] for row in await _rows(conn, statement, params)]


def _chunks(ids: Sequence[UUID], size: int) -> Iterable[list[UUID]]:
    source = iter(ids)
    while chunk := list(islice(source, size)):
        yield chunk
